"""Attention against a float64 oracle, and the TPU's kernel (interpreted) against XLA, gradients included."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import jax
from teva_jax import make_mesh
from teva_jax.attention import attend, choose, opened, splash

WINDOWS = [(None, None), (None, 0), (37, 0), (20, 20)]


def _inputs(length, heads=4, groups=2, size=8, batch=2, dtype=np.float32):
    draw = np.random.default_rng(0)
    q = draw.normal(size=(batch, length, heads, size)).astype(dtype)
    k, v = (draw.normal(size=(batch, length, groups, size)).astype(dtype) for _ in range(2))
    lengths = np.array([length, max(1, length // 3)] * (batch // 2), np.int32)
    return q, k, v, lengths


def _oracle(q, k, v, lengths, window, scale, softcap):
    """One score at a time, float64."""
    batch, length, heads, _ = q.shape
    group = heads // k.shape[2]
    out = np.zeros_like(q, np.float64)
    before, after = (length if side is None else side for side in window)
    for b in range(batch):
        for i in range(lengths[b]):
            seen = [j for j in range(lengths[b]) if -after <= i - j <= before]
            for n in range(heads):
                scores = np.array([q[b, i, n].astype(np.float64) @ k[b, j, n // group] for j in seen]) * scale
                scores = softcap * np.tanh(scores / softcap) if softcap else scores
                weights = np.exp(scores - scores.max())
                out[b, i, n] = (weights / weights.sum()) @ v[b, seen, n // group].astype(np.float64)
    return out


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", WINDOWS)
def test_against_a_float64_oracle(window, softcap):
    q, k, v, lengths = _inputs(48)
    found = np.asarray(attend(q, k, v, lengths, scale=0.3, window=window, softcap=softcap))
    assert np.isfinite(found).all()
    expected = _oracle(q, k, v, lengths, window, 0.3, softcap)
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(found[row, :length], expected[row, :length], atol=2e-6)
    # A layer that opens the window, told within the trace as without.
    for wide in (True, False):
        expected = _oracle(q, k, v, lengths, opened(window) if wide else window, 0.3, softcap)
        for each in (wide, jnp.asarray(wide)):
            found = np.asarray(attend(q, k, v, lengths, scale=0.3, window=window, wide=each, softcap=softcap))
            np.testing.assert_allclose(found[0], expected[0], atol=2e-6)


@pytest.mark.parametrize(("window", "softcap"), [*((window, None) for window in WINDOWS), ((37, 0), 2.0)])
def test_the_kernel_of_tpus_is_the_same_function(window, softcap):
    q, k, v, lengths = _inputs(256, batch=4)
    mesh = make_mesh(data=2, fsdp=1, tensor=2, devices=jax.devices()[:4])
    assert lengths.tolist() == [256, 85, 256, 85]
    weight = jnp.asarray(
        np.random.default_rng(1).normal(size=q.shape) * (np.arange(256) < lengths[:, None])[..., None, None]
    )

    def loss(function, q, k, v):
        mixed = function(q, k, v)
        return (mixed * weight).sum(), mixed

    def gradients(function):
        return jax.jit(jax.grad(lambda *x: loss(function, *x), argnums=(0, 1, 2), has_aux=True))(q, k, v)

    options = {"window": window, "scale": 0.3, "softcap": softcap}
    wanted = gradients(lambda q, k, v: attend(q, k, v, lengths, **options))
    found = gradients(lambda q, k, v: splash(q, k, v, jnp.asarray(lengths), mesh=mesh, interpret=True, **options))
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(found[1][row, :length], wanted[1][row, :length], atol=5e-6)
    for one, other in zip(found[0], wanted[0], strict=True):
        assert np.linalg.norm(one - other) <= 1e-5 * np.linalg.norm(other)


def test_what_is_chosen():
    def kind(platform, length=512, *, dtype=jnp.bfloat16, size=64, groups=2, mesh=None, window=(None, 0), **options):
        q, k = (jax.ShapeDtypeStruct((8, length, heads, size), dtype) for heads in (4, groups))
        return choose(platform, q, k, window, **{"softcap": None, "dropout": 0.0, **options}, mesh=mesh)

    mesh = make_mesh(data=2, fsdp=1, tensor=4)
    assert kind("tpu") == kind("tpu", window=(20, 20), softcap=50.0) == kind("tpu", groups=4, mesh=mesh) == "splash"
    assert {
        kind("tpu", 256), kind("tpu", 600), kind("tpu", dtype=jnp.float32), kind("tpu", dropout=0.1),
        kind("tpu", groups=2, mesh=mesh), kind("cpu"), kind("gpu", dtype=jnp.float32), kind("gpu", softcap=50.0),
        kind("gpu", size=256), kind("gpu", window=(20, 20)),
    } == {"xla"}  # fmt: skip
    assert kind("gpu", 40) == kind("cuda", window=(20, 0)) == "cudnn"


def test_dropout_of_the_weights_keeps_the_mean():
    q, k, v, lengths = _inputs(16)
    plain = attend(q, k, v, lengths, scale=0.3)
    keys = jax.random.split(jax.random.key(0), 500)
    drawn = jax.jit(jax.vmap(lambda key: attend(q, k, v, lengths, scale=0.3, dropout=0.2, key=key)))(keys)
    assert float(jnp.abs(drawn[0] - drawn[1]).max()) > 0.01
    np.testing.assert_allclose(drawn.mean(0)[0], plain[0], atol=0.1)
