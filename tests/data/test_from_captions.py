"""Captions become queries and the clips they tell of documents; a clip that is not there is named or counted."""

from __future__ import annotations

import csv
import io
import json
import tarfile

import pytest

from teva_data.conversion import convert, recognise
from teva_data.conversion.tables import open_tables
from teva_data.dataset import Dataset
from teva_data.errors import DataError

from .replicas import hub_repository


def clip(name: str) -> bytes:
    """Bytes that stand for a clip; nothing decodes them here."""
    return b"\x00\x00\x00\x18ftypisom" + name.encode() * 7


def clips(directory, *names: str):
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).write_bytes(clip(name))
    return directory


def archive(path, *names: str):
    with tarfile.open(path, "w") as file:
        for name in names:
            member = tarfile.TarInfo(f"all/{name}")
            member.size = len(clip(name))
            file.addfile(member, io.BytesIO(clip(name)))
    return path


def media(dataset: Dataset) -> dict[str, tuple[str, bytes]]:
    documents = dataset.corpus.documents(0, len(dataset.corpus))
    return {each.docid: (each.pieces[0].kind, each.pieces[0].read()) for each in documents}


def captions(dataset: Dataset, split: str) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(each.query_id, each.query_text, each.positive_document_ids) for each in dataset.queries(split)]


TRAIN = [
    {"video_id": "video0", "video": "video0.mp4", "caption": ["a car is shown", "é drives"], "category": 9},
    {"video_id": "video1", "video": "video1.mp4", "caption": ["a dog runs"], "start time": 1.0},
]
TEST = [{"video_id": "video7010", "video": "video7010.mp4", "caption": "a girl sings"}]


@pytest.fixture
def msrvtt(tmp_path):
    """As friedrichor/MSR-VTT has it: lists in JSON, clips in a directory."""
    source = tmp_path / "source"
    clips(source / "video", "video0.mp4", "video1.mp4", "video7010.mp4", "unused.mp4")
    (source / "msrvtt_train_9k.json").write_text(json.dumps(TRAIN))
    (source / "msrvtt_test_1k.json").write_text(json.dumps(TEST))
    return source


EXPECTED = {name: ("video", clip(f"{name}.mp4")) for name in ("video0", "video1", "video7010")}


def test_msr_vtt_as_lists(msrvtt, tmp_path):
    layout, reason = recognise(open_tables(msrvtt))
    assert (layout, reason) == ("captions", "captions in 'caption' and clips in 'video'")
    dataset = Dataset.open(convert(msrvtt, tmp_path / "out"))
    assert media(dataset) == EXPECTED
    assert captions(dataset, "train") == [
        ("video0#0", "a car is shown", ("video0",)), ("video0#1", "é drives", ("video0",)),
        ("video1#0", "a dog runs", ("video1",)),
    ]  # fmt: skip
    assert captions(dataset, "test") == [("video7010#0", "a girl sings", ("video7010",))]
    assert dataset.qrels("test") == {"video7010#0": {"video7010": 1}}
    dataset.check_references("train")


def test_msr_vtt_as_it_was_first_published(tmp_path):
    source = tmp_path / "source"
    clips(source, "video0.mp4", "video1.mp4", "video7010.mp4")
    videos = [("video0", "train"), ("video1", "validate"), ("video7010", "test")]
    sentences = [("video0", "one"), ("video7010", "three"), ("video0", "two"), ("video1", "four")]
    content = {
        "info": {"year": "2016"},
        "videos": [{"video_id": name, "split": split, "category": 1} for name, split in videos],
        "sentences": [{"caption": text, "video_id": name, "sen_id": n} for n, (name, text) in enumerate(sentences)],
    }
    (source / "train_val_videodatainfo.json").write_text(json.dumps(content))
    dataset = Dataset.open(convert(source, tmp_path / "out"))
    assert dataset.splits == ["test", "train", "validation"]
    assert captions(dataset, "train") == [("0", "one", ("video0",)), ("2", "two", ("video0",))]
    assert media(dataset) == EXPECTED
    assert Dataset.open(convert(source, tmp_path / "one", splits=("test",))).splits == ["test"]


def table(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def test_audiocaps_with_clips_in_an_archive(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    header = ("audiocap_id", "youtube_id", "start_time", "caption")
    table(source / "train.csv", header, [(91139, "r1nicOVtvkQ", 130, "A woman talks, then, stops")])
    table(source / "test.csv", header, [(1, "-abc", 30, "Rain"), (2, "-abc", 30, "Water"), (3, "other", 0, "Wind")])
    tar = archive(tmp_path / "clips.tar", "r1nicOVtvkQ_130.wav", "-abc.flac", "Yother.mp3")
    assert recognise(open_tables(source)) == ("captions", "captions in 'caption' and clips in 'youtube_id'")
    dataset = Dataset.open(convert(source, tmp_path / "out", assets=tar))
    assert media(dataset) == {
        "r1nicOVtvkQ_130": ("audio", clip("r1nicOVtvkQ_130.wav")), "-abc_30": ("audio", clip("-abc.flac")),
        "other_0": ("audio", clip("Yother.mp3")),
    }  # fmt: skip
    assert captions(dataset, "test") == [
        ("1", "Rain", ("-abc_30",)), ("2", "Water", ("-abc_30",)), ("3", "Wind", ("other_0",)),
    ]  # fmt: skip


def test_recordings_in_the_rows(tmp_path):
    audio = {"bytes": b"RIFF1234WAVE" + clip("a"), "path": "a.wav"}
    rows = [
        {"audiocap_id": n, "youtube_id": "a", "start_time": 3, "audio": audio, "caption": text}
        for n, text in enumerate(["Rain", "Water"])
    ]  # fmt: skip
    types = {
        "audiocap_id": "int32", "youtube_id": "string", "start_time": "int32",
        "audio": {"bytes": "binary", "path": "string"}, "caption": "string",
    }  # fmt: skip
    source = hub_repository(tmp_path / "source", {"default": {"test": rows}}, {"default": types})
    dataset = Dataset.open(convert(source, tmp_path / "out"))
    assert media(dataset) == {"a_3": ("audio", b"RIFF1234WAVE" + clip("a"))}
    assert [text for _, text, _ in captions(dataset, "test")] == ["Rain", "Water"]


def test_jsonl_and_the_csv_of_the_1k_test(tmp_path):
    clips(tmp_path / "video", "video7020.mp4")
    path = tmp_path / "MSRVTT_JSFUSION_test.csv"
    table(path, ("key", "vid_key", "video_id", "sentence"), [("ret0", "msr7020", "video7020", "a woman, a dog")])
    dataset = Dataset.open(convert(path, tmp_path / "out", assets=tmp_path / "video"))
    assert captions(dataset, "test") == [("ret0", "a woman, a dog", ("video7020",))]
    path = clips(tmp_path / "apart", "video7020.mp4") / "captions.jsonl"
    path.write_text('{"video": "video7020.mp4", "captions": ["x", "y"]}\n')
    dataset = Dataset.open(convert(path, tmp_path / "other"))
    assert captions(dataset, "train") == [("video7020#0", "x", ("video7020",)), ("video7020#1", "y", ("video7020",))]


def test_missing_clip(msrvtt, tmp_path, caplog):
    (msrvtt / "video" / "video1.mp4").unlink()
    with pytest.raises(DataError, match=r"(?s)msrvtt_train_9k.json:2.*no such clip.*'video1.mp4'.*--missing skip"):
        convert(msrvtt, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    dataset = Dataset.open(convert(msrvtt, tmp_path / "out", missing="skip"))
    assert sorted(media(dataset)) == ["video0", "video7010"]
    assert [text for _, text, _ in captions(dataset, "train")] == ["a car is shown", "é drives"]
    assert "1 clips that are not there, of 3; the first: video1" in caplog.text
    clips(tmp_path / "empty")
    with pytest.raises(DataError, match="no clip is there"):
        convert(msrvtt, tmp_path / "none", missing="skip", assets=tmp_path / "empty")
    with pytest.raises(DataError, match="nothing here"):
        convert(msrvtt, tmp_path / "none", assets=tmp_path / "nowhere")


def test_paths_tell_apart_what_names_do_not(tmp_path):
    for folder in ("a", "b"):
        (clips(tmp_path / "source" / folder) / "1.mp4").write_bytes(clip(f"{folder}/1"))
    rows = [{"video": f"{folder}/1.mp4", "caption": f"of {folder}"} for folder in ("a", "b")]
    path = tmp_path / "source" / "captions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = Dataset.open(convert(path, tmp_path / "out"))
    assert media(dataset) == {"a/1": ("video", clip("a/1")), "b/1": ("video", clip("b/1"))}
    assert [(text, docids) for _, text, docids in captions(dataset, "train")] == [
        ("of a", ("a/1",)), ("of b", ("b/1",)),
    ]  # fmt: skip


def test_picture_and_sound_in_one_row(tmp_path):
    row = {
        "video": {"bytes": clip("v"), "path": "v.mp4"},
        "audio": {"bytes": b"RIFF1234WAVE" + clip("a"), "path": "v.wav"},
        "caption": "Rain", "youtube_id": "v", "start_time": 3,
    }  # fmt: skip
    medium = {"bytes": "binary", "path": "string"}
    types = {"video": medium, "audio": medium, "caption": "string", "youtube_id": "string", "start_time": "int32"}
    source = hub_repository(tmp_path / "source", {"default": {"test": [row]}}, {"default": types})
    dataset = Dataset.open(convert(source, tmp_path / "out"))
    (document,) = dataset.corpus.documents(0, 1)
    assert document.docid == "v_3"
    assert [(piece.kind, piece.read()) for piece in document.pieces] == [
        ("video", clip("v")), ("audio", b"RIFF1234WAVE" + clip("a")),
    ]  # fmt: skip


def test_other_json_beside_the_captions(msrvtt, tmp_path):
    (msrvtt / "dataset_infos.json").write_text('{"default": {}}')
    dataset = Dataset.open(convert(msrvtt, tmp_path / "out"))
    assert media(dataset) == EXPECTED
    (msrvtt / "msrvtt_train_7k.json").write_text(json.dumps(TRAIN[:1]))
    with pytest.raises(DataError, match=r"msrvtt_train_9k.json: two files for 'train'; found 'msrvtt_train_7k.json'"):
        convert(msrvtt, tmp_path / "other", layout="captions")
    assert Dataset.open(convert(msrvtt, tmp_path / "test", layout="captions", splits=("test",))).splits == ["test"]


def test_caption_ids_are_compared_across_files(tmp_path):
    source = tmp_path / "source"
    clips(source, "a.mp4")
    for name in ("one", "two"):
        content = {"videos": [], "sentences": [{"caption": name, "video_id": "a", "sen_id": 1}]}
        (source / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"two.json:1.*duplicate id, first on .*one.json:1"):
        convert(source, tmp_path / "out")


def test_two_clips_of_one_name(msrvtt, tmp_path):
    clips(msrvtt / "copy", "video0.mp4")
    with pytest.raises(DataError, match=r"(?s)json:1.*two clips of one name.*'video0'.*copy.*video"):
        convert(msrvtt, tmp_path / "out", splits=("train",))


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"video_id": "video0", "caption": []}], r"json:1.*no caption"),
        ([{"video_id": "video0", "caption": ["a", " "]}], r"json:1: field 'caption\[1\]': no text"),
        ([TRAIN[0], {"caption": "x"}], r"json:2.*names no clip"),
        ([{"video_id": "video0", "caption": "x", "sen_id": 1}] * 2, r"json:2.*duplicate id, first on line 1"),
        ([TRAIN[0], "video1"], r"json:2.*not an object"),
        ([], "no rows"),
        ("no list", "no captions"),
    ],
)
def test_bad_rows_are_named(msrvtt, tmp_path, rows, told):
    (msrvtt / "msrvtt_train_9k.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=f"(?s){told}"):
        convert(msrvtt, tmp_path / "out", layout="captions", splits=("train",))
    (msrvtt / "msrvtt_train_9k.json").write_text('[{"video_id": ')
    with pytest.raises(DataError, match=r"msrvtt_train_9k.json: malformed JSON"):
        convert(msrvtt, tmp_path / "out", layout="captions", splits=("train",))
