"""The layout of MTEB (version 2): configs ``corpus``, ``queries``, ``qrels``, and one set of them for each subset.

ViDoRe v3 is published in it too (``english-corpus``, ``english-queries``, ``english-qrels``).

**Instructions.** A query's instruction comes after its text, joined by a blank, as MTEB itself hands them to a model.
It does not become the query's ``prompt``: a prompt stands before the text and takes the place of the model's own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from teva_data.conversion import Options, cells
from teva_data.conversion.joining import (
    JUDGED_DOCUMENT,
    JUDGED_QUERY,
    Fields,
    copy_corpus,
    copy_queries,
    judgement_rows,
    read_judgements,
)
from teva_data.conversion.seen import Judged
from teva_data.conversion.tables import Tables
from teva_data.errors import DataError, nearest
from teva_data.records import DOCUMENT_TEXT, QUERY_TEXT, Row
from teva_data.runs import RunWriter
from teva_data.writing import DatasetWriter

logger = logging.getLogger(__name__)

ID = ("id", "_id")
# Names of a part's configs; `default` and `query` are those of older uploads.
ROLES = {
    "corpus": ("corpus",), "queries": ("queries", "query"), "qrels": ("qrels", "default"),
    "top_ranked": ("top_ranked",), "instruction": ("instruction", "instructions"),
}  # fmt: skip
NEEDED = ("corpus", "queries", "qrels")
TOP_RANKED = "top_ranked"


def recognise(tables: Tables) -> str | None:
    """A corpus and queries with ``id``, and judgements with ``query-id`` and ``corpus-id``."""
    parts = _parts(tables)
    if not parts:
        return None
    roles = next(iter(parts.values()))
    judged = tables.columns(roles["qrels"])
    if judged.isdisjoint(JUDGED_QUERY) or judged.isdisjoint(JUDGED_DOCUMENT):
        return None
    found = [tables.columns(roles[role]) for role in ("corpus", "queries")]
    # Files with `_id` are BEIR's, where they are not arranged as on the hub.
    if any("id" not in columns and not (tables.hub and "_id" in columns) for columns in found):
        return None
    return f"configs {', '.join(roles[role] for role in NEEDED)} with 'id'" + (
        f"; subsets {', '.join(parts)}" if len(parts) > 1 else ""
    )


def convert(tables: Tables, writer: DatasetWriter, options: Options) -> None:
    """Write one subset in MTEB's layout.

    Splits are those of the judgements; queries of a split are those with a positive judgement there. Candidates to
    rerank (``top_ranked``) become runs, ``top_ranked/<split>.tsv``, scored by their order alone.

    Raises:
        DataError: a config is missing, there are several subsets and none is named, the splits have corpora of their
            own and several are wanted, a row is bad, or a judgement names an unknown query or document.
    """
    roles = _chosen(tables, options)
    splits = [split for split in tables.splits(roles["qrels"]) if options.wants(split)]
    if not splits:
        raise DataError(
            "none of the splits that are wanted", file=tables.path or tables.name, found=list(options.splits),
            expected=f"some of {', '.join(tables.splits(roles['qrels']))}",
        )  # fmt: skip
    fields = Fields(ID, DOCUMENT_TEXT, query_id=ID).told(options.query_field, options.document_field)
    part = _corpus_split(tables, roles["corpus"], splits)
    named = options.document_field is not None
    with copy_corpus(tables, tables.rows(roles["corpus"], part), writer, fields, named=named) as documents:
        for split in splits:
            with Judged(writer.work) as judged:
                rows = judgement_rows(tables, roles["qrels"], split)
                read_judgements(rows, documents, judged, corpus=roles["corpus"])
                asked = _queries(tables, roles, split, fields)
                copy_queries(tables, asked, judged, writer, split, fields, source=roles["queries"])
            if TOP_RANKED in roles:
                _write_top_ranked(tables, roles[TOP_RANKED], split, writer)


def _parts(tables: Tables) -> dict[str, dict[str, str]]:
    """The configs of each subset by role; of the subset "" where the configs have no prefix. Whole subsets only."""
    parts: dict[str, dict[str, str]] = {}
    for name in tables.names():
        for role, known in ROLES.items():
            for each in known:
                if name == each:
                    parts.setdefault("", {}).setdefault(role, name)
                elif name.endswith(f"-{each}"):
                    parts.setdefault(name.removesuffix(f"-{each}"), {}).setdefault(role, name)
                elif name.startswith(f"{each}-"):
                    parts.setdefault(name.removeprefix(f"{each}-"), {}).setdefault(role, name)
    return {part: roles for part, roles in parts.items() if all(role in roles for role in NEEDED)}


def _chosen(tables: Tables, options: Options) -> dict[str, str]:
    parts = _parts(tables)
    if not parts:
        raise DataError(
            "no whole collection", file=tables.path or tables.name, found=tables.names(),
            expected="configs corpus, queries and qrels (or default), or <subset>-corpus and so on",
        )  # fmt: skip
    if options.part is not None and options.part not in parts:
        raise DataError(
            "no such subset", file=tables.path or tables.name, field="part", found=options.part,
            hint=nearest(options.part, parts),
        )  # fmt: skip
    if options.part is None and len(parts) > 1:
        raise DataError(
            "several subsets", file=tables.path or tables.name, found=sorted(parts), expected="one",
            hint="Name one with part (--part); a dataset has one corpus",
        )  # fmt: skip
    return parts[next(iter(parts)) if options.part is None else options.part]


def _split_for(tables: Tables, name: str, split: str) -> str:
    """The split of a table that goes with one of the judgements: of its name, or the only one."""
    there = tables.splits(name)
    if split in there:
        return split
    if len(there) == 1:
        return there[0]
    raise DataError(
        f"no split for the judgements {split!r}", file=tables.path or tables.name, field=name, found=there,
        expected=f"{split!r}, or one split alone",
    )  # fmt: skip


def _corpus_split(tables: Tables, name: str, splits: list[str]) -> str:
    wanted = sorted({_split_for(tables, name, split) for split in splits})
    if len(wanted) > 1:
        raise DataError(
            "a corpus for each split", file=tables.path or tables.name, field=name, found=wanted, expected="one corpus",
            hint="Convert one split at a time (--splits), into datasets of their own",
        )  # fmt: skip
    return wanted[0]


def _queries(tables: Tables, roles: dict[str, str], split: str, fields: Fields) -> Iterator[Row]:
    """The queries of a split, each with its instruction after its text."""
    instructions: dict[str, str] | None = None
    if "instruction" in roles:
        name = roles["instruction"]
        instructions = {
            cells.identifier(row, JUDGED_QUERY): cells.text(row, ("instruction", "text"), needed=True)
            for row in tables.rows(name, _split_for(tables, name, split))
        }
    name = roles["queries"]
    for row in tables.rows(name, _split_for(tables, name, split)):
        instruction = cells.text(row, ("instruction",))
        if instructions is not None:
            query_id = cells.identifier(row, fields.query_id)
            if query_id not in instructions:
                raise row.error(
                    "no instruction", "instruction", query_id, f"a row of {roles['instruction']!r} for this query"
                )
            instruction = instructions[query_id]
        if not instruction.strip():
            yield row
            continue
        field = cells.field_of(row, fields.query) or QUERY_TEXT[0]
        text = f"{cells.text(row, fields.query)} {instruction}"
        yield Row({**row.record, field: text}, row.file, row.line)


def _write_top_ranked(tables: Tables, name: str, split: str, writer: DatasetWriter) -> None:
    place = writer.directory / TOP_RANKED / f"{split}.tsv"
    with RunWriter(place) as run:
        for row in tables.rows(name, _split_for(tables, name, split)):
            docids = cells.identifiers(row, ("corpus-ids", "corpus_ids"))
            if docids:
                run.write(cells.identifier(row, JUDGED_QUERY), docids, [float(-rank) for rank in range(len(docids))])
    logger.info("%s: candidates to rerank written to %s/%s.tsv", split, TOP_RANKED, split)
