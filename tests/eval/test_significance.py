from __future__ import annotations

import itertools

import numpy as np
import pytest

from teva_eval.significance import bootstrap_means, holm, paired, randomisation_p


def test_randomisation_by_hand():
    """Four queries have 16 exchanges; all of them are looked at here, and the sampled p is near their share."""
    change = np.array([0.3, 0.1, 0.2, -0.05])
    signs = np.array(list(itertools.product([-1, 1], repeat=4)))
    exact = (np.abs(signs @ change) >= change.sum() - 1e-12).mean()
    assert randomisation_p(change, 40_000, np.random.default_rng(0)) == pytest.approx(exact, abs=0.01)


def test_no_difference_and_a_clear_one():
    values = np.random.default_rng(0).random(50)
    same = paired(values, values)
    assert (same.p, same.low, same.high, same.wins, same.losses) == (1.0, 0.0, 0.0, 0, 0)
    better = paired(values, values + 0.1)
    assert better.p < 0.001
    assert better.low == pytest.approx(0.1)
    assert (better.wins, better.losses) == (50, 0)
    assert better.difference == pytest.approx(0.1)


def test_the_bootstrap_has_the_standard_error():
    change = np.random.default_rng(1).standard_normal(400)
    means = bootstrap_means(change, 20_000, np.random.default_rng(2))
    assert means.shape == (20_000,)
    assert means.std() == pytest.approx(change.std() / 20, rel=0.03)


def test_many_queries_are_drawn_in_parts():
    change = np.random.default_rng(1).standard_normal(50_000) + 1
    assert len(bootstrap_means(change, 300, np.random.default_rng(2))) == 300
    assert randomisation_p(change, 300, np.random.default_rng(2)) == pytest.approx(1 / 301)


def test_the_seed_decides():
    one, other = np.random.default_rng(0).random((2, 30))
    assert paired(one, other, seed=3) == paired(one, other, seed=3)
    assert paired(one, other, seed=3) != paired(one, other, seed=4)


def test_holm():
    # Worked by hand: sorted .01 .02 .03 .04, times 4 3 2 1, and never falling.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]


def test_rows_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="of the same queries"):
        paired([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="of the same queries"):
        paired([], [])
