"""One way to rows: a local file, a local directory in any of the usual arrangements, or a dataset of the hub.

A source has tables by name and a table has splits, as on the hub (where they are configs and splits). In a directory:
the configs that its README declares; or else sub-directories and files by their names.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from teva_data.errors import DataError, nearest
from teva_data.progress import Progress
from teva_data.records import Row
from teva_data.writing.incoming import MediaBytes, MediaFile, relative_path

from .archives import Archives
from .table_files import ENDINGS, read_table, table_stem

DEFAULT, TRAIN = "default", "train"
SPLIT_NAMES = ("train", "test", "validation", "valid", "val", "dev", "eval")
_SHARD = re.compile(r"-(?P<number>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]+)?$")


class Tables(ABC):
    """The tables of a source; made by :func:`open_tables`.

    Attributes:
        name: of the source: a file's stem, a directory's name, a hub id.
        path: the local file or directory; None for the hub.
        hub: whether it is arranged as on the hub: its configs and splits are declared.
    """

    name: str
    path: Path | None = None
    hub: bool = False

    def __init__(self) -> None:
        self._first: dict[tuple[str, str | None], Row] = {}

    @abstractmethod
    def names(self) -> list[str]:
        """The tables."""

    @abstractmethod
    def splits(self, name: str) -> list[str]:
        """The splits of a table."""

    @abstractmethod
    def rows(self, name: str, split: str | None = None, *, quiet: bool = False) -> Iterator[Row]:
        """The rows of one split of a table, or of all, streamed; values of media are pieces or path strings.

        Args:
            name: of :meth:`names`.
            split: of :meth:`splits`; None: all, one after another.
            quiet: show no progress.

        Raises:
            DataError: there is no such table or split, or a row is malformed.
        """

    def files(self, name: str, split: str | None = None) -> list[Path]:
        """The local files of a table; empty for the hub."""
        return []

    def beside(self, ending: str) -> Tables | None:
        """The source whose name is this one's with an ending, such as BEIR's ``scifact-qrels``; None where none is.

        Raises:
            DataError: the hub cannot be asked, or has no such dataset.
        """
        return None

    def first(self, name: str, split: str | None = None) -> Row:
        """The first row, kept once it was read: what a layout is recognised by."""
        key = name, split
        if key not in self._first:
            rows = self.rows(name, split, quiet=True)
            try:
                self._first[key] = next(rows)
            except StopIteration:
                raise DataError("no rows", file=self.path or self.name, found=name, expected="at least one") from None
            finally:
                rows.close()  # type: ignore[attr-defined]
        return self._first[key]

    def columns(self, name: str, split: str | None = None) -> frozenset[str]:
        """The fields of the first row."""
        return frozenset(self.first(name, split).record)

    def media(self, row: Row, field: str, *, under: str = "") -> Any:
        """The pieces of a field: MediaBytes or MediaFile, or a list of them with None for a place without one; None.

        A path is looked for under the source's directory (a file's own directory) and in the archives beside it.

        Args:
            row: of this source.
            field: of the row.
            under: a directory that paths in the field start from.

        Raises:
            DataError: the value is no piece, the path climbs out of the source, or nothing is there.
        """
        value = row.record.get(field)
        if isinstance(value, Sequence) and not isinstance(value, str | bytes | MediaBytes):
            return [None if item is None else self._piece(row, f"{field}[{at}]", item, under)
                    for at, item in enumerate(value)]  # fmt: skip
        return None if value is None else self._piece(row, field, value, under)

    def _piece(self, row: Row, field: str, value: Any, under: str) -> MediaBytes | MediaFile:
        if isinstance(value, MediaBytes | MediaFile):
            return value
        if isinstance(value, dict) and isinstance(value.get("file"), str):
            return self._part_of_file(row, field, value, under)
        if not isinstance(value, str):
            raise row.error("not a piece of media", field, value, "a path, or bytes with a name")
        path = relative_path(f"{under}/{value}" if under else value)
        if path is None:
            raise row.error("the path leaves the source", field, value, "a relative path without '..'")
        found = self._find(path.as_posix(), row)
        if found is None:
            where = "beside the data or in an uncompressed archive (.tar) there"
            raise row.error("no such file", field, value, f"a file {where}")
        return found

    def _part_of_file(self, row: Row, field: str, value: dict[str, Any], under: str) -> MediaFile:
        """What teva's own form addresses: a range of a file."""
        file, offset, length = (
            self._piece(row, field, value["file"], under),
            value.get("offset") or 0,
            value.get("length"),
        )
        good = type(offset) is int and offset >= 0 and (length is None or (type(length) is int and length > 0))
        if not isinstance(file, MediaFile) or not good:
            raise row.error("not the address of bytes", field, value, "a file, an offset and a length")
        return MediaFile(file.path, file.offset + offset, length)

    def _find(self, path: str, row: Row) -> MediaFile | None:
        return None

    def _checked(self, name: str, split: str | None) -> None:
        if name not in (names := self.names()):
            raise DataError("no such table", file=self.path or self.name, found=name, hint=nearest(name, names))
        if split is not None and split not in (splits := self.splits(name)):
            raise DataError(f"no such split of {name!r}", file=self.path or self.name, found=split,
                            hint=nearest(split, splits))  # fmt: skip


class LocalTables(Tables):
    """The tables of a local file or directory.

    Args:
        path: the file or directory.

    Attributes:
        id: on the hub, where the directory is of the hub's local cache.

    Raises:
        DataError: nothing is there.
    """

    id: str | None = None

    def __init__(self, path: Path) -> None:
        super().__init__()
        if not path.exists():
            raise DataError(
                "nothing here", file=path, expected="a file, a directory, or a dataset of the hub (owner/name)"
            )
        self.path = path
        directory = path.is_dir()
        self.name = path.resolve().name if directory else table_stem(path) or path.name
        configs = _declared(path) if directory else None
        self.hub = configs is not None
        self._tables = configs if configs is not None else _by_names(path) if directory else _single(path)
        self._archives = Archives(path if directory else path.parent)

    def beside(self, ending: str) -> Tables | None:
        """See :meth:`Tables.beside`."""
        if self.id is not None:
            return open_tables(f"{self.id}{ending}", offline=True)
        assert self.path is not None
        other = self.path.absolute().with_name(f"{self.path.absolute().name}{ending}")
        return LocalTables(other) if other.is_dir() else None

    def names(self) -> list[str]:
        """The tables."""
        return list(self._tables)

    def splits(self, name: str) -> list[str]:
        """The splits of a table."""
        self._checked(name, None)
        return list(self._tables[name])

    def files(self, name: str, split: str | None = None) -> list[Path]:
        """The files of a table, in order."""
        self._checked(name, split)
        splits = self._tables[name]
        return [file for each in (splits if split is None else [split]) for file in splits[each]]

    def rows(self, name: str, split: str | None = None, *, quiet: bool = False) -> Iterator[Row]:
        """The rows; see :meth:`Tables.rows`."""
        files = self.files(name, split)
        if quiet:
            for file in files:
                yield from read_table(file)
            return
        size = sum(file.stat().st_size for file in files) // 1000
        with Progress(size, f"read {name if split is None else f'{name}, {split}'}", "kB") as progress:
            for file in files:
                yield from read_table(file, progress)

    def _find(self, path: str, row: Row) -> MediaFile | None:
        return self._archives.find(path, row.file.parent)


def open_tables(
    source: str | Path, *, revision: str | None = None, token: str | None = None, offline: bool = False
) -> Tables:
    """The tables of a source.

    Args:
        source: a file, a directory, or the hub id of a dataset (``owner/name``), which is streamed.
        revision: branch, tag or commit on the hub.
        token: the hub's access token; the one that is logged in where not given.
        offline: take a hub id from the hub's local cache only (as ``HF_HUB_OFFLINE=1`` does).

    Raises:
        DataError: nothing is there, or the hub cannot be asked or has no such dataset.
    """
    path = Path(source).expanduser()
    name = str(source)
    if path.exists() or not re.fullmatch(r"[\w.\-]+/[\w.\-]+", name) or name.startswith((".", "~")):
        if revision is not None:
            raise DataError("only a dataset of the hub has revisions", file=path, field="revision", found=revision)
        return LocalTables(path)
    from .tables_hub import HubTables, cached

    if offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        tables = LocalTables(cached(name, revision))
        tables.name = tables.id = name
        return tables
    return HubTables(name, revision=revision, token=token)


def front_matter(directory: Path) -> dict[str, Any]:
    """The YAML at the top of a directory's README.md; empty where there is none."""
    readme = directory / "README.md"
    if not readme.is_file():
        return {}
    text = readme.read_text(encoding="utf-8", errors="replace").lstrip("\ufeff")
    match = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    if match is None:
        return {}
    try:
        found = yaml.safe_load(match[1])
    except (yaml.YAMLError, ValueError) as error:  # a date that there is not is a ValueError
        raise DataError(f"the YAML at its top cannot be read: {error}", file=readme) from error
    return found if isinstance(found, dict) else {}


_Splits = dict[str, list[Path]]


def _single(path: Path) -> dict[str, _Splits]:
    stem = table_stem(path)
    if stem is None:
        return {}
    return {stem: {_split_in(stem) or TRAIN: [path]}}


def _declared(directory: Path) -> dict[str, _Splits] | None:
    """The tables that a README's ``configs`` declare, as on the hub; None where it declares none."""
    configs = front_matter(directory).get("configs")
    if not isinstance(configs, list):
        return None
    tables: dict[str, _Splits] = {}
    for config in configs:
        if not isinstance(config, dict):
            raise DataError("not a config", file=directory / "README.md", field="configs", found=config)
        name, declared = str(config.get("config_name", DEFAULT)), config.get("data_files")
        if declared is None:
            declared = f"{config.get('data_dir', name if (directory / name).is_dir() else '.')}/*"
        splits = tables.setdefault(name, {})
        for entry in declared if isinstance(declared, list) else [declared]:
            split, patterns = _entry(entry, directory / "README.md")
            for file in _matching(directory, patterns):
                splits.setdefault(split or _split_of(file), []).append(file)
        if not splits:
            raise DataError(f"no file of the config {name!r}", file=directory / "README.md", found=declared)
    return tables


def _entry(entry: Any, readme: Path) -> tuple[str | None, list[str]]:
    """Split and patterns of one item of ``data_files``."""
    split, patterns = (entry.get("split"), entry.get("path")) if isinstance(entry, dict) else (None, entry)
    patterns = patterns if isinstance(patterns, list) else [patterns]
    known = isinstance(split, str) or (split is None and not isinstance(entry, dict))
    if not known or not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise DataError(
            "not what names files", file=readme, field="data_files", found=entry, expected="a path, or split and path"
        )
    return split, patterns


def _matching(directory: Path, patterns: list[str]) -> list[Path]:
    files: list[Path] = []
    for pattern in patterns:
        if relative_path(pattern) is None:
            raise DataError("the path leaves the directory", file=directory / "README.md", found=pattern)
        found = sorted(path for path in directory.glob(pattern) if path.is_file() and table_stem(path) is not None)
        if "*" in pattern:  # shards that are named one by one are those that are meant
            _refuse_gaps(directory, pattern, "*", found)
        files += found
    return files


def _by_names(directory: Path) -> dict[str, _Splits]:
    """Sub-directories are tables, their files splits; files are tables; what is named as a split is of ``default``."""
    tables: dict[str, _Splits] = {}
    for path in sorted(directory.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            for file in sorted(path.iterdir()):
                if file.is_file() and (stem := table_stem(file)) is not None and not stem.startswith("cache-"):
                    inner = _SHARD.sub("", stem)
                    name, split = path.name, inner
                    if path.name == "data":
                        name, split = DEFAULT, _split_in(inner) or TRAIN
                    elif path.name in SPLIT_NAMES:
                        name, split = DEFAULT, path.name
                    tables.setdefault(name, {}).setdefault(split, []).append(file)
        elif path.is_file() and (stem := table_stem(path)) is not None and not stem.startswith("cache-"):
            stem = _SHARD.sub("", stem)
            name, split = (DEFAULT, stem) if stem in SPLIT_NAMES else (stem, _split_in(stem) or TRAIN)
            tables.setdefault(name, {}).setdefault(split, []).append(path)
    for name, splits in tables.items():
        for split, files in splits.items():
            _refuse_twice(directory, name, split, files)
            _refuse_gaps(directory, name, split, files)
    return tables


def _refuse_twice(directory: Path, name: str, split: str, files: list[Path]) -> None:
    stems = [(file.parent, table_stem(file)) for file in files]
    if len(set(stems)) < len(stems):
        raise DataError(
            f"the same file twice ({name}, {split})", file=directory, found=[file.name for file in files],
            expected="one of them",
        )  # fmt: skip


def _refuse_gaps(directory: Path, name: str, split: str, files: list[Path]) -> None:
    """Of ``train-00000-of-00003`` and its like all must be there: a download that stopped leaves some out."""
    there: dict[tuple[Path, str, int], set[int]] = {}
    for file in files:
        stem = table_stem(file) or ""
        if match := _SHARD.search(stem):
            there.setdefault((file.parent, stem[: match.start()], int(match["count"])), set()).add(int(match["number"]))
    for (folder, stem, count), numbers in there.items():
        first = 0 if 0 in numbers else 1
        if missing := sorted({*range(first, first + count)} - numbers):
            raise DataError(
                f"parts of a table are missing ({name}, {split})", file=folder, found=f"{len(numbers)} of {count}",
                expected=f"{stem}-{missing[0]:05}-of-{count:05} too", hint="Did a download stop half-way?",
            )  # fmt: skip


def _split_of(file: Path) -> str:
    return _split_in(_SHARD.sub("", table_stem(file) or "")) or _split_in(file.parent.name) or TRAIN


def _split_in(stem: str) -> str | None:
    words = re.split(r"[^a-z]+", stem.lower())
    return next((word for word in words if word in SPLIT_NAMES), None)


def expected_files() -> str:
    """The endings that are read, for a message."""
    return ", ".join(ENDINGS)
