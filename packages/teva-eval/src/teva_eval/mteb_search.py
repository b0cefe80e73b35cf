"""A system of ours under MTEB's own evaluator: ``mteb.evaluate(MtebSearch(system, work), tasks)`` (extra ``mteb``).

MTEB hands over the corpus and the queries of a task, we write them as a dataset, encode and search, and MTEB scores.
So what its evaluator does once more for each model (encode in chunks, keep Python heaps) is done by our search.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from teva_data.dataset import Dataset
from teva_data.errors import DataError, MissingExtraError, TevaError
from teva_data.files import atomic_directory, fingerprint

from .mteb_results import model_name
from .systems import as_system

SPLIT = "asked"


class MtebSearch:
    """A system as MTEB's ``SearchProtocol``.

    Args:
        system: a :class:`teva_eval.System`, or an encoder.
        work: a directory for datasets and embeddings; what is there is not encoded again.
    """

    def __init__(self, system: object, work: str | Path) -> None:
        self.system, self.work = as_system(system), Path(work)
        self._corpus: dict[tuple[str, str, str], Any] = {}

    @property
    def mteb_model_meta(self) -> Any:
        """What MTEB names the results by."""
        try:
            from mteb.models import ModelMeta
        except ImportError as error:
            raise MissingExtraError("MTEB's evaluator", "teva-eval[mteb]") from error
        name, revision = model_name(self.system.describe())
        return ModelMeta.create_empty({"name": name, "revision": revision})

    def index(self, corpus: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, **ignored: Any) -> None:
        """Keep a task's documents (columns ``id``, ``text``, ``title``) until its queries are known."""
        self._corpus = {(task_metadata.name, hf_split, hf_subset): corpus}

    def search(
        self, queries: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, top_k: int, top_ranked: Any = None,
        **ignored: Any,
    ) -> dict[str, dict[str, float]]:  # fmt: skip
        """Find ``top_k`` documents of each query (columns ``id``, ``text``, ``instruction``)."""
        if top_ranked is not None:
            raise TevaError(f"{task_metadata.name}: a task that reranks candidates; a search has nothing to rerank")
        key = (task_metadata.name, hf_split, hf_subset)
        if key not in self._corpus:
            raise TevaError(f"{task_metadata.name}: index() was not called for this split and subset")
        dataset = self.dataset(self._corpus[key], queries, "-".join(key))
        runs = self.system.search(
            dataset, SPLIT, depth=top_k, exclude_self=False, query_prompt=None, document_prompt=None,
            work=self.work / "embeddings",
        )  # fmt: skip
        return {query_id: dict(hits) for query_id, hits in runs[""].items()}

    def dataset(self, corpus: Iterable[Mapping[str, Any]], queries: Iterable[Mapping[str, Any]], name: str) -> Dataset:
        """Documents and queries as a dataset on disk, written once for the same rows."""
        documents = [_document(row) for row in corpus]
        asked = [_query(row) for row in queries]
        place = self.work / "data" / f"{name}-{fingerprint(documents, asked)[:16]}"
        if not place.exists():
            with atomic_directory(place) as temporary:
                for file, rows in (("corpus.jsonl", documents), (f"{SPLIT}.jsonl", asked)):
                    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                    (temporary / file).write_text("".join(lines), encoding="utf-8")
        return Dataset.open(place)


def _document(row: Mapping[str, Any]) -> dict[str, str]:
    return {"docid": str(row["id"]), "title": row.get("title") or "", "document_text": _text(row)}


def _query(row: Mapping[str, Any]) -> dict[str, str]:
    # As MTEB joins them for a model that is not told instructions apart.
    instruction = row.get("instruction") or ""
    return {"query_id": str(row["id"]), "query_text": f"{_text(row)} {instruction}".strip()}


def _text(row: Mapping[str, Any]) -> str:
    text = row.get("text")
    if not isinstance(text, str):
        raise DataError("a row without text", field="text", found=sorted(row), expected="a column `text`",
                        hint="MTEB's tasks of pictures, sound and video are not searched here yet")  # fmt: skip
    return text
