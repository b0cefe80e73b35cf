"""Records of several pieces: texts, pictures, clips and recordings in any combination, their bytes addressed, not held.

A record's fields hold one piece or a list of pieces each. Position 1 of all lists comes before position 2; within a
position the order is text, image, video, audio; ``null`` in a list holds a place.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .errors import MediaError
    from .records import Row

KINDS = ("image", "video", "audio")


class Media(NamedTuple):
    """Where the bytes of a picture, a clip or a recording lie.

    Attributes:
        kind: ``image``, ``video`` or ``audio``.
        path: the file.
        offset: where its bytes begin in that file.
        length: how many there are; -1: all to the end of the file.
        size: bytes of the whole file when the dataset's store was made; -1: not known.
    """

    kind: str
    path: str
    offset: int = 0
    length: int = -1
    size: int = -1

    def read(self) -> bytes:
        """The bytes, as they are stored.

        Raises:
            MediaError: the file cannot be read, or is not as large as it was when the dataset's store was made.
        """
        with self.open() as file:
            try:
                data: bytes = file.read()
            except OSError as error:
                raise self._unread(error) from error
        return data

    def open(self) -> io.BufferedReader:
        """The bytes as a file of their own, of which a decoder reads what it needs: a clip may be hours long.

        Raises:
            MediaError: see :meth:`read`.
        """
        try:
            file = Path(self.path).open("rb", buffering=0)  # noqa: SIM115 (the caller closes it)
            whole = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise self._unread(error) from error
        found = max(0, whole - self.offset)
        found = found if self.length < 0 else min(found, self.length)
        problem = None
        if self.size >= 0 and whole != self.size:
            problem = self._error(
                "the file has been replaced", f"{whole} bytes",
                f"the {self.size} that it had when the dataset was read",
                "Put the file back; or remove .teva beside the corpus, and train anew",
            )  # fmt: skip
        elif not found or (self.length >= 0 and found != self.length):
            problem = self._error(
                f"the {self.kind} is not whole", f"{found} bytes at {self.offset}",
                f"{self.length} bytes" if self.length >= 0 else "at least one byte",
                "Was the file replaced after the dataset was made?",
            )  # fmt: skip
        if problem is not None:
            file.close()
            raise problem
        return io.BufferedReader(_Part(file, self.offset, found))

    def _error(self, problem: str, found: str, expected: str, hint: str) -> MediaError:
        from .errors import MediaError

        return MediaError(problem, file=self.path, found=found, expected=expected, hint=hint)

    def _unread(self, error: OSError) -> MediaError:
        from .errors import MediaError

        return MediaError(f"the {self.kind} cannot be read: {error.strerror}", file=self.path)


class _Part(io.RawIOBase):
    """A range of a file as a file.

    Args:
        file: unbuffered; closed with this one.
        start: its first byte.
        length: how many there are.
    """

    def __init__(self, file: io.FileIO, start: int, length: int) -> None:
        super().__init__()
        self._file, self._start, self._length, self._at = file, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._length - self._at))
        self._file.seek(self._start + self._at)
        read = self._file.readinto(view[:wanted]) or 0
        self._at += read
        return read

    def close(self) -> None:
        self._file.close()
        super().close()


Piece = str | Media
# As a store keeps pieces: [start, stop] of a text in the record's text, [kind, file, offset, length, size of the file]
# of the others.
Stored = list[list[Any]]


class Shelf:
    """Finds media files of a dataset and checks that they can be read. One for each building of a store.

    Args:
        root: the dataset's directory, which media paths are relative to.
        lenient: take files that are not there or empty; who reads them is told then.
    """

    def __init__(self, root: Path, *, lenient: bool = False) -> None:
        self._root, self._lenient = root, lenient
        self._sizes: dict[str, int] = {}

    def place(self, row: Row, field: str, value: Any, kind: str) -> list[Any]:
        """``[kind, file, offset, length, size of the file]`` of a media value.

        Raises:
            DataError: it is neither a path nor an address, it leaves the dataset's directory, or (unless lenient) there
                are no bytes.
        """
        if isinstance(value, Mapping) and value.get("bytes") is not None:
            data = value["bytes"]
            raise row.error(
                "bytes inside the row cannot be addressed", field,
                found=f"{len(data)} bytes" if isinstance(data, bytes | str) else data,
                expected='a path, or {"file": ..., "offset": ..., "length": ...}',
                hint="`teva-data convert` puts them into files",
            )  # fmt: skip
        file, offset, length = value, 0, None
        if isinstance(value, Mapping):
            file, offset, length = value.get("file", value.get("path")), value.get("offset") or 0, value.get("length")
        good = isinstance(file, str) and file and type(offset) is int and (length is None or type(length) is int)
        if not good or offset < 0 or (length is not None and length < 1):
            raise row.error(
                f"not the address of a file ({kind})", field, found=value,
                expected='a path, or {"file": "x.tar", "offset": 1536, "length": 4777}',
            )  # fmt: skip
        size = self._size(row, field, file)
        if self._lenient and size <= 0:
            return [kind, file, offset, -1 if length is None else length, size]
        length = size - offset if length is None else length
        if length < 1 or offset + length > size:
            raise row.error(
                "no bytes there" if length < 1 else "the file is shorter than that", field, found=value,
                expected=f"a range within the {size} bytes of {file}",
            )  # fmt: skip
        return [kind, file, offset, length, size]

    def _size(self, row: Row, field: str, file: str) -> int:
        size = self._sizes.get(file)
        if size is None:
            path = PurePosixPath(file)
            if path.is_absolute() or ".." in path.parts or "\0" in file or "\\" in file:
                raise row.error(
                    "a path that leaves the dataset", field, found=file,
                    expected="a path relative to the dataset's directory, without '..'",
                )  # fmt: skip
            place = self._root / path
            if not os.path.isfile(place):  # noqa: PTH113 - False, where Path.is_file raises for a name that is too long
                if self._lenient:
                    return -1
                raise row.error(
                    "no such file", field, found=file, expected=f"a file in {self._root}",
                    hint="Paths are relative to the dataset's directory",
                )  # fmt: skip
            size = place.stat().st_size
            if len(self._sizes) >= 65536:  # files of one piece each are asked for once; archives come again soon
                self._sizes.clear()
            self._sizes[file] = size
        return size


def arrange(fields: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Values of the four fields in order, each with its kind; ``text`` among the kinds.

    Args:
        fields: kind and value, text first; a value is one piece, a list of pieces, or None.
    """
    lists = [(kind, value if isinstance(value, list) else [value]) for kind, value in fields]
    return [
        (kind, values[position])
        for position in range(max(len(values) for _, values in lists))
        for kind, values in lists
        if position < len(values) and values[position] is not None
    ]


def dump(stored: Stored | None) -> str | None:
    """As a store's column holds it: JSON, so that any reader of the Arrow file can read it too; None for plain text."""
    return None if stored is None else json.dumps(stored, ensure_ascii=False, separators=(",", ":"))


def load(text: str, column: str | None, root: str) -> tuple[Piece, ...]:
    """The pieces of a record.

    Args:
        column: the text's column of the store.
        text: the record's text, which holds all its texts.
        root: the dataset's directory.
    """
    if column is None:
        return ()
    return tuple(
        text[part[0] : part[1]] if len(part) == 2 else Media(part[0], f"{root}/{part[1]}", *part[2:])
        for part in json.loads(column)
    )
