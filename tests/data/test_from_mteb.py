"""MTEB's layout becomes a dataset that holds the same, whichever way its configs are named."""

from __future__ import annotations

import pytest
from datasets import Image

from teva_data.conversion import Options, convert, recognise, write_dataset
from teva_data.conversion.tables import open_tables
from teva_data.conversion.tables_hub import HubTables
from teva_data.dataset import Dataset
from teva_data.errors import DataError
from teva_data.runs import read_run

from .replicas import hub_repository, image_of, png

QRELS_TYPES = {"query-id": "string", "corpus-id": "string", "score": "int64"}
TEXT_TYPES = {"id": "string", "title": "string", "text": "string"}
CORPUS = [
    {"id": "d1", "title": "One", "text": "first é"},
    {"id": "d2", "title": "", "text": "second"},
    {"id": "d#3", "title": None, "text": "third"},
]
QUERIES = [{"id": f"q{number}", "text": f"question {number}"} for number in range(1, 5)]
QRELS = [
    {"query-id": "q2", "corpus-id": "d1", "score": 2},
    {"query-id": "q2", "corpus-id": "d2", "score": 0},
    {"query-id": "q1", "corpus-id": "d#3", "score": 1},
    {"query-id": "q3", "corpus-id": "d2", "score": 0},
]


def text_repository(directory, *, corpus=CORPUS, queries=QUERIES, qrels=QRELS, judged="qrels", prefix="", **others):
    configs = {
        f"{prefix}corpus": {"corpus": corpus},
        f"{prefix}queries": {"queries": queries},
        f"{prefix}{judged}": {"test": qrels},
        **{f"{prefix}{name}": {"test": rows} for name, (rows, _) in others.items()},
    }
    types = {
        f"{prefix}corpus": TEXT_TYPES,
        f"{prefix}queries": {"id": "string", "text": "string"},
        f"{prefix}{judged}": QRELS_TYPES,
        **{f"{prefix}{name}": kinds for name, (_, kinds) in others.items()},
    }
    return hub_repository(directory, configs, types)


def check_text(dataset: Dataset, suffix: str = "") -> None:
    documents = dataset.corpus.documents(0, len(dataset.corpus))
    assert [(each.docid, each.title, each.document_text) for each in documents] == [
        ("d1", "One", "first é"), ("d2", "", "second"), ("d#3", "", "third"),
    ]  # fmt: skip
    assert dataset.splits == ["test"]
    assert [(each.query_id, each.query_text, each.positive_document_ids) for each in dataset.queries("test")] == [
        ("q1", f"question 1{suffix}", ("d#3",)), ("q2", f"question 2{suffix}", ("d1",)),
    ]  # fmt: skip
    assert dataset.qrels("test") == {"q2": {"d1": 2, "d2": 0}, "q1": {"d#3": 1}, "q3": {"d2": 0}}
    dataset.check_references("test")


@pytest.mark.parametrize("judged", ["qrels", "default"])
def test_configs(tmp_path, judged):
    source = text_repository(tmp_path / "source", judged=judged)
    layout, reason = recognise(open_tables(source))
    assert layout == "mteb"
    assert f"corpus, queries, {judged}" in reason
    check_text(Dataset.open(convert(source, tmp_path / "out")))


def test_streamed_through_datasets(tmp_path):
    tables = HubTables(str(text_repository(tmp_path / "source")))
    assert recognise(tables)[0] == "mteb"
    counts = write_dataset(tables, tmp_path / "out", "mteb", Options())
    assert counts == {"test": 2}
    check_text(Dataset.open(tmp_path / "out"))


def test_ids_of_older_uploads(tmp_path):
    corpus, queries = ([{"_id": row["id"], **row} for row in rows] for rows in (CORPUS, QUERIES))
    source = hub_repository(
        tmp_path / "source",
        {"corpus": {"corpus": corpus}, "query": {"test": queries}, "default": {"test": QRELS}},
        {
            "corpus": {"_id": "string", "title": "string", "text": "string"},
            "query": {"_id": "string", "text": "string"},
            "default": {**QRELS_TYPES, "score": "float64"},
        },
    )
    check_text(Dataset.open(convert(source, tmp_path / "out")))


def test_directories_that_no_readme_declares(tmp_path):
    source = text_repository(tmp_path / "source")
    (source / "README.md").unlink()
    assert recognise(open_tables(source))[0] == "mteb"
    check_text(Dataset.open(convert(source, tmp_path / "out")))


def test_one_subset_is_converted(tmp_path):
    source = tmp_path / "source"
    for language in ("fra", "eng-deu"):
        queries = [{**row, "text": f"{row['text']} {language}"} for row in QUERIES]
        text_repository(tmp_path / language, queries=queries, prefix=f"{language}-")
    source.mkdir()
    for language in ("fra", "eng-deu"):  # one repository of both
        for path in (tmp_path / language).iterdir():
            if path.is_dir():
                path.rename(source / path.name)
    assert "subsets eng-deu, fra" in recognise(open_tables(source))[1]
    with pytest.raises(DataError, match=r"several subsets.*'eng-deu', 'fra'.*--part"):
        convert(source, tmp_path / "out")
    with pytest.raises(DataError, match=r"no such subset.*Did you mean 'fra'"):
        convert(source, tmp_path / "out", part="fre")
    check_text(Dataset.open(convert(source, tmp_path / "out", part="eng-deu")), " eng-deu")


def test_instructions_come_after_the_text_as_mteb_has_them(tmp_path):
    types = {"query-id": "string", "instruction": "string"}
    told = [{"query-id": row["id"], "instruction": "Only books."} for row in QUERIES]
    source = text_repository(tmp_path / "source", judged="default", instruction=(told, types))
    dataset = Dataset.open(convert(source, tmp_path / "out"))
    check_text(dataset, " Only books.")
    assert [query.prompt for query in dataset.queries("test")] == [None, None]
    source = text_repository(tmp_path / "other", instruction=(told[1:], types))
    with pytest.raises(DataError, match=r"no instruction.*'q1'.*a row of 'instruction'"):
        convert(source, tmp_path / "out", overwrite=True)
    check_text(Dataset.open(tmp_path / "out"), " Only books.")  # what was there is there still


def test_candidates_to_rerank_become_a_run(tmp_path):
    rows = [{"query-id": "q1", "corpus-ids": ["d2", "d#3"]}, {"query-id": "q2", "corpus-ids": ["d1"]}]
    source = text_repository(tmp_path / "source", top_ranked=(rows, {"query-id": "string", "corpus-ids": ["string"]}))
    out = convert(source, tmp_path / "out")
    check_text(Dataset.open(out))
    run = read_run(out / "top_ranked" / "test.tsv")
    assert {query_id: [docid for docid, _ in found] for query_id, found in run.items()} == {
        "q1": ["d2", "d#3"], "q2": ["d1"],
    }  # fmt: skip


def test_pages_and_questions_as_vidore_3_has_them(tmp_path):
    pages = [{"image": image_of(n, f"{n}.png"), "id": f"p{n}", "text": f"md {n}"} for n in (1, 2)]
    source = hub_repository(
        tmp_path / "source",
        {
            "english-corpus": {"test": pages},
            "english-queries": {"test": [{"language": "english", "id": "q1", "text": "which?"}]},
            "english-qrels": {"test": [{"query-id": "q1", "corpus-id": "p2", "score": 2}]},
        },
        {
            "english-corpus": {"image": Image(), "id": "string", "text": "string"},
            "english-queries": {"language": "string", "id": "string", "text": "string"},
            "english-qrels": QRELS_TYPES,
        },
    )
    assert recognise(open_tables(source))[0] == "mteb"
    out = convert(source, tmp_path / "out", part="english")
    dataset = Dataset.open(out)
    documents = dataset.corpus.documents(0, 2)
    assert [(each.docid, each.document_text) for each in documents] == [("p1", "md 1"), ("p2", "md 2")]
    for number, each in enumerate(documents, start=1):
        (image,) = (piece for piece in each.pieces if not isinstance(piece, str))
        assert (image.kind, image.read()) == ("image", png(number))


def test_splits(tmp_path):
    configs = {
        "corpus": {"corpus": CORPUS},
        "queries": {"dev": QUERIES[:1], "test": QUERIES[1:]},
        "qrels": {"dev": QRELS[2:3], "test": QRELS[:2]},
    }
    types = {"corpus": TEXT_TYPES, "queries": {"id": "string", "text": "string"}, "qrels": QRELS_TYPES}
    source = hub_repository(tmp_path / "source", configs, types)
    assert Dataset.open(convert(source, tmp_path / "all")).splits == ["dev", "test"]
    assert Dataset.open(convert(source, tmp_path / "one", splits=("dev",))).splits == ["dev"]
    with pytest.raises(DataError, match=r"none of the splits.*'train'.*some of dev, test"):
        convert(source, tmp_path / "none", splits=("train",))
    configs["corpus"] = {"dev": CORPUS, "test": CORPUS}
    source = hub_repository(tmp_path / "apart", configs, types)
    with pytest.raises(DataError, match=r"a corpus for each split.*--splits"):
        convert(source, tmp_path / "apart-out")
    assert len(Dataset.open(convert(source, tmp_path / "apart-out", splits=("dev",))).corpus) == 3


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"qrels": [*QRELS, {"query-id": "q1", "corpus-id": "d9", "score": 1}]}, "parquet:5.*unknown document.*'d9'"),
        ({"qrels": [*QRELS, {"query-id": "q9", "corpus-id": "d1", "score": 1}]}, "parquet:5.*unknown query.*'q9'"),
        ({"queries": [*QUERIES, QUERIES[0]]}, "parquet:5.*duplicate id, first on line 1"),
        ({"corpus": [*CORPUS, CORPUS[0]]}, "parquet:4.*duplicate id, first on line 1"),
        ({"corpus": [*CORPUS, {"id": "d4"}]}, "parquet:4.*empty document"),
        ({"queries": [{"id": "q1"}, *QUERIES[1:]]}, "parquet:1.*field 'text'"),
        ({"qrels": QRELS[3:]}, "no query has a positive judgement"),
    ],
)
def test_bad_rows_are_named(tmp_path, changed, told):
    source = text_repository(tmp_path / "source", **changed)
    with pytest.raises(DataError, match=f"(?s){told}"):
        convert(source, tmp_path / "out", layout="mteb")
    assert not (tmp_path / "out").exists()
