"""What a model promises beside parity: precision, remat, dropout by key, and refusals."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks.jax_models import CASES, make, texts

import jax
from teva_data.errors import ArtifactError, RecipeError, TevaError
from teva_jax import make_mesh, params
from teva_jax.models import build, read_config, with_direction


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            path = make(tmp_path_factory.mktemp("model"), CASES[name])
            mesh = make_mesh(data=1, fsdp=1, devices=jax.devices()[:1])
            model = build(read_config(path), mesh)
            made[name] = model, params.load(path, model.table, mesh), *_batch()
        return made[name]

    return get


def _batch():
    rows = texts()[2:]
    ids, lengths = np.zeros((3, 64), np.int32), np.array([len(row) for row in rows], np.int32)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
    return ids, lengths


def _loss(model, weights, ids, lengths, **options):
    hidden = model.hidden(weights, ids, lengths, **options)
    real = (jnp.arange(64) < lengths[:, None])[..., None]
    return jnp.where(real, jnp.sin(3 * hidden.astype(jnp.float32)), 0).sum()


def test_remat_changes_no_gradient(loaded):
    model, weights, ids, lengths = loaded("gemma2")
    plain, again = (
        jax.jit(jax.grad(lambda w, remat=remat: _loss(model, w, ids, lengths, remat=remat)))(weights)
        for remat in (False, True)
    )
    for name, gradient in plain.items():
        assert float(jnp.abs(gradient).max()) > 0, name
        np.testing.assert_allclose(again[name], gradient, rtol=1e-5, atol=1e-5 * float(jnp.abs(gradient).max()))


@pytest.mark.parametrize("name", ["bert", "gemma3, both ways"])
def test_bfloat16_is_near_float32(loaded, name):
    model, weights, ids, lengths = loaded(name)
    exact = np.asarray(jax.jit(model.hidden)(weights, ids, lengths))
    half = jax.jit(lambda w: model.hidden(w, ids, lengths, compute_dtype=jnp.bfloat16))(weights)
    assert half.dtype == jnp.bfloat16
    for row, length in enumerate(lengths):
        one, two = exact[row, :length].ravel(), np.asarray(half[row, :length], np.float32).ravel()
        assert one @ two / np.linalg.norm(one) / np.linalg.norm(two) > 0.999


def test_dropout_is_a_function_of_its_key(loaded):
    model, weights, ids, lengths = loaded("bert")
    run = jax.jit(lambda key: model.hidden(weights, ids, lengths, dropout_key=key))
    one, same, other = (np.asarray(run(jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other)[2, : lengths[2]].max() > 0.1
    # The mean over many keys is near what there is without: what is kept is scaled up.
    drawn = jax.jit(lambda keys: jax.lax.map(run, keys).mean(0))(jax.random.split(jax.random.key(0), 64))
    plain = np.asarray(jax.jit(model.hidden)(weights, ids, lengths))
    ratio = np.linalg.norm(drawn[0, :11]) / np.linalg.norm(plain[0, :11])
    assert 0.8 < ratio < 1.1


def test_what_stands_behind_a_text_changes_nothing(loaded):
    for name in ("bert", "gemma2"):
        model, weights, ids, lengths = loaded(name)
        run = jax.jit(model.hidden)
        other = np.where(np.arange(64) < lengths[:, None], ids, 17).astype(np.int32)
        one, two = np.asarray(run(weights, ids, lengths)), np.asarray(run(weights, other, lengths))
        for row, length in enumerate(lengths):
            np.testing.assert_array_equal(one[row, :length], two[row, :length])


def test_what_is_refused(loaded, tmp_path):
    model, weights, _, lengths = loaded("bert")
    with pytest.raises(TevaError, match="a batch of 65 tokens; expected at most 64"):
        model.hidden(weights, np.zeros((3, 65), np.int32), lengths)
    with pytest.raises(TevaError, match="an adapter without the settings"):
        model.hidden(weights, np.zeros((3, 4), np.int32), lengths, adapter={"x": jnp.zeros(1)})
    with pytest.raises(RecipeError, match="bert reads both ways"):
        with_direction(model.config, bidirectional=False)
    with pytest.raises(ArtifactError, match=r"config\.json cannot be read"):
        read_config(tmp_path)
