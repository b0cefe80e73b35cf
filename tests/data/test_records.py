"""What a row must hold, under which names, and how an error points at it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from teva_data.errors import DataError
from teva_data.records import Document, Query, Row, join_title, parse_document, parse_query

FILE = Path("some/file.jsonl")


def document(record: dict, **options: str) -> tuple:
    return parse_document(Row(record, FILE, 7), **options)


def query(record: dict, **options: str) -> tuple:
    return parse_query(Row(record, FILE, 7), **options)


def refused(parse, record: dict, *told: str, **options: str) -> DataError:
    with pytest.raises(DataError) as caught:
        parse(record, **options)
    for part in ("some/file.jsonl:7: ", *told):
        assert part in str(caught.value), str(caught.value)
    return caught.value


@pytest.mark.parametrize("name", ["docid", "_id", "id"])
@pytest.mark.parametrize("text", ["document_text", "text", "contents"])
def test_document_names(name, text):
    assert document({name: "a", text: "b", "title": "c", "url": "ignored"}) == ("a", "c", "b", None)


@pytest.mark.parametrize("name", ["query_id", "_id", "id"])
@pytest.mark.parametrize("text", ["query_text", "query", "text"])
def test_query_names(name, text):
    record = {name: "a", text: "b", "positive_document_ids": ["x", 5], "negative_document_ids": ["y"]}
    assert query(record) == ("a", "b", ["x", "5"], ["y"], None, None, None, None)


def test_integers_are_ids_and_null_is_no_title():
    assert document({"docid": 12, "text": "b", "title": None}) == ("12", "", "b", None)
    assert document({"docid": -1, "text": None, "title": "c"}) == ("-1", "c", "", None)
    assert query({"_id": 0, "text": "b"})[0] == "0"


def test_all_query_fields():
    record = {
        "query_id": "q", "query_text": " text ", "positive_document_ids": ["a"], "positive_scores": [1],
        "negative_document_ids": ["b", "c"], "negative_scores": [0.5, -2.0], "prompt": "",
    }  # fmt: skip
    assert query(record) == ("q", " text ", ["a"], ["b", "c"], [1.0], [0.5, -2.0], "", None)


def test_two_names_with_one_value_are_one_field():
    assert document({"docid": "1", "_id": 1, "text": "b", "contents": "b"}) == ("1", "", "b", None)


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"text": "b"}, ["field 'docid': missing (or _id, id)", "The row has: 'text'"]),
        ({"doc_id": "a", "text": "b"}, ["field 'docid': missing", "The row has 'doc_id'; did you mean 'docid'?"]),
        ({"docid": "", "text": "b"}, ["field 'docid': not an id", "found ''"]),
        ({"docid": None, "text": "b"}, ["field 'docid': no value", "null"]),
        ({"docid": 1.5, "text": "b"}, ["field 'docid': not an id", "found 1.5"]),
        ({"docid": True, "text": "b"}, ["field 'docid': not an id", "found True"]),
        ({"_id": ["a"], "text": "b"}, ["field '_id': not an id", "found ['a']"]),
        ({"docid": "a", "id": "b", "text": "c"}, ["'docid' and 'id'", "found 'b'", "'a'"]),
        ({"docid": "a", "text": "b", "contents": "c"}, ["'text' and 'contents'"]),
        ({"docid": "a"}, ["empty document", "found 'a'"]),
        ({"docid": "a", "body": "b"}, ["empty document", "Not read: 'body'; a text stands in 'document_text'"]),
        ({"docid": "a", "text": None, "title": None}, ["empty document"]),
        ({"docid": "a", "text": " \n", "title": ""}, ["empty document"]),
        ({"docid": "a", "text": 5}, ["field 'text': not a text", "found 5", "expected a string"]),
        ({"docid": "a", "text": ["b", 5]}, ["field 'text': not a text", "found 5"]),
        ({"docid": "a", "text": ["b", " "]}, ["field 'text': an empty text in a list"]),
        ({"docid": "a", "text": [None, None]}, ["empty document"]),
        ({"docid": "a", "text": "b", "title": {}}, ["field 'title': not a text"]),
        ({"docid": "a", "title": "t", "documnet_text": "b"}, ["unknown field", "'documnet_text'", "'document_text'"]),
        ({"docid": "a", "title": "t", "content": "b"}, ["field 'content'", "Did you mean 'contents'?"]),
        ({"docid": "a", "text": "b", "titel": "t"}, ["field 'titel'", "Did you mean 'title'?"]),
        ({"docid": "a", "text": "b", "document_image": "x.png"}, ["field 'document_image'", "media are not read here"]),
        ({"docid": "a", "text": "b", "video": 0}, ["field 'video'", "media are not read here"]),
    ],
)
def test_bad_document_is_refused(record, told):
    refused(document, record, *told)


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"query_text": "b"}, ["field 'query_id': missing"]),
        ({"query_id": "q"}, ["field 'query_text': missing (or query, text)"]),
        ({"query_id": "q", "query_text": None}, ["field 'query_text': no value", "null"]),
        ({"query_id": "q", "query": " "}, ["field 'query': empty query"]),
        ({"query_id": "q", "text": "b", "positive_document_ids": "a"}, ["not a list of ids", "found 'a'"]),
        (
            {"query_id": "q", "text": "b", "positive_document_ids": ["a", None]},
            ["'positive_document_ids[1]'", "not an id"],
        ),
        ({"query_id": "q", "text": "b", "negative_document_ids": [""]}, ["'negative_document_ids[0]': not an id"]),
        ({"query_id": "q", "text": "b", "negative_documents_ids": []}, ["Did you mean 'negative_document_ids'?"]),
        (
            {"query_id": "q", "text": "b", "positive_scores": [1.0]},
            ["'positive_scores'", "as 'positive_document_ids', 0"],
        ),
        ({"query_id": "q", "text": "b", "prompt": 1}, ["field 'prompt': not a text"]),
        ({"query_id": "q", "text": "b", "query_audio": "a.wav"}, ["field 'query_audio'", "media are not read here"]),
        ({"query_id": "q", "text": "b", "positive_passages": [{"docid": "a"}]}, ["'positive_passages'", "corpus file"]),
    ],
)
def test_bad_query_is_refused(record, told):
    refused(query, record, *told)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), 10**400, "1", None, True])
def test_score_that_is_no_number_is_refused(score):
    record = {"query_id": "q", "text": "b", "negative_document_ids": ["a", "b"], "negative_scores": [1.0, score]}
    refused(query, record, "field 'negative_scores[1]': not a score", "a finite number")


def test_null_media_and_unknown_fields_are_no_matter():
    assert document({"docid": "a", "text": "b", "image": None, "metadata": {"text": 1}}) == ("a", "", "b", None)
    assert query({"_id": "q", "text": "b", "query_image": None, "positive_passages": [], "lang": "ar"})[:2] == (
        "q",
        "b",
    )


def test_text_may_be_asked_of_one_field():
    assert query({"_id": "q", "text": "tar: list", "plain": "list"}, text_field="plain")[1] == "list"
    refused(query, {"_id": "q", "text": "tar: list", "plian": "x"}, "'plain': missing", "'plian'", text_field="plain")
    assert document({"_id": "d", "text": "a", "body": "b"}, text_field="body") == ("d", "", "b", None)


def test_title_is_joined_where_there_is_one():
    assert [join_title("a", "b"), join_title("", "b"), join_title("a", ""), join_title(" a", "b ")] == [
        "a b", "b", "a", " a b ",
    ]  # fmt: skip


def test_records_do_not_change():
    with pytest.raises(AttributeError):
        Document("a", "b").title = "c"
    with pytest.raises(dataclasses.FrozenInstanceError):
        Query("a", "b").prompt = "c"
    assert Query("q", "t") == Query("q", "t", (), (), None, None, None)
