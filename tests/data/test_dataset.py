"""A dataset's directory: what is found in it, what is refused, and which ids may stand where."""

from __future__ import annotations

import gzip
import json
import pickle

import pytest

from teva_data.dataset import Dataset
from teva_data.errors import DataError
from teva_data.records import Document, Query
from teva_data.store import CorpusStore

CORPUS = [{"docid": f"d{n}", "title": "", "document_text": f"text {n}"} for n in range(10)]


def query(number: int, positives: list[str], negatives: list[str] | None = None) -> dict:
    return {
        "query_id": f"q{number}", "query_text": f"question {number}",
        "positive_document_ids": positives, "negative_document_ids": negatives or [],
    }  # fmt: skip


@pytest.fixture
def data(write):
    write("corpus.jsonl", CORPUS)
    write("train.jsonl", [query(1, ["d1"], ["d2", "d3"]), query(2, ["d2", "d4"])])
    return write("qrels/test.tsv", ["query_id\tdocid\tscore", "q1\td1\t2", "q1\td2\t0"]).parent.parent


def refused(*told: str):
    return pytest.raises(DataError, match="(?s)" + "".join(f"(?=.*{part})" for part in told))


def test_what_a_dataset_holds(data, write):
    write("test.multi.jsonl", [query(1, ["d1"])])
    with gzip.open(data / "dev.jsonl.gz", "wt") as file:
        file.write(json.dumps(query(3, ["d1"])) + "\n")
    write(".hidden.jsonl", [])
    write("notes.txt", ["no data"])
    dataset = Dataset.open(data)
    assert dataset.splits == ["dev", "test.multi", "train"]
    assert dataset.corpus.get([9]) == [Document("d9", "text 9")]
    assert dataset.corpus is dataset.corpus
    assert dataset.queries("train")[0] == Query("q1", "question 1", ("d1",), ("d2", "d3"))
    assert dataset.queries("dev")[0].query_id == "q3"
    assert dataset.qrels("test") == {"q1": {"d1": 2, "d2": 0}}


def test_opening_reads_no_data(data, write):
    write("corpus.jsonl", ["not JSON"])
    dataset = Dataset.open(data)
    with refused("corpus.jsonl:1: malformed JSON"):
        _ = dataset.corpus


def test_dataset_travels_to_another_process(data):
    dataset = Dataset.open(data)
    assert len(dataset.corpus) == 10
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301
    assert copy.splits == ["train"]
    assert copy.corpus.docids(0, 2) == ["d0", "d1"]


def test_what_is_no_dataset_is_refused(data, write, tmp_path):
    with refused("nothing", "corpus.jsonl", "teva-data convert"):
        Dataset.open(tmp_path / "none")
    with refused("not a dataset", "a file"):
        Dataset.open(data / "corpus.jsonl")
    with refused("no corpus", "test.tsv", "corpus.jsonl.gz"):
        Dataset.open(data / "qrels")
    write("corpus.jsonl.gz", [])
    with refused("two files for 'corpus'", "corpus.jsonl.gz"):
        Dataset.open(data)


def test_two_files_of_a_split_are_refused(data, write):
    write("train.jsonl.zst", [])
    with refused("two files for 'train'"):
        Dataset.open(data)


def test_unknown_split_names_the_known(data, write):
    dataset = Dataset.open(data)
    with refused("unknown split", "'trian'", "Did you mean 'train'?"):
        dataset.queries("trian")
    (data / "train.jsonl").unlink()
    with refused("It has a corpus only"):
        Dataset.open(data).queries("train")


def test_qrels_of_a_split_may_be_missing_or_twofold(data, write):
    dataset = Dataset.open(data)
    with refused("no judgements for this split", r"\['test.tsv'\]", "train.tsv or train.tsv.gz"):
        dataset.qrels("train")
    (data / "qrels" / "test.tsv.gz").write_bytes(gzip.compress((data / "qrels" / "test.tsv").read_bytes()))
    with refused("two files of judgements"):
        dataset.qrels("test")
    (data / "qrels" / "test.tsv").unlink()
    assert dataset.qrels("test") == {"q1": {"d1": 2, "d2": 0}}


# --- ids ---


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (query(7, ["d1", "nope"]), ["train.jsonl:5003", "positive_document_ids", "unknown document", "'nope'"]),
        (query(7, ["nope", "d1"], ["d2"]), ["train.jsonl:5003", "positive_document_ids", "unknown document", "'nope'"]),
        (query(7, ["d1"], ["d2", "nope"]), ["train.jsonl:5003", "negative_document_ids", "unknown document", "'nope'"]),
        (query(7, []), ["train.jsonl:5003", "positive_document_ids", "no positive"]),
        (query(7, ["d1", "d3"], ["d2", "d3"]), ["train.jsonl:5003", "positive and negative at once", "'d3'"]),
    ],
)
def test_bad_reference_is_named(data, write, row, told):
    # After more queries than are checked at once.
    before = [query(100 + n, ["d1"], ["d2"] * (n % 3)) for n in range(5002)]
    write("train.jsonl", [*before, row, query(8, ["d1"])])
    with refused(*told):
        Dataset.open(data).check_references("train")


def test_good_references_are_checked_once_for_each_pair_of_files(data, write, monkeypatch):
    Dataset.open(data).check_references("train")
    with monkeypatch.context() as context:
        context.setattr(Dataset, "_check_known", lambda *_: pytest.fail("checked again"))
        Dataset.open(data).check_references("train")
    write("corpus.jsonl", CORPUS[:3])  # d3 and d4 are gone
    with refused("train.jsonl:1", "'d3'"):
        Dataset.open(data).check_references("train")
    write("corpus.jsonl", CORPUS)
    Dataset.open(data).check_references("train")
    write("train.jsonl", [query(1, ["d77"])])
    with refused("train.jsonl:1", "'d77'"):
        Dataset.open(data).check_references("train")


def test_fingerprint_names_the_bytes(data, write):
    dataset = Dataset.open(data)
    corpus, train = dataset.fingerprint(), dataset.fingerprint("train")
    assert corpus != train
    assert Dataset.open(data).fingerprint("train") == train
    write("train.jsonl", [query(1, ["d1"])])
    assert Dataset.open(data).fingerprint() == corpus
    assert Dataset.open(data).fingerprint("train") != train
    write("corpus.jsonl", CORPUS[:5])
    assert Dataset.open(data).fingerprint() != corpus


# --- the card ---


def test_card(data):
    (data / "dataset.yaml").write_text(
        "schema: 1\nname: mine\nlicense: CC0-1.0\nsource: here\nlanguages: [en, 'no']\nprompts: {query: 'q: '}\n"
    )
    card = Dataset.open(data).card
    assert (card.schema_version, card.name, card.license, card.source) == ("1", "mine", "CC0-1.0", "here")
    assert (card.languages, card.prompts.query, card.prompts.document) == (["en", "no"], "q: ", None)


@pytest.mark.parametrize("content", ["", "# nothing\n"])
def test_empty_card_and_none_are_the_same(data, content):
    without = Dataset.open(data).card
    (data / "dataset.yaml").write_text(content)
    assert Dataset.open(data).card == without


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("licence: MIT\n", ["field 'licence': unknown key", "Did you mean 'license'?"]),
        ("shcema: 1\n", ["field 'shcema': unknown key", "Did you mean 'schema'?"]),
        ("prompts: {qurey: x}\n", ["field 'prompts.qurey': unknown key", "Did you mean 'query'?"]),
        ("schema: 2\n", ["field 'schema'", "'2'"]),
        ("languages: [no]\n", ["field 'languages.0'", "False", "Quote it"]),
        ("name: 5\n", ["field 'name'", "5"]),
        ("- a\n", ["not a mapping"]),
        ("name: a\nprompts: {query: [\n", [r"dataset.yaml:3: malformed YAML"]),
        ("name: \x00\n", ["malformed YAML"]),
    ],
)
def test_bad_card_is_refused(data, content, told):
    (data / "dataset.yaml").write_text(content)
    with refused("dataset.yaml", *told):
        Dataset.open(data)


def test_a_dataset_in_another_process_has_the_same_rows_or_none(write):
    root = write("corpus.jsonl", [{"docid": "a", "text": "old"}]).parent
    dataset = Dataset.open(root)
    early = pickle.dumps(dataset)
    assert dataset.corpus.get([0])[0].document_text == "old"
    late = pickle.dumps(dataset)
    write("corpus.jsonl", [{"docid": "a", "text": "newer"}])
    assert Dataset.open(root).corpus.get([0])[0].document_text == "newer"
    assert pickle.loads(early).corpus.get([0])[0].document_text == "newer"  # noqa: S301
    with pytest.raises(DataError, match="the source changed"):
        pickle.loads(late)  # noqa: S301


def test_a_relative_path_holds_after_the_process_went_elsewhere(tmp_path, monkeypatch):
    root = tmp_path / "data"
    (root / "media").mkdir(parents=True)
    (root / "media" / "1.png").write_bytes(b"picture")
    (root / "corpus.jsonl").write_text('{"docid": "a", "image": "media/1.png"}\n')
    (root / "train.jsonl").write_text('{"query_id": "q", "query_text": "t", "positive_document_ids": ["a"]}\n')
    monkeypatch.chdir(tmp_path)
    dataset = Dataset.open("data")
    by_file = CorpusStore.open("data/corpus.jsonl")
    monkeypatch.chdir("/")
    assert dataset.queries("train")[0].query_id == "q"
    for store in (dataset.corpus, by_file):
        (medium,) = store.get([0])[0].media
        assert (medium.path, medium.read()) == (f"{root}/media/1.png", b"picture")
        assert store.address(0) == (f"{root}/corpus.jsonl", 1)
