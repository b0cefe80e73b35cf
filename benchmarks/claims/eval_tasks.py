"""Claims of teva-eval's declared tasks: they run from local files, as published and in replicas of the real schema."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import Context, Result, claim
from .replicas import Collection, load, mteb, vidore
from .replicas import captions as caption_files

# Real topics and judgements, as published, by the task that they are of.
REAL = {
    "scifact": ("beir-v1.0.0-scifact.test", "tsv.gz", "txt"),
    "nfcorpus": ("beir-v1.0.0-nfcorpus.test", "tsv.gz", "txt"),
    "miracl-ko": ("miracl-v1.0-ko-dev", "tsv", "tsv"), "miracl-yo": ("miracl-v1.0-yo-dev", "tsv", "tsv"),
    "dl19": ("dl19-passage", "txt", "txt"),
}  # fmt: skip


@claim(
    "eval",
    name="tasks_from_files",
    target="declared tasks run from real topics and judgements and from replicas of the real schema (MTEB, ViDoRe, "
    "captions, answers): every judged query and judgement is scored",
    peer="counts of the source files, read by other code",
    needs=("data",),
)
def tasks_from_files(context: Context) -> Result:
    """Documents of the real topics are made up (the corpora are not here), so that every judged one is there.

    A document's text is that of the queries it answers, with its id: BM25 must find it.
    """
    from teva_eval import evaluate
    from teva_eval.benchmarks import find_task
    from teva_eval.bm25 import BM25System
    from teva_eval.preparing import prepare

    figures: dict[str, Any] = {}
    wrong: list[str] = []
    data = context.work / "files"
    for name in REAL:
        expected = _real(context.data / "formats", data / name, name)
        (record,) = evaluate(BM25System(), [find_task(name)], context.work / "out", data=data)
        found = (record["counts"]["queries"], record["data"]["judgements"])
        figures[name] = f"{found[0]} queries, {found[1]} judgements, {find_task(name).main} {_main(record):.3f}"
        if found != expected or _main(record) < 0.2 or record["counts"]["missing"]:
            wrong.append(f"{name}: {found}, expected {expected}")
    limit = 20 if context.quick else 100
    replicas: dict[str, tuple[str, Callable[[Collection, Path], Any]]] = {
        "arguana": ("medquad", _one_part), "miracl-en": ("medquad", _mteb_english),
        "vidore-docvqa": ("docpages", vidore), "msrvtt-1k-a": ("realvideo", caption_files),
        "audiocaps": ("spokenwords-en", caption_files),
    }  # fmt: skip
    for name, (collection, write) in replicas.items():
        task, source = find_task(name), load(context.data, collection, limit)
        if task.split not in source.queries:
            source.queries[task.split], source.qrels[task.split] = source.queries["test"], source.qrels["test"]
        place = data / name
        place.mkdir(parents=True)
        write(source, place)
        ready = prepare(task, context.work / "prepared", data)
        qrels = ready.dataset.qrels(task.split)
        found = (len(ready.dataset.queries(task.split)), sum(map(len, qrels.values())))
        expected = (len(source.qrels[task.split]), sum(map(len, source.qrels[task.split].values())))
        figures[name] = f"{len(ready.dataset.corpus)} documents, {found[0]} queries, {found[1]} judgements"
        if found != expected:
            wrong.append(f"{name}: {found}, expected {expected}")
    rate, by_judgement = _answers(context, 100 if context.quick else 1000)
    figures |= {"wiki-ss by answers, Success@1 (SQuAD's texts)": rate, "the same by judgements": by_judgement}
    if rate < by_judgement:  # an answer may stand in other paragraphs too, never in fewer
        wrong.append("answers: fewer found than by judgements")
    return Result(figures, not wrong, "; ".join(wrong))


def _main(record: dict[str, Any]) -> float:
    return float(record["scores"][record["task"]["measures"][0]])


def _real(formats: Path, place: Path, name: str) -> tuple[int, int]:
    """Copy topics and judgements, make a corpus of the judged ids; counts of queries and judgements."""
    stem, topics, qrels = REAL[name]
    place.mkdir(parents=True)
    for kind, ending in (("topics", topics), ("qrels", qrels)):
        shutil.copy(formats / f"{kind}.{stem}.{ending}", place)
    opened = gzip.open if topics.endswith(".gz") else open
    with opened(place / f"topics.{stem}.{topics}", "rt", encoding="utf-8") as file:
        texts = dict(line.rstrip("\n").split("\t", 1) for line in file)
    judged = [line.split() for line in (place / f"qrels.{stem}.{qrels}").read_text(encoding="utf-8").splitlines()]
    says: dict[str, list[str]] = {}
    for query_id, _, docid, grade in judged:
        says.setdefault(docid, []).append(texts[query_id] if int(grade) > 0 else "nothing of the kind")
    rows = [{"docid": docid, "title": "", "text": f"{' '.join(found)} {docid}"} for docid, found in says.items()]
    (place / "docs-0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return len({row[0] for row in judged}), len(judged)


def _one_part(collection: Collection, place: Path) -> None:
    """MTEB's configs without a language before them."""
    _mteb(collection, place, "eng-", "")


def _mteb_english(collection: Collection, place: Path) -> None:
    _mteb(collection, place, "eng-", "en-")


def _mteb(collection: Collection, place: Path, before: str, after: str) -> None:
    """A replica of a hub's repository, its subsets named another way; the French one is left out."""
    made = place.parent / f".{place.name}"
    made.mkdir()
    mteb(collection, made)
    for path in sorted(made.rglob("*"), reverse=True):
        if "fra-" in path.name:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    import yaml

    readme = made / "README.md"
    head = yaml.safe_load(readme.read_text().split("---")[1])
    head["configs"] = [each for each in head["configs"] if not each["config_name"].startswith("fra-")]
    text = yaml.safe_dump(head).replace(before, after)
    readme.write_text(f"---\n{text}---\n")
    for path in sorted(made.iterdir()):
        if path.is_dir() and path.name.startswith(before):
            path.rename(made / path.name.replace(before, after))
    shutil.rmtree(place)
    made.rename(place)


def _answers(context: Context, count: int) -> tuple[float, float]:
    """Wiki-SS's rule on SQuAD: the same searches, judged by answers and by the paragraph that was asked about."""
    from dataclasses import replace

    from teva_eval import evaluate
    from teva_eval.benchmarks import find_task
    from teva_eval.bm25 import BM25System

    place = context.work / "squad" / "wiki-ss-nq"
    (place / "qrels").mkdir(parents=True)
    with gzip.open(context.data / "squad" / "corpus.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    with gzip.open(context.data / "squad" / "queries.test.jsonl.gz", "rt") as file:
        asked = [json.loads(line) for line in file][:: max(1, 10_570 // count)]
    documents = [{"docid": row["docid"], "title": row["title"], "document_text": row["text"]} for row in rows]
    if context.quick:
        documents = documents[-3000:]
    (place / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    queries = [{"query_id": row["query_id"], "query_text": row["text"], "answers": row["answers"]} for row in asked]
    (place / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    wanted, known = {row["query_id"] for row in asked}, {row["docid"] for row in documents}
    with gzip.open(context.data / "squad" / "qrels.test.tsv.gz", "rt") as file:
        lines = file.read().splitlines()
    kept = [line for line in lines[1:] if line.split("\t")[0] in wanted and line.split("\t")[1] in known]
    (place / "qrels" / "test.tsv").write_text("\n".join([lines[0], *kept]) + "\n")
    task = replace(find_task("wiki-ss-nq"), documents=("text",))
    systems = BM25System(name="answers"), BM25System(name="judgements")
    (one,) = evaluate(systems[0], [task], context.work / "squad-out", data=place.parent)
    (other,) = evaluate(systems[1], [replace(task, answers=False)], context.work / "squad-out2", data=place.parent)
    return one["scores"]["Success@1"], other["scores"]["Success@1"]
