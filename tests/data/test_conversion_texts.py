"""Layouts whose documents have no ids, sentence-transformers' and FlagEmbedding's: texts in, the same texts out."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from teva_data.conversion import convert
from teva_data.dataset import Dataset
from teva_data.errors import DataError


def jsonl(path: Path, rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def texts_of(dataset: Dataset) -> dict[str, tuple[str, str]]:
    return {d.docid: (d.title, d.document_text) for d in dataset.corpus.documents(0, len(dataset.corpus))}


def refused(told: str):
    return pytest.raises(DataError, match="(?s)" + told)


def answers_of(out: Path, split: str = "train") -> dict:
    """Of each query by text: its positives and negatives by text, with their scores."""
    dataset = Dataset.open(out)
    text = {docid: text for docid, (_, text) in texts_of(dataset).items()}
    dataset.check_references(split)
    return {
        (q.query_text, q.prompt): tuple(
            dict(zip((text[docid] for docid in ids), scores or [None] * len(ids), strict=True))
            for ids, scores in [
                (q.positive_document_ids, q.positive_scores), (q.negative_document_ids, q.negative_scores),
            ]
        )
        for q in dataset.queries(split)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            [{"anchor": "a", "positive": "p", "negative": "n"}, {"anchor": "a", "positive": "p2", "negative": "p"}],
            {"a": ({"p": None, "p2": None}, {"n": None})},
        ),
        (
            [{"query": "a", "answer": "é", "negative_1": "n", "negative_2": "m"}],
            {"a": ({"é": None}, {"n": None, "m": None})},
        ),
        (
            [{"anchor": "a", "positive": "p", "negatives": ["n", "m"], "scores": [3, 1, -2.5]}],
            {"a": ({"p": 3.0}, {"n": 1.0, "m": -2.5})},
        ),
        (
            [{"sentence1": "a", "sentence2": f"s{n}", "score": n / 4} for n in range(5)],
            {"a": ({"s2": 0.5, "s3": 0.75, "s4": 1.0}, {"s0": 0.0, "s1": 0.25})},
        ),
        (
            [{"query": "a", "docs": ["x", "y", "z"], "labels": [0, 1, 0]}],
            {"a": ({"y": 1.0}, {"x": 0.0, "z": 0.0})},
        ),
    ],
)
def test_sentence_transformers(tmp_path, rows, expected, caplog):
    caplog.set_level(logging.INFO)
    out = convert(jsonl(tmp_path / "x.jsonl", rows), tmp_path / "out")
    assert answers_of(out) == {(text, None): lists for text, lists in expected.items()}
    assert "read in the layout 'sentence-transformers'" in caplog.text


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"anchor": "a", "positive": "p", "negative": None}, r"x.jsonl:1: field 'negative': no value"),
        ({"anchor": "a", "positive": ["p"], "negative": "n"}, None),
        ({"anchor": "a", "x": ["p"], "negative": "n"}, r"x.jsonl:1: field 'x': a list in the column of the positive"),
        (
            {"anchor": "a", "positive": "p", "negative": "n", "score": 0.5},
            r"x.jsonl:1: field 'score': one score for sev",
        ),
        ({"anchor": "a", "positive": "p", "score": 4.2}, r"x.jsonl:1: field 'score': not a share; found 4.2"),
        ({"anchor": "a", "positive": "p", "score": "high"}, r"x.jsonl:1: field 'score\[0\]': not a score"),
        ({"anchor": "a", "positive": "p", "score": 1, "label": 1}, r"x.jsonl:1: columns not understood"),
        ({"anchor": "", "positive": "p", "negative": "n"}, r"x.jsonl:1: field 'anchor': no text"),
    ],
)
def test_sentence_transformers_that_is_not_understood(tmp_path, row, told):
    place = jsonl(tmp_path / "x.jsonl", [row])
    if told is None:
        assert answers_of(convert(place, tmp_path / "out", layout="sentence-transformers")) == {
            ("a", None): ({"p": None}, {"n": None})
        }
        return
    with refused(told):
        convert(place, tmp_path / "out", layout="sentence-transformers")


def test_flagembedding_takes_a_directory_of_files(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    jsonl(tmp_path / "in/nq.jsonl", [
        {"query": "a", "pos": ["p", "p2"], "neg": ["n", "p"], "pos_scores": [2, 1], "neg_scores": [0.5, 0.25],
         "prompt": "Find: ", "type": "retrieval"},
        {"query": "a", "pos": ["p"], "neg": [], "prompt": "Other: "},
    ])  # fmt: skip
    jsonl(tmp_path / "in/quora.jsonl", [
        {"query": "b é", "pos": ["n"], "neg": ["漢"]}, {"query": "b é", "pos": ["x"], "neg": ["漢", "n"]},
    ])  # fmt: skip
    out = convert(tmp_path / "in", tmp_path / "out")
    assert answers_of(out) == {
        ("a", "Find: "): ({"p": 2.0, "p2": 1.0}, {"n": 0.5}),
        ("a", "Other: "): ({"p": None}, {}),
        ("b é", None): ({"n": None, "x": None}, {"漢": None}),
    }
    assert "left out: 2 negatives that are positives of the same query" in caplog.text
    for row, told in [
        ({"query": "a", "pos": []}, "field 'pos': no positives"),
        ({"query": "a", "pos": ["p", " "]}, r"field 'pos\[1\]': no text"),
        ({"query": "a", "pos": ["p"], "pos_scores": [1, 2]}, "field 'pos_scores': not one score for each"),
        ({"query": "a", "pos": {"p": 1}}, "field 'pos': not a list"),
    ]:
        with refused(rf"bad.jsonl:1: {told}"):
            convert(jsonl(tmp_path / "bad.jsonl", [row]), tmp_path / "bad", layout="flagembedding")
