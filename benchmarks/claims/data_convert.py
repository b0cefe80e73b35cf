"""Claims about conversion: nothing is lost in any layout, and what it makes is a fraction of the inline form."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import bm25
from benchmarks.claims import Context, Result, claim
from benchmarks.claims.replicas import REPLICAS, Content, Replica, by_content, content_of, load
from teva_data.conversion import LAYOUTS, convert
from teva_data.dataset import Dataset
from teva_data.writing import Form

COLLECTIONS = ("scifact", "squad", "docpages", "spokenwords-en", "realvideo")
SAMPLE = {"squad": 2000}
QUICK_SAMPLE = {"scifact": 300, "squad": 200, "docpages": 100, "spokenwords-en": 100}
FORMS = (("jsonl", "files"), ("jsonl.zst", "bytes"), ("parquet", "bytes"))
NEGATIVES = 20


@claim(
    "data",
    name="every_converter",
    target="every registered layout has a replica of real data; 0 differences between what was put in and what came "
    "out, in every layout and form",
    needs=("data",),
)
def every_converter(context: Context) -> Result:
    collections = [
        load(context.data, name, (QUICK_SAMPLE if context.quick else SAMPLE).get(name)) for name in COLLECTIONS
    ]
    compared: dict[str, dict[str, int]] = {}
    wrong: list[str] = []
    for layout in LAYOUTS:
        for collection in collections:
            if layout not in REPLICAS:
                continue
            place = context.work / f"{layout}-{collection.name}"
            place.mkdir()
            replica = REPLICAS[layout](collection, place)
            if replica is None:
                continue
            for form, media in FORMS:
                counts, differences = _round_trip(replica, context.work / f"out-{place.name}-{form}", form, media)
                compared[f"{layout} {collection.name} {form}"] = counts
                wrong += [f"{layout} {collection.name} {form}: {each}" for each in differences]
    missing = sorted(set(LAYOUTS) - {name.split(" ")[0] for name in compared})
    total = {kind: sum(counts[kind] for counts in compared.values()) for kind in ("documents", "queries", "judgements")}
    return Result(
        {
            "layouts": len(LAYOUTS), "layouts without a replica": len(missing), "conversions": len(compared),
            **{f"{kind} compared": count for kind, count in total.items()}, "differences": len(wrong),
        },
        passed=not wrong and not missing,
        notes="; ".join([*(f"no replica: {name}" for name in missing), *wrong[:3]])
        or f"{', '.join(COLLECTIONS)}; each as JSONL with media as files, JSONL.zst and Parquet with media in archives",
        details={"compared": compared, "differences": wrong[:100]},
    )  # fmt: skip


def _round_trip(replica: Replica, out: Path, form: Any, media: Any) -> tuple[dict[str, int], list[str]]:
    found = content_of(convert(replica.source, out, form=form, media=media, **replica.options))
    counts = {
        "documents": len(found.documents),
        "queries": sum(map(len, found.queries.values())),
        "judgements": sum(len(grades) for judged in found.qrels.values() for grades in judged.values()),
    }
    differences = []
    if not replica.ids and len(set(found.documents)) != len(by_content(found).documents):
        differences.append("a content stands under two ids")
    return counts, differences + list(_differences(replica.expected, found if replica.ids else by_content(found)))


def _differences(expected: Content, found: Content) -> Iterator[str]:
    yield from _unequal("document", expected.documents, found.documents)
    yield from _unequal("split", dict.fromkeys(expected.queries, 0), dict.fromkeys(found.queries, 0))
    for split in expected.queries.keys() & found.queries.keys():
        yield from _unequal(f"query of {split}", expected.queries[split], found.queries[split])
    for split, judged in expected.qrels.items():
        yield from _unequal(f"judgements of {split}", judged, found.qrels.get(split, {}))


def _unequal(what: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    for name in [*expected, *(found.keys() - expected.keys())]:
        if name not in found:
            yield f"{what} {name!r} is missing"
        elif name not in expected:
            yield f"{what} {name!r} was not put in"
        elif expected[name] != found[name]:
            yield f"{what} {name!r} differs"


@claim(
    "data",
    name="decoupled_storage",
    target="SQuAD's training queries with 20 negatives each, uncompressed: at least 15 times smaller than inline "
    "passages, with the store and its index counted on our side",
    peer=bm25.version,
    needs=("data",),
)
def decoupled_storage(context: Context) -> Result:
    inline = _inline(context)
    return _storage(context, inline, inline, "jsonl", "JSONL on both sides")


@claim(
    "data",
    name="decoupled_storage_parquet",
    target="the same as Parquet: at least 15 times smaller, with the store and its index counted on our side",
    peer=bm25.version,
    needs=("data",),
)
def decoupled_storage_parquet(context: Context) -> Result:
    inline = _inline(context)
    table = context.work / "inline.parquet"
    _write_nested(inline, table)
    notes = (
        "Parquet with zstd on both sides, passages inline as lists of structs; the store is what training maps into "
    )
    return _storage(context, inline, table, "parquet", notes + "memory, an Arrow file that is not compressed")


def _inline(context: Context) -> Path:
    squad = load(context.data, "squad", 2000 if context.quick else None)
    if context.quick:  # all paragraphs, as in the whole: what is saved depends on how often each is named
        squad.documents = load(context.data, "squad").documents
    path = context.work / "inline" / "train.jsonl"
    path.parent.mkdir()
    _write_inline(squad, path, context.work)
    return path


def _storage(context: Context, inline: Path, peer: Path, form: Form, notes: str) -> Result:
    """The sizes of the inline form (``peer``) and of teva's, made of ``inline``, in one form of file."""
    start = time.monotonic()
    ours = convert(inline, context.work / "decoupled", layout="tevatron-v1", form=form)
    seconds = time.monotonic() - start
    alone = _bytes(ours)
    dataset = Dataset.open(ours)
    stores = {"corpus": dataset.corpus, "queries": dataset.queries("train")}
    sizes = {
        "inline": peer.stat().st_size,
        "ours, files": alone,
        **{f"ours, store and index of the {name}": _bytes(store.directory) for name, store in stores.items()},
        "ours, all": _bytes(ours),
    }
    ratio = sizes["inline"] / sizes["ours, all"]
    figures = {f"{name}, MB": round(size / 1e6, 2) for name, size in sizes.items()}
    figures |= {"ratio without the store": round(sizes["inline"] / alone, 2), "ratio, all counted": round(ratio, 2)}
    return Result(
        {"queries": len(stores["queries"]), "conversion, s": round(seconds, 1), **figures},
        passed=ratio >= 15,
        notes=f"negatives: the first 20 of BM25 that are no positives; {notes}",
    )


def _write_inline(squad: Any, target: Path, work: Path) -> None:
    """Tevatron's first layout, with negatives of BM25."""
    base = work / "base"
    documents = squad.documents
    base.mkdir()
    with (base / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for docid, each in documents.items():
            file.write(json.dumps({"docid": docid, "title": each.title, "text": each.text}) + "\n")
    with (base / "train.jsonl").open("w", encoding="utf-8") as file:
        for query_id, text in squad.queries["train"].items():
            ids = squad.positives("train", query_id)
            file.write(json.dumps({"query_id": query_id, "query_text": text, "positive_document_ids": ids}) + "\n")
    run = bm25.search(base, "train", work / "bm25.tsv", depth=NEGATIVES + 10)
    found: dict[str, list[str]] = {}
    with run.open(encoding="utf-8") as lines:
        for line in lines:
            query_id, docid, _ = line.split("\t")
            found.setdefault(query_id, []).append(docid)

    def passages(ids: list[str]) -> list[dict[str, str]]:
        return [{"docid": docid, "title": documents[docid].title, "text": documents[docid].text} for docid in ids]

    with target.open("w", encoding="utf-8") as file:
        for query in Dataset.open(base).queries("train"):
            good = list(query.positive_document_ids)
            bad = [docid for docid in found.get(query.query_id, []) if docid not in good][:NEGATIVES]
            row = {"query_id": query.query_id, "query": query.query_text, "positive_passages": passages(good),
                   "negative_passages": passages(bad)}  # fmt: skip
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_nested(source: Path, target: Path) -> None:
    """The inline form as Parquet, in row groups of 1,000 queries."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.large_string()
    passages = pa.list_(pa.struct([("docid", text), ("title", text), ("text", text)]))
    fields = [("query_id", text), ("query", text), ("positive_passages", passages), ("negative_passages", passages)]
    schema = pa.schema(fields)
    with pq.ParquetWriter(target, schema, compression="zstd") as writer, source.open(encoding="utf-8") as lines:
        batch = []
        for line in lines:
            batch.append(json.loads(line))
            if len(batch) == 1000:
                writer.write_table(pa.Table.from_pylist(batch, schema))
                batch = []
        if batch:
            writer.write_table(pa.Table.from_pylist(batch, schema))


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
