"""Tables from files and directories, and through `datasets`: the same rows, each with its address; media undecoded."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from teva_data.conversion.tables import open_tables
from teva_data.conversion.tables_hub import HubTables
from teva_data.errors import DataError
from teva_data.records import Row
from teva_data.writing.incoming import MediaBytes, MediaFile

ROWS = [{"id": n, "text": f"text {n} é\u2028漢", "tags": ["a", str(n)]} for n in range(1, 6)]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))


def jsonl(rows) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def arrow(table: pa.Table, stream: bool) -> bytes:
    sink = pa.BufferOutputStream()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue().to_pybytes()


def parquet(rows) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=2)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("name", "data", "first_line"),
    [
        ("x.jsonl", jsonl(ROWS), 1),
        ("x.jsonl.gz", gzip.compress(jsonl(ROWS)), 1),
        ("x.jsonl.zst", zstd(jsonl(ROWS)), 1),
        ("x.parquet", parquet(ROWS), 1),
        ("x.arrow", arrow(pa.Table.from_pylist(ROWS), stream=True), 1),
        ("x.arrow", arrow(pa.Table.from_pylist(ROWS), stream=False), 1),
    ],
)
def test_one_file(tmp_path, name, data, first_line):
    (tmp_path / name).write_bytes(data)
    tables = open_tables(tmp_path / name)
    assert (tables.names(), tables.splits("x"), tables.name) == (["x"], ["train"], "x")
    for quiet in (True, False):
        rows = list(tables.rows("x", quiet=quiet))
        assert [row.record for row in rows] == ROWS
        assert [(row.file, row.line) for row in rows] == [(tmp_path / name, n) for n in range(1, 6)]
    assert tables.columns("x") == {"id", "text", "tags"}


@pytest.mark.parametrize(("name", "delimiter"), [("x.csv", ","), ("x.tsv", "\t"), ("x.csv.gz", ",")])
def test_separated_values(tmp_path, name, delimiter):
    file = io.StringIO()
    rows = [["a", 'b "quoted"'], ["1,2", "two\nlines"], ["3\t4", "é漢"]]
    csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(rows)
    data = file.getvalue().encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    found = list(open_tables(tmp_path / name).rows("x"))
    assert [list(row.record.values()) for row in found] == rows[1:]
    assert [row.line for row in found] == [2, 4]


def write(directory: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return directory


def arrangement(tables) -> dict[str, dict[str, int]]:
    return {
        name: {split: len(list(tables.rows(name, split))) for split in tables.splits(name)} for name in tables.names()
    }


def test_directories_by_their_names(tmp_path):
    write(tmp_path / "a", {
        "corpus.jsonl": jsonl(ROWS), "queries.test.jsonl": jsonl(ROWS[:2]), "train.jsonl": jsonl(ROWS[:1]),
        "dev.jsonl.gz": gzip.compress(jsonl(ROWS[:3])), "qrels/test.tsv": b"a\tb\n1\t2\n",
        "qrels/test.multi.tsv": b"a\tb\n1\t2\n3\t4\n", "notes.txt": b"no table", ".hidden.jsonl": b"broken",
        "test/data-00000-of-00001.arrow": arrow(pa.Table.from_pylist(ROWS), stream=True),
        "test/cache-123.arrow": b"broken",
    })  # fmt: skip
    assert arrangement(open_tables(tmp_path / "a")) == {
        "corpus": {"train": 5}, "queries.test": {"test": 2}, "default": {"train": 1, "dev": 3, "test": 5},
        "qrels": {"test": 1, "test.multi": 2},
    }  # fmt: skip
    write(tmp_path / "b", {
        "data/train-00000-of-00002.parquet": parquet(ROWS[:2]), "data/train-00001-of-00002.parquet": parquet(ROWS[2:]),
        "data/test-00000-of-00001-abc0123.parquet": parquet(ROWS[:1]),
    })  # fmt: skip
    tables = open_tables(tmp_path / "b")
    assert arrangement(tables) == {"default": {"train": 5, "test": 1}}
    assert [row.record["id"] for row in tables.rows("default", "train")] == [1, 2, 3, 4, 5]
    assert [row.line for row in tables.rows("default", "train")] == [1, 2, 1, 2, 3]


CARD = """---
license: mit
configs:
- config_name: corpus
  data_files:
  - split: corpus
    path: corpus/*.parquet
- config_name: en-qrels
  data_files:
  - {split: test, path: qrels/en-test.parquet}
  - {split: dev, path: [qrels/en-dev.parquet, qrels/en-more.parquet]}
- config_name: queries
  data_files: queries.parquet
---
# A dataset
"""


@pytest.fixture
def hub_like(tmp_path) -> Path:
    return write(tmp_path / "hub", {
        "README.md": CARD.encode(),
        "corpus/corpus-00000-of-00002.parquet": parquet(ROWS[:3]),
        "corpus/corpus-00001-of-00002.parquet": parquet(ROWS[3:]),
        "qrels/en-test.parquet": parquet(ROWS[:1]), "qrels/en-dev.parquet": parquet(ROWS[:2]),
        "qrels/en-more.parquet": parquet(ROWS[:3]), "queries.parquet": parquet(ROWS[:4]),
        "stray.parquet": parquet(ROWS),
    })  # fmt: skip


def test_declared_configs_are_the_same_here_and_through_datasets(hub_like):
    local, hub = open_tables(hub_like), HubTables(str(hub_like))
    assert local.hub
    assert hub.hub
    assert arrangement(local) == arrangement(hub) == {
        "corpus": {"corpus": 5}, "en-qrels": {"test": 1, "dev": 5}, "queries": {"train": 4},
    }  # fmt: skip
    for name in local.names():
        assert [row.record for row in local.rows(name)] == [dict(row.record) for row in hub.rows(name)]
    row = list(hub.rows("corpus"))[3]
    assert (str(row.file).endswith("hub/corpus/corpus"), row.line, row.record["id"]) == (True, 4, 4)


def test_media_come_undecoded(tmp_path):
    import datasets

    features = datasets.Features(
        {"docid": datasets.Value("string"), "image": datasets.Image(), "pages": datasets.List(datasets.Image())}
    )
    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(picture, "PNG")
    data = picture.getvalue()
    rows = {
        "docid": ["a", "b"],
        "image": [{"bytes": data, "path": "one.png"}, {"bytes": data, "path": None}],
        "pages": [[{"bytes": data, "path": "p.png"}], []],
    }
    place = tmp_path / "set" / "data"
    place.mkdir(parents=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(place / "train-00000-of-00001.parquet")
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    sources = [open_tables(tmp_path / "set"), HubTables(str(tmp_path / "set")), open_tables(tmp_path / "saved")]
    for tables in sources:
        first, second = tables.rows(tables.names()[0])
        assert tables.media(first, "image") == MediaBytes("one.png", data)
        assert tables.media(second, "image") == MediaBytes("2.png", data)
        assert tables.media(first, "pages") == [MediaBytes("p.png", data)]


@pytest.fixture
def with_media(tmp_path) -> Path:
    place = write(tmp_path / "set", {"corpus.jsonl": jsonl(ROWS), "images/a.png": PNG, "deep/er/rows.jsonl": b"{}\n"})
    with tarfile.open(place / "more.tar", "w") as archive:
        member = tarfile.TarInfo("images/b.png")
        member.size = len(PNG)
        archive.addfile(member, io.BytesIO(PNG))
    return place


def test_paths_are_found_in_the_directory_and_in_archives(with_media):
    tables = open_tables(with_media)

    def media(value, under=""):
        return tables.media(Row({"image": value}, with_media / "corpus.jsonl", 7), "image", under=under)

    assert media(None) is None
    assert media("images/a.png") == MediaFile(with_media / "images/a.png")
    assert media("a.png", under="images") == MediaFile(with_media / "images/a.png")
    found = media("./images/b.png")
    assert found.path.read_bytes()[found.offset :][: found.length] == PNG
    assert media(["images/a.png", None])[1] is None
    assert media({"file": "images/a.png", "offset": 8, "length": 4}) == MediaFile(with_media / "images/a.png", 8, 4)
    for bad, told in [
        ("/etc/passwd", "leaves the source"), ("images/../../x", "leaves the source"), ("images/c.png", "no such file"),
        (5, "not a piece of media"), ({"file": "../x", "offset": 0, "length": 1}, "leaves the source"),
        ({"file": "images/a.png", "offset": -1, "length": 1}, "not the address"),
    ]:  # fmt: skip
        with pytest.raises(DataError, match=f"corpus.jsonl:7: field 'image': .*{told}"):
            media(bad)
    with pytest.raises(DataError, match=r"corpus.jsonl:7: field 'image\[1\]': no such file"):
        media(["images/a.png", "x"])


def test_compressed_archive_is_named(with_media):
    (with_media / "x.tar").write_bytes(gzip.compress((with_media / "more.tar").read_bytes()))
    row = Row({"image": "none.png"}, with_media / "corpus.jsonl", 1)
    with pytest.raises(DataError, match=r"x.tar: cannot be read.*uncompressed"):
        open_tables(with_media).media(row, "image")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"x.parquet": parquet(ROWS)[:-30]}, r"x.parquet: cannot be read after row 0"),
        ({"x.arrow": arrow(pa.Table.from_pylist(ROWS), stream=True)[:-300]}, r"x.arrow: cannot be read after row"),
        ({"x.jsonl": jsonl(ROWS)[:-4]}, r"x.jsonl:5: malformed JSON"),
        ({"x.parquet": parquet([{"a": 1}])[:4]}, "cannot be read"),
        ({"x.jsonl": b""}, "no rows"),
        ({"x.jsonl": jsonl(ROWS), "x.jsonl.gz": gzip.compress(jsonl(ROWS))}, "the same file twice"),
        ({"README.md": b"---\nconfigs: [}\n---\n", "x.jsonl": jsonl(ROWS)}, "README.md: the YAML"),
        ({"README.md": CARD.encode(), "queries.parquet": b""}, "no file of the config 'corpus'"),
        ({"README.md": CARD.replace("corpus/*", "../*").encode(), "x.jsonl": b"{}"}, "leaves the directory"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, files, told):
    write(tmp_path / "set", files)
    with pytest.raises(DataError, match=told):
        [list(tables.rows(name)) for tables in [open_tables(tmp_path / "set")] for name in tables.names()]


def test_wrong_names(hub_like, tmp_path, monkeypatch):
    tables = open_tables(hub_like)
    with pytest.raises(DataError, match=r"no such table.*Did you mean 'queries'"):
        list(tables.rows("query"))
    with pytest.raises(DataError, match=r"no such split.*found 'text'.*'test'"):
        list(tables.rows("en-qrels", "text"))
    with pytest.raises(DataError, match="nothing here"):
        open_tables(tmp_path / "none" / "at" / "all")
    with pytest.raises(DataError, match="only a dataset of the hub has revisions"):
        open_tables(hub_like, revision="main")


def test_hub_id_that_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"(?s)owner/name: not in the hub's local cache.*hf download .* --revision v2"):
        open_tables("owner/name", offline=True, revision="v2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match=r"owner/name: not in the hub's local cache"):
        open_tables("owner/name")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"(?s)empty: the dataset cannot be read: .*HF_TOKEN"):
        HubTables(str(tmp_path / "empty"))


def test_damage_in_the_middle_of_a_stream_is_named(tmp_path):
    write(tmp_path / "set", {"train.jsonl": jsonl(ROWS * 400) + b'{"id": "cut'})
    tables = HubTables(str(tmp_path / "set"))
    with pytest.raises(DataError, match=r"(?s)set/default/train, after row \d+: the dataset cannot be read"):
        list(tables.rows("default"))
