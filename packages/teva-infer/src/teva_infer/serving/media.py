"""Pictures, clips and recordings of documents over HTTP: whole, in ranges as players ask for them, or as thumbnails."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from fastapi import Response
from fastapi.responses import StreamingResponse

from teva_data.pieces import Media

CHUNK = 1 << 20  # bytes read at a time
MOST_RANGE = 4 << 20  # bytes of one answer to a player, which asks again for more
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
# Nothing of a document can run: its type is that of its own bytes, and a browser takes it for nothing else.
HEADERS = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox", "Accept-Ranges": "bytes"}

# Kind, where the signature stands, the signature, the type.
_SIGNATURES = (
    ("image", 0, b"\x89PNG", "image/png"), ("image", 0, b"\xff\xd8\xff", "image/jpeg"),
    ("image", 0, b"GIF8", "image/gif"), ("image", 8, b"WEBP", "image/webp"), ("image", 4, b"ftypavif", "image/avif"),
    ("video", 4, b"ftyp", "video/mp4"), ("video", 0, b"\x1aE\xdf\xa3", "video/webm"),
    ("video", 0, b"OggS", "video/ogg"), ("audio", 8, b"WAVE", "audio/wav"), ("audio", 0, b"OggS", "audio/ogg"),
    ("audio", 0, b"fLaC", "audio/flac"), ("audio", 0, b"ID3", "audio/mpeg"), ("audio", 0, b"\xff\xfb", "audio/mpeg"),
    ("audio", 0, b"\xff\xf3", "audio/mpeg"), ("audio", 0, b"\xff\xf2", "audio/mpeg"),
    ("audio", 4, b"ftyp", "audio/mp4"), ("audio", 0, b"\x1aE\xdf\xa3", "audio/webm"),
)  # fmt: skip


def content_type(kind: str, start: bytes) -> str:
    """The type of media that begin with these bytes; a stream of bytes where they are not what the record says."""
    for of, place, signature, found in _SIGNATURES:
        if of == kind and start[place : place + len(signature)] == signature:
            return found
    return "application/octet-stream"


def answer(media: Media, wanted: str | None) -> Response:
    """The bytes of media, or those of a range.

    Args:
        media: where they lie.
        wanted: the request's header ``Range``.

    Raises:
        MediaError: they cannot be read.
    """
    total = media.length if media.length >= 0 else len(media.read())
    kind = content_type(media.kind, _bytes(media, 0, min(16, total)))
    bounds = _bounds(wanted, total)
    if bounds is None:
        headers = {**HEADERS, "Content-Length": str(total)}
        return StreamingResponse(_chunks(media, total), media_type=kind, headers=headers)
    start, stop = bounds
    if start >= stop:
        return Response(status_code=416, headers={**HEADERS, "Content-Range": f"bytes */{total}"})
    headers = {**HEADERS, "Content-Range": f"bytes {start}-{stop - 1}/{total}"}
    return Response(_bytes(media, start, stop), 206, media_type=kind, headers=headers)


def thumbnail(media: Media, width: int) -> Response:
    """A picture made smaller, as JPEG.

    Args:
        media: a picture.
        width: pixels at most; the height at most four times as many.

    Raises:
        MediaError: it cannot be read or decoded.
    """
    from teva_data.modalities import image

    picture = image.decode(media)
    picture.thumbnail((width, 4 * width))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    headers = {**HEADERS, "Cache-Control": "private, max-age=3600"}
    return Response(file.getvalue(), media_type="image/jpeg", headers=headers)


def _bounds(wanted: str | None, total: int) -> tuple[int, int] | None:
    """First byte and the one after the last (RFC 9110, 14.2); None for the whole; empty where none is there."""
    found = _RANGE.fullmatch(wanted or "")
    if found is None or found.group(0) == "bytes=-":
        return None
    first, last = found.groups()
    if not first:
        start = max(0, total - int(last))
        return (start, min(total, start + MOST_RANGE))
    if last and int(last) < int(first):
        return None
    stop = min(int(last) + 1 if last else total, total)
    return (int(first), min(stop, int(first) + MOST_RANGE))


def _chunks(media: Media, total: int) -> Iterator[bytes]:
    for start in range(0, total, CHUNK):
        yield _bytes(media, start, min(start + CHUNK, total))


def _bytes(media: Media, start: int, stop: int) -> bytes:
    return media._replace(offset=media.offset + start, length=stop - start).read()
