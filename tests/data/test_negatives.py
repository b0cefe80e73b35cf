"""Negatives out of a run: which are taken, which never, and what is told about it."""

from __future__ import annotations

import json
import logging
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from teva_data.dataset import Dataset
from teva_data.errors import DataError
from teva_data.negatives import mine_negatives
from teva_data.negatives.choice import Report
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
    assert report == Report(
        queries=6, unsearched=1, too_few=4, without=2, unranked=1, excluded_positives=7, excluded_equal=1
    )
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
        {"margin": -0.1},
        {"margin": float("nan")},
        {"max_ratio": 0.0},
        {"max_ratio": 95.0},
        {"unranked_positive": "skip"},
        {"drop_if_positive_below": 0},
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


# What follows is about scores, ranks of positives, and what is reported.


def oracle(queries, ranked, *, count, skip, depth, margin, max_ratio, unranked, below):
    """The definition, one query after the other: what is written, and what is dropped."""
    title_and_text = {each["docid"]: f"{each['title']} {each['text']}".strip() for each in CORPUS}
    written, dropped = {}, Counter()
    for each in queries:
        answers = {d for other in queries if other["query_text"] == each["query_text"]
                   for d in other["positive_document_ids"]}  # fmt: skip
        said = {title_and_text[docid] for docid in answers}
        pairs = sorted(((float(np.float32(s)), d) for d, s in ranked.get(each["query_id"], {}).items()), reverse=True)
        places = {docid: place for place, (_, docid) in enumerate(pairs)}
        held = [docid for docid in each["positive_document_ids"] if docid in places]
        if below is not None and all(places[docid] >= below for docid in held):
            dropped["low"] += 1
            continue
        if not held and unranked == "drop" and (margin is not None or max_ratio is not None):
            dropped["unranked"] += 1
            continue
        if not pairs:
            written[each["query_id"]] = ()
            continue
        positive = min([pairs[places[docid]][0] for docid in held] or [pairs[-1][0]])
        good = [
            docid
            for score, docid in pairs[skip:depth]
            if docid not in answers
            and title_and_text[docid] not in said
            and (margin is None or score <= positive - margin)
            and (max_ratio is None or score <= positive * max_ratio)
        ]
        written[each["query_id"]] = tuple(good[:count])
    return written, dropped


@pytest.mark.parametrize("margin", [None, 0.0, 0.1])
@pytest.mark.parametrize("max_ratio", [None, 0.95])
@pytest.mark.parametrize("unranked", ["lowest", "drop"])
@pytest.mark.parametrize("below", [None, 4])
def test_choice_is_that_of_the_definition(write, tmp_path, margin, max_ratio, unranked, below):
    chance = random.Random(f"{margin}{max_ratio}{unranked}{below}")
    docids = [each["docid"] for each in CORPUS]
    queries = [query(n, f"question {n // 2 if n < 40 else n}", chance.sample(docids[1:], chance.choice((1, 1, 3))))
               for n in range(120)]  # fmt: skip
    # Few different scores, so that ties and scores right at the limit come up.
    ranked = {f"q{n}": {docid: chance.randrange(1, 40) / 32 for docid in chance.sample(docids, chance.randrange(1, 40))}
              for n in chance.sample(range(140), 130)}  # fmt: skip
    write("corpus.jsonl", CORPUS)
    data = write("train.jsonl", queries).parent
    write_run(tmp_path / "run.trec", {q: list(found.items()) for q, found in ranked.items()}, layout="trec")
    expected, dropped = oracle(
        queries, ranked, count=5, skip=1, depth=30, margin=margin, max_ratio=max_ratio, unranked=unranked, below=below
    )
    found, report = mined(
        data, tmp_path / "run.trec", count=5, skip=1, depth=30, sample="top", margin=margin, max_ratio=max_ratio,
        unranked_positive=unranked, drop_if_positive_below=below,
    )  # fmt: skip
    assert found == expected
    assert list(found) == [each["query_id"] for each in queries if each["query_id"] in expected]
    assert (report.dropped_low, report.dropped_unranked) == (dropped["low"], dropped["unranked"])
    assert report.queries + report.dropped_low + report.dropped_unranked == 120
    assert report.without == sum(not negatives for negatives in expected.values())
    assert report.too_few == sum(len(negatives) < 5 for negatives in expected.values())


SCORED = {"q1": {"d1": 0.8, "d3": 0.9, "d4": 0.76, "d5": 0.75, "d6": 0.7, "d7": 0.1}}


@pytest.fixture
def scored(tmp_path, data):
    path = tmp_path / "scored.tsv"
    write_run(path, {q: list(found.items()) for q, found in SCORED.items()})
    return path


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("d3", "d4", "d5", "d6", "d7")),
        ({"margin": 0.0}, ("d4", "d5", "d6", "d7")),
        ({"max_ratio": 1.0}, ("d4", "d5", "d6", "d7")),
        ({"margin": 0.045}, ("d5", "d6", "d7")),  # at most 0.755
        ({"max_ratio": 0.9}, ("d6", "d7")),  # at most 0.72
        ({"margin": 0.045, "max_ratio": 0.9}, ("d6", "d7")),  # both must hold
        ({"margin": 5.0}, ()),
        ({"margin": 0.0, "skip": 3, "depth": 5}, ("d5", "d6")),
    ],
)
def test_margins(data, scored, options, expected):
    found, report = mined(data, scored, sample="top", **options)
    assert found["q1"] == expected
    if "skip" not in options:
        assert report.excluded_near == 5 - len(expected)


def test_a_share_of_a_negative_score_lies_below_it(data, tmp_path):
    write_run(tmp_path / "run.tsv", {"q1": [("d1", -2.0), ("d3", -1.9), ("d4", -2.05), ("d5", -2.1), ("d6", -2.2)]})
    found, _ = mined(data, tmp_path / "run.tsv", sample="top", max_ratio=0.95)
    assert found["q1"] == ("d6",)  # float32's -2.1 lies just above -2.1


def test_the_lowest_of_several_positives_counts(data, write, tmp_path):
    write("train.jsonl", [query(1, "wine", ["d10", "d11", "d12"])])
    write_run(tmp_path / "run.tsv", {"q1": [("d10", 9.0), ("d3", 8.0), ("d11", 5.0), ("d4", 4.0), ("d5", 3.0)]})
    found, report = mined(data, tmp_path / "run.tsv", sample="top", margin=1.0)
    assert found["q1"] == ("d4", "d5")
    assert report.unranked == 1  # d12


def test_a_positive_that_the_run_does_not_hold(data, tmp_path):
    write_run(tmp_path / "run.tsv", {"q1": [("d3", 2.0), ("d4", 1.0)], "q4": [("d20", 3.0), ("d4", 1.0)]})
    found, report = mined(data, tmp_path / "run.tsv", "lowest", sample="top", margin=0.0)
    assert (found["q1"], found["q4"]) == (("d4",), ("d4",))  # for q1 the lowest score, 1.0, is the limit
    assert (report.queries, report.unranked, report.dropped_unranked) == (6, 5, 0)
    found, report = mined(data, tmp_path / "run.tsv", "drop", sample="top", margin=0.0, unranked_positive="drop")
    assert found == {"q4": ("d4",)}
    assert (report.queries, report.dropped_unranked) == (1, 5)
    # Without a margin nothing depends on the positive's score.
    found, report = mined(data, tmp_path / "run.tsv", "plain", sample="top", unranked_positive="drop")
    assert (report.queries, report.dropped_unranked, found["q1"]) == (6, 0, ("d3", "d4"))


@pytest.mark.parametrize(("below", "kept"), [(1, ["q4"]), (2, ["q4", "q5"]), (3, ["q1", "q4", "q5"])])
def test_queries_whose_positive_ranks_low_are_dropped(data, tmp_path, below, kept):
    ranked = {"q1": ["d3", "d4", "d1"], "q4": ["d20", "d3"], "q5": ["d4", "d30"], "q2": ["d11", "d12", "d13"]}
    run = tmp_path / "run.tsv"
    write_run(run, {q: [(docid, -float(rank)) for rank, docid in enumerate(docids)] for q, docids in ranked.items()})
    found, report = mined(data, run, drop_if_positive_below=below, depth=below + 1)
    assert list(found) == kept  # q2's own positive is d10; that d11 answers the same question is not enough
    assert (report.queries, report.dropped_low) == (len(kept), 6 - len(kept))


def test_nothing_left_is_refused(data, scored):
    with refused("scored.tsv", "every query is dropped", "6 low, 0 not ranked"):
        mine_negatives(data, "train", scored, data / "none.jsonl", drop_if_positive_below=1)
    assert not (data / "none.jsonl").exists()


def test_scores_are_kept_for_distillation(data, scored):
    mined(data, scored, count=2, sample="top", margin=0.0, keep_scores=True)
    queries = {each.query_id: each for each in Dataset.open(data).queries("train-mined")}
    rounded = {docid: float(np.float32(score)) for docid, score in SCORED["q1"].items()}
    assert queries["q1"].negative_document_ids == ("d4", "d5")
    assert queries["q1"].negative_scores == (rounded["d4"], rounded["d5"])
    assert queries["q1"].positive_scores == (rounded["d1"],)
    # The scores that it had are another teacher's.
    assert (queries["q2"].positive_scores, queries["q2"].negative_scores) == (None, None)


def test_a_kept_score_of_an_unranked_positive_is_the_lowest(data, write, tmp_path):
    write("train.jsonl", [query(1, "wine", ["d10", "d11"])])
    write_run(tmp_path / "run.tsv", {"q1": [("d3", 4.0), ("d11", 3.0), ("d4", -1.0)]})
    mined(data, tmp_path / "run.tsv", keep_scores=True, sample="top")
    (found,) = Dataset.open(data).queries("train-mined")
    assert (found.positive_scores, found.negative_scores) == ((-1.0, 3.0), (4.0, -1.0))


def test_report_says_why(data, tmp_path):
    ranked = {"q1": ["d2", "d3", "d1", "d4"], "q4": ["d3", "d20"], "q5": ["d4"]}
    run, report = tmp_path / "run.tsv", tmp_path / "out" / "why.jsonl"
    write_run(run, {q: [(docid, 9.0 - rank) for rank, docid in enumerate(docids)] for q, docids in ranked.items()})
    mined(data, run, margin=1.5, drop_if_positive_below=3, report=report)
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    told = {(row["query_id"], row["reason"]): row for row in rows}
    assert len(told) == len(rows) == 9
    assert told["q1", "text of an answer"]["docids"] == ["d2"]
    assert told["q1", "answers the question"]["docids"] == ["d1"]
    assert told["q1", "score too near to the positive's"]["docids"] == ["d3", "d4"]
    assert told["q1", "score too near to the positive's"]["limit"] == 5.5
    assert told["q4", "score too near to the positive's"]["docids"] == ["d3"]
    for query_id, docid in (("q5", "d30"), ("q2", "d10"), ("q6", "d40")):
        assert told[query_id, "no positive among the first 3"] == {
            "query_id": query_id, "dropped": True, "reason": "no positive among the first 3", "docids": [docid],
        }  # fmt: skip
    assert sum(row["dropped"] for row in rows) == 4
    with refused("why.jsonl", "there already"):
        mine_negatives(data, "train", run, data / "other.jsonl", report=report)
    with refused("taken for a split"):
        mine_negatives(data, "train", run, data / "other.jsonl", report=data / "why.jsonl")
    with refused("one file for the queries and the report"):
        mine_negatives(data, "train", run, tmp_path / "other.jsonl", report=tmp_path / "other.jsonl")
    assert not (data / "other.jsonl").exists()


def test_lines_of_a_query_in_two_places_are_refused(data, tmp_path):
    run = tmp_path / "run.tsv"
    run.write_text("q1\td3\t2\nq2\td3\t1\nq1\td4\t1\n")
    with refused("run.tsv:3: ", "'query_id'", "do not stand together", "'q1'", "sort -s"):
        mine_negatives(data, "train", run, data / "train-mined.jsonl")
    run.write_text("q1\td3\t2\nother\td3\t1\nother\td4\t0\n" + "".join(f"x{n}\td3\t1\n" for n in range(600)))
    run.write_text(run.read_text() + "q1\td5\t1\n")
    with refused("run.tsv:604: ", "'q1'"):  # many blocks later
        mine_negatives(data, "train", run, data / "train-mined.jsonl")
    assert sorted(path.name for path in data.iterdir()) == [".teva", "corpus.jsonl", "train.jsonl"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("q1\td3\t2\nq1\td4\tNaN\n", ["run.tsv:2: ", "not a score"]),
        ("q1\td3\t2\nq1\td3\t1\n", ["run.tsv:2: ", "document twice"]),
        ("q1\td3\t2\nq1\n", ["run.tsv:2: ", "wrong number of columns"]),
        ("", ["run.tsv:1: ", "the file is empty"]),
        ("q1\td3\t2\nq2\tnope\t2\nq2\td3\t1\n", ["run.tsv:2: ", "unknown document", "'nope'"]),
    ],
)
def test_bad_lines_of_a_run_are_named(data, tmp_path, text, told):
    (tmp_path / "run.tsv").write_text(text)
    with refused(*told):
        mine_negatives(data, "train", tmp_path / "run.tsv", data / "train-mined.jsonl")


def test_unicode_ids_and_a_compressed_run(write, tmp_path):
    import gzip

    write("corpus.jsonl", [{"docid": f"документ {n}\u2028", "text": f"текст {n}"} for n in range(4)])
    first = {"query_id": "вопрос 1", "query_text": "что?", "positive_document_ids": ["документ 0\u2028"]}
    data = write("train.jsonl", [first]).parent
    run = tmp_path / "run.tsv.gz"
    run.write_bytes(gzip.compress("".join(f"вопрос 1\tдокумент {n}\u2028\t{-n}\n" for n in range(4)).encode()))
    found, _ = mined(data, run, sample="top", report=tmp_path / "why.jsonl")
    assert found == {"вопрос 1": tuple(f"документ {n}\u2028" for n in (1, 2, 3))}
    assert json.loads((tmp_path / "why.jsonl").read_text())["docids"] == ["документ 0\u2028"]


def test_media_are_told_apart_and_kept(write, tmp_path):
    """Pictures without text are not "the same text", and a query's pieces are written as they were."""
    media = tmp_path / "data" / "media"
    media.mkdir(parents=True)
    (media / "all.bin").write_bytes(b"0123456789")
    (media / "whole.png").write_bytes(b"picture")
    write("corpus.jsonl", [
        {"docid": f"p{n}", "document_image": {"file": "media/all.bin", "offset": n, "length": 1}} for n in range(5)
    ] + [{"docid": "copy", "document_image": {"file": "media/all.bin", "offset": 0, "length": 1}}])  # fmt: skip
    asked = [
        {"query_id": "a", "query_image": "media/whole.png", "positive_document_ids": ["p0"]},
        {"query_id": "b", "query_image": {"file": "media/all.bin", "offset": 3, "length": 4},
         "positive_document_ids": ["p1"]},
        {"query_id": "c", "query_text": ["see", "and"], "query_image": ["media/whole.png", "media/whole.png"],
         "query_audio": [None, None, "media/all.bin"], "positive_document_ids": ["p2"], "prompt": "é "},
        {"query_id": "d", "query_text": [None, "after"], "query_video": "media/all.bin",
         "positive_document_ids": ["p2"]},
    ]  # fmt: skip
    data = write("train.jsonl", asked).parent
    run = tmp_path / "run.tsv"
    write_run(run, {each["query_id"]: [(f"p{n}", 9.0 - n) for n in range(5)] + [("copy", 1.0)] for each in asked})
    found, report = mined(data, run, sample="top")
    # Were the pictures of a and b one question, or all documents one text, these would be shorter.
    assert found["a"] == ("p1", "p2", "p3", "p4")  # "copy" shows what p0 shows
    assert found["b"] == ("p0", "p2", "p3", "p4", "copy")
    assert report.excluded_equal == 1
    before, after = (list(Dataset.open(data).queries(split)) for split in ("train", "train-mined"))
    assert [(each.query_text, each.pieces, each.prompt) for each in after] == [
        (each.query_text, each.pieces, each.prompt) for each in before
    ]
    assert [len(each.pieces) for each in after] == [1, 1, 5, 2]
    with refused("elsewhere.jsonl", "'a'", "media", "Write it there"):
        mine_negatives(data, "train", run, tmp_path / "elsewhere.jsonl")
    assert not (tmp_path / "elsewhere.jsonl").exists()


def test_memory_does_not_grow_with_the_run(write, tmp_path):
    """A run of 60 MB, whose dictionary would take ten times that."""
    write("corpus.jsonl", [{"docid": f"document-{n:06}", "text": f"text {n}"} for n in range(5000)])
    data = write(
        "train.jsonl",
        [{"query_id": f"q{n}", "query_text": f"question {n}", "positive_document_ids": ["document-000000"]}
         for n in range(10_000)],
    ).parent  # fmt: skip
    run = tmp_path / "run.tsv"
    with run.open("w") as file:
        for n in range(10_000):
            file.write("".join(f"q{n}\tdocument-{(n + k) % 5000:06}\t{200 - k}.25\n" for k in range(200)))
    script = (
        "import resource, sys\nfrom teva_data.dataset import Dataset\nfrom teva_data.negatives import mine_negatives\n"
        "unit = 2**20 if sys.platform == 'darwin' else 2**10\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit\n"
        "data = Dataset.open(sys.argv[1]); data.check_references('train'); before = peak()\n"
        "mine_negatives(data, 'train', sys.argv[2], sys.argv[3]); print(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(data), str(run), str(data / "mined.jsonl")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) < 120
