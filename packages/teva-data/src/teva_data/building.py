"""Makes a store of a JSONL file, finds it again, and knows when it no longer fits its source.

A store is a directory: ``rows.arrow`` (Arrow IPC file, :data:`ROWS_PER_BATCH` rows a batch, so that a row's place is
arithmetic), the id index, and ``manifest.json``, which holds the size, time and checksum of the source and of the
store's own files. It stands in ``.teva/`` beside the source, or under ``TEVA_CACHE`` where that cannot be written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import glob
import hashlib
import itertools
import json
import logging
import os
import tempfile
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataError, TevaError
from .files import atomic_directory, checksum, recover, remove_leftovers, write_json
from .index import HASHES, ORDER, IdIndex, hash_id, write_index
from .progress import Progress
from .reader import Tap, read_rows
from .records import Row, parse_document, parse_query
from .table import Table

logger = logging.getLogger(__name__)

STORE_VERSION = "1"
ROWS_PER_BATCH = 4096
TABLE, MANIFEST = "rows.arrow", "manifest.json"
OWN_FILES = (TABLE, HASHES, ORDER)
# A source written within this time before it was read may be written again without a change of its time.
CLOCK_STEP_NS = 2_000_000_000


@dataclasses.dataclass(frozen=True)
class Kind:
    """What sort of rows a store holds.

    Attributes:
        name: ``corpus`` or ``queries``.
        parse: checks a row and gives the values of its columns, the id first.
        columns: name and type of each column, the types by name (see :func:`arrow_schema`); ``line`` comes after them.
    """

    name: str
    parse: Callable[[Row], tuple[Any, ...]]
    columns: tuple[tuple[str, str], ...]

    def with_parser(self, parse: Callable[[Row], tuple[Any, ...]]) -> Kind:
        """The same rows from other fields."""
        return dataclasses.replace(self, parse=parse)


CORPUS = Kind("corpus", parse_document, (("docid", "text"), ("title", "text"), ("document_text", "text")))
QUERIES = Kind(
    "queries",
    parse_query,
    (
        ("query_id", "text"),
        ("query_text", "text"),
        ("positive_document_ids", "texts"),
        ("negative_document_ids", "texts"),
        ("positive_scores", "numbers"),
        ("negative_scores", "numbers"),
        ("prompt", "text"),
    ),
)


def arrow_schema(kind: Kind) -> Any:
    """The Arrow schema of a store: large strings, lists of them, lists of float64; and ``line``, int64."""
    import pyarrow as pa

    text = pa.large_string()
    types = {"text": text, "texts": pa.large_list(text), "numbers": pa.large_list(pa.float64())}
    return pa.schema([*((name, types[form]) for name, form in kind.columns), ("line", pa.int64())])


def ensure_store(source: Path, kind: Kind) -> Path:
    """The directory of a store that fits ``source``; built where there is none.

    Two processes that ask at once are both served: one builds, the other waits for it.

    Raises:
        DataError: a row of the source is bad; a store that was there before stays as it was.
    """
    beside, cached = store_places(source)
    for directory in (beside, cached):
        if fits(directory, source, kind):
            return directory
    directory = beside if _writable(beside.parent) else cached
    if directory == cached and not _writable(cached.parent):
        raise TevaError(
            f"{beside.parent} and {cached.parent} cannot be written; expected a place for the store of {source.name}. "
            "Set TEVA_CACHE to a directory that can"
        )
    with _lock(directory) as alone:
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


def fits(directory: Path, source: Path, kind: Kind) -> bool:
    """Whether a whole store of ``source`` as it is now stands in ``directory``.

    Size and time of the source decide; where the time has changed, or is so recent that a change would not show in it,
    the checksum of its bytes does, and the new time is noted.
    """
    manifest = read_manifest(directory, kind)
    if manifest is None:
        return False
    noted, now = manifest["source"], source.stat()
    if noted["size"] != now.st_size:
        return False
    if noted["mtime_ns"] == now.st_mtime_ns and now.st_mtime_ns < noted["checked_ns"] - CLOCK_STEP_NS:
        return True
    checked_ns = time.time_ns()
    if checksum(source) != noted["checksum"]:
        return False
    noted |= {"mtime_ns": now.st_mtime_ns, "checked_ns": checked_ns}
    with contextlib.suppress(OSError):  # a store that cannot be written is still right
        write_json(directory / MANIFEST, manifest)
    return True


def read_manifest(directory: Path, kind: Kind) -> dict[str, Any] | None:
    """The manifest of a store; None where it is missing, damaged, of another version, or its files have other sizes."""
    try:
        manifest: dict[str, Any] = json.loads((directory / MANIFEST).read_bytes())
        source = manifest["source"]
        well_formed = (
            manifest["schema"] == STORE_VERSION
            and manifest["kind"] == kind.name
            and manifest["rows_per_batch"] == ROWS_PER_BATCH
            and all(type(manifest["source"][key]) is int for key in ("size", "mtime_ns", "checked_ns"))
            and type(source["checksum"]) is str
            and type(manifest["rows"]) is int
            and all((directory / name).stat().st_size == manifest["files"][name]["size"] for name in OWN_FILES)
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest if well_formed else None


def build_store(source: Path, directory: Path, kind: Kind) -> None:
    """Read ``source`` once and put its store into ``directory``, whole or not at all.

    Raises:
        DataError: a row is bad, an id stands twice, or the source changes meanwhile.
    """
    before, checked_ns = source.stat(), time.time_ns()
    with atomic_directory(directory) as temporary:
        hashes, digest = _write_table(source, before.st_size, temporary / TABLE, kind)
        write_index(temporary, hashes)
        _refuse_duplicates(source, temporary, kind)
        after = source.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise DataError("the file changed while it was read", file=source, hint="Try again when it is whole")
        files = {
            name: {"size": (temporary / name).stat().st_size, "checksum": checksum(temporary / name)}
            for name in OWN_FILES
        }
        write_json(
            temporary / MANIFEST,
            {
                "schema": STORE_VERSION,
                "kind": kind.name,
                "rows": len(hashes),
                "rows_per_batch": ROWS_PER_BATCH,
                "source": {
                    "name": source.name,
                    "size": after.st_size,
                    "mtime_ns": after.st_mtime_ns,
                    "checked_ns": checked_ns,
                    "checksum": digest,
                },
                "files": files,
            },
        )


def _write_table(source: Path, size: int, target: Path, kind: Kind) -> tuple[NDArray[np.uint64], str]:
    """Write all rows; return the hashes of their ids and the checksum of the source."""
    import pyarrow as pa

    schema = arrow_schema(kind)
    hashes, tap = array("Q"), Tap()
    with (
        Progress(size // 1000, f"store {source.name}", "kB") as progress,
        pa.OSFile(str(target), "wb") as file,
        pa.ipc.new_file(file, schema) as writer,
    ):
        for rows in _batches(read_rows(source, tap)):
            columns = zip(*((*kind.parse(row), row.line) for row in rows), strict=True)
            arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
            hashes.extend(map(hash_id, arrays[0].to_pylist()))
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            progress.add(tap.bytes // 1000 - progress.count)
    return np.frombuffer(hashes, dtype=np.uint64), tap.checksum


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    iterator = iter(rows)
    while batch := list(itertools.islice(iterator, ROWS_PER_BATCH)):
        yield batch


def _refuse_duplicates(source: Path, directory: Path, kind: Kind) -> None:
    table = Table(directory / TABLE, ROWS_PER_BATCH)
    name = kind.columns[0][0]
    duplicate = IdIndex(directory, lambda rows: table.values(name, rows)).first_duplicate()
    if duplicate is None:
        return
    first, second = table.values("line", np.array(duplicate))
    found = table.values(name, np.array(duplicate[:1]))[0]
    raise DataError(
        f"duplicate id, first on line {first}", file=source, line=second, field=name, found=found,
        expected="each id once", hint="Remove one of the two lines or rename its id",
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
def _lock(directory: Path) -> Iterator[bool]:
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
