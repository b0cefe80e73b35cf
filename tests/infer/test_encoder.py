from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from teva_data.errors import ArtifactError, DataError, MissingExtraError, TevaError
from teva_data.inputs import PieceTokens
from teva_data.records import Document
from teva_infer.encoder import Encoder
from teva_infer.engines import Engine, find_engine
from teva_infer.indexes import find_kind

TEXTS = ["red river", "the stone table in the garden", "tea", "how to make bread with salt and sugar", "ice"] * 7


@pytest.fixture
def encoder(tiny_model, bag):
    return Encoder.load(tiny_model, engine=bag, query_prompt="what is ", document_prompt="paper ")


def alone(encoder, rendered):
    """Each text by itself, through the tokenizer and the engine's table only."""
    rows = []
    for text in rendered:
        ids = encoder.renderer.tokenizer(text, truncation=True, max_length=encoder.renderer.max_length)["input_ids"]
        row = encoder.engine.table[ids].astype(np.float64).mean(axis=0)
        rows.append(row / np.linalg.norm(row))
    return np.array(rows)


def test_queries_and_documents_have_their_prompts_and_their_order(encoder):
    found = encoder.encode_queries(TEXTS, batch_tokens=20)
    assert (found.dtype, found.shape) == (np.float32, (35, 32))
    np.testing.assert_allclose(found, alone(encoder, ["what is " + text for text in TEXTS]), atol=1e-6)
    found = encoder.encode_documents(TEXTS, batch_tokens=20)
    np.testing.assert_allclose(found, alone(encoder, ["paper " + text for text in TEXTS]), atol=1e-6)


def test_a_document_may_have_a_title(encoder):
    items = [("river", "red water"), ("", "red water"), Document("d1", "red water", "river"), "red water"]
    rendered = ["paper river red water", "paper red water", "paper river red water", "paper red water"]
    np.testing.assert_allclose(encoder.encode_documents(items), alone(encoder, rendered), atol=1e-6)


def test_a_prompt_for_one_call(encoder):
    found = encoder.encode_queries(["tea"], prompt="blue ")
    np.testing.assert_allclose(found, alone(encoder, ["blue tea"]), atol=1e-6)
    np.testing.assert_allclose(encoder.encode_queries(["tea"], prompt=""), alone(encoder, ["tea"]), atol=1e-6)
    np.testing.assert_allclose(encoder.encode_texts(["blue tea"]), alone(encoder, ["blue tea"]), atol=1e-6)


def test_long_texts_are_cut_at_the_limit(tiny_model, bag):
    text = " ".join(["river", "stone", "tea"] * 40)
    for limit in (5, 48):
        encoder = Encoder.load(tiny_model, engine=bag, max_length=limit)
        ids = encoder.renderer.tokenize([text])[0]
        assert len(ids) == limit
        np.testing.assert_allclose(encoder.encode_queries([text]), alone(encoder, [text]), atol=1e-6)


def test_batches_keep_to_the_budget_longest_first(encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("BAG_LOG", str(tmp_path / "log"))
    lengths = np.random.default_rng(0).integers(1, 30, 200)
    seen = []
    encoder.encode_tokens(
        [[1] * length for length in lengths], batch_tokens=64, batch_rows=6, on_batch=lambda *n: seen.append(n)
    )
    batches = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(length for batch in batches for length in batch) == sorted(lengths.tolist())
    assert [length for batch in batches for length in batch] == sorted(lengths.tolist(), reverse=True)
    assert all(len(batch) <= 6 and len(batch) * max(batch) <= 64 for batch in batches)
    assert seen == [(len(batch), sum(batch)) for batch in batches]
    # Full: one more row would break a bound.
    assert all(len(batch) == 6 or (len(batch) + 1) * max(batch) > 64 for batch in batches[:-1])


def test_records_are_counted_where_their_pieces_are_inputs(encoder):
    lengths = np.random.default_rng(0).integers(1, 30, (40, 3))
    records = [PieceTokens([[1] * length for length in row[: 1 + at % 3]]) for at, row in enumerate(lengths)]
    seen = []
    found = encoder.encode_rows(records, batch_tokens=64, on_batch=lambda *n: seen.append(n))
    assert len(found) == 40
    assert len(seen) > 10
    assert [sum(column) for column in zip(*seen, strict=True)] == [40, sum(map(len, records))]
    assert all(rows <= 1 + tokens // 2 for rows, tokens in seen)


def test_a_row_longer_than_the_budget_stands_alone(encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("BAG_LOG", str(tmp_path / "log"))
    encoder.encode_tokens([[1] * 9, [1] * 3, [1] * 9], batch_tokens=5)
    assert (tmp_path / "log").read_text().split("\n") == ["[9]", "[9]", "[3]", ""]


def test_nothing_to_encode(encoder):
    for found in (encoder.encode_queries([]), encoder.encode_documents([]), encoder.encode_tokens([])):
        assert (found.dtype, found.shape) == (np.float32, (0, 32))


def test_one_str_is_not_a_list_of_texts(encoder):
    for method in (encoder.encode_queries, encoder.encode_documents, encoder.encode_texts):
        with pytest.raises(TypeError, match=r"write \['red river'\]"):
            method("red river")


@pytest.mark.parametrize("item", [7, None, ("a", "b", "c"), ("a", 1), {"text": "x"}])
def test_a_document_of_another_kind(encoder, item):
    with pytest.raises(TypeError, match=f"found {type(item).__name__}"):
        encoder.encode_documents(["x", item])


def test_a_text_without_tokens_is_named(encoder):
    with pytest.raises(DataError, match="position 1 has no tokens"):
        encoder.encode_tokens([[1], [], [2]])


@pytest.mark.parametrize("options", [{"batch_tokens": 0}, {"batch_rows": 0}])
def test_batches_of_nothing(encoder, options):
    with pytest.raises(TevaError, match="start at 1"):
        encoder.encode_tokens([[1]], **options)


def test_an_engine_that_returns_another_shape(encoder, monkeypatch):
    monkeypatch.setenv("BAG_DIM", "31")
    with pytest.raises(TevaError, match=r"'bag' returned float32 \[2, 31\]; expected float32 \[2, 32\]"):
        encoder.encode_queries(["a", "b"])


def test_engines_are_found_by_entry_point(bag):
    found = find_engine("bag")
    assert found is sys.modules["bag_engine"].BagEngine
    assert issubclass(found, Engine)


def test_an_unknown_engine_names_the_nearest(bag):
    with pytest.raises(TevaError, match=r"unknown engine 'bagg'\. Did you mean 'bag'\?"):
        find_engine("bagg")
    with pytest.raises(TevaError, match="Known: bag, broken, http, jax, misnamed, torch, vllm, wanting"):
        find_engine("xyz")


def test_a_missing_package_prints_its_install_line(bag, monkeypatch):
    with pytest.raises(MissingExtraError, match=r"no module 'a_library_that_is_not_there'.*pip install \"bag-engine\""):
        find_engine("wanting")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [])
    with pytest.raises(MissingExtraError, match=r'pip install "teva-infer\[torch\]"'):
        find_engine("torch")


@pytest.mark.parametrize(
    ("find", "name", "told"),
    [
        (
            find_engine,
            "broken",
            r"'bag_engine_of_no_module:Engine' of the package bag-engine cannot be loaded: No module",
        ),
        (find_engine, "misnamed", "misnamed = 'bag_engine:NoEngine' of the package bag-engine cannot be loaded"),
        (find_kind, "misnamed_index", r"teva_infer\.indexes: the entry point .* has no attribute 'NoIndex'"),
    ],
)
def test_an_entry_point_that_names_nothing_is_told_with_its_package(bag, find, name, told):
    with pytest.raises(TevaError, match=told) as caught:
        find(name)
    assert not isinstance(caught.value, MissingExtraError)


def test_no_model_here(tmp_path, bag):
    with pytest.raises(ArtifactError, match=str(tmp_path)):
        Encoder.load(tmp_path, engine=bag)
