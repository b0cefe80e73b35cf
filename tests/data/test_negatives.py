"""Negatives out of a run: which are taken, which never, and what is told about it."""

from __future__ import annotations

import logging
from collections import Counter

import pytest

from teva_data.dataset import Dataset
from teva_data.errors import DataError
from teva_data.negatives import Report, mine_negatives
from teva_data.runs import write_run

# d2 has the text of d1 as a reader sees it: title and text, joined.
CORPUS = [
    {"docid": "d0", "title": "", "text": "zero"},
    {"docid": "d1", "title": "Red", "text": "wine"},
    {"docid": "d2", "title": "", "text": "Red wine"},
    *({"docid": f"d{n}", "title": "", "text": f"text {n}"} for n in range(3, 60)),
]


def query(number: int, text: str, positives: list[str]) -> dict:
    return {
        "query_id": f"q{number}", "query_text": text, "positive_document_ids": positives,
        "negative_document_ids": ["d0"], "negative_scores": [0.5], "positive_scores": [1.0] * len(positives),
    }  # fmt: skip


@pytest.fixture
def data(write):
    write("corpus.jsonl", CORPUS)
    return write(
        "train.jsonl",
        [
            query(1, "wine", ["d1"]),
            query(2, "same", ["d10"]),
            query(3, "same", ["d11"]),
            query(4, "few", ["d20"]),
            query(5, "none", ["d30"]),
            query(6, "absent", ["d40"]),
        ],
    ).parent


@pytest.fixture
def run(tmp_path):
    ranked = {
        "q1": ["d2", "d3", "d1", "d4", "d5", "d6"],
        "q2": ["d11", "d10", "d12", "d13", "d14"],
        "q3": ["d12", "d11", "d10", "d13"],
        "q4": ["d20", "d21"],
        "q5": ["d30"],
        "other": ["d1"],
    }
    path = tmp_path / "run.tsv"
    write_run(path, {q: [(docid, 100.0 - rank) for rank, docid in enumerate(docids)] for q, docids in ranked.items()})
    return path


def mined(data, run, name="train-mined", **options) -> tuple[dict[str, tuple[str, ...]], Report]:
    report = mine_negatives(data, "train", run, data / f"{name}.jsonl", **options)
    dataset = Dataset.open(data)
    dataset.check_references(name)
    return {query.query_id: query.negative_document_ids for query in dataset.queries(name)}, report


def refused(*told: str):
    return pytest.raises(DataError, match="(?s)" + "".join(f"(?=.*{part})" for part in told))


def test_top(data, run, caplog):
    caplog.set_level(logging.INFO)
    found, report = mined(data, run, count=3, sample="top")
    assert found == {
        "q1": ("d3", "d4", "d5"),  # d1 is its positive, d2 has the same text
        "q2": ("d12", "d13", "d14"),  # d11 answers q3, which asks the same
        "q3": ("d12", "d13"),
        "q4": ("d21",),
        "q5": (),
        "q6": (),
    }
    assert report == Report(queries=6, unsearched=1, too_few=4, without=2, excluded_positives=7, excluded_equal=1)
    assert "6 queries; 4 with fewer negatives than asked for, 2 with none, 1 not in the run" in caplog.text


def test_all_else_is_kept(data, run):
    mined(data, run, count=2, sample="top")
    before, after = (list(Dataset.open(data).queries(split)) for split in ("train", "train-mined"))
    for old, new in zip(before, after, strict=True):
        assert (new.query_id, new.query_text, new.positive_document_ids) == (
            old.query_id, old.query_text, old.positive_document_ids,
        )  # fmt: skip
        assert new.positive_scores == (1.0,)
        assert new.negative_scores is None


@pytest.mark.parametrize(
    ("skip", "depth", "expected"),
    [(0, 2, ("d3",)), (1, 4, ("d3", "d4")), (4, 100, ("d5", "d6")), (5, 6, ("d6",)), (6, 9, ())],
)
def test_ranks_are_counted_with_what_is_left_out(data, run, skip, depth, expected):
    found, _ = mined(data, run, count=5, skip=skip, depth=depth, sample="top")
    assert found["q1"] == expected


@pytest.fixture
def many(write, tmp_path):
    """400 queries that found the same 50 documents in the same order."""
    write("corpus.jsonl", CORPUS)
    data = write("train.jsonl", [query(n, f"question {n}", ["d1"]) for n in range(400)]).parent
    run = tmp_path / "run.tsv"
    write_run(run, {f"q{n}": [(f"d{d}", 100.0 - d) for d in range(10, 60)] for n in range(400)})
    return data, run


def test_random_choice_is_even_and_named_by_its_seed(many):
    data, run = many
    found, _ = mined(data, run, count=5, seed=1)
    again, _ = mined(data, run, "again", count=5, seed=1)
    other, _ = mined(data, run, "other", count=5, seed=2)
    assert found == again != other
    assert all(len(set(docids)) == 5 for docids in found.values())
    # Each of 50 documents is expected 40 times (standard deviation 6); five deviations are no chance.
    times = Counter(docid for docids in found.values() for docid in docids)
    assert set(times) == {f"d{d}" for d in range(10, 60)}
    assert 10 < min(times.values()) <= max(times.values()) < 70
    assert len(set(found.values())) > 390  # queries do not share their choice
    # In the order of the run.
    assert all(
        [int(docid[1:]) for docid in docids] == sorted(int(docid[1:]) for docid in docids) for docids in found.values()
    )


def test_a_query_keeps_its_choice_when_others_are_added(many, write):
    data, run = many
    found, _ = mined(data, run, count=5)
    write("train.jsonl", [query(n, f"question {n}", ["d1"]) for n in range(200, 400)])
    fewer, _ = mined(data, run, "fewer", count=5)
    assert fewer == {query_id: found[query_id] for query_id in fewer}


def test_what_is_refused_leaves_nothing(data, run, tmp_path):
    output = data / "train-mined.jsonl"
    write_run(tmp_path / "unknown.tsv", {"q2": [("d3", 2.0), ("nope", 1.0)]})
    with refused("unknown.tsv", "unknown document", "'q2'", "'nope'", "corpus.jsonl"):
        mine_negatives(data, "train", tmp_path / "unknown.tsv", output)
    write_run(tmp_path / "other.tsv", {"x1": [("d3", 2.0)]})
    with refused("other.tsv", "no query of the split 'train'", "'x1'", "'q1'"):
        mine_negatives(data, "train", tmp_path / "other.tsv", output)
    with refused("unknown split"):
        mine_negatives(data, "trian", run, output)
    assert sorted(path.name for path in data.iterdir()) == [".teva", "corpus.jsonl", "train.jsonl"]


def test_unknown_document_below_the_depth_is_no_matter(data, tmp_path):
    write_run(tmp_path / "run.tsv", {"q2": [("d3", 2.0), ("nope", 1.0)]})
    found, _ = mined(data, tmp_path / "run.tsv", depth=1, sample="top")
    assert found["q2"] == ("d3",)


@pytest.mark.parametrize(
    "options",
    [
        {"count": 0},
        {"skip": -1},
        {"skip": 5, "depth": 5},
        {"depth": 0},
        {"sample": "best"},
        {"seed": -1},
        {"seed": 2**64},
    ],
)
def test_settings_out_of_range_are_refused(data, run, options):
    with refused(f"field '{'skip' if 'depth' in options else next(iter(options))}'"):
        mine_negatives(data, "train", run, data / "train-mined.jsonl", **options)


def test_no_file_is_lost(data, run):
    for name in ("corpus.jsonl", "train.jsonl"):
        before = (data / name).read_bytes()
        with refused("name is taken"):
            mine_negatives(data, "train", run, data / name, overwrite=True)
        assert (data / name).read_bytes() == before
    with refused("ends in .jsonl"):
        mine_negatives(data, "train", run, data / "train-mined.json")
    (data / "mined.jsonl.gz").write_bytes(b"")
    with refused("name is taken", "train-mined.jsonl"):
        mine_negatives(data, "train", run, data / "mined.jsonl")
    (data / "mined.jsonl.gz").unlink()
    mine_negatives(data, "train", run, data / "mined.jsonl", count=1)
    with refused("there already", "--overwrite"):
        mine_negatives(data, "train", run, data / "mined.jsonl")
    assert mine_negatives(data, "train", run, data / "mined.jsonl", overwrite=True).queries == 6
