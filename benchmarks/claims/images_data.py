"""Claims of pictures as data: what keeping documents by id saves."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from benchmarks import picture_sets
from teva_data.dataset import Dataset

from . import Context, Result, claim
from .real_run import command

COUNTS = {4: 4.0, 20: 15.0}  # negatives of each query, and how many times smaller it is to be


@claim(
    "images", name="images_storage", needs=("data",),
    target="docpages' training queries with page images, documents by id against copies in every row: at least 4 times "
    "smaller with 4 negatives each and 15 times with 20, the stores and their indexes counted on our side",
)  # fmt: skip
def images_storage(context: Context) -> Result:
    """Inline: Parquet, a row for each query with the bytes of its pages; ours: files, JSONL and what is mapped."""
    data = context.work / "data"
    command("teva-data", "convert", context.data / "docpages", data, "--splits", "train")
    queries = list(picture_sets.rows(data / "train.jsonl"))[: 100 if context.quick else None]
    named = {docid for row in queries for docid in row["positive_document_ids"]}
    # The pages of the training manuals alone: those of the test would be counted against us and used by nobody.
    pages = [row for row in picture_sets.rows(data / "corpus.jsonl") if _manual(row["docid"]) in {*map(_manual, named)}]
    figures: dict[str, Any] = {"queries": len(queries), "pages": len(pages)}
    passed = True
    for count, least in COUNTS.items():
        sizes = _sizes(context, data, queries, pages, count)
        ratio = sizes["inline"] / sizes["by id"]
        passed &= ratio >= least
        figures |= {f"{count} negatives: {name}, MB": round(size / 1e6, 2) for name, size in sizes.items()}
        figures[f"{count} negatives: ratio"] = round(ratio, 2)
    return Result(
        figures, passed, "negatives are drawn from the training manuals' pages; PNG does not compress further"
    )


def _manual(docid: str) -> str:
    return docid.rpartition("-")[0]


def _sizes(context: Context, data: Path, queries: list[Any], pages: list[Any], count: int) -> dict[str, int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    drawn, place = random.Random(context.seed), context.work / f"with-{count}"
    (place / "media").mkdir(parents=True)
    files = {row["docid"]: row["document_image"] for row in pages}
    for file in files.values():
        (place / file).write_bytes((data / file).read_bytes())
    rows = []
    for row in queries:
        others = [docid for docid in files if docid not in row["positive_document_ids"]]
        rows.append({**row, "negative_document_ids": drawn.sample(others, count)})
    picture_sets.write(place / "train.jsonl", rows)
    picture_sets.write(place / "corpus.jsonl", pages)
    dataset = Dataset.open(place)
    len(dataset.corpus), len(dataset.queries("train"))  # builds the stores
    inline = context.work / f"inline-{count}.parquet"
    image = pa.struct({"docid": pa.string(), "image": pa.binary()})
    schema = pa.schema(
        {"query_id": pa.string(), "query": pa.string(), "positive_passages": pa.list_(image),
         "negative_passages": pa.list_(image)}
    )  # fmt: skip
    with pq.ParquetWriter(inline, schema) as writer:
        for start in range(0, len(rows), 64):
            part = [
                {"query_id": row["query_id"], "query": row["query_text"]}
                | {
                    f"{kind}_passages": [
                        {"docid": docid, "image": (data / files[docid]).read_bytes()}
                        for docid in row[f"{kind}_document_ids"]
                    ]
                    for kind in ("positive", "negative")
                }
                for row in rows[start : start + 64]
            ]
            writer.write_table(pa.Table.from_pylist(part, schema=schema))
    size = inline.stat().st_size
    inline.unlink()
    ours = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    media = sum((place / file).stat().st_size for file in files.values())
    return {"inline": size, "by id": ours, "of which pages": media}
