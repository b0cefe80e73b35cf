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


def mix_each(*values: int | NDArray[np.integer]) -> NDArray[np.uint64]:
    """:func:`mix` for each element, uint64 [N], where some of the values are arrays [N] of integers."""
    state = np.zeros(1, dtype=np.uint64)
    for value in values:
        state = _fold(state, np.uint64(value & _MASK) if isinstance(value, int) else value.astype(np.uint64))
    return state


def permute(positions: ArrayLike, n: int | NDArray[np.int64], key: int | NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where a permutation of ``range(n)`` sends ``positions``.

    Args:
        positions: integers [N] in 0..n-1.
        n: size of the domain, 1..2**62; an array [N] where each position has its own.
        key: names the permutation; :func:`mix` makes one from several integers. An array [N], of :func:`mix_each`,
            names one for each position.

    Returns:
        int64 [N], in 0..n-1; distinct positions give distinct values in one domain under one key.

    Raises:
        ValueError: ``n`` or a position is out of range.

    >>> sorted(permute(range(10), 10, mix(1, 2)).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    value = np.atleast_1d(np.asarray(positions, dtype=np.int64))
    sizes = np.broadcast_to(np.asarray(n, dtype=np.int64), value.shape)
    if value.size and not 1 <= sizes.min() <= sizes.max() <= 1 << 62:
        raise ValueError(f"n from {sizes.min()} to {sizes.max()}; expected 1..2**62")
    if value.size and (value.min() < 0 or (value >= sizes).any()):
        raise ValueError(f"positions from {value.min()} to {value.max()}; expected 0..n-1, n from {sizes.min()}")
    half, keys = _half_bits(sizes), _round_keys(key, len(value))
    result, limit = _feistel(value.astype(np.uint64), half, keys), sizes.astype(np.uint64)
    # The network permutes a domain at most four times too large; a value past n is sent on until it lands inside,
    # which it must, since its cycle holds the position that it came from.
    while len(outside := np.flatnonzero(result >= limit)):
        result[outside] = _feistel(result[outside], half[outside], keys[:, outside])
    return result.astype(np.int64)


def _half_bits(sizes: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Bits of each half of the network, uint64 [N]: the smallest even number that holds n, halved."""
    distinct, which = np.unique(sizes, return_inverse=True)
    bits = [max(1, (max(n - 1, 1).bit_length() + 1) // 2) for n in distinct.tolist()]
    return np.array(bits, dtype=np.uint64)[which]


def _round_keys(key: int | NDArray[np.uint64], count: int) -> NDArray[np.uint64]:
    """The network's keys, [rounds, N]."""
    if isinstance(key, int):
        keys = np.array([mix(key, round_) for round_ in range(_ROUNDS)], dtype=np.uint64)
        return np.broadcast_to(keys[:, None], (_ROUNDS, count))
    if key.shape != (count,) or key.dtype != np.uint64:
        raise ValueError(f"keys {key.dtype} {key.shape}; expected uint64 ({count},)")
    return np.stack([mix_each(key, round_) for round_ in range(_ROUNDS)])


def _fold(state: NDArray[np.uint64], value: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """One turn of :func:`mix`, on arrays, whose arithmetic wraps around in silence."""
    return _scramble((state ^ value) + np.uint64(0x9E3779B97F4A7C15))


def _feistel(value: NDArray[np.uint64], half: NDArray[np.uint64], keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    low = (np.uint64(1) << half) - np.uint64(1)
    left, right = value >> half, value & low
    for key in keys:
        left, right = right, left ^ (_scramble(right ^ key) & low)
    return (left << half) | right


def _scramble(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
