"""Other layouts become datasets that hold the same, or the error names the place in the source."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teva_data.conversion import convert
from teva_data.dataset import Dataset
from teva_data.errors import DataError
from teva_data.records import Document, Query

CORPUS = [
    {"_id": "d1", "title": "One", "text": "first", "metadata": {}},
    {"_id": "d2", "title": "", "text": "second é"},
    {"_id": "d3", "title": None, "text": "third"},
]
QUERIES = [{"_id": f"q{n}", "text": f"tool: question {n}", "plain": f"question {n}"} for n in range(1, 6)]
TEST = ["query-id\tcorpus-id\tscore", "q2\td1\t2", "q2\td3\t1", "q2\td2\t0", "q1\td2\t1", "q4\td1\t0"]
TRAIN = ["query_id\tdocid\tscore", "q3\td3\t1"]


def refused(*told: str):
    return pytest.raises(DataError, match="(?s)" + "".join(f"(?=.*{part})" for part in told))


@pytest.fixture
def beir(write):
    """As BEIR has it: one file of queries, judgements in their directory."""
    write("corpus.jsonl", CORPUS)
    write("queries.jsonl", QUERIES)
    write("qrels/test.tsv", TEST)
    return write("qrels/train.tsv", TRAIN).parent.parent


def content(path) -> dict[str, object]:
    dataset = Dataset.open(path)
    return {
        "corpus": dataset.corpus.documents(0, len(dataset.corpus)),
        "splits": {split: list(dataset.queries(split)) for split in dataset.splits},
        "qrels": {split: dataset.qrels(split) for split in dataset.splits},
    }


EXPECTED = {
    "corpus": [Document("d1", "first", "One"), Document("d2", "second é"), Document("d3", "third")],
    "splits": {
        "test": [Query("q1", "tool: question 1", ("d2",)), Query("q2", "tool: question 2", ("d1", "d3"))],
        "train": [Query("q3", "tool: question 3", ("d3",))],
    },
    "qrels": {
        "test": {"q2": {"d1": 2, "d3": 1, "d2": 0}, "q1": {"d2": 1}, "q4": {"d1": 0}},
        "train": {"q3": {"d3": 1}},
    },
}


def test_beir(beir, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    out = convert(beir, tmp_path / "out")
    assert content(out) == EXPECTED
    assert sorted(path.name for path in out.iterdir()) == [
        ".teva", "corpus.jsonl", "dataset.yaml", "qrels", "test.jsonl", "train.jsonl",
    ]  # fmt: skip
    assert not (beir / ".teva").exists()  # the source stays as it was
    assert json.loads((out / "corpus.jsonl").read_text().splitlines()[0]) == {
        "docid": "d1", "title": "One", "document_text": "first",
    }  # fmt: skip
    assert "read in the layout 'beir'" in caplog.text
    assert "test: 2 queries; left out: 2 without a judgement, 1 without a positive one" in caplog.text
    assert "train: 1 queries; left out: 4 without a judgement, 0 without a positive one" in caplog.text


def test_beir_in_one_directory_with_a_query_file_for_each_split(beir, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for name, source in {
        "corpus.jsonl.gz": "corpus.jsonl", "queries.test.jsonl.gz": "queries.jsonl",
        "queries.train.multi.jsonl.gz": "queries.jsonl", "qrels.train.multi.tsv.gz": "qrels/train.tsv",
    }.items():  # fmt: skip
        (flat / name).write_bytes(gzip.compress((beir / source).read_bytes()))
    (flat / "qrels.test.tsv").write_bytes((beir / "qrels/test.tsv").read_bytes())
    found = content(convert(flat, tmp_path / "out"))
    assert found["corpus"] == EXPECTED["corpus"]
    for kind in ("splits", "qrels"):
        assert found[kind] == {"test": EXPECTED[kind]["test"], "train.multi": EXPECTED[kind]["train"]}


def test_text_of_another_field(beir, tmp_path):
    out = convert(beir, tmp_path / "out", query_field="plain")
    assert [query.query_text for query in Dataset.open(out).queries("test")] == ["question 1", "question 2"]
    with refused(r"queries.jsonl:1: field 'plian': missing", "did you mean|has: '_id', 'text', 'plain'"):
        convert(beir, tmp_path / "other", query_field="plian")
    assert not (tmp_path / "other").exists()


def test_judgements_without_queries_are_named_and_left_out(beir, tmp_path, caplog):
    (beir / "queries.jsonl").rename(beir / "queries.train.jsonl")
    out = convert(beir, tmp_path / "out")
    assert Dataset.open(out).splits == ["train"]
    assert "judgements without a query file are left out: test.tsv" in caplog.text


@pytest.mark.parametrize(
    ("name", "line", "told"),
    [
        ("qrels/test.tsv", "q1\td9\t1", [r"qrels/test.tsv:7", "unknown document", "'d9'", "corpus.jsonl"]),
        ("qrels/test.tsv", "q9\td1\t1", [r"qrels/test.tsv:7", "unknown query", "'q9'", "queries.jsonl"]),
        ("qrels/test.tsv", "q1\td1", [r"qrels/test.tsv:7"]),
        ("qrels/test.tsv", f"q1\td1\t{10**19}", [r"qrels/test.tsv:7", "field 'score': not a grade"]),
        ("queries.jsonl", '{"_id": "q1", "text": "again"}', [r"queries.jsonl:6", "duplicate id, first on line 1"]),
        ("queries.jsonl", '{"_id": "q8"}', [r"queries.jsonl:6", "'query_text': missing"]),
        ("corpus.jsonl", '{"_id": "d1", "text": "again"}', [r"corpus.jsonl:4", "duplicate id, first on line 1"]),
        ("corpus.jsonl", '{"_id": "d5"', [r"corpus.jsonl:4", "malformed JSON"]),
    ],
)
def test_bad_line_of_the_source_is_named_and_nothing_is_left(beir, tmp_path, name, line, told):
    with (beir / name).open("a") as file:
        print(line, file=file)
    out = tmp_path / "sub" / "out"
    with refused(*told):
        convert(beir, out)
    assert list(out.parent.iterdir()) == []


def test_beir_that_lacks_a_part_is_refused(beir, tmp_path):
    (beir / "queries.jsonl").unlink()
    with refused("layout is not known", "corpus.jsonl"):
        convert(beir, tmp_path / "out")
    with refused("no split with queries and judgements"):
        convert(beir, tmp_path / "out", layout="beir")
    (beir / "corpus.jsonl").unlink()
    with refused("no corpus"):
        convert(beir, tmp_path / "out", layout="beir")
    with refused("nothing here"):
        convert(beir / "none", tmp_path / "out")


def test_split_may_not_take_the_name_of_the_corpus(beir, tmp_path):
    (beir / "qrels/train.tsv").rename(beir / "qrels/corpus.tsv")
    with refused("corpus.tsv", "no name for a split"):
        convert(beir, tmp_path / "out")


# --- the destination ---


def test_destination_that_holds_something_is_kept(beir, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    convert(beir, out)  # an empty one is taken
    kept = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with refused("not empty", "overwrite"):
        convert(beir, out)
    (beir / "queries.jsonl").write_text("broken\n")
    with refused("queries.jsonl:1"):
        convert(beir, out, overwrite=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == kept


def test_overwriting_replaces_the_whole_dataset(beir, tmp_path):
    out = convert(beir, tmp_path / "out")
    (beir / "qrels/train.tsv").unlink()
    convert(beir, out, overwrite=True)
    assert Dataset.open(out).splits == ["test"]


def test_overwriting_takes_datasets_only(beir, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    with refused("not a dataset", "thesis.tex"):
        convert(beir, home, overwrite=True)
    with refused("holds the source"):
        convert(beir, beir, overwrite=True)
    with refused("holds the source"):
        convert(beir, beir.parent, overwrite=True)
    with refused("is a file"):
        convert(beir, home / "thesis.tex")
    assert (home / "thesis.tex").read_text() == "years of work"


# --- pairs ---

PAIRS = [("who?", "me"), ("who?", 'you, "too"'), ("where?", "here\nand there"), ("when?", "me"), ("who?", "me")]


def table(pairs, header, delimiter=",") -> str:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows([header, *pairs])
    return file.getvalue()


def pairs_in(out) -> set[tuple[str, str]]:
    dataset = Dataset.open(out)
    text = {d.docid: d.document_text for d in dataset.corpus.documents(0, len(dataset.corpus))}
    return {
        (query.query_text, text[docid])
        for split in dataset.splits
        for query in dataset.queries(split)
        for docid in query.positive_document_ids
    }


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("pairs.csv", table(PAIRS, ("question", "answer"))),
        ("pairs.csv", "\ufeff" + table(PAIRS, ("Question", "Answer"))),
        ("pairs.tsv", table(PAIRS, ("query", "passage"), "\t")),
        ("pairs.jsonl", "".join(json.dumps({"anchor": q, "positive": p}) + "\n" for q, p in PAIRS)),
        ("pairs.csv.gz", table(PAIRS, ("question", "text"))),
    ],
)
def test_pairs(tmp_path, name, data, caplog):
    caplog.set_level(logging.INFO)
    source = tmp_path / name
    source.write_bytes(gzip.compress(data.encode()) if name.endswith(".gz") else data.encode())
    out = convert(source, tmp_path / "out", held_out=0.0)
    dataset = Dataset.open(out)
    assert pairs_in(out) == set(PAIRS)
    assert len(dataset.corpus) == 3
    assert [len(query.positive_document_ids) for query in dataset.queries("train")] == [2, 1, 1]
    assert dataset.splits == ["train"]
    dataset.check_references("train")
    assert "read in the layout 'pairs'" in caplog.text


@settings(deadline=None, max_examples=15)
@given(
    pairs=st.lists(
        st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\r")).filter(str.strip)] * 2), min_size=1
    ),
    form=st.sampled_from(["csv", "tsv", "jsonl"]),
)
def test_any_pairs_come_back(tmp_path_factory, pairs, form):
    directory = tmp_path_factory.mktemp("pairs")
    source = directory / f"pairs.{form}"
    if form == "jsonl":
        data = "".join(json.dumps({"query": q, "answer": p}) + "\n" for q, p in pairs)
    else:
        file = io.StringIO()
        delimiter = {"csv": ",", "tsv": "\t"}[form]
        csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(
            [("query", "answer"), *pairs]
        )
        data = file.getvalue()
    source.write_text(data, encoding="utf-8", newline="")
    assert pairs_in(convert(source, directory / "out", held_out=0.0)) == set(pairs)


def test_held_out_share_is_stable_and_has_judgements(tmp_path):
    def make(count: int, name: str, share: float) -> Dataset:
        source = tmp_path / f"{name}.csv"
        source.write_text(table([(f"question {n}", f"answer {n % 700}") for n in range(count)], ("question", "answer")))
        return Dataset.open(convert(source, tmp_path / name, held_out=share))

    small, large, more = make(2000, "small", 0.1), make(3000, "large", 0.1), make(2000, "more", 0.3)
    texts = [{query.query_text for query in dataset.queries("test")} for dataset in (small, large, more)]
    assert 140 < len(texts[0]) < 260
    # A question's side depends on its own text: it stays where data is added, and where the share grows.
    assert texts[0] <= texts[1]
    assert texts[0] <= texts[2]
    assert texts[0].isdisjoint(query.query_text for query in small.queries("train"))
    assert len(small.queries("train")) + len(small.queries("test")) == 2000
    assert small.qrels("test") == {
        query.query_id: dict.fromkeys(query.positive_document_ids, 1) for query in small.queries("test")
    }
    for split in small.splits:
        small.check_references(split)


def test_title_makes_a_document_another(tmp_path):
    source = tmp_path / "pairs.csv"
    source.write_text("question,answer,title\na,text,one\nb,text,two\nc,text,\nd,etext,on\n")
    dataset = Dataset.open(convert(source, tmp_path / "out", held_out=0.0))
    assert [(d.title, d.document_text) for d in dataset.corpus.documents(0, 4)] == [
        ("one", "text"), ("two", "text"), ("", "text"), ("on", "etext"),
    ]  # fmt: skip


def test_columns_may_be_named(tmp_path, caplog):
    caplog.set_level("INFO", "teva_data")
    source = tmp_path / "pairs.csv"
    source.write_text("question,context,answer,topic\nq,c,a,t\n")
    with refused("several columns may be the passage", "'context', 'answer'", "document_field"):
        convert(source, tmp_path / "out")
    out = convert(source, tmp_path / "out", document_field="context", query_field="topic", held_out=0.0)
    assert pairs_in(out) == {("t", "c")}
    assert "columns that are not read: answer, question" in caplog.text
    assert "passage in 'context', no title" in caplog.text
    with refused("no column 'contex', which --document-field names", "Did you mean 'context'"):
        convert(source, tmp_path / "other", document_field="contex", query_field="topic")


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        (
            "x.csv",
            "q,a\n1,2\n",
            ["no column 'question'", r"\['q', 'a'\]", "question, query, anchor", "--query-field COLUMN"],
        ),
        ("x.csv", "question,label\nq,1\n", ["no column 'passage'"]),
        ("x.csv", "question,answer,label\nq,a,0\n", ["field 'label'", "grades the pairs"]),
        ("x.csv", "question,answer,Answer\nq,a,b\n", ["x.csv:1", "names a column twice", "'answer'"]),
        ("x.csv", "question,answer\n", ["no rows"]),
        ("x.csv", "", ["no rows"]),
        ("x.csv", 'question,answer\n"two\nlines",a\nq\n', ["x.csv:4", "not as many cells", "found 1", "expected 2"]),
        ("x.csv", 'question,answer\n"two\nlines",a\nq,\n', ["x.csv:4: field 'answer': no text", "found ''"]),
        ("x.csv", "question,answer\nq,a\n\nq,b\n", ["x.csv:3", "empty line"]),
        ("x.csv", 'question,answer\nq,a\nq,"open\n', ["x.csv:3", "malformed table"]),
        ("x.csv", 'question,answer\nq,"a"b\n', ["x.csv:2", "malformed table"]),
        ("x.jsonl", '{"query": "q", "answer": "a"}\n{"query": "q"}\n', ["x.jsonl:2: field 'answer': no text", "null"]),
        ("x.jsonl", '{"query": "q", "answer": ["a"]}\n', ["x.jsonl:1: field 'answer': no text"]),
    ],
)
def test_bad_pairs_are_named(tmp_path, name, data, told):
    (tmp_path / name).write_text(data)
    with refused(*told):
        convert(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_cells_longer_than_the_csv_module_takes_are_read(tmp_path):
    before = csv.field_size_limit(131_072)
    source = tmp_path / "x.csv"
    source.write_text(f"question,answer\nq,{'a' * 300_000}\n")
    assert pairs_in(convert(source, tmp_path / "out", held_out=0.0)) == {("q", "a" * 300_000)}
    assert csv.field_size_limit(before) == 131_072


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_share_out_of_range_is_refused(tmp_path, share):
    (tmp_path / "x.csv").write_text("question,answer\nq,a\n")
    with refused("field 'held_out'"):
        convert(tmp_path / "x.csv", tmp_path / "out", held_out=share)


def test_unknown_file_is_refused(tmp_path):
    (tmp_path / "x.docx").write_bytes(b"PK")
    with refused("layout is not known", "x.docx", ".jsonl.zst"):
        convert(tmp_path / "x.docx", tmp_path / "out")
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with refused("x.parquet: cannot be read after row 0"):
        convert(tmp_path / "x.parquet", tmp_path / "out")
