from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teva_data.batching import least_work_batches, token_batches


def _work(batches, lengths, pass_tokens):
    return sum(len(batch) * max(1, max(lengths[at] for at in batch)) + pass_tokens for batch in batches)


def _least(lengths, max_tokens, pass_tokens, max_rows):
    """By trying all cuts of the sorted lengths."""
    order, best = sorted(lengths, reverse=True), float("inf")
    for cuts in itertools.product([False, True], repeat=max(0, len(order) - 1)):
        batches, batch = [], [order[0]]
        for cut, length in zip(cuts, order[1:], strict=True):
            if cut:
                batches.append(batch)
                batch = []
            batch.append(length)
        batches.append(batch)
        sizes = [len(one) * max(1, one[0]) for one in batches]
        if (
            all(size <= max_tokens or len(one) == 1 for size, one in zip(sizes, batches, strict=True))
            and max(map(len, batches)) <= max_rows
        ):
            best = min(best, sum(sizes) + pass_tokens * len(batches))
    return best


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=9), st.integers(1, 200), st.integers(0, 60),
    st.none() | st.integers(1, 9),
)  # fmt: skip
def test_no_cut_costs_less(lengths, max_tokens, pass_tokens, max_rows):
    batches = least_work_batches(lengths, max_tokens, pass_tokens, max_rows)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(1, max(lengths[at] for at in batch)) <= max_tokens
        assert len(batch) <= (max_rows or 9)
    assert _work(batches, lengths, pass_tokens) == _least(lengths, max_tokens, pass_tokens, max_rows or 9)


def test_longest_first_and_never_more_work_than_full_batches():
    lengths = np.random.default_rng(0).lognormal(3.4, 0.9, 4096).astype(int)
    batches = least_work_batches(lengths, 4096, 64)
    longest = [lengths[batch].max() for batch in batches]
    assert longest == sorted(longest, reverse=True)
    assert _work(batches, lengths, 64) < _work(token_batches(lengths, 4096), lengths, 64)


def test_nothing():
    assert least_work_batches([], 10, 1) == []


@pytest.mark.parametrize("length", [5, 500])
def test_one(length):
    assert [batch.tolist() for batch in least_work_batches([length], 100, 64)] == [[0]]
