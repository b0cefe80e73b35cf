"""The model card of an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from .recipe import Recipe
from .rendering import Renderer

_OF = {
    "query": "The encoder of queries of a pair (documents have another, which lies beside it)",
    "document": "The encoder of documents of a pair (queries have another, which lies beside it)",
}


def model_card(recipe: Recipe, renderer: Renderer, datasets: Sequence[str], role: str | None = None) -> str:
    """Markdown with a YAML header: what the model is, its prompts, and how each runtime loads it.

    Args:
        recipe: resolved.
        renderer: its prompts and limit.
        datasets: names on the datasets' cards.
        role: of half a pair, what it encodes.
    """
    name = Path(recipe.train.output).resolve().name
    fields, base = _trained(recipe, datasets, recipe.model.document_name if role == "document" else None)
    query, document = renderer.query_prompt, renderer.document_prompt
    similarity = "cosine (vectors have length 1)" if recipe.model.normalize else "dot product"
    return f"""---
{yaml.safe_dump(fields, sort_keys=False)}---
# {name}

{_OF.get(role or "", "A dense retriever")}, trained with teva from `{base}`.

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


def pair_card(recipe: Recipe, renderer: Renderer, datasets: Sequence[str]) -> str:
    """The card of a directory that holds the encoders of queries and of documents.

    Args:
        recipe: resolved.
        renderer: its prompts and limit.
        datasets: names on the datasets' cards.
    """
    name = Path(recipe.train.output).resolve().name
    fields, base = _trained(recipe, datasets, None)
    return f"""---
{yaml.safe_dump(fields, sort_keys=False)}---
# {name}

A dense retriever whose queries and documents have encoders of their own, trained with teva from `{base}`. Each of
`query/` and `document/` is a whole model that sentence-transformers, vLLM and text-embeddings-inference load.

Inputs are cut at {renderer.max_length} tokens. Query prompt: `{renderer.query_prompt!r}`; document prompt:
`{renderer.document_prompt!r}`.

## Use

```python
from teva_infer import Encoder

model = Encoder.load("{name}")
queries, documents = model.encode_queries(["a question"]), model.encode_documents(["a passage"])
```

```python
from sentence_transformers import SentenceTransformer

queries = SentenceTransformer("{name}/query").encode_query(["a question"])
documents = SentenceTransformer("{name}/document").encode_document(["a passage"])
```
"""


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


def _trained(recipe: Recipe, datasets: Sequence[str], other: str | None) -> tuple[dict[str, Any], str]:
    """The header of a trained model's card, and the name of what it was trained from."""
    fields: dict[str, Any] = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "feature-extraction", "dense-retrieval", "teva"],
    }
    base = other or recipe.model.name
    # A directory of this machine is no base model to anybody else, and the hub refuses it.
    local = Path(base).exists()
    if not local:
        fields["base_model"] = base
    if datasets:
        fields["datasets"] = list(datasets)
    return fields, Path(base).name if local else base
