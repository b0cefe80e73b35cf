"""Claims of teva-eval beside MTEB: one artifact, one task, two evaluators."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from . import Context, Result, claim
from .real_run import minilm


def _lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _qrels(path: Path) -> dict[str, dict[str, int]]:
    from teva_data.runs import read_qrels

    return read_qrels(path)


def local_task(place: Path, limit: int | None) -> Any:
    """MTEB's own SciFact, its data taken from the local copy; `limit`: as many queries, and their documents and more.

    MTEB's loader reads the hub alone, so what it would have loaded is handed to the task.
    """
    import mteb
    from datasets import Dataset

    documents, queries = _lines(place / "corpus.jsonl.gz"), _lines(place / "queries.test.jsonl.gz")
    qrels = _qrels(place / "qrels.test.tsv")
    if limit is not None:
        qrels = dict(list(qrels.items())[:limit])
        judged = {docid for found in qrels.values() for docid in found}
        documents = [each for number, each in enumerate(documents) if number % 20 == 0 or each["docid"] in judged]
    task = mteb.get_task("SciFact")
    task.dataset = {
        "default": {
            "test": {
                "corpus": Dataset.from_list(
                    [{"id": each["docid"], "title": each["title"], "text": each["text"]} for each in documents]
                ),
                "queries": Dataset.from_list(
                    [{"id": each["query_id"], "text": each["text"]} for each in queries if each["query_id"] in qrels]
                ),
                "relevant_docs": qrels, "top_ranked": None,
            }
        }
    }  # fmt: skip
    task.data_loaded = True
    return task


def _scores(model: Any, task: Any) -> dict[str, float]:
    import mteb

    found = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
    (entry,) = found.task_results[0].scores["test"]
    return entry


@claim(
    "eval",
    name="mteb_equal",
    target="MTEB's evaluator and teva agree to 1e-4 on every measure; MiniLM's nDCG@10 is within 0.005 of 0.645",
    peer="{mteb} with {sentence-transformers}, float32",
    needs=("data",),
)
def mteb_equal(context: Context) -> Result:
    """SciFact with all-MiniLM-L6-v2: MTEB alone, MTEB with our search in its SearchProtocol, and teva-eval alone."""
    from sentence_transformers import SentenceTransformer

    from teva_data.runs import write_qrels
    from teva_eval import Task, evaluate
    from teva_eval.mteb_results import mteb_measures, write_mteb
    from teva_eval.mteb_search import SPLIT, MtebSearch
    from teva_eval.systems import load_system

    limit = 40 if context.quick else None
    theirs = _scores(SentenceTransformer(str(minilm()), device="cpu"), local_task(context.data / "scifact", limit))
    system = load_system("dense", model=minilm(), name="all-MiniLM-L6-v2", device="cpu")
    through = _scores(MtebSearch(system, context.work), local_task(context.data / "scifact", limit))
    # teva alone reads the dataset that the search wrote, so that its vectors are not made twice.
    (data,) = (context.work / "data").iterdir()
    task = local_task(context.data / "scifact", limit).dataset["default"]["test"]
    (data / "qrels").mkdir()
    write_qrels(data / "qrels" / f"{SPLIT}.tsv", task["relevant_docs"])
    declared = Task(name="scifact", split=SPLIT, mteb="SciFact", revision="local", measures=tuple(mteb_measures()))
    (record,) = evaluate(system, [declared], context.work, data=data)
    (file,) = write_mteb([context.work / system.name], context.work / "mteb")
    (ours,) = json.loads(file.read_text())["scores"][SPLIT]
    names = [name for name, value in ours.items() if isinstance(value, float) and name != "main_score"]
    largest = {
        side: max(abs(scores[name] - ours[name]) for name in names)
        for side, scores in (("MTEB alone", theirs), ("our search in MTEB", through))
    }
    value = record["scores"]["nDCG@10"]
    near = context.quick or abs(value - 0.645) <= 0.005
    return Result(
        {
            "nDCG@10 by teva": value, "nDCG@10 by MTEB": theirs["ndcg_at_10"], "published nDCG@10": 0.645,
            "measures": len(names), **{f"largest difference, {side}": each for side, each in largest.items()},
        },
        max(largest.values()) <= 1e-4 and near,
        f"{record['data']['documents']} documents, {record['counts']['queries']} queries",
        {"teva": ours, "mteb": {name: theirs[name] for name in names}},
    )  # fmt: skip
