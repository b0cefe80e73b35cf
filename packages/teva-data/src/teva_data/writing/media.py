"""Where a dataset's media go: files of their own, one uncompressed archive after another, or a link to the source."""

from __future__ import annotations

import filecmp
import os
import shutil
import tarfile
from pathlib import Path
from typing import IO, Any, Literal

import xxhash

from teva_data.errors import DataError
from teva_data.files import CHUNK

from .incoming import MediaBytes, MediaFile, ending_of, read_piece, safe_name

MediaForm = Literal["files", "bytes", "link"]
FOLDER, LINK = "media", "source"
ARCHIVE_BYTES = 1 << 30
_BLOCK = tarfile.BLOCKSIZE

# What stands in a record: a path, or the place of bytes in an archive.
Address = str | dict[str, Any]


class MediaWriter:
    """Puts pieces into a dataset and gives their addresses.

    Args:
        directory: the dataset's.
        form: ``files``: each becomes ``media/<name>``; equal files of one name once. ``bytes``: all go into
            ``media/00000.tar`` and so on. ``link``: nothing is copied, ``media/source`` links to the source.
        source: the directory that ``link`` links to.
    """

    def __init__(self, directory: Path, form: MediaForm, source: Path | None = None) -> None:
        if form not in ("files", "bytes", "link"):
            raise DataError("unknown", field="media", found=form, expected="files, bytes or link")
        self._folder, self._form = directory / FOLDER, form
        self._source = None if source is None else source.resolve()
        self._archive: IO[bytes] | None = None
        self._archives = self._members = 0

    def add(self, piece: MediaBytes | MediaFile) -> Address:
        """Take a piece; returns what stands in the record.

        Raises:
            DataError: the piece is empty or cannot be read, or ``link`` cannot reach it.
        """
        if self._form == "link":
            return self._linked(piece)
        self._folder.mkdir(exist_ok=True)
        if self._form == "bytes":
            return self._archived(piece)
        return self._filed(piece)

    def close(self) -> None:
        """Finish the archive."""
        if self._archive is not None:
            self._archive.write(bytes(2 * _BLOCK))  # how an archive ends
            self._archive.close()
            self._archive = None

    def _filed(self, piece: MediaBytes | MediaFile) -> Address:
        part = self._folder / ".part"
        digest = _copy(piece, part)
        name = _name(piece, part)
        place = self._folder / name
        if place.exists() and not filecmp.cmp(place, part, shallow=False):
            stem, dot, ending = name.rpartition(".")
            name = f"{stem}-{digest}.{ending}" if dot else f"{name}-{digest}"
            place = self._folder / name
        if place.exists():
            part.unlink()
        else:
            part.replace(place)
        return f"{FOLDER}/{name}"

    def _archived(self, piece: MediaBytes | MediaFile) -> Address:
        data = piece.data if isinstance(piece, MediaBytes) else read_piece(piece)
        if not data:
            raise _empty(piece)
        if self._archive is None or self._archive.tell() + len(data) > ARCHIVE_BYTES:
            self.close()
            self._archive = (self._folder / f"{self._archives:05}.tar").open("wb")
            self._archives += 1
        wished = piece.name or piece.path.name if isinstance(piece, MediaFile) else piece.name
        name = safe_name(wished)
        header = tarfile.TarInfo(f"{self._members:07}-{name if '.' in name else name + ending_of(data)}")
        header.size = len(data)
        self._members += 1
        self._archive.write(header.tobuf(tarfile.GNU_FORMAT, "utf-8"))
        offset = self._archive.tell()
        self._archive.write(data)
        self._archive.write(bytes(-len(data) % _BLOCK))
        return {"file": f"{FOLDER}/{self._archives - 1:05}.tar", "offset": offset, "length": len(data)}

    def _linked(self, piece: MediaBytes | MediaFile) -> Address:
        if isinstance(piece, MediaBytes) or self._source is None:
            raise DataError(
                "the bytes lie in no file of their own that can be linked to", field="media", found="link",
                expected="files or bytes", hint="Pass media='files' (--media files)",
            )  # fmt: skip
        path = Path(os.path.abspath(piece.path))  # noqa: PTH100 - resolve() would follow links out of the source
        if not path.is_relative_to(self._source):
            path = path.resolve()
        if not path.is_relative_to(self._source):
            raise DataError("lies outside the source", file=piece.path, expected=f"a file below {self._source}")
        if not path.is_file():
            raise DataError("no such file", file=path)
        size = path.stat().st_size
        length = size - piece.offset if piece.length is None else piece.length
        if length <= 0 or piece.offset + length > size:
            raise _empty(piece)
        self._folder.mkdir(exist_ok=True)
        link = self._folder / LINK
        if not link.is_symlink():
            link.symlink_to(self._source, target_is_directory=True)
        address = f"{FOLDER}/{LINK}/{path.relative_to(self._source).as_posix()}"
        if piece.offset == 0 and piece.length is None:
            return address
        return {"file": address, "offset": piece.offset, "length": length}


def _copy(piece: MediaBytes | MediaFile, target: Path) -> str:
    """Write the piece's bytes; returns their hash."""
    if isinstance(piece, MediaBytes) or piece.offset or piece.length is not None:
        data = piece.data if isinstance(piece, MediaBytes) else read_piece(piece)
        target.write_bytes(data)
    else:
        try:
            shutil.copyfile(piece.path, target)
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror or error}", file=piece.path) from error
    if target.stat().st_size == 0:
        raise _empty(piece)
    digest = xxhash.xxh3_128()
    with target.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return str(digest.hexdigest())


def _name(piece: MediaBytes | MediaFile, copied: Path) -> str:
    wished = piece.name or piece.path.name if isinstance(piece, MediaFile) else piece.name
    name = safe_name(wished)
    if "." in name:
        return name
    with copied.open("rb") as file:
        return name + ending_of(file.read(64))


def _empty(piece: MediaBytes | MediaFile) -> DataError:
    name, file = (piece.name, None) if isinstance(piece, MediaBytes) else (piece.name or piece.path.name, piece.path)
    return DataError("no bytes", file=file, field="media", found=name, expected="a file that is not empty and whole")
