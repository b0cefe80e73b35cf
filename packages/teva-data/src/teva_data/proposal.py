"""A recipe with comments, its limits of length taken from the data: what ``init`` of each trainer prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from .artifact import Artifact
from .dataset import Dataset
from .recipe import DataSection, LossSection, ModelSection, PromptsSection, TrainSection
from .rendering import Renderer
from .sections import Section, describe

SECTIONS: dict[str, type[Section]] = {
    "model": ModelSection,
    "prompts": PromptsSection,
    "data": DataSection,
    "loss": LossSection,
    "train": TrainSection,
}
_SAMPLE = 1000
_SHARE = 95  # percent of the sampled texts that a proposed limit does not cut


def propose(
    data: str | Path, model: str, own: dict[str, type[Section]], *, split: str = "train", output: str | None = None
) -> str:
    """A recipe for a dataset and a model, as YAML with a comment for every key.

    Limits of length are such that 95 % of the first 1,000 texts are not cut; negatives and epochs follow from what
    the split holds.

    Args:
        data: the dataset directory.
        model: model directory or hub id.
        own: the trainer's own section.
        split: the training split.
        output: the run's directory; ``runs/<dataset>`` where not given.
    """
    dataset, artifact = Dataset.open(data), Artifact.load(model)
    store, corpus = dataset.queries(split), dataset.corpus
    queries = store.queries(0, min(_SAMPLE, len(store)))
    documents = corpus.documents(0, min(_SAMPLE, len(corpus)))
    renderer = Renderer.from_artifact(artifact, max_length=artifact.positions)
    listed = max((len(query.negative_document_ids) for query in queries), default=0)
    values: dict[str, Any] = {
        "model.name": model,
        "model.query_max_length": _limit(renderer, [renderer.query(q.query_text, q.prompt) for q in queries]),
        "model.document_max_length": _limit(renderer, [renderer.document(d.document_text, d.title) for d in documents]),
        "data.path": str(data),
        "data.split": split,
        "data.negatives": min(7, listed),
        "train.output": output or f"runs/{Path(data).resolve().name}",
        "train.epochs": 1,
    }
    if artifact.pooling is None:
        values["model.pooling"] = "last" if artifact.is_decoder else "mean"
        values["model.normalize"] = True
    return _write(values, {**SECTIONS, **own})


def key_table(own: dict[str, type[Section]]) -> str:
    """Every key of a recipe with its default and what it means, as text; ``own`` is the trainer's section."""
    rows = [row for name, section in {**SECTIONS, **own}.items() for row in describe(section, name)]
    width = max(len(key) for key, _, _ in rows)
    return "\n".join(f"  --{key:<{width}}  {text}{f' [{default}]' if default else ''}" for key, default, text in rows)


def _limit(renderer: Renderer, texts: list[str]) -> int:
    """A multiple of 16 that cuts at most 5 % of the texts."""
    lengths = [len(ids) for ids in renderer.tokenize(texts)]
    wanted = int(np.percentile(lengths, _SHARE)) if lengths else 16
    return min(renderer.max_length, -(-wanted // 16) * 16)


def _write(values: dict[str, Any], sections: dict[str, type[Section]]) -> str:
    lines = [
        "# Every key with its meaning. A key that stands behind '#' has the value shown; change what you like.",
        'schema: "1"',
    ]
    for name, section in sections.items():
        lines += ["", f"{name}:  # {(section.__doc__ or '').splitlines()[0]}"]
        for key, default, text in describe(section, name):
            short = key.partition(".")[2]
            if key in values:
                given = yaml.safe_dump(values[key], default_flow_style=True, width=float("inf")).splitlines()[0]
                lines.append(f"  {short}: {given}  # {text}")
            else:
                lines.append(f"  # {short}: {default or 'null'}  # {text}")
    return "\n".join(lines) + "\n"
