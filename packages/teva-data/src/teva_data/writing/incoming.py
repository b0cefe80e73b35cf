"""Pictures, clips and recordings on their way into a dataset: bytes in hand, or a place in a file; and their names."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from teva_data.errors import DataError

NAME_BYTES = 80


@dataclass(frozen=True)
class MediaBytes:
    """A piece whose bytes are at hand.

    Attributes:
        name: a file name with its ending; a wish, since names are made safe and unique.
        data: the file's bytes.
    """

    name: str
    data: bytes


@dataclass(frozen=True)
class MediaFile:
    """A piece that lies in a file.

    Attributes:
        path: the file.
        offset: its first byte there.
        length: how many bytes; None: to the end of the file.
        name: a file name with its ending, where it is not that of ``path``.
    """

    path: Path
    offset: int = 0
    length: int | None = None
    name: str | None = None


Piece = str | MediaBytes | MediaFile

# What the first bytes of a file say it is, where nothing names it: place, bytes, ending.
_MAGIC = (
    (0, b"\x89PNG\r\n\x1a\n", ".png"), (0, b"\xff\xd8\xff", ".jpg"), (0, b"GIF8", ".gif"), (0, b"BM", ".bmp"),
    (8, b"WEBP", ".webp"), (0, b"II*\0", ".tif"), (0, b"MM\0*", ".tif"), (8, b"WAVE", ".wav"), (0, b"fLaC", ".flac"),
    (0, b"OggS", ".ogg"), (0, b"ID3", ".mp3"), (0, b"\xff\xfb", ".mp3"), (0, b"\xff\xf3", ".mp3"),
    (4, b"ftyp", ".mp4"), (0, b"\x1aE\xdf\xa3", ".webm"), (8, b"AVI ", ".avi"),
)  # fmt: skip


def ending_of(data: bytes) -> str:
    """The ending that fits a file's first bytes; ``.bin`` where they are not known."""
    for place, magic, ending in _MAGIC:
        if data[place : place + len(magic)] == magic:
            return ending
    return ".bin"


def safe_name(name: str) -> str:
    """The last part of a path as a name that every file system takes, the ending kept.

    Letters and digits of any script, ``.``, ``-`` and ``_`` stay; anything else becomes ``_``; leading dots go.
    """
    last = unicodedata.normalize("NFC", name.replace("\\", "/").rpartition("/")[2])
    clean = re.sub(r"[^\w.\-]", "_", last).lstrip(".") or "piece"
    stem, dot, ending = clean.rpartition(".")
    if not dot or len(ending.encode()) > 10:
        stem, dot, ending = clean, "", ""
    while len(stem.encode()) > NAME_BYTES:
        stem = stem[:-1]
    return f"{stem}{dot}{ending}"


def relative_path(value: str) -> PurePosixPath | None:
    """A relative path that stays below where it starts; None for one that is absolute, empty or climbs."""
    path = PurePosixPath(value.replace("\\", "/"))
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in value or path.parts[0].endswith(":"):
        return None
    return path


def read_piece(piece: MediaFile) -> bytes:
    """The bytes of a piece in a file.

    Raises:
        DataError: the file cannot be read, or is shorter than the piece.
    """
    try:
        with piece.path.open("rb") as file:
            file.seek(piece.offset)
            data = file.read() if piece.length is None else file.read(piece.length)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=piece.path) from error
    if piece.length is not None and len(data) < piece.length:
        raise DataError(
            "the file is cut short", file=piece.path, found=piece.offset + len(data),
            expected=f"{piece.offset + piece.length} bytes",
        )  # fmt: skip
    return data
