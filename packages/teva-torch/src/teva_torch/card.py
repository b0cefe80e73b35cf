"""The model card of an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from teva_data.recipe import Recipe
from teva_data.rendering import Renderer


def model_card(recipe: Recipe, renderer: Renderer, datasets: Sequence[str]) -> str:
    """Markdown with a YAML header: what the model is, its prompts, and how each runtime loads it.

    Args:
        recipe: resolved.
        renderer: its prompts and limit.
        datasets: names on the datasets' cards.
    """
    name = Path(recipe.train.output).resolve().name
    fields: dict[str, Any] = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "feature-extraction", "dense-retrieval", "teva"],
    }
    # A directory of this machine is no base model to anybody else, and the hub refuses it.
    local = Path(recipe.model.name).exists()
    if not local:
        fields["base_model"] = recipe.model.name
    if datasets:
        fields["datasets"] = list(datasets)
    base = Path(recipe.model.name).name if local else recipe.model.name
    query, document = renderer.query_prompt, renderer.document_prompt
    similarity = "cosine (vectors have length 1)" if recipe.model.normalize else "dot product"
    return f"""---
{yaml.safe_dump(fields, sort_keys=False)}---
# {name}

A dense retriever, trained with teva from `{base}`.

| | |
|---|---|
| pooling | {recipe.model.pooling} |
| similarity | {similarity} |
| longest input | {renderer.max_length} tokens |
| query prompt | `{query!r}` |
| document prompt | `{document!r}` |
| document text | `title + " " + text` where there is a title |
| loss | {recipe.loss.name}, temperature {recipe.loss.temperature} |

`teva.json` holds the whole recipe, checksums of the data, library versions, and how far the vectors of each runtime
were from the trained ones.

{_usage(name, query, document)}"""


def plain_card(name: str, origin: str, renderer: Renderer, *, base: str | None = None) -> str:
    """The card of an artifact that teva wrote and did not train.

    Args:
        name: of the artifact.
        origin: where it comes from, as a sentence.
        renderer: its prompts and limit.
        base: hub id of the model it was made from.
    """
    fields: dict[str, Any] = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "feature-extraction", "dense-retrieval", "teva"],
    }
    if base is not None and not Path(base).exists():
        fields["base_model"] = base
    query, document = renderer.query_prompt, renderer.document_prompt
    return f"""---
{yaml.safe_dump(fields, sort_keys=False)}---
# {name}

{origin}

Inputs are cut at {renderer.max_length} tokens. Query prompt: `{query!r}`; document prompt: `{document!r}`.

{_usage(name, query, document)}"""


def _usage(name: str, query: str, document: str) -> str:
    return f"""## Use

```python
from teva_infer import Encoder

model = Encoder.load("{name}")
queries, documents = model.encode_queries(["a question"]), model.encode_documents(["a passage"])
```

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{name}")
queries, documents = model.encode_query(["a question"]), model.encode_document(["a passage"])
```

vLLM adds no prompt by itself:

```python
from vllm import LLM

model = LLM("{name}", runner="pooling")
queries = model.embed([{query!r} + "a question"])
documents = model.embed([{document!r} + "a passage"])
```

```sh
text-embeddings-router --model-id {name}
```
"""
