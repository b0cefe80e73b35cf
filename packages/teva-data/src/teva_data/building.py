"""Makes a store of a source (JSONL or Parquet), finds it again, and knows when it no longer fits.

A store is a directory: ``rows.arrow`` (Arrow IPC file), ``places`` (where its buffers begin), the id index, beside each
of them the checksums of its blocks, and ``manifest.json``: size, time and checksum of each source file, the sizes of
the store's own. It stands in ``.teva/`` beside the source, or under ``TEVA_CACHE`` where that cannot be written.
Nothing in the building grows with the source but files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import glob
import hashlib
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .checked import SUFFIX, CheckedFile, write_checks
from .errors import DataError, TevaError
from .files import atomic_directory, checksum, read_sealed, recover, remove_leftovers, write_sealed
from .index import INDEX_FILES, IdIndex, IndexWriter, encode_id, hash_ids
from .pieces import KINDS, Shelf, dump
from .progress import Progress
from .records import Row, parse_document, parse_query
from .sources import Reading, Source, unchanged
from .table import NAMES, Column, Table, arrow_schema, write_places

logger = logging.getLogger(__name__)

STORE_VERSION = "4"
BATCH_ROWS, BATCH_CHARACTERS = 1 << 16, 1 << 24
"""A batch of the Arrow file ends at whichever comes first; it is held in memory while it fills."""
TABLE, PLACES, MANIFEST = "rows.arrow", "places", "manifest.json"
OWN_FILES = (TABLE, PLACES, *INDEX_FILES)
FOOTER = b"ARROW1"


@dataclasses.dataclass(frozen=True)
class Kind:
    """What sort of rows a store holds.

    Attributes:
        name: ``corpus`` or ``queries``.
        parse: checks a row and gives the values of its columns, the id first, the pieces last.
        columns: name and form of each column (see :func:`teva_data.table.arrow_schema`): the values, ``line``, and the
            texts of the codes where there are any.
        texts: columns whose texts make a row one that holds text.
    """

    name: str
    parse: Callable[[Row, Shelf], tuple[Any, ...]]
    columns: tuple[Column, ...]
    texts: tuple[int, ...]


CORPUS = Kind(
    "corpus",
    lambda row, shelf: parse_document(row, shelf=shelf),
    (("docid", "text"), ("title", "text"), ("document_text", "text"), ("pieces", "text"), ("line", "integer")),
    (1, 2),
)
QUERIES = Kind(
    "queries",
    lambda row, shelf: parse_query(row, shelf=shelf),
    (
        ("query_id", "text"),
        ("query_text", "text"),
        ("positive_document_ids", "codes"),
        ("negative_document_ids", "codes"),
        ("positive_scores", "numbers"),
        ("negative_scores", "numbers"),
        ("prompt", "text"),
        ("pieces", "text"),
        ("line", "integer"),
        (NAMES, "texts"),
    ),
    (1,),
)


def ensure_store(source: Source, kind: Kind) -> Path:
    """The directory of a store that fits ``source``; built where there is none.

    Processes that ask at once are all served: one builds, the others wait for it.

    Raises:
        DataError: a row of the source is bad; a store that was there before stays as it was.
    """
    beside, cached = store_places(source.path)
    for directory in (beside, cached):
        if fits(directory, source, kind):
            return directory
    directory = beside if _writable(beside.parent) else cached
    if directory == cached and not _writable(cached.parent):
        raise TevaError(
            f"{beside.parent} and {cached.parent} cannot be written; expected a place for the store of "
            f"{source.path.name}. Set TEVA_CACHE to a directory that can"
        )
    with locked(directory) as alone:
        if not fits(directory, source, kind):
            if alone:
                recover(directory)
                remove_leftovers(directory.parent, glob.escape(directory.name))
            build_store(source, directory, kind)
    return directory


def store_places(source: Path) -> tuple[Path, Path]:
    """Where a store may stand: beside its source, or in the cache under a name made of the resolved directory."""
    parent = source.parent.resolve()
    cache = Path(os.environ.get("TEVA_CACHE") or Path.home() / ".cache" / "teva")
    key = hashlib.blake2b(os.fsencode(parent), digest_size=8).hexdigest()
    name = f"{source.name}-store"
    return parent / ".teva" / name, cache / "stores" / f"{parent.name}-{key}" / name


def fits(directory: Path, source: Source, kind: Kind) -> bool:
    """Whether a whole store of ``source`` as it is now stands in ``directory``; see :func:`.sources.unchanged`."""
    manifest = read_manifest(directory, kind)
    if manifest is None:
        return False
    notes = manifest["source"]["files"]
    if [note["name"] for note in notes] != [file.name for file in source.files]:
        return False
    before = [dict(note) for note in notes]
    if not all(unchanged(file, note) for file, note in zip(source.files, notes, strict=True)):
        return False
    if notes != before:
        with contextlib.suppress(OSError):  # a store that cannot be written is still right
            write_sealed(directory / MANIFEST, manifest)
    return True


def read_manifest(directory: Path, kind: Kind) -> dict[str, Any] | None:
    """The manifest of a store; None where it is missing, damaged, of another version, or its files have other sizes."""
    manifest = read_sealed(directory / MANIFEST)
    if manifest is None or manifest.get("schema") != STORE_VERSION or manifest["kind"] != kind.name:
        return None
    try:
        whole = all((directory / name).stat().st_size == noted["size"] for name, noted in manifest["files"].items())
        with (directory / TABLE).open("rb") as file:
            file.seek(-len(FOOTER), os.SEEK_END)
            return manifest if whole and file.read() == FOOTER else None
    except OSError:
        return None


def build_store(source: Source, directory: Path, kind: Kind) -> None:
    """Read ``source`` once and put its store into ``directory``, whole or not at all.

    Raises:
        DataError: a row is bad, an id stands twice, or the source changes meanwhile.
    """
    with atomic_directory(directory) as temporary:
        reading = Reading()
        counts = _write_rows(source, temporary, kind, reading)
        write_places(temporary / TABLE, temporary / PLACES, kind.columns)
        for name in OWN_FILES:
            write_checks(temporary / name)
        _refuse_duplicates(source, temporary, kind, reading)
        names = [*OWN_FILES, *(name + SUFFIX for name in OWN_FILES)]
        write_sealed(
            temporary / MANIFEST,
            {
                "schema": STORE_VERSION,
                "kind": kind.name,
                **counts,
                "source": {"name": source.path.name, "checksum": reading.checksum, "files": reading.notes},
                "files": {
                    name: {"size": (temporary / name).stat().st_size}
                    | ({"checksum": checksum(temporary / name)} if name.endswith(SUFFIX) else {})
                    for name in names
                },
            },
        )


def open_files(directory: Path) -> dict[str, CheckedFile]:
    """The files of a store by name, memory-mapped."""
    return {name: CheckedFile(directory / name, f"Remove {directory}; it is built again") for name in OWN_FILES}


def open_index(table: Table, files: dict[str, CheckedFile], kind: Kind) -> IdIndex:
    """The index of a store."""
    name = kind.columns[0][0]
    return IdIndex(files, lambda rows: table.raw(name, rows))


def row_address(table: Table, row: int, files: list[tuple[str, int]]) -> tuple[str, int]:
    """File and line of a row; ``files`` are the source's, each with its number of rows."""
    line = int(table.values("line", np.array([row]))[0])
    for file, rows in files:
        if row < rows:
            return file, line
        row -= rows
    raise IndexError("a row past the last file")


def _write_rows(source: Source, directory: Path, kind: Kind, reading: Reading) -> dict[str, Any]:
    """Write table and index; return how many rows there are, how many of several pieces, and how many of each kind."""
    import pyarrow as pa

    schema = arrow_schema(kind.columns)
    index, kinds, count = IndexWriter(directory), Counter[str](), 0
    with (
        Progress(source.size // 1000, f"store {source.path.name}", "kB") as progress,
        pa.OSFile(str(directory / TABLE), "wb") as file,
        pa.ipc.new_file(file, schema) as writer,
    ):
        for rows in _batches(source, kind, reading, kinds):
            columns = _columns(rows, kind)
            arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
            index.add(hash_ids(map(encode_id, columns[0])))
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            count += len(rows)
            progress.add(reading.bytes // 1000 - progress.count)
    index.finish()
    return {"rows": count, "in_pieces": kinds["pieces"], "kinds": {name: kinds[name] for name in ("text", *KINDS)}}


def _columns(rows: list[tuple[Any, ...]], kind: Kind) -> list[list[Any]]:
    """A batch by column. Ids that lists name over and over are kept once a batch, and numbers in their place."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    codes: dict[str, int] = {}
    for at, (name, form) in enumerate(kind.columns):
        if form == "codes":
            columns[at] = [[codes.setdefault(each, len(codes)) for each in ids] for ids in columns[at]]
        if name == NAMES:
            columns.append([list(codes), *[[]] * (len(rows) - 1)])
    return columns


def _batches(source: Source, kind: Kind, reading: Reading, kinds: Counter[str]) -> Iterator[list[tuple[Any, ...]]]:
    """Checked rows with their lines, in batches bounded by rows and by characters."""
    shelf, parse, texts = Shelf(source.root, lenient=source.lenient), kind.parse, kind.texts
    batch: list[tuple[Any, ...]] = []
    characters = 0
    for row in source.rows(reading):
        *values, pieces = parse(row, shelf)
        size = sum([len(values[at]) for at in texts])
        characters += size + sum([32 * len(value) for value in values if type(value) is list])
        kinds["text"] += size > 0
        if pieces is not None:
            kinds["pieces"] += 1
            for name in {part[0] for part in pieces if len(part) > 2}:
                kinds[name] += 1
        batch.append((*values, dump(pieces), row.line))
        if len(batch) == BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _refuse_duplicates(source: Source, directory: Path, kind: Kind, reading: Reading) -> None:
    files = open_files(directory)
    table = Table(files[TABLE], files[PLACES], kind.columns)
    duplicate = open_index(table, files, kind).first_duplicate()
    if duplicate is None:
        return
    places = [(str(file), note["rows"]) for file, note in zip(source.files, reading.notes, strict=True)]
    (first_file, first), (file, second) = (row_address(table, row, places) for row in duplicate)
    where = f"on line {first}" if first_file == file else f"in {first_file}:{first}"
    name = kind.columns[0][0]
    raise DataError(
        f"duplicate id, first {where}", file=file, line=second, field=name,
        found=table.values(name, np.array(duplicate[:1]))[0], expected="each id once",
        hint="Remove one of the two lines or rename its id",
    )  # fmt: skip


def _writable(directory: Path) -> bool:
    """Whether a file can be made in ``directory``, which is made first; asked by trying, as modes do not bind root."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[bool]:
    """Hold the lock of a store's place; yields False where the file system has no locks."""
    with (directory.parent / f"{directory.name}.lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("%s: waiting for another process that builds it", directory)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False
            return
        yield True
