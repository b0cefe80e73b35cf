"""Which of a query's positives and negatives it is given in an epoch.

``rotate``: positives in turn by epoch, negatives by walking through the query's own shuffled list, as Tevatron does.
``best``: those that the teacher scores highest, or the first of the list where there are no scores. ``scored``: drawn
with probability softmax(score / temperature), several without replacement, by the Gumbel-top-k trick (Kool, van Hoof
and Welling, "Stochastic Beams and Where to Find Them", ICML 2019, section 3). All are pure functions of (seed, dataset,
row, epoch).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .mixture import Draw
from .permutation import mix_each, permute

Int64 = NDArray[np.int64]
Scores = Sequence[Sequence[float] | None]
Method = Literal["rotate", "best", "scored"]

# Keys of independent streams, other than those of teva_data.mixture.
_POSITIVE, _NEGATIVE = 101, 102


class ScoresMissingError(ValueError):
    """A choice by score for a query that has none.

    Attributes:
        at: which of the queries; who asked knows its address.
    """

    def __init__(self, at: int) -> None:
        self.at = at
        super().__init__(f"no scores for query {at}")


class Sampler:
    """Chooses places of queries' lists, for all N queries of a batch at once.

    Args:
        seed: names the choices.
        positive: how the positive is chosen.
        negative: how the negatives are chosen.
        score_temperature: for ``scored``, above 0: small ones prefer high scores, large ones make all alike.
    """

    def __init__(
        self, seed: int, *, positive: Method = "rotate", negative: Method = "rotate", score_temperature: float = 1.0
    ) -> None:
        for method in (positive, negative):
            if method not in get_args(Method):
                raise ValueError(f"sampling {method!r}; expected one of {get_args(Method)}")
        if not 0 < score_temperature < math.inf:
            raise ValueError(f"score_temperature {score_temperature}; expected a finite number above 0")
        self.seed, self.score_temperature = seed, score_temperature
        self._positive, self._negative = positive, negative

    def positives(self, counts: Int64, scores: Scores, draw: Draw) -> Int64:
        """The place of each query's positive.

        Args:
            counts: int64 [N], how many positives are listed; at least 1.
            scores: of each query's listed positives, or None.
            draw: dataset, row and epoch of each query.

        Returns:
            int64 [N], below ``counts``.

        Raises:
            ScoresMissingError: ``scored``, and a query with several positives has no scores.
        """
        if self._positive == "rotate":
            start = (mix_each(_POSITIVE, self.seed, draw.dataset, draw.row) % counts.astype(np.uint64)).astype(np.int64)
            return (start + draw.epoch) % counts
        chosen = self._by_score(self._positive, _POSITIVE, counts, np.ones_like(counts), scores, draw)
        return np.array([places[0] for places in chosen], dtype=np.int64)

    def negatives(self, counts: Int64, wanted: Int64, scores: Scores, draw: Draw) -> list[list[int]]:
        """The places of each query's negatives, none twice; all of them where no more are listed than wanted.

        Args:
            counts: int64 [N], how many negatives are listed.
            wanted: int64 [N], how many are taken.
            scores: of each query's listed negatives, or None.
            draw: dataset, row and epoch of each query.

        Raises:
            ScoresMissingError: ``scored``, and a query that lists more than are wanted has no scores.
        """
        if self._negative != "rotate":
            return self._by_score(self._negative, _NEGATIVE, counts, wanted, scores, draw)
        chosen = [list(range(count)) for count in counts.tolist()]
        many = np.flatnonzero(counts > wanted)
        query, number = _ragged(many, wanted)
        places = (draw.epoch[query] * wanted[query] + number) % counts[query]
        keys = mix_each(_NEGATIVE, self.seed, draw.dataset[query], draw.row[query])
        for at, places_of in zip(
            many.tolist(), _split(permute(places, counts[query], keys), wanted[many]), strict=True
        ):
            chosen[at] = places_of.tolist()
        return chosen

    def _by_score(
        self, method: Method, what: int, counts: Int64, wanted: Int64, scores: Scores, draw: Draw
    ) -> list[list[int]]:
        query, number = _ragged(np.arange(len(counts)), counts)
        noise = np.zeros(len(query))
        if method == "scored":
            hashes = mix_each(what, self.seed, draw.dataset[query], draw.row[query], draw.epoch[query], number)
            # Gumbel's distribution, of 53 bits taken at the middle of their interval: never 0 and never 1.
            noise = -np.log(-np.log(((hashes >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53))
        chosen = []
        for at, (of_query, own, most) in enumerate(zip(scores, _split(noise, counts), wanted.tolist(), strict=True)):
            if of_query is None:
                if method == "scored" and 0 < most < len(own):
                    raise ScoresMissingError(at)
                chosen.append(list(range(len(own)))[:most])
            else:
                # A stable sort: equal scores keep the list's order.
                values = np.asarray(of_query, dtype=np.float64) / self.score_temperature + own
                chosen.append([int(place) for place in np.argsort(-values, kind="stable")[:most]])
        return chosen


def _ragged(queries: Int64, lengths: Int64) -> tuple[Int64, Int64]:
    """Each of ``queries`` as often as its length says, and the numbers 0, 1, ... within it."""
    own = lengths[queries]
    query, starts = np.repeat(queries, own), np.cumsum(own) - own
    return query, np.arange(len(query)) - np.repeat(starts, own)


def _split(values: NDArray[Any], lengths: Int64) -> list[NDArray[Any]]:
    ends = np.cumsum(lengths).tolist()
    return [values[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True)]
