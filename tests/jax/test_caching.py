"""One gradient by every way: cached, kept, in one graph; on one device and on eight; with dropout and with LoRA."""

from __future__ import annotations

import dataclasses
import json
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks.jax_case import Case, relative, shaken

import jax
from teva_jax.caching import PassError, take
from teva_jax.feed import Shapes, chunked


@pytest.fixture
def exact(recipe, tmp_path, tiny_model):
    """The recipe with a model that has no dropout, so that every order of chunks has one gradient."""
    return _with_dropout(recipe, tmp_path, tiny_model, 0.0)


def _with_dropout(recipe, tmp_path, model, rate):
    import shutil

    path = tmp_path / f"model-{rate}"
    shutil.copytree(model, path)
    config = json.loads((path / "config.json").read_text())
    config |= {"hidden_dropout_prob": rate, "attention_probs_dropout_prob": rate}
    (path / "config.json").write_text(json.dumps(config))
    return {**recipe, "model": {**recipe["model"], "name": str(path)}}


def whole_batch(case, trained):
    """The loss of a case's first batch in one graph, without dropout."""
    setup, batch = case.setup, case.feed.batch(0)
    vectors = jnp.zeros(setup.gradient.shape, jnp.float32)
    for chunk in batch.chunks:
        own = setup.gradient.embed(trained["retriever"], case.state.frozen, chunk.token_ids, chunk.lengths, None)
        vectors = vectors.at[chunk.rows].set(own, mode="drop")
    queries, documents = take(vectors, batch.places.queries), take(vectors, batch.places.documents)
    return setup.loss(queries, documents, batch.places.targets, trained["loss"])


def test_cached_and_kept_equal_one_graph(exact):
    cached = Case(exact)
    assert len(cached.feed.batch(0).chunks) > 3
    loss, found, figures = cached.gradient()
    kept_loss, kept, _ = Case(exact, {"jax.gradient_cache": False}).gradient()
    expected_loss, expected = jax.jit(jax.value_and_grad(partial(whole_batch, cached)))(cached.state.trained)
    for value, gradient in ((loss, found), (kept_loss, kept)):
        assert value == pytest.approx(float(expected_loss), rel=1e-6)
        assert relative(gradient, expected) <= 1e-5
    assert float(figures.difference) < 1e-5


def test_an_adapter_is_trained_alone(exact):
    case = Case(exact, {"jax.lora": {"rank": 2, "alpha": 4}, "jax.remat": True})
    case.state.trained["retriever"] = shaken(case.state.trained["retriever"])
    _, found, _ = case.gradient()
    assert {name.rpartition(".lora_")[2] for name in found["retriever"]} == {"A.weight", "B.weight"}
    assert all(value.any() for value in found["retriever"].values())
    other = Case(exact, {"jax.lora": {"rank": 2, "alpha": 4}, "jax.gradient_cache": False})
    other.state.trained["retriever"] = case.state.trained["retriever"]
    assert relative(found, other.gradient()[1]) <= 1e-5


MESHES = [pytest.param((8, 1, 1), marks=pytest.mark.slow), pytest.param((1, 8, 1), marks=pytest.mark.slow), (2, 2, 2)]


@pytest.mark.parametrize("sizes", MESHES)
def test_eight_devices_equal_one(exact, sizes):
    one, eight = Case(exact), Case(exact, sizes=sizes)
    expected_loss, expected, _ = one.gradient()
    loss, found, _ = eight.gradient()
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert relative(found, expected) <= 1e-5


def test_dropout_is_the_same_in_both_passes(recipe, tmp_path, tiny_model):
    with_dropout = _with_dropout(recipe, tmp_path, tiny_model, 0.1)
    case = Case(with_dropout)
    loss, found, figures = case.gradient()
    assert float(figures.difference) < 1e-5
    kept_loss, kept, _ = Case(with_dropout, {"jax.gradient_cache": False}).gradient()
    assert loss == pytest.approx(kept_loss, rel=1e-6)
    assert relative(found, kept) <= 1e-5
    # It is there: another step draws otherwise, and so does another chunk.
    keys = {bytes(np.asarray(chunk.key)) for step in (0, 1) for chunk in case.feed.batch(step).chunks}
    assert len(keys) == sum(len(case.feed.batch(step).chunks) for step in (0, 1))


def test_another_key_in_the_second_pass_is_caught(recipe, tmp_path, tiny_model, monkeypatch):
    case = Case(_with_dropout(recipe, tmp_path, tiny_model, 0.01))
    gradient, pull = case.setup.gradient, case.setup.gradient.pull

    def changed(trained, frozen, total, pool, gradients, chunk, difference):
        return pull(trained, frozen, total, pool, gradients, dataclasses.replace(chunk, key=chunk.key + 1), difference)

    monkeypatch.setattr(gradient, "pull", changed)
    with pytest.raises(PassError, match=r"gave other vectors than the first \(relative difference 0"):
        case.gradient()


def test_one_compilation_for_each_length(exact):
    case = Case(exact, {"model.document_max_length": 24})
    seen = set()
    for step in range(3):
        case.gradient(step)
        seen |= {chunk.token_ids.shape[1] for chunk in case.feed.batch(step).chunks}
    made = case.setup.gradient.compilations()
    assert made == {"encode": len(seen), "pull": len(seen), "keep": 0, "pull_kept": 0, "loss": 1}
    assert seen <= set(case.setup.shapes.lengths())


def test_chunks_hold_each_text_once_and_are_full_but_the_last():
    shapes = Shapes(queries=8, documents=8, chunk_tokens=64, limit=60, devices=4)
    lengths = np.random.default_rng(0).integers(1, 61, 200).tolist()
    chunks = chunked(lengths, shapes)
    assert sorted(np.concatenate(chunks).tolist()) == list(range(200))
    for chunk in chunks[:-1]:
        longest = max(lengths[at] for at in chunk)
        assert len(chunk) % 4 == 0
        assert len(chunk) == shapes.rows(next(size for size in shapes.lengths() if size >= longest))
    assert shapes.lengths() == [16, 32, 60]
