from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teva_data.permutation import mix, mix_each, permute


@given(n=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_every_value_once(n, key):
    assert sorted(permute(np.arange(n), n, key).tolist()) == list(range(n))


@given(n=st.integers(2, 2**62), key=st.integers(0, 2**63), data=st.data())
def test_a_position_alone_and_among_others(n, key, data):
    positions = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20))
    together = permute(positions, n, key)
    assert ((together >= 0) & (together < n)).all()
    assert [int(permute(position, n, key)[0]) for position in positions] == together.tolist()


def test_values_are_spread_evenly():
    # Where each of 10 positions goes over many keys: a chi-square with 9 degrees of freedom stays below 33 with
    # probability 0.9999 when all ten values are equally likely.
    counts = np.zeros((10, 10))
    for key in range(5000):
        counts[np.arange(10), permute(np.arange(10), 10, mix(7, key))] += 1
    chi_square = ((counts - 500) ** 2 / 500).sum(axis=1)
    assert chi_square.max() < 33


def test_keys_differ():
    first, second = permute(np.arange(1000), 1000, mix(1, 0)), permute(np.arange(1000), 1000, mix(1, 1))
    # Two random permutations agree in one place on average.
    assert (first == second).sum() < 10


def test_mix_is_the_same_for_ever():
    # A change here would change every plan: resumed runs and published orders would no longer be what they were.
    assert mix(1, 2, 3) == 15020427595393229491
    assert permute(np.arange(8), 8, 12345).tolist() == [0, 5, 4, 1, 7, 2, 3, 6]


@pytest.mark.parametrize(("positions", "n"), [([5], 5), ([-1], 5), ([0], 0)])
def test_out_of_range(positions, n):
    with pytest.raises(ValueError, match="expected"):
        permute(positions, n, 0)


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=20), st.lists(st.integers(0, 2**64 - 1), max_size=3))
def test_mix_each_is_mix(values, others):
    array = np.array(values, dtype=np.int64)
    assert mix_each(*others, array).tolist() == [mix(*others, value) for value in values]
    assert mix_each(array, *others, array).tolist() == [mix(value, *others, value) for value in values]


@given(data=st.data())
def test_a_domain_and_a_key_for_each_position(data):
    sizes = data.draw(st.lists(st.integers(1, 2**62), min_size=1, max_size=20))
    positions = [data.draw(st.integers(0, n - 1)) for n in sizes]
    keys = [data.draw(st.integers(0, 2**64 - 1)) for _ in sizes]
    together = permute(positions, np.array(sizes), np.array(keys, dtype=np.uint64))
    assert together.tolist() == [int(permute(*each)[0]) for each in zip(positions, sizes, keys, strict=True)]


def test_keys_of_another_number_are_refused():
    with pytest.raises(ValueError, match=r"expected uint64 \(2,\)"):
        permute([0, 1], 5, np.zeros(3, dtype=np.uint64))
