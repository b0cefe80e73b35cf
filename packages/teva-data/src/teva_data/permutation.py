"""A keyed permutation of 0..n-1 that is computed, not stored.

A Feistel network over the smallest even number of bits that holds n, with cycle walking for the values past n
(Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002, section 3). Any position costs the same, so
a run can begin at any step of any epoch without walking to it, and nothing of length n is kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_ROUNDS = 6
_MASK = (1 << 64) - 1


def mix(*values: int) -> int:
    """A 64-bit key from integers: splitmix64's finalizer over each in turn. Not cryptographic, and needs not be."""
    state = 0
    for value in values:
        state = (state ^ (value & _MASK)) & _MASK
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def permute(positions: ArrayLike, n: int, key: int) -> NDArray[np.int64]:
    """Where a permutation of ``range(n)`` sends ``positions``.

    Args:
        positions: integers [N] in 0..n-1.
        n: size of the domain, 1..2**62.
        key: names the permutation; :func:`mix` makes one from several integers.

    Returns:
        int64 [N], in 0..n-1; distinct positions give distinct values.

    Raises:
        ValueError: ``n`` or a position is out of range.
    """
    value = np.atleast_1d(np.asarray(positions, dtype=np.int64))
    if not 1 <= n <= 1 << 62:
        raise ValueError(f"n is {n}; expected 1..2**62")
    if value.size and (value.min() < 0 or value.max() >= n):
        raise ValueError(f"positions from {value.min()} to {value.max()}; expected 0..{n - 1}")
    half = max(1, (max(n - 1, 1).bit_length() + 1) // 2)
    keys = [np.uint64(mix(key, round_)) for round_ in range(_ROUNDS)]
    result = _feistel(value.astype(np.uint64), half, keys)
    # The network permutes a domain at most four times too large; a value past n is sent on until it lands inside,
    # which it must, since its cycle holds the position that it came from.
    while (outside := result >= n).any():
        result[outside] = _feistel(result[outside], half, keys)
    return result.astype(np.int64)


def _feistel(value: NDArray[np.uint64], half: int, keys: list[np.uint64]) -> NDArray[np.uint64]:
    bits, low = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = value >> bits, value & low
    for key in keys:
        left, right = right, left ^ (_scramble(right ^ key) & low)
    return (left << bits) | right


def _scramble(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
