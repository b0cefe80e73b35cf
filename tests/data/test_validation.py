"""All problems in one pass: each is found once, at its place, and nothing that is right is accused."""

from __future__ import annotations

import gzip
import io
import json
import random
import subprocess
import sys
import wave
from collections import Counter

import pytest
from PIL import Image

from teva_data.cli import main
from teva_data.dataset import Dataset
from teva_data.errors import DataError
from teva_data.validation import ids as validation_ids
from teva_data.validation import report as validation_report
from teva_data.validation import validate

CORPUS = [{"docid": f"d{n}", "title": f"t{n}", "document_text": f"text {n}"} for n in range(10)]


def asked(number: int, **more) -> dict:
    return {
        "query_id": f"q{number}", "query_text": f"question {number}", "positive_document_ids": [f"d{number}"],
        "negative_document_ids": [f"d{number + 1}"], **more,
    }  # fmt: skip


def told(report) -> set[tuple]:
    """Class, file name, line and field of each problem."""
    return {(each.kind, each.error.file.name if hasattr(each.error.file, "name") else each.error.file,
             each.error.line, each.error.field) for each in report.problems}  # fmt: skip


@pytest.fixture
def data(write):
    write("corpus.jsonl", CORPUS)
    write("test.jsonl", [asked(5), asked(6)])
    write("qrels/test.tsv", ["query_id\tdocid\tscore", "q5\td5\t1", "q6\td6\t2", "q6\td1\t0"])
    return write("train.jsonl", [asked(n) for n in range(4)]).parent


def test_what_is_right_is_not_accused(data, tiny_data):
    report = validate(data)
    assert report.rows == {"corpus.jsonl": 10, "train.jsonl": 4, "test.jsonl": 2, "qrels/test.tsv": 3}
    assert not (data / ".teva").exists()  # no store is needed, and none is made
    for directory in (data, tiny_data):
        report = validate(directory)
        assert (report.problems, report.counts, report.errors, report.warnings) == ([], {}, 0, 0)
        for split in Dataset.open(directory).splits:
            Dataset.open(directory).check_references(split)


def test_every_problem_of_a_file_at_once(data, write):
    write("corpus.jsonl", [
        *CORPUS, '{"docid": "cut', b"\xff", {"docid": "d3", "document_text": "other"}, "", [1], {"document_text": "x"},
        {"docid": "e0", "document_text": 5, "title": ["a"]}, {"docid": "e1", "document_text": "  "}, {"docid": None},
        {"docid": "e2", "document_text": "<p>&nbsp;</p>\u200b"},
        {"docid": "e3", "title": "t0", "document_text": "text 0"},
        {"docid": "e4", "document_txt": "x", "title": "y"}, {"docid": "e5", "document_text": "a", "text": "b"},
    ])  # fmt: skip
    report = validate(data)
    assert told(report) == {
        ("malformed", "corpus.jsonl", 11, None),
        ("malformed", "corpus.jsonl", 12, None),
        ("duplicate-id", "corpus.jsonl", 13, "docid"),
        ("malformed", "corpus.jsonl", 14, None),
        ("malformed", "corpus.jsonl", 15, None),
        ("missing-field", "corpus.jsonl", 16, "docid"),
        ("wrong-type", "corpus.jsonl", 17, "document_text"),
        ("wrong-type", "corpus.jsonl", 17, "title"),
        ("empty-text", "corpus.jsonl", 18, None),
        ("no-visible-text", "corpus.jsonl", 18, "document_text"),
        ("missing-field", "corpus.jsonl", 19, "docid"),
        ("empty-text", "corpus.jsonl", 19, None),
        ("no-visible-text", "corpus.jsonl", 20, "document_text"),
        ("duplicate-content", "corpus.jsonl", 21, None),
        ("bad-field", "corpus.jsonl", 22, "document_txt"),
        ("bad-field", "corpus.jsonl", 23, "text"),
    }
    by_kind = {each.kind: each.error for each in report.problems}
    assert "first on line 4;" in str(by_kind["duplicate-id"])
    assert "line 1 again" in str(by_kind["duplicate-content"])
    assert (report.errors, report.warnings) == (13, 3)
    lines = [(str(each.error.file), each.error.line or 0) for each in report.problems]
    assert lines == sorted(lines)


def test_problems_of_queries_and_judgements(data, write):
    write("train.jsonl", [
        asked(1, negative_document_ids=["d1", "none", "d2"], positive_scores=[1, 2], negative_scores=["x", 1.0, True]),
        asked(1, query_text="another"), asked(2, positive_document_ids="d2"), asked(3, positive_document_ids=[]),
        asked(4, positive_document_ids=["d4", "d4"]), asked(6, query_id="z"),
    ])  # fmt: skip
    write("test.jsonl", [asked(5, positive_document_ids=[]), asked(6), asked(7, positive_document_ids=[])])
    write("qrels/test.tsv", ["query_id\tdocid\tscore", "q5\td5\t1", "q7\td5\t0", "q5\td5\t0", "no\td1\t1", "q6\tno\t1",
                             "q6\td2\tx", "q6"])  # fmt: skip
    write("qrels/dev.tsv", ["query_id\tdocid\tscore", "q5\td5\t1", "q5\tabsent\t1"])
    assert told(validate(data)) == {
        ("positive-and-negative", "train.jsonl", 1, "negative_document_ids"),
        ("unknown-docid", "train.jsonl", 1, "negative_document_ids"),
        ("bad-score", "train.jsonl", 1, "positive_scores"),
        ("bad-score", "train.jsonl", 1, "negative_scores[0]"),
        ("duplicate-id", "train.jsonl", 2, "query_id"),
        ("wrong-type", "train.jsonl", 3, "positive_document_ids"),
        ("no-positive", "train.jsonl", 3, "positive_document_ids"),
        ("no-positive", "train.jsonl", 4, "positive_document_ids"),
        ("listed-twice", "train.jsonl", 5, "positive_document_ids"),
        ("train-test-overlap", "test.jsonl", 2, None),
        ("no-positive", "test.jsonl", 3, "positive_document_ids"),
        ("duplicate-judgement", "test.tsv", 4, "docid"),
        ("unknown-query", "test.tsv", 5, "query_id"),
        ("unknown-docid", "test.tsv", 6, "docid"),
        ("bad-judgement", "test.tsv", 7, "score"),
        ("bad-judgement", "test.tsv", 8, None),
        ("qrels-without-queries", "dev.tsv", None, None),
        ("unknown-docid", "dev.tsv", 3, "docid"),
    }


def test_one_split_alone(data, write):
    write("train.jsonl", [asked(1, positive_document_ids=["no"])])
    assert validate(data, split="test").problems == []
    assert validate(data, split="train").counts == {"unknown-docid": 1}
    with pytest.raises(DataError, match=r"unknown split; found 'trian'; expected one of \['test', 'train'\]"):
        validate(data, split="trian")


def test_counts_are_those_of_what_was_spoilt(write):
    """Defects put in at random, counted as they are put in."""
    chance = random.Random(7)
    expected: Counter[str] = Counter()
    lines, good = [], []
    for n in range(3000):
        defect = chance.choice(["", "", "", "again", "cut", "type", "markup", "copy"])
        row = {"docid": f"документ {n}", "document_text": f"слово {n}"}
        if defect == "again" and good:
            row["docid"] = chance.choice(good)
            expected["duplicate-id"] += 1
        elif defect == "type":
            row["document_text"] = chance.choice([1, {"a": 1}, True])
            expected["wrong-type"] += 1
        elif defect == "markup":
            row["document_text"] = "<br>" * (n + 1)
            expected["no-visible-text"] += 1
        elif defect == "copy" and n > 10:
            row["document_text"] = "the same"
            expected["duplicate-content"] += 1
        line = json.dumps(row, ensure_ascii=chance.random() < 0.5)
        if defect == "cut":
            line = line[: chance.randrange(1, len(line) - 1)]
            expected["malformed"] += 1
        elif defect == "":
            good.append(row["docid"])
        lines.append(line)
    expected["duplicate-content"] -= 1  # the first is no copy
    directory = write("corpus.jsonl", lines).parent
    report = validate(directory, keep=5)
    assert report.counts == expected
    assert Counter(each.kind for each in report.problems) == dict.fromkeys(expected, 5)


def test_ids_that_share_a_hash_are_told_apart(data, write, monkeypatch):
    write("corpus.jsonl", [*CORPUS, {"docid": "d1", "document_text": "again"}])
    monkeypatch.setattr(validation_ids, "hash_key", lambda key: len(key) % 2)
    report = validate(data)
    assert [(each.kind, each.error.line) for each in report.problems] == [("duplicate-id", 11)]


def test_many_repeated_ids_are_looked_into_in_several_readings(data, write, monkeypatch):
    write("corpus.jsonl", [{**row, "title": f"{row['title']}{again}"} for again in range(3) for row in CORPUS])
    monkeypatch.setattr(validation_ids, "AT_ONCE", 3)
    assert validate(data).counts == {"duplicate-id": 20}


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_other_forms_of_files(data, write, ending):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [*CORPUS[:9], {"docid": "d9", "title": "", "document_text": " "}]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (data / "corpus.jsonl").unlink()
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), data / "corpus.parquet")
    else:
        packed = gzip.compress(lines) if ending.endswith("gz") else pa.Codec("zstd").compress(lines, asbytes=True)
        (data / f"corpus{ending}").write_bytes(packed)
    assert told(validate(data)) == {
        ("empty-text", f"corpus{ending}", 10, None), ("no-visible-text", f"corpus{ending}", 10, "document_text"),
    }  # fmt: skip


def test_several_files_of_one_corpus(data, write):
    (data / "corpus.jsonl").unlink()
    write("corpus/a.jsonl", CORPUS[:6])
    write("corpus/b.jsonl", [*CORPUS[6:], CORPUS[0]])
    report = validate(data)
    assert told(report) == {("duplicate-id", "b.jsonl", 5, "docid"), ("duplicate-content", "b.jsonl", 5, None)}
    assert all("line 1 of a.jsonl" in str(each) for each in report.problems)


def test_a_file_cut_short(data):
    path = data / "corpus.jsonl"
    lines = "".join(
        json.dumps({"docid": f"d{n}", "document_text": f"{random.Random(n).random()}"}) + "\n" for n in range(9)
    )
    (data / "corpus.jsonl.gz").write_bytes(gzip.compress(lines.encode())[:-20])
    path.unlink()
    report = validate(data)
    assert {"malformed"} <= set(report.counts) <= {"malformed", "unknown-docid"}
    assert report.problems[0].error.file.name == "corpus.jsonl.gz"


def test_layout(data, write):
    write("train.jsonl.gz", [])
    (data / "corpus.jsonl").rename(data / "documents.txt")
    report = validate(data)
    assert [each.error.problem for each in report.problems] == ["two files for 'train'", "no corpus"]
    (data / "dataset.yaml").write_text("nam: x\nlicense: 5\n")
    card = [each.error for each in validate(data).problems if each.kind == "card"]
    assert {(error.file.name, error.field, error.problem) for error in card} == {
        ("dataset.yaml", "nam", "unknown key"), ("dataset.yaml", "license", "Input should be a valid string"),
    }  # fmt: skip
    (data / "dataset.yaml").write_text("a: [\n")
    assert validate(data).counts["card"] == 1
    with pytest.raises(DataError, match=r"not a dataset; found .nothing"):
        validate(data / "absent")
    with pytest.raises(DataError, match=r"not a dataset; found .a file"):
        validate(data / "train.jsonl")


def test_empty_files(tmp_path):
    assert validate(tmp_path).counts == {"layout": 1}
    (tmp_path / "corpus.jsonl").touch()
    (tmp_path / "train.jsonl").write_text("\n\n")
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "train.tsv").touch()
    assert validate(tmp_path).counts == {"malformed": 2, "bad-judgement": 1}


def picture(color: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 10), (color, 0, 0)).save(file, "PNG")
    return file.getvalue()


def test_media(data, write):
    (data / "media").mkdir()
    good = picture(1)
    for name, held in {"a.png": good, "cut.png": good[:-30], "text.png": b"no picture", "empty.png": b""}.items():
        (data / "media" / name).write_bytes(held)
    (data / "media" / "0.tar").write_bytes(b"-" * 100 + good)
    address = {"file": "media/0.tar", "offset": 100, "length": len(good)}
    write("corpus.jsonl", [
        *CORPUS,
        {"docid": "m0", "document_image": ["media/a.png", address]},
        {"docid": "m1", "document_image": ["media/no.png", "media/empty.png", "media/a.png", "../a.png", "/a.png"]},
        {"docid": "m2", "document_image": [{**address, "length": 5000}, {**address, "offset": -1}, 5]},
        {"docid": "m3", "document_image": "media/cut.png", "document_text": "fine"},
        {"docid": "m4", "image": ["media/text.png", None]},
        {"docid": "m5", "document_image": {**address, "offset": 90}},
        {"docid": "m6", "document_audio": ["media/a.wav", "media/a.png"]},
    ])  # fmt: skip
    with wave.open(str(data / "media" / "a.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(b"\0\1" * 800)
    report = validate(data)
    lines = Counter(each.error.line for each in report.problems)
    assert report.counts == {"unreadable-media": 7}
    assert lines == {12: 4, 13: 3}
    decoded = validate(data, decode=True)
    opened = [each.error for each in decoded.problems if "cannot be decoded" in each.error.problem]
    assert [(error.line, error.field) for error in opened] == [
        (14, "image"),
        (15, "image"),
        (16, "image"),
        (17, "audio"),
    ]
    assert decoded.counts == {"unreadable-media": 11}


def test_command_line(data, write, tmp_path, capsys):
    assert main(["validate", str(data)]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["errors: 0", "warnings: 0"]
    write("test.jsonl", [asked(5), asked(6), asked(1, query_id="é")])
    assert main(["validate", str(data)]) == 0  # a warning is no error
    assert "warnings: 1 (1 train-test-overlap)" in capsys.readouterr().out
    write("corpus.jsonl", CORPUS[:1])
    file = tmp_path / "found.json"
    assert main(["validate", str(data), "--limit", "2", "--json", str(file)]) == 1
    printed = capsys.readouterr().out.splitlines()
    found = json.loads(file.read_text())
    assert found["counts"] == {"unknown-docid": found["errors"], "train-test-overlap": 1}
    assert (
        found["errors"]
        == sum(
            docid != "d0"
            for name in ("train", "test")
            for query in Dataset.open(data).queries(name)
            for docid in (*query.positive_document_ids, *query.negative_document_ids)
        )
        + 3
    )
    assert len(found["problems"]) == found["errors"] + 1
    assert found["problems"][0]["file"].endswith("qrels/test.tsv")
    assert sum(line.startswith(("error: ", "warning: ")) for line in printed) == 2
    assert f"... and {found['errors'] - 1} more; --limit shows them" in printed


def test_memory_is_not_that_of_the_texts(write):
    """60,000 documents of 1 kB with an id of 60 characters: hashes take 1 MB of it."""
    ids = [f"{'a-rather-long-identifier-' * 2}{n:010}" for n in range(60_000)]
    directory = write(
        "corpus.jsonl", [{"docid": docid, "document_text": f"{docid} {'x' * 1000}"} for docid in ids]
    ).parent
    script = (
        "import sys, tracemalloc\nfrom teva_data.validation import validate\ntracemalloc.start()\n"
        "report = validate(sys.argv[1]); print(report.errors + report.warnings, tracemalloc.get_traced_memory()[1])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(directory)], capture_output=True, text=True, check=True)
    problems, peak = map(int, done.stdout.split())
    assert problems == 0
    assert peak < 16e6


PARTS = [
    b"null", b"[]", b"{}", b"\xff", b"\x00", b"\xef\xbb\xbf", b"\r\n", b"\n\n", b'"', b"\\ud800", b"1e999", b"-1",
    b"[[[[", b"\t", b'{"docid":', b"NaN", b'"document_image": ["a", 5, null], ', b'"image": "../x", ',
    b'"text": "y", ', b"[null, ",
]  # fmt: skip
# What a dataset opens with, since nothing looks at it before it is used: ids in judgements and in splits to test on.
OPENS = {"unknown-query", "unknown-docid", "positive-and-negative", "no-positive", *validation_report.WARNINGS}


@pytest.mark.parametrize("block", range(4))
def test_it_agrees_with_the_stores_on_spoilt_files(tiny_data, tmp_path, block):
    """Where a dataset cannot be opened, there is an error at that place; where it can, there is none of that sort."""
    names = ["corpus.jsonl", "train.jsonl", "test.jsonl", "qrels/test.tsv"]
    refused = 0
    for number in range(40):
        chance, data = random.Random(f"{block} {number}"), tmp_path / f"data-{number}"
        (data / "qrels").mkdir(parents=True)
        for name in names:
            (data / name).write_bytes((tiny_data / name).read_bytes())
        for name in chance.choices(names, k=chance.randrange(3)):
            (data / name).write_bytes(spoilt((data / name).read_bytes(), chance))
        report = validate(data)
        error = first_error(data)
        places = {(str(each.error.file), each.error.line) for each in report.problems if each.severity == "error"}
        if error is None:
            assert set(report.counts) <= OPENS
        else:
            refused += 1
            assert (str(error.file), error.line) in places
    assert 10 < refused < 35


def spoilt(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data) + 1)
    stop = min(len(data), start + chance.randrange(40))
    return chance.choice([
        data[:start], data[:start] + chance.choice(PARTS) + data[start:],
        data[:start] + chance.choice(PARTS) + data[stop:],
        data[:start] + bytes([chance.randrange(256)]) + data[start + 1 :], data[:stop] + data[start:],
        data[:start] + data[start:stop] * 5 + data[stop:],
    ])  # fmt: skip


def first_error(data) -> DataError | None:
    try:
        dataset = Dataset.open(data)
        assert len(dataset.corpus)
        assert [len(dataset.queries(split)) for split in dataset.splits]
        dataset.check_references("train")
        dataset.qrels("test")
    except DataError as error:
        return error
    return None
