"""Poolings beside a loop over texts in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from teva_jax.pooling import cls_pooling, last_pooling, mean_pooling


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        (cls_pooling, lambda own: own[0]),
        (mean_pooling, lambda own: own.mean(axis=0)),
        (last_pooling, lambda own: own[-1]),
    ],
)
def test_a_text_has_the_vector_of_its_own_tokens(pooling, expected):
    lengths = np.array([1, 4, 7], np.int32)
    hidden = np.random.default_rng(0).normal(size=(3, 7, 5)).astype(np.float32)
    for row, length in enumerate(lengths):
        hidden[row, length:] = np.nan  # what stands behind a text's end is nobody's
    found = np.asarray(pooling(hidden, lengths))
    assert found.dtype == np.float32
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(found[row], expected(hidden[row, :length].astype(np.float64)), rtol=1e-6, atol=1e-7)
