"""MS MARCO's tab-separated files become a dataset, with judgements, triples of ids and triples of texts."""

from __future__ import annotations

import gzip
import random

import pytest

from teva_data.conversion import convert, recognise
from teva_data.conversion import triples as triples_module
from teva_data.conversion.tables import open_tables
from teva_data.conversion.triples import Triples
from teva_data.dataset import Dataset
from teva_data.errors import DataError

PASSAGES = {"0": 'The "Manhattan" Project', "7": "é second, with a comma", "12": "third"}
QUERIES = {"1185869": "what was it?", "3": 'a "quote', "4": "unjudged"}


@pytest.fixture
def source(tmp_path):
    directory = tmp_path / "source"
    directory.mkdir()
    (directory / "collection.tsv").write_text("".join(f"{key}\t{text}\n" for key, text in PASSAGES.items()))
    for split in ("train", "dev.small"):
        (directory / f"queries.{split}.tsv").write_text("".join(f"{key}\t{text}\n" for key, text in QUERIES.items()))
    (directory / "queries.eval.tsv").write_text("9\tnobody knows\n")
    (directory / "qrels.train.tsv").write_text("1185869\t0\t0\t1\n3\t0\t7\t1\n")
    (directory / "qrels.dev.small.tsv").write_text("3\t0\t12\t1\n3\t0\t0\t0\n")
    return directory


def content(dataset: Dataset, split: str) -> list[tuple]:
    return [
        (each.query_id, each.query_text, each.positive_document_ids, each.negative_document_ids)
        for each in dataset.queries(split)
    ]


def test_files(source, tmp_path, caplog):
    layout, reason = recognise(open_tables(source))
    assert layout == "msmarco"
    assert "collection.tsv and queries" in reason
    dataset = Dataset.open(convert(source, tmp_path / "out"))
    assert {each.docid: each.document_text for each in dataset.corpus.documents(0, 3)} == PASSAGES
    assert dataset.splits == ["dev.small", "train"]
    assert content(dataset, "train") == [
        ("1185869", "what was it?", ("0",), ()), ("3", 'a "quote', ("7",), ()),
    ]  # fmt: skip
    assert content(dataset, "dev.small") == [("3", 'a "quote', ("12",), ())]
    assert dataset.qrels("dev.small") == {"3": {"12": 1, "0": 0}}
    assert "left out, without judgements or not wanted: queries.eval.tsv" in caplog.text
    assert Dataset.open(convert(source, tmp_path / "one", splits=("train",))).splits == ["train"]


@pytest.mark.parametrize("part_bytes", [1 << 20, 8])
def test_triples_of_ids(source, tmp_path, monkeypatch, part_bytes):
    monkeypatch.setattr(triples_module, "PART_BYTES", part_bytes)  # one part, and many
    lines = "1185869\t0\t7\n3\t7\t12\n1185869\t0\t12\n1185869\t12\t7\n"
    (source / "qidpidtriples.train.full.2.tsv.gz").write_bytes(gzip.compress(lines.encode()))
    dataset = Dataset.open(convert(source, tmp_path / "out"))
    assert sorted(content(dataset, "train")) == [
        ("1185869", "what was it?", ("0", "12"), ("7",)), ("3", 'a "quote', ("7",), ("12",)),
    ]  # fmt: skip
    dataset.check_references("train")


def test_triples_of_texts(tmp_path, caplog):
    path = tmp_path / "triples.train.small.tsv"
    path.write_text('q one\tyes "1"\tno\nq two\tno\tyes "1"\nq one\tyes "1"\tother\nq one\tsame\tsame\n')
    layout, reason = recognise(open_tables(path))
    assert (layout, reason) == ("msmarco", "triples of texts: triples.train.small.tsv")
    dataset = Dataset.open(convert(path, tmp_path / "out"))
    texts = {each.docid: each.document_text for each in dataset.corpus.documents(0, len(dataset.corpus))}
    assert sorted(texts.values()) == ["no", "other", "same", 'yes "1"']
    found = {
        query: ([texts[docid] for docid in positives], [texts[docid] for docid in negatives])
        for _, query, positives, negatives in content(dataset, "train")
    }
    assert found == {"q one": (['yes "1"'], ["no", "other"]), "q two": (["no"], ['yes "1"'])}
    assert "left out: 1 triples whose positive and negative have the same text" in caplog.text


@pytest.mark.parametrize(
    ("name", "line", "told"),
    [
        ("collection.tsv", "0\tagain", "collection.tsv:4.*duplicate id, first on line 1"),
        ("collection.tsv", "15\t ", "collection.tsv:4.*empty document"),
        ("collection.tsv", "no tab", "collection.tsv:4.*wrong number of columns"),
        ("queries.train.tsv", "3\tagain", "queries.train.tsv:4.*duplicate id, first on line 2"),
        ("qrels.train.tsv", "3\t0\t99\t1", "qrels.train.tsv:3.*unknown document.*'99'"),
        ("qrels.train.tsv", "77\t0\t7\t1", "qrels.train.tsv:3.*unknown query.*'77'"),
        ("qrels.train.tsv", "3\t7", "qrels.train.tsv:3.*wrong number of columns"),
        ("qidpidtriples.train.tsv", "3\t7\t99", "qidpidtriples.train.tsv:1.*unknown document.*'99'"),
        ("qidpidtriples.train.tsv", "99\t7\t0", "qidpidtriples.train.tsv:1.*unknown query.*'99'"),
        ("qidpidtriples.train.tsv", "3\t7\t7", "qidpidtriples.train.tsv:1.*positive and negative at once"),
        ("qrels.test.tsv", "3\t0\t7\t1", "no queries for 'test'"),
    ],
)
def test_bad_lines_are_named(source, tmp_path, name, line, told):
    with (source / name).open("a") as file:
        print(line, file=file)
    with pytest.raises(DataError, match=f"(?s){told}"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_triples_come_back_grouped_whatever_the_parts(tmp_path, monkeypatch):
    drawn = random.Random(1)
    added = [tuple(str(drawn.randrange(limit)) for limit in (40, 5, 100)) for _ in range(3000)]
    expected: dict[str, tuple[list[str], list[str]]] = {}
    for query, positive, negative in added:
        positives, negatives = expected.setdefault(query, ([], []))
        positives += [positive] * (positive not in positives)
        negatives += [negative] * (negative not in negatives)
    for query, (positives, negatives) in expected.items():
        expected[query] = positives, [docid for docid in negatives if docid not in positives]
    monkeypatch.setattr(triples_module, "PART_BYTES", 1000)
    for size in (1, 20_000):
        with Triples(tmp_path, size) as grouped:
            for triple in added:
                grouped.add(*triple)
            assert grouped.parts == (1 if size == 1 else 20)
            assert dict(grouped) == expected
        assert not list(tmp_path.glob("triples-*"))
