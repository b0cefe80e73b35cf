"""ViDoRe's layouts become page images and questions, in both forms, from Parquet as the hub has it."""

from __future__ import annotations

import pytest
from datasets import Image

from teva_data.conversion import Options, convert, recognise, write_dataset
from teva_data.conversion.tables import open_tables
from teva_data.conversion.tables_hub import HubTables
from teva_data.dataset import Dataset
from teva_data.errors import DataError

from .replicas import hub_repository, image_of, png


def images(dataset: Dataset) -> dict[str, bytes]:
    """Bytes of each page by docid."""
    documents = dataset.corpus.documents(0, len(dataset.corpus))
    return {each.docid: each.pieces[-1].read() for each in documents}


def three_tables(directory, *, dash="-", score="float64", extra=None, qrels=None, languages=("english",) * 3):
    pages = [{f"corpus{dash}id": number, "image": image_of(number)} for number in range(3)]
    queries = [
        {f"query{dash}id": number, "query": f"which {number}?", "language": language}
        for number, language in enumerate(languages)
    ]
    if qrels is None:
        qrels = [(0, 2, 1), (1, 0, 2), (1, 1, 0)]
    return hub_repository(
        directory,
        {
            "corpus": {"test": [{**page, **(extra or {})} for page in pages]},
            "queries": {"test": queries},
            "qrels": {"test": [{f"query{dash}id": q, f"corpus{dash}id": d, "score": s} for q, d, s in qrels]},
        },
        {
            "corpus": {f"corpus{dash}id": "int64", "image": Image(), **dict.fromkeys(extra or {}, "string")},
            "queries": {f"query{dash}id": "int64", "query": "string", "language": "string"},
            "qrels": {f"query{dash}id": "int64", f"corpus{dash}id": "int64", "score": score},
        },
    )


@pytest.mark.parametrize(("dash", "score"), [("-", "float64"), ("_", "int64")])
def test_three_tables(tmp_path, dash, score):
    source = three_tables(tmp_path / "source", dash=dash, score=score)
    layout, reason = recognise(open_tables(source))
    assert (layout, "corpus-id" in reason) == ("vidore", True)
    dataset = Dataset.open(convert(source, tmp_path / "out"))
    assert images(dataset) == {str(number): png(number) for number in range(3)}
    assert [(each.query_id, each.query_text, each.positive_document_ids) for each in dataset.queries("test")] == [
        ("0", "which 0?", ("2",)), ("1", "which 1?", ("0",)),
    ]  # fmt: skip
    assert dataset.qrels("test") == {"0": {"2": 1}, "1": {"0": 2, "1": 0}}
    dataset.check_references("test")


def test_markdown_beside_the_image_and_one_language(tmp_path):
    source = three_tables(
        tmp_path / "source", dash="_", extra={"markdown": "# Page", "doc_id": "a.pdf"},
        languages=("english", "french", "french"),
    )  # fmt: skip
    dataset = Dataset.open(convert(source, tmp_path / "plain"))
    assert [each.document_text for each in dataset.corpus.documents(0, 3)] == [""] * 3
    dataset = Dataset.open(convert(source, tmp_path / "out", document_field="markdown", part="french"))
    assert [each.document_text for each in dataset.corpus.documents(0, 3)] == ["# Page"] * 3
    assert images(dataset) == {str(number): png(number) for number in range(3)}
    assert [each.query_id for each in dataset.queries("test")] == ["1"]
    assert dataset.qrels("test") == {"1": {"0": 2, "1": 0}}


@pytest.mark.parametrize(
    ("qrels", "told"),
    [
        ([(0, 7, 1)], "parquet:1.*unknown document.*'7'"),
        ([(0, 0, 1), (9, 0, 1)], "parquet:2.*unknown query.*'9'"),
        ([(0, 0, 0.5)], "parquet:1: field 'score': not a grade"),
    ],
)
def test_bad_judgements_are_named(tmp_path, qrels, told):
    with pytest.raises(DataError, match=f"(?s){told}"):
        convert(three_tables(tmp_path / "source", qrels=qrels), tmp_path / "out")


QUESTION_TYPES = {
    "query": "string", "image": Image(), "image_filename": "string", "answer": "string", "page": "string",
    "model": "string", "prompt": "string", "source": "string",
}  # fmt: skip


def questions(directory, rows, splits=("test",)):
    rows = [
        {"query": query, "image": image_of(seed), "image_filename": name, "answer": "x"} for query, seed, name in rows
    ]
    return hub_repository(directory, {"default": dict.fromkeys(splits, rows)}, {"default": QUESTION_TYPES})


def test_questions_and_pages_in_one_table(tmp_path, caplog):
    caplog.set_level("INFO")
    rows = [
        ("what?", 1, "a/1.jpg"), ("which é?", 2, "a/2.jpg"), (None, 3, "a/3.jpg"), ("what?", 2, "a/2.jpg"),
        ("  ", 1, "a/1.jpg"), ("where?", 1, "copy.jpg"), ("what?", 1, "a/1.jpg"),
    ]  # fmt: skip
    source = questions(tmp_path / "source", rows)
    assert recognise(open_tables(source))[0] == "vidore"
    dataset = Dataset.open(convert(source, tmp_path / "out"))
    assert images(dataset) == {"a/1.jpg": png(1), "a/2.jpg": png(2), "a/3.jpg": png(3)}
    found = {each.query_text: each for each in dataset.queries("test")}
    assert {text: each.positive_document_ids for text, each in found.items()} == {
        "what?": ("a/1.jpg", "a/2.jpg"), "which é?": ("a/2.jpg",), "where?": ("a/1.jpg",),
    }  # fmt: skip
    assert dataset.qrels("test")[found["what?"].query_id] == {"a/1.jpg": 1, "a/2.jpg": 1}
    assert "3 queries; 2 rows without a question are pages alone" in caplog.text
    assert "1 file names for a page seen before" in caplog.text


def test_streamed_through_datasets(tmp_path):
    tables = HubTables(str(questions(tmp_path / "source", [("what?", 1, "a/1.jpg"), (None, 2, "a/2.jpg")])))
    assert recognise(tables)[0] == "vidore"
    assert write_dataset(tables, tmp_path / "out", "vidore", Options(), form="parquet", media="bytes") == {"test": 1}
    assert images(Dataset.open(tmp_path / "out")) == {"a/1.jpg": png(1), "a/2.jpg": png(2)}


def test_training_and_test_share_their_pages(tmp_path):
    dataset = Dataset.open(
        convert(questions(tmp_path / "source", [("what?", 1, "1.jpg")], ("train", "test")), tmp_path / "out")
    )
    assert dataset.splits == ["test", "train"]
    assert len(dataset.corpus) == 1
    # A question has one name wherever it stands.
    (train,), (test,) = dataset.queries("train"), dataset.queries("test")
    assert train.query_id == test.query_id


def test_pages_without_names_are_told_apart_by_their_bytes(tmp_path):
    source = questions(tmp_path / "source", [("a?", 1, None), ("b?", 2, None), ("c?", 1, None)])
    dataset = Dataset.open(convert(source, tmp_path / "out", layout="vidore"))
    assert sorted(images(dataset).values()) == sorted([png(1), png(2)])
    pages = {each.query_text: each.positive_document_ids for each in dataset.queries("test")}
    assert pages["a?"] == pages["c?"] != pages["b?"]


def test_one_name_for_two_pages_is_refused(tmp_path):
    source = questions(tmp_path / "source", [("a?", 1, "1.jpg"), ("b?", 2, "1.jpg")])
    with pytest.raises(DataError, match=r"(?s)parquet:2.*two different images under the id '1.jpg'.*parquet:1"):
        convert(source, tmp_path / "out")
    rows = [{"query": "a?", "image": None, "image_filename": "1.jpg"}]
    source = hub_repository(tmp_path / "none", {"default": {"test": rows}}, {"default": QUESTION_TYPES})
    with pytest.raises(DataError, match=r"parquet:1: field 'image': no image"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tables_that_are_neither_form(tmp_path):
    source = three_tables(tmp_path / "source")
    (source / "corpus").rename(source / "pages")
    readme = source / "README.md"
    readme.write_text(readme.read_text().replace("corpus", "pages"))
    with pytest.raises(DataError, match=r"not one table.*'pages', 'queries', 'qrels'"):
        convert(source, tmp_path / "out", layout="vidore")


@pytest.mark.parametrize(
    "declared",
    ["[1]", "[{config_name: a, data_files: [{splits: x, path: y}]}]", "[{config_name: a, data_files: [{split: x}]}]",
     "[{config_name: a, data_files: [{split: x, path: [1]}]}]", "[{config_name: a, data_files: [7]}]",
     "[{config_name: a, data_files: ''}]", "[2001-99-99]"],
)  # fmt: skip
def test_readme_that_declares_nonsense(tmp_path, declared):
    source = three_tables(tmp_path / "source")
    (source / "README.md").write_text(f"---\nconfigs: {declared}\n---\n")
    with pytest.raises(DataError, match=r"README.md"):
        convert(source, tmp_path / "out")
