"""The layouts that sentence-transformers trains on: columns by order, an anchor first, then texts, then scores.

Which columns are scores is told by name (``label``, ``labels``, ``score``, ``scores``), all else by order, as there:
pairs ``(anchor, positive)``; ``(anchor, positive, negative, …)``, a negative may be a list; either with a list of
scores, one for each text; ``(text, text, score)``; and ``(query, texts, scores)`` with two lists.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from teva_data.conversion import Options, cells
from teva_data.conversion.grouping import GroupedTexts
from teva_data.conversion.joining import parts
from teva_data.conversion.tables import Tables
from teva_data.records import Row
from teva_data.writing import DatasetWriter

logger = logging.getLogger(__name__)

SCORES = ("label", "labels", "score", "scores")
FIRST = ("anchor", "query", "question", "sentence1", "sentence_A", "premise")
LOW, HIGH, HALF = 0.0, 1.0, 0.5


@dataclass(frozen=True)
class Columns:
    """Which column is what.

    Attributes:
        anchor: the query.
        texts: the first answers it (unless a score says otherwise), the others do not.
        score: of the texts, or None.
    """

    anchor: str
    texts: tuple[str, ...]
    score: str | None


def recognise(tables: Tables) -> str | None:
    """An anchor first, and negatives or scores by name; plain pairs are taken by the layout ``pairs``."""
    row = tables.first(tables.names()[0])
    names = list(row.record)
    if len(names) < 3 or names[0] not in FIRST:
        return None
    negative = next((name for name in names[1:] if name.lower().startswith("negative") and "_ids" not in name), None)
    score = next((name for name in names[1:] if name in SCORES), None)
    if names[0] in ("question", "query") and negative is None and not isinstance(row.record[names[1]], list):
        return None
    if negative in ("negative_passages", "negative_document_ids") or (negative is None and score is None):
        return None
    return f"columns {names[0]!r}, …, {negative or score!r}"


def convert(tables: Tables, writer: DatasetWriter, options: Options) -> None:
    """Write columns of texts as a corpus and queries that name its documents.

    Equal texts become one document, rows with equal anchors one query; ids are hashes of texts. A score of a pair lies
    between 0 and 1: from 0.5 on the pair is a positive one, below it a negative one. A list of scores beside a positive
    and negatives is a teacher's, and any number is right. Scores are kept.

    Raises:
        DataError: a row is bad, or scores do not fit the texts.
    """
    with GroupedTexts(tables.name, writer) as texts:
        for split, (name, part) in parts(tables, options).items():
            columns: Columns | None = None
            for row in tables.rows(name, part):
                columns = columns or _columns(row, options)
                _take(row, columns, texts)
            texts.write(split)


def _columns(row: Row, options: Options) -> Columns:
    names = list(row.record)
    scores = [name for name in names if name.lower() in SCORES]
    inputs = [name for name in names if name not in scores]
    if options.query_field is not None:
        if options.query_field not in inputs:
            raise row.error("no such column", "query_field", options.query_field, f"one of {', '.join(inputs)}")
        inputs = [options.query_field, *(name for name in inputs if name != options.query_field)]
    if len(inputs) < 2 or len(scores) > 1:
        raise row.error(
            "columns not understood", found=names, expected="an anchor, one text or more, and one column of scores at "
            f"most ({', '.join(SCORES)})",
        )  # fmt: skip
    columns = Columns(inputs[0], tuple(inputs[1:]), scores[0] if scores else None)
    logger.info(
        "%s: query %r, %s, scores in %r", row.file, columns.anchor, ", ".join(map(repr, columns.texts)), columns.score
    )
    return columns


def _take(row: Row, columns: Columns, texts: GroupedTexts) -> None:
    values = [_needed(row, field) for field in columns.texts]
    found = [text for value in values for text in value]
    number = texts.query(cells.text(row, (columns.anchor,), needed=True))
    first = columns.texts[0]
    alone = len(columns.texts) == 1
    if alone and columns.score is not None:
        for text, score in zip(found, _grades(row, columns.score, len(found)), strict=True):
            texts.answer(number, text, positive=score >= HALF, score=score)
        return
    if isinstance(row.record[first], list) and not (alone or first.lower().startswith("positive")):
        raise row.error("a list in the column of the positive", first, row.record[first], "one text")
    scores = None if columns.score is None else _teacher(row, columns.score, len(found))
    for at, text in enumerate(found):
        texts.answer(number, text, positive=at < len(values[0]), score=None if scores is None else scores[at])


def _needed(row: Row, field: str) -> list[str]:
    value = row.record.get(field)
    if isinstance(value, list):
        return cells.texts(row, field)
    return [cells.text(row, (field,), needed=True)]


def _grades(row: Row, field: str, count: int) -> list[float]:
    value = row.record.get(field)
    listed = value if isinstance(value, list) else [value]
    scores = cells.scores(Row({field: listed}, row.file, row.line), (field,), count) or []
    for score in scores:
        if not LOW <= score <= HIGH:
            raise row.error(
                "not a share", field, score, "a score between 0 and 1, where 0.5 divides positive from negative pairs",
                "Scale the scores",
            )  # fmt: skip
    return scores


def _teacher(row: Row, field: str, count: int) -> list[float]:
    value = row.record.get(field)
    if not isinstance(value, list):
        raise row.error(
            "one score for several texts", field, value, f"a list of {count} scores, one for each text",
            "A margin between two texts cannot be divided among them",
        )  # fmt: skip
    return cells.scores(row, (field,), count) or []
