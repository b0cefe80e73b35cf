"""MIRACL's files and rows become a dataset: ids with a hash, negatives that were judged, passages from elsewhere."""

from __future__ import annotations

import gzip
import json

import pytest

from teva_data.conversion import convert, recognise
from teva_data.conversion.tables import open_tables
from teva_data.dataset import Dataset
from teva_data.errors import DataError

from .replicas import hub_repository

PASSAGES = [{"docid": f"{article}#{n}", "title": f"T{article}", "text": f"글 {article} {n}"}
            for article in (7, 12) for n in (0, 1)]  # fmt: skip
TOPICS = {"2": "룩셈부르크의 수도는?", "10020#0": "Odun wo: ni?", "9": "no answer?"}
QRELS = [("2", "7#0", 1), ("2", "7#1", 0), ("10020#0", "12#1", 1), ("10020#0", "12#0", 1), ("9", "7#0", 0)]


def shard(path, passages):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(each) + "\n" for each in passages).encode()))


def language(source, name="ko", *, split="dev", qrels=QRELS, blank="\t", passages=PASSAGES):
    """As `hf download` leaves miracl/miracl and miracl/miracl-corpus beside one another."""
    for kind, lines in {
        "topics": [f"{query_id}\t{text}" for query_id, text in TOPICS.items()],
        "qrels": [blank.join((query_id, "Q0", docid, str(score))) for query_id, docid, score in qrels],
    }.items():
        path = source / f"miracl-v1.0-{name}" / kind / f"{kind}.miracl-v1.0-{name}-{split}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(line + "\n" for line in lines))
    if passages:
        shard(source / f"miracl-corpus-v1.0-{name}" / "docs-0.jsonl.gz", passages[:3])
    if passages and passages[3:]:
        shard(source / f"miracl-corpus-v1.0-{name}" / "docs-1.jsonl.gz", passages[3:])
    return source


def check(dataset: Dataset, split: str = "dev") -> None:
    documents = dataset.corpus.documents(0, len(dataset.corpus))
    assert [(each.docid, each.title, each.document_text) for each in documents] == [
        (each["docid"], each["title"], each["text"]) for each in PASSAGES
    ]
    assert [
        (each.query_id, each.query_text, each.positive_document_ids, each.negative_document_ids)
        for each in dataset.queries(split)
    ] == [("2", TOPICS["2"], ("7#0",), ("7#1",)), ("10020#0", TOPICS["10020#0"], ("12#1", "12#0"), ())]
    assert dataset.qrels(split) == {
        "2": {"7#0": 1, "7#1": 0}, "10020#0": {"12#1": 1, "12#0": 1}, "9": {"7#0": 0},
    }  # fmt: skip
    dataset.check_references(split)


@pytest.mark.parametrize("blank", ["\t", " "])
def test_files(tmp_path, blank):
    source = language(tmp_path / "source", blank=blank)
    layout, reason = recognise(open_tables(source))
    assert layout == "miracl"
    assert reason == "topics.miracl-v1.0-ko-dev.tsv and qrels.miracl-v1.0-ko-dev.tsv"
    dataset = Dataset.open(convert(source, tmp_path / "out"))
    check(dataset)
    assert dataset.card.languages == ["ko"]


def test_several_languages_and_splits(tmp_path):
    source = language(tmp_path / "source")
    language(source, "yo", passages=[{"docid": "1#0", "title": "", "text": "x"}], qrels=[("2", "1#0", 1)])
    language(source, split="train", passages=None)
    with pytest.raises(DataError, match=r"several languages.*'ko', 'yo'.*--part"):
        convert(source, tmp_path / "out")
    with pytest.raises(DataError, match="no such language"):
        convert(source, tmp_path / "out", part="kr")
    dataset = Dataset.open(convert(source, tmp_path / "out", part="ko"))
    assert dataset.splits == ["dev", "train"]
    check(dataset)
    yoruba = Dataset.open(convert(source, tmp_path / "yo", part="yo"))
    assert (len(yoruba.corpus), len(yoruba.queries("dev"))) == (1, 1)
    assert Dataset.open(convert(source, tmp_path / "one", part="ko", splits=("train",))).splits == ["train"]


def test_mr_tydi_and_other_collections_of_the_same_form(tmp_path):
    source = tmp_path / "mrtydi-v1.1-swahili" / "ir-format-data"
    source.mkdir(parents=True)
    (source / "topics.test.txt").write_text("".join(f"{query_id}\t{text}\n" for query_id, text in TOPICS.items()))
    (source / "qrels.test.txt").write_text("".join(f"{q} Q0 {d} {s}\n" for q, d, s in QRELS))
    shard(source.parent / "corpus.jsonl.gz", PASSAGES)
    check(Dataset.open(convert(source.parent, tmp_path / "out")), "test")
    other = tmp_path / "cacm"
    other.mkdir()
    (other / "topics.cacm.txt").write_text("<DOC>\n<DOCNO> 1 </DOCNO>\nWhat about\nTSS?\n</DOC>\n")
    (other / "qrels.cacm.txt").write_text("1 Q0 CACM-1410 1\n")
    shard(other / "docs.jsonl.gz", [{"id": "CACM-1410", "contents": "TSS"}])
    dataset = Dataset.open(convert(other, tmp_path / "cacm-out"))
    assert [each.query_text for each in dataset.queries("test")] == ["What about TSS?"]
    assert dataset.corpus.documents(0, 1)[0].document_text == "TSS"


PASSAGE_TYPES = {"docid": "string", "title": "string", "text": "string"}
ROW_TYPES = {
    "query_id": "string", "query": "string", "positive_passages": [PASSAGE_TYPES], "negative_passages": [PASSAGE_TYPES],
}  # fmt: skip


def rows(directory, config="ko"):
    by_id = {each["docid"]: each for each in PASSAGES}
    found = [
        {
            "query_id": query_id, "query": text,
            "positive_passages": [by_id[d] for q, d, s in QRELS if q == query_id and s],
            "negative_passages": [by_id[d] for q, d, s in QRELS if q == query_id and not s],
        }
        for query_id, text in list(TOPICS.items())[:2]
    ]  # fmt: skip
    return hub_repository(directory, {config: {"dev": found}}, {config: ROW_TYPES})


def corpus(directory, config="ko", passages=PASSAGES):
    return hub_repository(directory, {config: {"train": passages}}, {config: PASSAGE_TYPES})


def test_rows_of_the_hub_with_the_corpus_elsewhere(tmp_path):
    out = convert(rows(tmp_path / "rows"), tmp_path / "out", layout="miracl", corpus=corpus(tmp_path / "corpus"))
    dataset = Dataset.open(out)
    assert len(dataset.corpus) == len(PASSAGES)
    assert [(each.query_id, each.negative_document_ids) for each in dataset.queries("dev")] == [
        ("2", ("7#1",)), ("10020#0", ()),
    ]  # fmt: skip
    assert dataset.qrels("dev") == {"2": {"7#0": 1, "7#1": 0}, "10020#0": {"12#1": 1, "12#0": 1}}


def test_passages_may_come_from_another_source(tmp_path):
    source = language(tmp_path / "source", passages=None)
    with pytest.raises(DataError, match=r"no passages.*miracl/miracl-corpus.*--corpus"):
        convert(source, tmp_path / "out")
    check(Dataset.open(convert(source, tmp_path / "out", corpus=corpus(tmp_path / "corpus"))))
    with pytest.raises(DataError, match=r"no corpus.*--corpus"):
        convert(rows(tmp_path / "rows"), tmp_path / "other", layout="miracl")


@pytest.mark.parametrize(
    ("qrels", "told"),
    [
        ([*QRELS, ("2", "99#9", 1)], r"qrels.miracl-v1.0-ko-dev.tsv:6.*unknown document.*'99#9'"),
        ([*QRELS, ("77", "7#0", 1)], r"dev.tsv:6.*unknown query.*'77'.*topics.miracl"),
        ([*QRELS, ("2", "7#0", 1)], r"dev.tsv:6.*document twice"),
        ([("2", "7#0", "yes")], r"dev.tsv:1.*not a grade"),
        ([("9", "7#0", 0)], "no query has a positive judgement"),
    ],
)
def test_bad_judgements_are_named(tmp_path, qrels, told):
    with pytest.raises(DataError, match=f"(?s){told}"):
        convert(language(tmp_path / "source", qrels=qrels), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unknown_passage_of_a_row(tmp_path):
    with pytest.raises(DataError, match=r"dev-00000-of-00001.parquet:2: field 'positive_passages\[0\].docid'.*'12#1'"):
        convert(
            rows(tmp_path / "rows"), tmp_path / "out", layout="miracl",
            corpus=corpus(tmp_path / "corpus", passages=PASSAGES[:2]),
        )  # fmt: skip
