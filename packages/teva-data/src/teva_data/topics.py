"""Reads topics, the queries of an evaluation, from the forms in which they are published.

The form is told by what the file holds, not by its name: one JSON object a line, TREC's SGML, or one topic a line with
its id before the first tab.
"""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from .errors import DataError
from .reader import read_lines, read_rows

JSON_ID = ("qid", "query_id", "query-id", "_id", "id")
JSON_TEXT = ("query", "query_text", "text", "title")
# A header that some publish; the first cell of a real first line is never one of these together with the second.
_HEADER = ({"qid", "query_id", "query-id", "topic_id", "id", "_id"}, {"query", "query_text", "text", "title"})
_OPEN = re.compile(r"<(DOC|top|topic)\b([^<>]*)>", re.IGNORECASE)
_CLOSE = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in ("doc", "top", "topic")}
_NUMBER = re.compile(r"""\b(?:number|id)\s*=\s*["']([^"']+)["']""", re.IGNORECASE)
_TAG = re.compile(r"<(/?)([A-Za-z]+)\s*>")
_LABEL = re.compile(r"^\s*(?:Number|Topic|Query)\s*:", re.IGNORECASE)


class Topic(NamedTuple):
    """One topic, with its address."""

    query_id: str
    text: str
    line: int


def read_topics(path: str | Path) -> dict[str, str]:
    """Topics by id, in the file's order.

    Args:
        path: plain, ``.gz`` or ``.zst``, in UTF-8, in one of three forms. Lines: an id, a tab and the text; a header
            ``qid<tab>query`` is taken. JSONL: objects with ``qid`` (or ``query_id``, ``_id``, ``id``) and ``query``
            (or ``query_text``, ``text``, ``title``). SGML: ``<DOC>`` with ``<DOCNO>`` and a text after it, ``<top>``
            with ``<num>`` and ``<title>``, or ``<topic number="1">`` with ``<query>`` or ``<title>``; white space in
            an SGML text becomes single blanks.

    Raises:
        DataError: the file cannot be read or is empty, a topic has no id or no text, or an id comes twice; with the
            line.
    """
    path = Path(path)
    lines = read_lines(path)
    number, first = next(((number, line) for number, line in lines if line.strip()), (0, ""))
    if not first:
        raise DataError("no topics", file=path, expected="an id, a tab and a text in each line; JSONL; or SGML")
    if first.lstrip().startswith("{"):
        return _by_id(path, _from_json(path))
    if first.lstrip().startswith("<"):
        return _by_id(path, _from_sgml(path))
    return _by_id(path, _from_lines(path, itertools.chain([(number, first)], lines)))


def _by_id(path: Path, topics: Iterable[Topic]) -> dict[str, str]:
    texts: dict[str, str] = {}
    lines: dict[str, int] = {}
    for topic in topics:
        if not topic.query_id:
            raise DataError("no id", file=path, line=topic.line, field="query_id", found=topic.query_id)
        if not topic.text.strip():
            raise DataError(
                "no text", file=path, line=topic.line, field="query_text", found=topic.text,
                hint=f"Give topic {topic.query_id!r} one or remove it",
            )  # fmt: skip
        if topic.query_id in texts:
            raise DataError(
                f"duplicate id, first on line {lines[topic.query_id]}", file=path, line=topic.line, field="query_id",
                found=topic.query_id, expected="each id once",
            )  # fmt: skip
        texts[topic.query_id], lines[topic.query_id] = topic.text, topic.line
    if not texts:
        raise DataError("no topics", file=path, hint="The file holds a header and nothing else")
    return texts


def _from_lines(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[Topic]:
    empty_line, first = None, True
    for number, line in lines:
        if not line.strip():
            empty_line = empty_line or number
            continue
        if empty_line is not None:
            raise DataError("empty line", file=path, line=empty_line, hint="Remove the line")
        query_id, tab, text = line.partition("\t")
        if not tab:
            raise DataError(
                "no tab", file=path, line=number, found=line, expected="an id, a tab and the text of the topic"
            )
        header, first = first and query_id.lower() in _HEADER[0] and text.strip().lower() in _HEADER[1], False
        if not header:
            yield Topic(query_id.strip(), text, number)


def _from_json(path: Path) -> Iterator[Topic]:
    for row in read_rows(path):
        query_id = next((row.record[name] for name in JSON_ID if row.record.get(name) is not None), None)
        text = next((row.record[name] for name in JSON_TEXT if row.record.get(name) is not None), None)
        if type(query_id) not in (str, int):
            raise row.error("no id", JSON_ID[0], query_id, f"a string in one of {', '.join(JSON_ID)}")
        if not isinstance(text, str):
            raise row.error(
                "no text", JSON_TEXT[0], text, f"a string in one of {', '.join(JSON_TEXT)}",
                f"The row has: {', '.join(map(repr, row.record))}",
            )  # fmt: skip
        yield Topic(str(query_id), text, row.line)


def _from_sgml(path: Path) -> Iterator[Topic]:
    # Topic files are small; a topic may be of any number of lines, so the whole text is looked at.
    text = "\n".join(line for _, line in read_lines(path))
    end, line = 0, 1
    while (tag := _OPEN.search(text, end)) is not None:
        _check_between(path, text[end : tag.start()], line)
        line += text.count("\n", end, tag.start())
        close = _CLOSE[tag[1].lower()].search(text, tag.end())
        if close is None:
            raise DataError("a topic left open", file=path, line=line, found=tag[0], expected=f"</{tag[1]}> after it")
        yield _topic(path, tag, text[tag.end() : close.start()], line)
        line += text.count("\n", tag.start(), close.end())
        end = close.end()
    _check_between(path, text[end:], line)


def _topic(path: Path, tag: re.Match[str], content: str, line: int) -> Topic:
    fields: dict[str, str] = {}
    loose, *rest = _TAG.split(content)
    for closing, name, value in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        if closing:
            loose += value
        else:
            fields.setdefault(name.lower(), value)
    number = _NUMBER.search(tag[2])
    query_id = number[1] if number else fields.get("docno", fields.get("num", ""))
    query_id = _LABEL.sub("", query_id).strip()
    if not query_id:
        raise DataError(
            "a topic without an id", file=path, line=line, found=tag[0],
            expected='<DOCNO>, <num> or an attribute number="..."',
        )  # fmt: skip
    found = loose if tag[1].lower() == "doc" else fields.get("title", fields.get("query", ""))
    if tag[1].lower() == "topic":  # XML, where the others are SGML
        found = html.unescape(found)
    return Topic(query_id, " ".join(found.split()), line)


def _check_between(path: Path, text: str, line: int) -> None:
    """Nothing but the tags around all topics may stand outside of a topic."""
    between = re.sub(r"<\?[^?]*\?>|</?topics\b[^<>]*>", "", text, flags=re.IGNORECASE)
    while (start := between.find("<!--")) >= 0 and (end := between.find("-->", start)) >= 0:
        between = between[:start] + between[end + 3 :]
    if stray := between.strip():
        raise DataError(
            "text outside of a topic", file=path, line=line + text.count("\n", 0, text.find(stray[:1])),
            found=stray[:60], expected="<DOC>, <top> or <topic>, closed by its end tag",
        )  # fmt: skip
