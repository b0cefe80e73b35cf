"""FlagEmbedding's layout (BGE): a query with lists of texts, ``pos`` and ``neg``, in each row of one or more files."""

from __future__ import annotations

from teva_data.conversion import Options, cells
from teva_data.conversion.grouping import GroupedTexts
from teva_data.conversion.tables import Tables
from teva_data.errors import DataError
from teva_data.records import Row
from teva_data.writing import DatasetWriter

QUERY, POSITIVES, NEGATIVES = "query", "pos", "neg"


def recognise(tables: Tables) -> str | None:
    """A query with ``pos``."""
    return f"queries with {POSITIVES!r}" if {QUERY, POSITIVES} <= tables.columns(tables.names()[0]) else None


def convert(tables: Tables, writer: DatasetWriter, options: Options) -> None:
    """Write queries with texts inside as a corpus and queries that name its documents.

    Equal texts become one document, rows with equal queries and prompts one query; ids are hashes of texts. All tables
    of a source are taken together, as FlagEmbedding takes the files of a directory. ``type`` is not read.

    Raises:
        DataError: a row is bad.
    """
    tables_by_split: dict[str, list[str]] = {}
    for name in tables.names():
        if options.part in (None, name):
            for split in tables.splits(name):
                tables_by_split.setdefault(split, []).append(name)
    wanted = {split: names for split, names in tables_by_split.items() if options.wants(split)}
    if not wanted:
        raise DataError("no split", file=tables.path or tables.name, found=sorted(tables_by_split))
    query = options.query_field or QUERY
    with GroupedTexts(tables.name, writer) as texts:
        for split, names in wanted.items():
            for name in names:
                for row in tables.rows(name, split):
                    _take(row, texts, query)
            texts.write(split)


def _take(row: Row, texts: GroupedTexts, query: str) -> None:
    positives, negatives = cells.texts(row, POSITIVES), cells.texts(row, NEGATIVES)
    if not positives:
        raise row.error("no positives", POSITIVES, row.record.get(POSITIVES), "a list of one text at least")
    prompt = cells.text(row, ("prompt",)) if row.record.get("prompt") is not None else None
    number = texts.query(cells.text(row, (query,), needed=True), prompt)
    for field, values, positive in ((POSITIVES, positives, True), (NEGATIVES, negatives, False)):
        scores = cells.scores(row, (f"{field}_scores",), len(values)) if row.record.get(f"{field}_scores") else None
        for at, text in enumerate(values):
            texts.answer(number, text, positive=positive, score=None if scores is None else scores[at])
