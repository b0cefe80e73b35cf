"""The file or files that a corpus or a split is kept in: found by name, told apart by size, time and checksum, read.

``corpus`` may be ``corpus.jsonl`` (also ``.jsonl.gz``, ``.jsonl.zst``), ``corpus.parquet``, or a directory ``corpus/``
of such files, read in the order of their names.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

from .errors import DataError
from .files import checksum
from .reader import COMPRESSIONS, Tap, read_parquet, read_rows
from .records import Row

ENDINGS = (*(f".jsonl{ending}" for ending in COMPRESSIONS), ".parquet")
# A file written within this time before it was read may be written again without a change of its time: two seconds
# where its time looks rounded (FAT, old network file systems), else some ticks of the kernel's clock.
COARSE_STEP_NS, FINE_STEP_NS = 2_000_000_000, 100_000_000


@dataclasses.dataclass(frozen=True)
class Source:
    """Where rows come from.

    Attributes:
        path: the file or the directory.
        files: the files, in order.
        lenient: whether media files that are not there, or empty, are taken for now: who reads them is told.
    """

    path: Path
    files: tuple[Path, ...]
    lenient: bool = dataclasses.field(default=False, compare=False)

    @classmethod
    def of(cls, path: str | Path) -> Source:
        """The source at a path.

        Raises:
            DataError: it does not exist, or is a directory without a file that can be read.
        """
        path = Path(path)
        if not path.is_dir():
            if not path.exists():
                raise DataError("no such file", file=path)
            return cls(path, (path,))
        files = tuple(sorted(each for each in path.iterdir() if _readable(each)))
        if not files:
            raise DataError(
                "no file to read", file=path, found=sorted(each.name for each in path.iterdir())[:5],
                expected=f"files that end in {', '.join(ENDINGS)}",
            )  # fmt: skip
        return cls(path, files)

    @property
    def root(self) -> Path:
        """The dataset's directory, which media paths are relative to."""
        return self.path.parent

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in self.files)

    def rows(self, reading: Reading | None = None, problems: list[DataError] | None = None) -> Iterator[Row]:
        """All rows.

        Args:
            reading: notes what is read.
            problems: as :func:`teva_data.reader.read_rows` takes it.

        Raises:
            DataError: a file cannot be read or a line is bad.
        """
        reading = reading or Reading()
        for file in self.files:
            yield from reading.rows(file, problems)


class Reading:
    """Notes of each file what it was when it was read.

    Attributes:
        notes: of each file its name, size, time, when it was looked at, checksum, and rows.
        bytes: how many have been read in all.
    """

    def __init__(self) -> None:
        self.notes: list[dict[str, Any]] = []
        self._done = 0
        self._tap = Tap()

    @property
    def bytes(self) -> int:
        """How many bytes have been read."""
        return self._done + self._tap.bytes

    @property
    def checksum(self) -> str:
        """Of one file its own, of several one over theirs."""
        sums = [note["checksum"] for note in self.notes]
        return sums[0] if len(sums) == 1 else str(xxhash.xxh3_128_hexdigest("\n".join(sums).encode()))

    def rows(self, file: Path, problems: list[DataError] | None = None) -> Iterator[Row]:
        """The rows of one file, which is noted when its last row has been taken."""
        before, checked_ns = _stat(file), time.time_ns()
        tap, count = Tap(), 0
        parquet = file.suffix == ".parquet"
        if not parquet:
            self._tap = tap
        for row in read_parquet(file, problems) if parquet else read_rows(file, tap, problems):
            count += 1
            yield row
        digest = checksum(file) if parquet else tap.checksum
        after = _stat(file)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise DataError("the file changed while it was read", file=file, hint="Try again when it is whole")
        self._done, self._tap = self._done + after.st_size, Tap()
        self.notes.append(
            {
                "name": file.name,
                "size": after.st_size,
                "mtime_ns": after.st_mtime_ns,
                "checked_ns": checked_ns,
                "checksum": digest,
                "rows": count,
            }
        )


def unchanged(file: Path, note: dict[str, Any]) -> bool:
    """Whether a file holds the bytes that were noted of it.

    Size and time decide; where the time has changed, or is so recent that a change would not show in it, the checksum
    of the bytes does, and the new time is put into ``note``.
    """
    now = file.stat()
    if note["size"] != now.st_size:
        return False
    step = FINE_STEP_NS if now.st_mtime_ns % 10_000_000 else COARSE_STEP_NS
    if note["mtime_ns"] == now.st_mtime_ns and now.st_mtime_ns < note["checked_ns"] - step:
        return True
    checked_ns = time.time_ns()
    if checksum(file) != note["checksum"]:
        return False
    note |= {"mtime_ns": now.st_mtime_ns, "checked_ns": checked_ns}
    return True


def find_sources(directory: Path, problems: list[DataError] | None = None) -> dict[str, Source]:
    """Every corpus and split of a dataset's directory, by name.

    Args:
        directory: the dataset's.
        problems: where given, what is wrong is noted here, and of two sources of one name the first is taken.

    Raises:
        DataError: two files or directories have one name.
    """
    sources: dict[str, Source] = {}
    for path in sorted(directory.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if not any(_readable(each) for each in path.iterdir()):
                continue  # qrels, media, and whatever else lies there
            name = path.name
        elif _readable(path):
            name = path.name.removesuffix(next(end for end in ENDINGS if path.name.endswith(end)))
        else:
            continue
        if name in sources:
            error = DataError(
                f"two files for {name!r}", file=directory, found=[sources[name].path.name, path.name],
                expected="one of them", hint="Remove the one that is out of date",
            )  # fmt: skip
            if problems is None:
                raise error
            problems.append(error)
            continue
        sources[name] = Source.of(path)
    return sources


def _readable(path: Path) -> bool:
    return path.name.endswith(ENDINGS) and not path.name.startswith(".") and path.is_file()


def _stat(file: Path) -> Any:
    try:
        return file.stat()
    except OSError as error:
        raise DataError(f"cannot be opened: {error.strerror}", file=file) from error
