"""Which query of which dataset stands at a place of a global batch: arithmetic alone, no data is looked at.

Any step costs the same: O(datasets + batch size), and nothing as long as a dataset is kept. A batch is drawn in two
turns, batch level and slot level, by the same kinds of node: a node sends a position to one of its children and to a
position within that child. ``batches`` says which datasets make a child of the batch level: all of them (``mixed``),
those of one modality (``one_modality``), each alone (``one_dataset``).

Shares are kept by *beats*, of 256 slots or 64 batches. By the end of beat t, child i has had
``floor((t q_i + p_i) / b)`` positions, where q_i of P is its share, b = P // beat and p_i < b a keyed phase; within a
beat the children stand in the order of a keyed permutation. So every child is within one position of its share after
each beat; after b beats child i has had exactly q_i of exactly P positions; and a child's own positions come in order,
so that all queries of a dataset are used before one is used again. A shuffle of all P positions would keep only the
second of the three.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from fractions import Fraction
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from .permutation import mix, mix_each, permute

Strategy = Literal["proportional", "weighted", "temperature", "round_robin"]
Batches = Literal["mixed", "one_dataset", "one_modality"]
Int64 = NDArray[np.int64]

# Keys of independent streams of choices, so that no two share a permutation.
_ORDER, _SUBSET, _BEAT, _PHASE = 1, 2, 3, 4
_BATCH_LEVEL, _SLOT_LEVEL = 1, 2
_BEAT_LENGTH = {_BATCH_LEVEL: 64, _SLOT_LEVEL: 256}
# Weights become integers of this sum, so that shares are exact in integer arithmetic at any step.
_RESOLUTION = 1 << 40


class Draw(NamedTuple):
    """The queries of a global batch, each int64 [batch_size].

    Attributes:
        dataset: number of the dataset.
        row: row of the query in it.
        epoch: how often the dataset had been passed over before this draw.
    """

    dataset: Int64
    row: Int64
    epoch: Int64


class Mixture:
    """The order of a mixture of datasets.

    Args:
        sizes: queries of each dataset.
        batch_size: queries in a global batch.
        seed: names the order.
        strategy: ``proportional`` to size; ``weighted`` by ``weights``; ``temperature``: by size ** (1 / temperature),
            so that 1 is proportional and a large one is near to equal shares; ``round_robin``: in turn.
        weights: for ``weighted``, one for each dataset; 0 leaves a dataset out.
        repeats: how often each query comes in an epoch, under ``proportional`` and ``temperature``, where a dataset
            counts as repeat times its size; 0.5 is every second query. Default 1.
        limits: queries used of each dataset at most, a keyed choice that is the same in all epochs; None: all.
        temperature: for ``temperature``, above 0.
        batches: what one batch may hold: queries of all datasets, of one, or of datasets of one group.
        groups: for ``one_modality``, the group of each dataset.

    Raises:
        ValueError: a setting is out of range, or has no meaning with the others.

    >>> mixture = Mixture([1_000_000, 1_000], batch_size=4, seed=1, strategy="weighted", weights=[3, 1])
    >>> mixture.draw(10**9).dataset.tolist()
    [0, 0, 0, 1]
    >>> mixture.shares
    [0.75, 0.25]
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        batch_size: int,
        seed: int,
        strategy: Strategy = "proportional",
        weights: Sequence[float] | None = None,
        repeats: Sequence[float] | None = None,
        limits: Sequence[int | None] | None = None,
        temperature: float | None = None,
        batches: Batches = "mixed",
        groups: Sequence[Hashable] | None = None,
    ) -> None:
        self.sizes, self.batch_size, self.seed = list(sizes), batch_size, seed
        _check(len(self.sizes), sizes, batch_size, strategy, weights, repeats, limits, temperature, batches, groups)
        self.strategy, self.batches = strategy, batches
        caps = limits or [None] * len(sizes)
        self.counts = [size if cap is None else min(size, cap) for size, cap in zip(sizes, caps, strict=True)]
        """Queries used of each dataset."""
        self._sizes, self._counts = np.asarray(self.sizes, dtype=np.int64), np.asarray(self.counts, dtype=np.int64)
        self._limited = self.counts != self.sizes
        self._units = [
            max(1, round(count * _exact(repeat)))
            for count, repeat in zip(self.counts, repeats or [1] * len(sizes), strict=True)
        ]
        self._weights = list(weights or _tempered(self._units, temperature or 1.0))
        drawn = [number for number in range(len(sizes)) if not weights or weights[number] > 0]
        self._members = _members(batches, groups, drawn)
        self._root = self._node([self._batch_units(group) for group in self._members], self._members, _BATCH_LEVEL)
        self._nodes = [
            self._node([self._units[i] for i in group], [[i] for i in group], _SLOT_LEVEL, number)
            for number, group in enumerate(self._members)
        ]

    def draw(self, step: int) -> Draw:
        """The queries of a step, in the batch's order.

        Raises:
            ValueError: the step is negative.
        """
        if step < 0:
            raise ValueError(f"step {step}; expected at least 0")
        group, batch = (int(values[0]) for values in self._root.at(step, 1))
        child, numbers = self._nodes[group].at(batch * self.batch_size, self.batch_size)
        dataset = np.asarray(self._members[group], dtype=np.int64)[child]
        return Draw(dataset, *self._rows(dataset, numbers))

    def steps(self, epochs: float) -> int:
        """Batches in ``epochs`` passes: as many as hold every query (times its repeat) of the datasets that are drawn.

        Where batches are of one dataset or modality, each of these fills whole batches of its own.
        """
        if not (math.isfinite(epochs) and epochs > 0):
            raise ValueError(f"epochs {epochs}; expected a finite number above 0")
        if len(self._members) == 1:
            batches = Fraction(sum(self._units[i] for i in self._members[0]), self.batch_size)
        else:
            batches = Fraction(sum(map(self._batch_units, self._members)))
        return max(1, math.ceil(_exact(epochs) * batches))

    @property
    def shares(self) -> list[float]:
        """The share of all queries drawn that each dataset has in the long run; the sum is 1."""
        shares = [0.0] * len(self.sizes)
        for group, part, node in zip(self._members, self._root.shares, self._nodes, strict=True):
            for one, share in zip(group, node.shares, strict=True):
                shares[one] = float(part * share)
        return shares

    def _rows(self, dataset: Int64, numbers: Int64) -> tuple[Int64, Int64]:
        """Rows and epochs of draws, each counted from 0 over all epochs of its dataset; all int64 [N]."""
        counts = self._counts[dataset]
        epochs, places = np.divmod(numbers, counts)
        rows = permute(places, counts, mix_each(_ORDER, self.seed, dataset, epochs))
        if self._limited:
            capped = np.flatnonzero(counts < self._sizes[dataset])
            sizes, keys = self._sizes[dataset[capped]], mix_each(_SUBSET, self.seed, dataset[capped])
            rows[capped] = permute(rows[capped], sizes, keys)
        return rows, epochs

    def _batch_units(self, group: Sequence[int]) -> int:
        """Batches that hold a group once, the last filled from the next pass."""
        return -(-sum(self._units[i] for i in group) // self.batch_size)

    def _node(self, units: Sequence[int], children: Sequence[Sequence[int]], level: int, number: int = 0) -> _Node:
        """The node over children, each a list of datasets: ``units`` are the shares under ``proportional``."""
        if len(children) == 1:
            return _Only()
        if self.strategy == "round_robin":
            return _Turns([child for child, members in enumerate(children) for _ in members])
        if self.strategy != "proportional":
            units = _integers([sum(self._weights[i] for i in members) for members in children])
        return _Shares(units, mix(_BEAT, self.seed, level, number), _BEAT_LENGTH[level])


class _Node(Protocol):
    shares: list[Fraction]

    def at(self, start: int, count: int) -> tuple[Int64, Int64]:
        """Child and position within it, int64 [count] each, of positions ``start`` to ``start + count`` - 1."""


class _Only:
    """A node with one child."""

    shares: list[Fraction] = [Fraction(1)]  # noqa: RUF012 - never written

    def at(self, start: int, count: int) -> tuple[Int64, Int64]:
        return np.zeros(count, dtype=np.int64), np.arange(start, start + count, dtype=np.int64)


class _Turns:
    """Children in a fixed turn; one that stands in it several times has as many positions in each round."""

    def __init__(self, turn: Sequence[int]) -> None:
        self._turn = np.asarray(turn, dtype=np.int64)
        self._times = np.bincount(self._turn)
        seen = [list(turn[:place]).count(child) for place, child in enumerate(turn)]
        self._before = np.asarray(seen, dtype=np.int64)
        self.shares = [Fraction(times, len(turn)) for times in self._times.tolist()]

    def at(self, start: int, count: int) -> tuple[Int64, Int64]:
        rounds, places = np.divmod(np.arange(start, start + count, dtype=np.int64), len(self._turn))
        child = self._turn[places]
        return child, rounds * self._times[child] + self._before[places]


class _Shares:
    """Children by integer shares, in beats; see the module's docstring.

    Args:
        units: share of each child; 0 for none.
        key: names the order.
        beat: positions in a beat, about; 4 for each child at least.
    """

    def __init__(self, units: Sequence[int], key: int, beat: int) -> None:
        self._units, self._key, self._sum = list(units), key, sum(units)
        self.shares = [Fraction(one, self._sum) for one in units]
        # A beat is longer than there are children, so that none is empty.
        self._beats = max(1, self._sum // max(beat, 4 * len(units)))
        self._phases = [mix(_PHASE, key, child) % self._beats for child in range(len(units))]

    def at(self, start: int, count: int) -> tuple[Int64, Int64]:
        beat, low = self._beat_of(start)
        child, position = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        filled = 0
        while filled < count:
            high, first = self._had(beat + 1), start + filled - sum(low)
            here, place = self._within(beat, low, high)
            taken = min(len(here) - first, count - filled)
            child[filled : filled + taken] = here[first : first + taken]
            position[filled : filled + taken] = place[first : first + taken]
            filled, beat, low = filled + taken, beat + 1, high
        return child, position

    def _within(self, beat: int, low: list[int], high: list[int]) -> tuple[Int64, Int64]:
        """Child and position within it of all positions of a beat; ``low`` and ``high``: what children had before and
        after it.
        """
        bounds = np.cumsum([0, *(after - before for before, after in zip(low, high, strict=True))])
        size = int(bounds[-1])
        child = np.searchsorted(bounds, permute(np.arange(size), size, mix(_BEAT, self._key, beat)), side="right") - 1
        in_order = np.argsort(child, kind="stable")
        place = np.empty(size, dtype=np.int64)
        place[in_order] = np.arange(size) + (np.asarray(low, dtype=np.int64) - bounds[:-1])[child[in_order]]
        return child, place

    def _had(self, beat: int) -> list[int]:
        """Positions that each child has had before a beat. In Python's integers: the products pass 64 bits."""
        return [(beat * one + phase) // self._beats for one, phase in zip(self._units, self._phases, strict=True)]

    def _beat_of(self, position: int) -> tuple[int, list[int]]:
        """The beat that holds a position, and what each child has had before it."""
        beat = position * self._beats // self._sum  # right or next to it: rounding moves a beat by less than itself
        while sum(low := self._had(beat)) > position:
            beat -= 1
        while sum(high := self._had(beat + 1)) <= position:
            beat, low = beat + 1, high
        return beat, low


def _members(batches: Batches, groups: Sequence[Hashable] | None, drawn: Sequence[int]) -> list[list[int]]:
    """The datasets of each child of the batch level."""
    if batches == "mixed":
        return [list(drawn)]
    members: dict[Hashable, list[int]] = {}
    for number in drawn:
        members.setdefault(groups[number] if groups else number, []).append(number)
    return list(members.values())


def _tempered(units: Sequence[int], temperature: float) -> list[float]:
    """The weights units ** (1 / temperature), the largest 1; none so small that it is 0.

    Rounded: the last bit of a power is another one on another machine, and the order must not be.
    """
    return [max(float(f"{(one / max(units)) ** (1 / temperature):.9e}"), 5e-324) for one in units]


def _exact(value: float) -> Fraction:
    """The number as it is written: 0.1 is a tenth, not the binary fraction next to it."""
    return Fraction(repr(value))


def _integers(weights: Sequence[float]) -> list[int]:
    """Integers in the ratio of the weights, by largest remainder; at least 1 where the weight is above 0."""
    exact = [Fraction(weight) for weight in weights]
    quotas = [weight * _RESOLUTION / sum(exact) for weight in exact]
    units = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(units)), key=lambda i: (units[i] - quotas[i], i))
    for i in by_remainder[: _RESOLUTION - sum(units)]:
        units[i] += 1
    return [max(one, weight > 0) for one, weight in zip(units, exact, strict=True)]


def _check(
    count: int,
    sizes: Sequence[int],
    batch_size: int,
    strategy: Strategy,
    weights: Sequence[float] | None,
    repeats: Sequence[float] | None,
    limits: Sequence[int | None] | None,
    temperature: float | None,
    batches: Batches,
    groups: Sequence[Hashable] | None,
) -> None:
    _expect(strategy in get_args(Strategy), f"strategy {strategy!r}; expected one of {get_args(Strategy)}")
    _expect(batches in get_args(Batches), f"batches {batches!r}; expected one of {get_args(Batches)}")
    _expect(batch_size >= 1, f"batch_size {batch_size}; expected at least 1")
    _expect(count >= 1 and min(sizes) >= 1, f"sizes {list(sizes)}; expected at least one dataset, none empty")
    for name, values in (("weights", weights), ("repeats", repeats), ("limits", limits), ("groups", groups)):
        _expect(values is None or len(values) == count, f"{name} {values}; expected one for each of {count} datasets")
    _expect(
        (weights is not None) == (strategy == "weighted"), "weights belong to strategy 'weighted', which needs them"
    )
    _expect((temperature is not None) == (strategy == "temperature"), "temperature belongs to strategy 'temperature'")
    _expect((groups is not None) == (batches == "one_modality"), "groups belong to batches 'one_modality'")
    for weight in weights or ():
        _expect(math.isfinite(weight) and weight >= 0, f"weight {weight}; expected a finite number of at least 0")
    _expect(weights is None or max(weights) > 0, "weights are all 0; expected one above it")
    for repeat in repeats or ():
        _expect(math.isfinite(repeat) and repeat > 0, f"repeat {repeat}; expected a finite number above 0")
        usable = repeat == 1 or strategy in ("proportional", "temperature")
        _expect(usable, f"repeat {repeat}; expected 1, as strategy {strategy!r} takes no account of it")
    for limit in limits or ():
        _expect(limit is None or limit >= 1, f"limit {limit}; expected at least 1, or None")
    _expect(temperature is None or 0 < temperature < math.inf, f"temperature {temperature}; expected a number above 0")


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
