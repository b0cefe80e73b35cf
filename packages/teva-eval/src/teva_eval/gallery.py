"""What was found, to look at and to hear: queries and the first documents found for them, as HTML with its media in it.

Pictures are made smaller. Clips and recordings are put in as they are, up to a size, and play in the page; of a larger
clip one frame is shown, and a browser without its codec shows that too.
"""

from __future__ import annotations

import base64
import html
import io
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from teva_data.dataset import Dataset
from teva_data.errors import DataError, MissingExtraError
from teva_data.pieces import Media
from teva_data.records import Document, Query
from teva_data.runs import read_run

from .benchmarks import Task

QUERIES, BEST = 8, 6
"""Queries of a result that are shown, drawn at random, and documents of each."""

SIDE = 120  # pixels of a thumbnail's longer side: a page of the report holds hundreds
_WORDS = 160  # characters of a text
_PLAYED = 400_000  # bytes of a clip or a recording that is put into the page
# How files begin (at which byte) that browsers play.
_FORMS: Mapping[str, tuple[int, bytes]] = {
    "video/mp4": (4, b"ftyp"), "video/webm": (0, b"\x1a\x45\xdf\xa3"), "audio/wav": (0, b"RIFF"),
    "audio/flac": (0, b"fLaC"), "audio/ogg": (0, b"OggS"), "audio/mpeg": (0, b"ID3"),
}  # fmt: skip

STYLE = """
table.found td { text-align: left; white-space: normal; vertical-align: top; width: 130px; font-size: .8rem; }
table.found td.relevant { outline: 3px solid #009E73; }
table.found img, table.found video, table.found audio { max-width: 120px; display: block; }
"""


def galleries(found: Sequence[tuple[Path, Mapping[str, Any]]]) -> list[str]:
    """HTML of each result over media; its data must lie where it was read from, and is named where it does not.

    Args:
        found: files and records, as :func:`teva_eval.records.find_records` gives them.
    """
    parts = []
    for path, record in found:
        place = record.get("request", {}).get("dataset")
        name = html.escape(f"{record['system']['name']}, {record['task']['name']}")
        if place is None or not _sees(record):
            continue
        try:
            parts.append(f"<h3>{name}</h3>{_table(path, record, Dataset.open(place))}")
        except (DataError, OSError, MissingExtraError) as error:
            parts.append(f'<h3>{name}</h3><p class="note">Not shown: {html.escape(str(error))}</p>')
    return (
        ["<h2>What was found</h2><p>Queries drawn at random; relevant documents are framed.</p>", *parts]
        if parts
        else []
    )


def _sees(record: Mapping[str, Any]) -> bool:
    kinds = record["data"].get("modalities", {})
    return not {"image", "video", "audio"}.isdisjoint((*kinds.get("queries", ()), *kinds.get("documents", ())))


def _table(path: Path, record: Mapping[str, Any], dataset: Dataset) -> str:
    split, run = record["data"]["split"], read_run(path.parent / record["runs"][""]["file"])
    judged = {} if Task.from_json(record["task"]).answers else dataset.qrels(split)
    queries = dataset.queries(split)
    shown = random.Random(0).sample(sorted(run), min(QUERIES, len(run)))
    lines = []
    for query in queries.get(queries.rows(shown).tolist()):
        hits = run[query.query_id][:BEST]
        grades = judged.get(query.query_id, {})
        cells = [f"<td>{_cell(query)}</td>"]
        for document in dataset.corpus.lookup([docid for docid, _ in hits]):
            relevant = ' class="relevant"' if grades.get(document.docid, 0) > 0 else ""
            cells.append(f'<td{relevant} title="{html.escape(document.docid)}">{_cell(document)}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    head = "<th>query</th>" + "".join(f"<th>{number}</th>" for number in range(1, BEST + 1))
    return (
        f'<div class="scroll"><table class="found"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody>'
        "</table></div>"
    )


def _cell(row: Query | Document) -> str:
    """Media and texts, in order."""
    text, title = (row.query_text, "") if isinstance(row, Query) else (row.document_text, row.title)
    parts = [f"<b>{html.escape(title)}</b>"] if title else []
    for piece in row.pieces or (text,):
        if isinstance(piece, Media):
            parts.append(_shown(piece))
        elif piece:
            parts.append(html.escape(piece if len(piece) <= _WORDS else f"{piece[: _WORDS - 1]}…"))
    return " ".join(parts)


def _shown(media: Media) -> str:
    """A picture, smaller, or a clip or a recording that plays, in the page itself.

    Raises:
        DataError: it cannot be read or decoded.
        MissingExtraError: the library that decodes it is not installed.
    """
    if media.kind == "image":
        from teva_data.modalities.image import decode

        return f'<img alt="" src="{_thumbnail(decode(media))}">'
    data = media.read() if _bytes(media) <= _PLAYED else b""
    form = next((name for name, (at, start) in _FORMS.items() if data[at : at + len(start)] == start), "")
    source = f"data:{form};base64,{base64.b64encode(data).decode()}" if form else ""
    if media.kind == "audio":
        words = "" if source else "[a recording of another form, or too large to be put here]"
        return f'<audio controls preload="none" src="{source}"></audio>' if source else words
    first = _thumbnail(_frame(media))
    if not source:
        return f'<img alt="a frame of a clip" src="{first}">'
    return f'<video controls loop muted preload="none" width="{SIDE}" poster="{first}" src="{source}"></video>'


def _bytes(media: Media) -> int:
    return media.length if media.length >= 0 else Path(media.path).stat().st_size - media.offset


def _frame(media: Media) -> Any:
    """The frame in a clip's middle."""
    from PIL import Image

    from teva_data.modalities.video import decode

    return Image.fromarray(decode(media, frames=1).frames[0])


def _thumbnail(picture: Any) -> str:
    """A picture of Pillow's, smaller, as an address."""
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
