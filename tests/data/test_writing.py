"""What a writer is given stands in the files, in every form; media come back byte for byte."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from teva_data.dataset import Dataset
from teva_data.errors import DataError
from teva_data.writing import DatasetWriter, MediaBytes, MediaFile
from teva_data.writing import rows as writing_rows
from teva_data.writing.incoming import ending_of, relative_path, safe_name

FORMS = ["jsonl", "jsonl.zst", "parquet"]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
OPUS = b"OggS" + bytes(range(255, -1, -1)) * 5


def raw(directory: Path, stem: str, form: str) -> list[dict]:
    """The rows of a file, read by nothing of teva's."""
    path = directory / f"{stem}.{form}"
    if form == "parquet":
        rows = pq.read_table(path).to_pylist()
        return [{name: value for name, value in row.items() if value is not None} for row in rows]
    data = path.read_bytes()
    if form == "jsonl.zst":
        data = pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()
    return [json.loads(line) for line in data.decode().split("\n")[:-1]]


@pytest.mark.parametrize("form", FORMS)
def test_every_field_comes_back(tmp_path, form):
    with DatasetWriter(tmp_path, form=form) as writer:
        writer.document("d1", "first é 漢\u2028 \U0001f600", "Title\twith tab")
        writer.document("d2", "second")
        writer.document("d3", title="alone")
        writer.query("train", "q1", "who?", ["d1", "d2"], ["d3"], positive_scores=[1.5, 2], negative_scores=[-0.25])
        writer.query("train", "q2", "what?", ["d2"], prompt="")
        writer.query("dev", "q1", "who?", ["d1"])
        writer.judgement("dev", "q1", "d1", 2)
        writer.judgement("dev", "q1", "d 3", -1)
        writer.card(name="n", license="mit", source=None)
    assert raw(tmp_path, "corpus", form) == [
        {"docid": "d1", "title": "Title\twith tab", "document_text": "first é 漢\u2028 \U0001f600"},
        {"docid": "d2", "document_text": "second"},
        {"docid": "d3", "title": "alone"},
    ]
    assert raw(tmp_path, "train", form) == [
        {
            "query_id": "q1", "query_text": "who?", "positive_document_ids": ["d1", "d2"],
            "positive_scores": [1.5, 2.0], "negative_document_ids": ["d3"], "negative_scores": [-0.25],
        },
        {
            "query_id": "q2", "query_text": "what?", "positive_document_ids": ["d2"], "negative_document_ids": [],
            "prompt": "",
        },
    ]  # fmt: skip
    assert (tmp_path / "qrels/dev.tsv").read_text() == "query_id\tdocid\tscore\nq1\td1\t2\nq1\td 3\t-1\n"
    assert (tmp_path / "dataset.yaml").read_text() == "schema: '1'\nname: n\nlicense: mit\n"
    assert (writer.documents, writer.queries) == (3, {"train": 2, "dev": 1})
    dataset = Dataset.open(tmp_path)
    assert [d.docid for d in dataset.corpus.documents(0, 3)] == ["d1", "d2", "d3"]
    assert [q.positive_scores for q in dataset.queries("train")] == [(1.5, 2.0), None]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("media", ["files", "bytes", "link"])
def test_media_come_back(tmp_path, form, media):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    (source / "page one.png").write_bytes(PNG)
    (source / "some.bin").write_bytes(b"xx" + OPUS + b"yy")
    whole, inside = MediaFile(source / "page one.png"), MediaFile(source / "some.bin", 2, len(OPUS), "a.opus")
    with DatasetWriter(out, form=form, media=media, source=source) as writer:
        writer.document("d1", image=whole)
        writer.document("d2", ["before", "after"], image=[whole, None], audio=[None, inside])
        writer.query("train", "q1", audio=inside, positives=["d1"])
    dataset = Dataset.open(out)
    first, second = dataset.corpus.documents(0, 2)
    assert [piece.read() for piece in first.media] == [PNG]
    assert [piece if isinstance(piece, str) else piece.read() for piece in second.pieces] == [
        "before", PNG, "after", OPUS,
    ]  # fmt: skip
    (query,) = dataset.queries("train")
    assert [(piece.kind, piece.read()) for piece in query.media] == [("audio", OPUS)]
    if media == "files":
        assert sorted(path.name for path in (out / "media").iterdir()) == ["a.opus", "page_one.png"]
    if media == "link":
        assert [path.name for path in (out / "media").iterdir()] == ["source"]
        assert (out / "media/source").resolve() == source


def test_equal_names_with_other_bytes_get_other_names(tmp_path):
    with DatasetWriter(tmp_path) as writer:
        for number, data in enumerate([PNG, PNG + b"2", PNG, PNG + b"3", PNG + b"2"]):
            writer.document(f"d{number}", image=MediaBytes("../../a/x.png", data))
    corpus = Dataset.open(tmp_path).corpus
    assert [d.media[0].read() for d in corpus.documents(0, 5)] == [PNG, PNG + b"2", PNG, PNG + b"3", PNG + b"2"]
    assert len(list((tmp_path / "media").iterdir())) == 3
    assert (tmp_path / "media/x.png").read_bytes() == PNG


def test_archives_are_read_by_tar_and_new_ones_are_begun(tmp_path, monkeypatch):
    monkeypatch.setattr("teva_data.writing.media.ARCHIVE_BYTES", 3000)
    pieces = [bytes([number]) * (700 + number) for number in range(8)]
    with DatasetWriter(tmp_path, media="bytes") as writer:
        for number, data in enumerate(pieces):
            writer.document(f"d{number}", image=MediaBytes(f"é {'long' * 60}.png", data))
    archives = sorted((tmp_path / "media").iterdir())
    assert [path.name for path in archives] == ["00000.tar", "00001.tar", "00002.tar", "00003.tar"]
    found = []
    for archive in archives:
        listed = subprocess.run(["tar", "tf", archive], capture_output=True, check=True).stdout.splitlines()
        with tarfile.open(archive, "r:") as file:
            members = file.getmembers()
            found += [file.extractfile(member).read() for member in members]
        assert len(listed) == len(members) == 2
    assert found == pieces
    rows = [json.loads(line) for line in (tmp_path / "corpus.jsonl").read_text().splitlines()]
    for row, data in zip(rows, pieces, strict=True):
        place = row["document_image"]
        assert (tmp_path / place["file"]).read_bytes()[place["offset"] :][: place["length"]] == data


def test_parquet_widens_what_is_written_already(tmp_path, monkeypatch):
    monkeypatch.setattr(writing_rows, "GROUP_ROWS", 10)
    with DatasetWriter(tmp_path, form="parquet") as writer:
        for number in range(35):
            writer.document(f"d{number}", f"text {number}")
        writer.document("two", ["one", None, "two"], "a title")
        for number in range(35, 60):
            writer.document(f"d{number}", f"text {number}", image=MediaBytes("x.png", PNG))
    file = pq.ParquetFile(tmp_path / "corpus.parquet")
    assert file.num_row_groups == 7
    rows = file.read().to_pylist()
    assert [row["document_text"] for row in rows[:36]] == [*([f"text {n}"] for n in range(35)), ["one", None, "two"]]
    assert {row["title"] for row in rows} == {None, "a title"}
    assert rows[-1]["document_image"] == {"file": "media/x.png", "offset": 0, "length": len(PNG)}
    assert file.schema_arrow.field("docid").type == pa.large_string()
    assert [path.name for path in tmp_path.glob(".*")] == []
    assert Dataset.open(tmp_path).corpus.kinds["image"] == 25


def test_row_groups_are_bounded_by_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(writing_rows, "GROUP_BYTES", 10_000)
    with DatasetWriter(tmp_path, form="parquet") as writer:
        for number in range(100):
            writer.document(f"d{number}", "x" * 1000)
    assert pq.ParquetFile(tmp_path / "corpus.parquet").num_row_groups == 10


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda w: w.document("d"), "empty document"),
        (lambda w: w.document("d", ""), "empty document"),
        (lambda w: w.document("", "x"), "docid"),
        (lambda w: w.document(7, "x"), "docid"),
        (lambda w: w.document("d", "half \ud83d"), "surrogate"),
        (lambda w: w.document("d", 5), "not a text"),
        (lambda w: w.document("d", image="x.png"), "not a piece of media"),
        (lambda w: w.document("d", image=MediaBytes("x.png", b"")), "no bytes"),
        (lambda w: w.document("d", image=MediaFile(Path("/nowhere/x.png"))), "/nowhere/x.png"),
        (lambda w: w.query("train", "q"), "empty query"),
        (lambda w: w.query("corpus", "q", "t"), "no name for a split"),
        (lambda w: w.query("../x", "q", "t"), "no name for a split"),
        (lambda w: w.query("train", "q", "t", ["d"], positive_scores=[1, 2]), "not one score for each"),
        (lambda w: w.query("train", "q", "t", [""]), "positive_document_ids"),
        (lambda w: w.judgement("dev", "q\tq", "d", 1), "id cannot be written"),
        (lambda w: w.judgement("dev", "q", "d", 1.0), "not a grade"),
        (lambda w: w.judgement("../dev", "q", "d", 1), "no name for a split"),
    ],
)
def test_what_readers_would_refuse_is_not_written(tmp_path, call, told):
    with pytest.raises(DataError, match=told), DatasetWriter(tmp_path) as writer:
        call(writer)


def test_dataset_without_documents_is_refused(tmp_path):
    with pytest.raises(DataError, match="no documents"), DatasetWriter(tmp_path) as writer:
        writer.query("train", "q", "t")
    with pytest.raises(DataError, match="field 'form'"):
        DatasetWriter(tmp_path, form="csv")
    with pytest.raises(DataError, match="field 'media'"):
        DatasetWriter(tmp_path, media="cloud")


def test_links_reach_below_the_source_only(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "source").mkdir()
    (tmp_path / "x.png").write_bytes(PNG)
    writer = DatasetWriter(tmp_path / "out", media="link", source=tmp_path / "source")
    with pytest.raises(DataError, match="outside the source"):
        writer.document("d", image=MediaFile(tmp_path / "x.png"))
    with pytest.raises(DataError, match="--media files"):
        writer.document("d", image=MediaBytes("x.png", PNG))
    writer.document("d", "x")
    writer.close()


def test_names():
    assert safe_name("a/b/../c d.png") == "c_d.png"
    assert safe_name("..\\..\\boot.ini") == "boot.ini"
    assert safe_name("...") == "piece"
    assert safe_name("e\u0301漢.JPG") == "é漢.JPG"
    assert len(safe_name("漢" * 200 + ".png").encode()) <= 84
    for bad in ("", "/x", "a/../b", "..", "\\\\host\\x", "C:/x", "a\0b"):
        assert relative_path(bad) is None, bad
    assert str(relative_path("a\\b.png")) == "a/b.png"
    assert [ending_of(data) for data in (PNG, OPUS, b"", b"RIFFxxxxWAVE", b"\0\0\0\x20ftypisom")] == [
        ".png", ".ogg", ".bin", ".wav", ".mp4",
    ]  # fmt: skip
