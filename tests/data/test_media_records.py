"""Records of several pieces and media: their order, their addresses, and what is refused."""

from __future__ import annotations

import io
import json
import tarfile

import pytest

from teva_data.dataset import Dataset
from teva_data.errors import DataError
from teva_data.pieces import Media
from teva_data.store import CorpusStore, QueryStore

PICTURES = {"a.png": b"picture a", "b.png": b"picture b of more bytes", "c.opus": b"sound"}


@pytest.fixture
def root(tmp_path):
    """A dataset's directory with three files and an archive of the same three; media are opaque bytes here."""
    (tmp_path / "media").mkdir()
    with tarfile.open(tmp_path / "media" / "all.tar", "w") as archive:
        for name, data in PICTURES.items():
            (tmp_path / "media" / name).write_bytes(data)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return tmp_path


def corpus(root, *rows) -> CorpusStore:
    (root / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return CorpusStore.open(root / "corpus.jsonl")


def test_bytes_of_a_file_and_of_an_archive(root):
    with tarfile.open(root / "media" / "all.tar") as archive:
        member = archive.getmember("b.png")
        address = {"file": "media/all.tar", "offset": member.offset_data, "length": member.size}
    store = corpus(
        root,
        {"docid": "file", "image": "media/a.png"},
        {"docid": "archive", "title": "t", "document_image": address},
        {"docid": "text", "text": "words"},
    )
    file, archive, text = store.get([0, 1, 2])
    assert file.pieces == file.media == (Media("image", f"{root}/media/a.png", 0, 9, 9),)
    assert (file.document_text, file.title) == ("", "")
    assert [each.read() for document in (file, archive) for each in document.media] == [
        PICTURES["a.png"], PICTURES["b.png"],
    ]  # fmt: skip
    assert (text.pieces, text.media, text.document_text) == ((), (), "words")
    assert store.kinds == {"text": 2, "image": 2, "video": 0, "audio": 0}


def test_order_of_pieces(root):
    store = corpus(
        root,
        {"docid": "1", "text": ["one", "two"], "image": ["media/a.png", "media/b.png"], "audio": "media/c.opus"},
        {"docid": "2", "text": [None, "späť"], "image": ["media/a.png", None, "media/b.png"]},
        {"docid": "3", "text": ["only", "texts"]},
        {"docid": "4", "text": ["one text"]},
    )
    named = [
        [piece if isinstance(piece, str) else piece.path.rsplit("/")[-1] for piece in document.pieces]
        for document in store
    ]
    assert named == [
        ["one", "a.png", "c.opus", "two", "b.png"], ["a.png", "späť", "b.png"], ["only", "texts"], [],
    ]  # fmt: skip
    assert [document.document_text for document in store] == ["one two", "späť", "only texts", "one text"]


def test_a_query_may_be_a_recording(root):
    path = root / "train.jsonl"
    rows = [
        {"query_id": "q1", "query_audio": "media/c.opus", "positive_document_ids": ["d"]},
        {"query_id": "q2", "query": "what is this", "query_image": "media/a.png", "prompt": "p"},
        {"query_id": "q3", "query": "plain"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second, third = QueryStore.open(path)
    assert first.pieces == (Media("audio", f"{root}/media/c.opus", 0, 5, 5),)
    assert (first.query_text, first.positive_document_ids) == ("", ("d",))
    assert second.pieces == ("what is this", Media("image", f"{root}/media/a.png", 0, 9, 9))
    assert (third.pieces, second.prompt) == ((), "p")
    assert QueryStore.open(path).kinds == {"text": 2, "image": 1, "video": 0, "audio": 1}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("media/none.png", ["no such file", "found 'media/none.png'", "relative to the dataset"]),
        ("media", ["no such file"]),
        ("/etc/passwd", ["a path that leaves the dataset", "'/etc/passwd'"]),
        ("../other/a.png", ["a path that leaves the dataset"]),
        ("media/../../a.png", ["a path that leaves the dataset"]),
        ("media\\a.png", ["a path that leaves the dataset"]),
        ("", ["not the address of a file"]),
        (5, ["not the address of a file", "found 5"]),
        ({"file": "media/a.png", "offset": -1}, ["not the address of a file"]),
        ({"file": "media/a.png", "offset": 0, "length": 0}, ["not the address of a file"]),
        ({"file": "media/a.png", "offset": "0"}, ["not the address of a file"]),
        ({"file": "media/a.png", "offset": 5, "length": 5}, ["the file is shorter than that", "within the 9 bytes"]),
        ({"file": "media/a.png", "offset": 9}, ["no bytes there"]),
        ({"bytes": "xx", "path": None}, ["bytes inside the row", "teva-data convert"]),
        ({"bytes": 5}, ["bytes inside the row", "found 5"]),
        ("a" * 5000, ["no such file"]),
        (["media/a.png", "media/none.png"], ["no such file"]),
    ],
)
def test_media_that_cannot_be_read_are_refused(root, value, told):
    with pytest.raises(DataError) as caught:
        corpus(root, {"docid": "a", "text": "t"}, {"docid": "b", "text": "t", "image": value})
    for part in (f"{root}/corpus.jsonl:2: field 'image': ", *told):
        assert part in str(caught.value)


def test_empty_file_is_refused(root):
    (root / "media" / "empty.png").touch()
    with pytest.raises(DataError, match=r"corpus\.jsonl:1: field 'image': no bytes there"):
        corpus(root, {"docid": "a", "image": "media/empty.png"})


def test_file_that_became_shorter_is_told_when_it_is_read(root):
    (media,) = corpus(root, {"docid": "a", "image": "media/b.png"}).get([0])[0].media
    (root / "media" / "b.png").write_bytes(b"cut")
    with pytest.raises(DataError, match=r"b\.png: the file has been replaced; found '3 bytes'; expected the 23"):
        media.read()
    (root / "media" / "b.png").write_bytes(b"another picture, longer than the one before")
    with pytest.raises(DataError, match=r"b\.png: the file has been replaced; found '43 bytes'; expected the 23"):
        media.read()
    (root / "media" / "b.png").write_bytes(b"cut")
    with pytest.raises(DataError, match=r"b\.png: the image is not whole; found '3 bytes at 0'; expected 23 bytes"):
        media._replace(size=-1).read()
    (root / "media" / "b.png").unlink()
    with pytest.raises(DataError, match=r"b\.png: the image cannot be read"):
        media.read()


def test_dataset_may_be_moved_with_its_media(root, tmp_path_factory):
    corpus(root, {"docid": "a", "image": "media/a.png"})
    moved = tmp_path_factory.mktemp("moved") / "data"
    root.rename(moved)
    assert Dataset.open(moved).corpus.get([0])[0].media[0].read() == PICTURES["a.png"]
