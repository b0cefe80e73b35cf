"""The other direction of a task: what was found asks, and what asked is found (clip to caption)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from teva_data.dataset import Dataset
from teva_data.files import atomic_file
from teva_data.pieces import KINDS, Media, Piece
from teva_data.records import Document, Query, join_title


def turn(dataset: Dataset, split: str, target: Path, root: Path) -> None:
    """Write a dataset whose queries are the judged documents of another, and whose documents are its queries.

    Args:
        dataset: the other.
        split: of its queries; that of the new ones too.
        target: a directory that is there and empty.
        root: what media lie below, as a link from ``target`` is to name it; its entries are linked to.
    """
    qrels = {
        query: {docid for docid, grade in found.items() if grade > 0} for query, found in dataset.qrels(split).items()
    }
    judged = {docid for found in qrels.values() for docid in found}
    answers: dict[str, list[str]] = {}
    for query, docids in qrels.items():
        for docid in docids:
            answers.setdefault(docid, []).append(query)
    _write(target / "corpus.jsonl", (_document(query, dataset.path) for query in dataset.queries(split)))
    asking = (_query(one, dataset.path, answers[one.docid]) for one in dataset.corpus if one.docid in judged)
    _write(target / f"{split}.jsonl", asking)
    (target / "qrels").mkdir()
    with atomic_file(target / "qrels" / f"{split}.tsv", "w") as file:
        file.write("query_id\tdocid\tscore\n")
        for docid, queries in answers.items():
            file.writelines(f"{docid}\t{query}\t1\n" for query in queries)
    written = {"corpus", split, "qrels", "dataset", ".teva"}
    for entry in sorted(dataset.path.iterdir()):
        if entry.name.partition(".")[0] not in written and entry.name not in written:
            (target / entry.name).symlink_to(root / entry.name, target_is_directory=entry.is_dir())


def _document(query: Query, root: Path) -> dict[str, Any]:
    return {"docid": query.query_id, **_fields("document", query.pieces or (query.query_text,), root)}


def _query(document: Document, root: Path, answers: Sequence[str]) -> dict[str, Any]:
    pieces = document.pieces or (join_title(document.title, document.document_text),)
    return {"query_id": document.docid, **_fields("query", pieces, root), "positive_document_ids": list(answers)}


def _fields(role: str, pieces: Sequence[Piece], root: Path) -> dict[str, Any]:
    """Pieces as the four fields of a record; their order is told by their places in lists."""
    values: dict[str, list[Any]] = {}
    for at, piece in enumerate(pieces):
        kind = piece.kind if isinstance(piece, Media) else "text"
        values.setdefault(kind, [None] * len(pieces))[at] = _address(piece, root) if isinstance(piece, Media) else piece
    ordered = [kind for kind in ("text", *KINDS) if kind in values]
    return {f"{role}_{kind}": values[kind] if len(pieces) > 1 else values[kind][0] for kind in ordered}


def _address(media: Media, root: Path) -> str | dict[str, Any]:
    file = os.path.relpath(media.path, root)
    if media.offset == 0 and media.length in (-1, media.size):
        return file
    return {"file": file, "offset": media.offset, "length": media.length}


def _write(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with atomic_file(path, "w") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
