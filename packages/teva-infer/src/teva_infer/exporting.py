"""Embeddings for other programs: Parquet files, or a table of LanceDB. Both go on where a killed export stopped.

A row holds ``id`` and ``vector``, and with a dataset the document's ``title`` and ``text`` too. Vectors are float32,
which every reader takes, whatever the shards hold; or as they are stored.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from teva_data.dataset import Dataset
from teva_data.embeddings import Embeddings
from teva_data.errors import MissingExtraError, TevaError
from teva_data.files import atomic_file, fingerprint, lock_directory, remove_leftovers
from teva_data.progress import Progress

logger = logging.getLogger(__name__)

Numbers = Literal["float32", "stored"]
KEY = "teva.export"  # what identifies an export, in the metadata of each file or table
APPEND_ROWS = 2**17  # rows of one append to a table, each a version of its own


class Rows:
    """The rows of embeddings as Arrow tables, a shard at a time.

    Args:
        embeddings: or their directory.
        data: a dataset, or its directory, whose titles and texts go along.
        numbers: "float32", or "stored": float16 as float16, int8 with a column ``scale``, binary as bytes of eight
            signs each.

    Attributes:
        embeddings: opened.
        schema: of the tables; its metadata says what they were made from.

    Raises:
        DataError: damaged or unfinished embeddings.
        TevaError: the embeddings are of other data, or of queries.
    """

    def __init__(
        self, embeddings: Embeddings | str | Path, data: Dataset | str | Path | None, numbers: Numbers
    ) -> None:
        self.embeddings = embeddings if isinstance(embeddings, Embeddings) else Embeddings.open(embeddings)
        self._stored = numbers == "stored"
        self._store = None if data is None else _documents(self.embeddings, data)
        manifest = self.embeddings.manifest
        self.key = fingerprint(
            manifest["fingerprint"], [entry["checksum"] for entry in manifest["shards"]], numbers,
            None if self._store is None else self._store.fingerprint,
        )  # fmt: skip
        facts = {
            KEY: self.key, "teva.model": str(manifest.get("info", {}).get("model", "")),
            "teva.model_fingerprint": str(manifest["job"].get("model_fingerprint", "")),
            "teva.role": self.embeddings.role, "teva.dim": str(self.embeddings.dim),
            "teva.normalized": str(self.embeddings.normalized).lower(),
        }  # fmt: skip
        self.schema = pa.schema(self._fields(), metadata=facts)

    def table(self, shard: int) -> pa.Table:
        """The rows of one shard."""
        ids, numbers, scale = self.embeddings.raw(shard)
        if not self._stored:
            vectors = self.embeddings.shard(shard)[1].astype(np.float32)
            numbers, scale = vectors, None
        flat = pa.array(np.ascontiguousarray(numbers).reshape(-1))
        columns: list[Any] = [pa.array(ids, pa.string()), pa.FixedSizeListArray.from_arrays(flat, numbers.shape[1])]
        if scale is not None:
            columns.append(pa.array(scale))
        if self._store is not None:
            documents = self._store.lookup(ids)
            columns.append(pa.array([each.title for each in documents], pa.string()))
            columns.append(pa.array([each.document_text for each in documents], pa.string()))
        return pa.Table.from_arrays([_as(column, field) for column, field in zip(columns, self.schema, strict=True)],
                                    schema=self.schema)  # fmt: skip

    def _fields(self) -> list[pa.Field]:
        dtype, width = pa.float32(), self.embeddings.dim
        if self._stored:
            of = {"float16": pa.float16(), "int8": pa.int8(), "binary": pa.uint8()}
            dtype = of.get(self.embeddings.dtype, dtype)
            width = width // 8 if self.embeddings.dtype == "binary" else width
        fields = [pa.field("id", pa.string(), False), pa.field("vector", pa.list_(dtype, width), False)]
        if self._stored and self.embeddings.dtype == "int8":
            fields.append(pa.field("scale", pa.float32(), False))
        if self._store is not None:
            fields += [pa.field("title", pa.string()), pa.field("text", pa.string())]
        return fields


def export_parquet(
    embeddings: Embeddings | str | Path,
    output: str | Path,
    *,
    data: Dataset | str | Path | None = None,
    numbers: Numbers = "float32",
) -> Path:
    """Write a Parquet file for each shard, ``part-00000-of-00008.parquet``.

    Args:
        embeddings: or their directory.
        output: a directory for the files.
        data: see :class:`Rows`, and so on.
        numbers: of the vectors.

    Returns:
        The directory.

    Raises:
        DataError: damaged or unfinished embeddings.
        TevaError: the directory holds another export, or the embeddings are of other data.
    """
    rows, output = Rows(embeddings, data, numbers), Path(output)
    output.mkdir(parents=True, exist_ok=True)
    sizes = rows.embeddings.sizes
    with lock_directory(output, "exporting"):
        remove_leftovers(output, "*.parquet")
        names = [f"part-{shard:05d}-of-{len(sizes):05d}.parquet" for shard in range(len(sizes))]
        for path in output.glob("*.parquet"):
            if path.name not in names or _key(path) not in (rows.key, None):
                raise TevaError(f"{path} is of another export. Use another directory, or remove its files")
        whole = [_key(output / name) == rows.key for name in names]
        done = sum(size for size, here in zip(sizes, whole, strict=True) if here)
        with Progress(len(rows.embeddings), "export", "rows", done=done) as progress:
            for shard, name in enumerate(names):
                if whole[shard]:
                    continue
                with atomic_file(output / name) as file:
                    pq.write_table(rows.table(shard), file, compression="zstd")
                progress.add(sizes[shard])
    return output


def load_lancedb(
    embeddings: Embeddings | str | Path,
    uri: str | Path,
    table: str,
    *,
    data: Dataset | str | Path | None = None,
    index: bool = True,
) -> int:
    """Load embeddings into a table of LanceDB, which runs within a process on a directory or an object store.

    Rows are appended in the order of the corpus, each append is whole or not there, so a killed load goes on after
    the rows that are there.

    Args:
        embeddings: or their directory; of float numbers.
        uri: the database: a directory, or ``s3://...``.
        table: its name; made where it does not exist.
        data: see :class:`Rows`.
        index: build LanceDB's IVF_PQ on inner products at the end, from 4,096 rows on; without it LanceDB looks at all.

    Returns:
        The table's rows.

    Raises:
        MissingExtraError: LanceDB is not installed.
        DataError: damaged or unfinished embeddings.
        TevaError: the table holds something else, the embeddings are of other data, or a name that LanceDB does not
            take.
    """
    try:
        import lancedb
        import lancedb.index
    except ImportError as error:
        raise MissingExtraError("a table of LanceDB", "teva-infer[lancedb]") from error
    rows = Rows(embeddings, data, "float32")
    try:
        database = lancedb.connect(str(uri))
        if table in database.list_tables().tables:
            opened = database.open_table(table)
        else:
            opened = database.create_table(table, schema=rows.schema)
    except ValueError as error:
        raise TevaError(f"{uri}: LanceDB does not take the table {table!r}: {error}") from error
    there = opened.count_rows()
    if (opened.schema.metadata or {}).get(KEY.encode(), b"").decode() != rows.key or there > len(rows.embeddings):
        raise TevaError(f"{uri}: the table {table!r} holds something else. Use another name, or drop it")
    with Progress(len(rows.embeddings), "load", "rows", done=there) as progress:
        for block in _blocks(rows, there):
            opened.add(block)
            progress.add(len(block))
    if index and len(rows.embeddings) >= 4096 and not opened.list_indices():
        logger.info("load: building LanceDB's index")
        opened.create_index("vector", config=lancedb.index.IvfPq(distance_type="dot"))
    return int(opened.count_rows())


def _blocks(rows: Rows, there: int) -> Iterator[pa.Table]:
    """Whole shards together, from the first that is not there on.

    Raises:
        TevaError: the rows that are there end within a shard.
    """
    waiting: list[pa.Table] = []
    first = 0
    for shard, size in enumerate(rows.embeddings.sizes):
        first += size
        if first <= there:
            continue
        if first - size < there:
            raise TevaError(f"the table has {there:,} rows, which end within a shard: something else wrote to it")
        waiting.append(rows.table(shard))
        if sum(map(len, waiting)) >= APPEND_ROWS:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _documents(embeddings: Embeddings, data: Dataset | str | Path) -> Any:
    lenient = bool(embeddings.left_out)  # documents without their files are not among the rows
    store = (data if isinstance(data, Dataset) else Dataset.open(data, lenient=lenient)).corpus
    made_from = embeddings.manifest["job"].get("data_fingerprint", store.fingerprint)
    if embeddings.role == "query" or made_from != store.fingerprint:
        raise TevaError(
            f"{embeddings.directory}: of {embeddings.role} vectors of the data {made_from!r}, and the corpus of "
            f"{data} is {store.fingerprint!r}. Give the dataset that was encoded"
        )
    return store


def _as(column: Any, field: pa.Field) -> Any:
    return column if column.type == field.type else column.cast(field.type)


def _key(path: Path) -> str | None:
    """What a file says that it was made from; None where it is not there, or not a whole Parquet file."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return None
    return str(metadata.get(KEY.encode(), b"?").decode())
