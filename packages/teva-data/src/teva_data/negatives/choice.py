"""What mining is asked for, and what it says it did."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import xxhash

from teva_data.errors import DataError

Pairs = list[tuple[str, float]]


@dataclass(slots=True)
class Report:
    """What mining did.

    Attributes:
        queries: queries written.
        unsearched: of these, how many the run does not hold; they have no negatives.
        too_few: how many have fewer than ``count`` negatives (those without any included).
        without: how many have none.
        unranked: how many have a positive that the run does not hold.
        excluded_positives: ranked documents left out because they are positives of the query, or of one with its text.
        excluded_equal: ranked documents left out because their text (with title) is that of a positive.
        excluded_near: ranked documents left out because their score is too near to the positive's.
        dropped_low: queries left out because no positive is ranked high enough.
        dropped_unranked: queries left out because the run holds none of their positives.
    """

    queries: int = 0
    unsearched: int = 0
    too_few: int = 0
    without: int = 0
    unranked: int = 0
    excluded_positives: int = 0
    excluded_equal: int = 0
    excluded_near: int = 0
    dropped_low: int = 0
    dropped_unranked: int = 0

    def __str__(self) -> str:
        return (
            f"{self.queries} queries; {self.too_few} with fewer negatives than asked for, {self.without} with none, "
            f"{self.unsearched} not in the run, {self.unranked} with a positive that the run does not hold; left out "
            f"{self.excluded_positives} ranked positives, {self.excluded_equal} documents with the text of a positive "
            f"and {self.excluded_near} with a score too near to its; dropped {self.dropped_low} queries whose positive "
            f"ranks too low and {self.dropped_unranked} whose positive the run does not hold"
        )


@dataclass(frozen=True)
class Choice:
    """How negatives are chosen; see :func:`teva_data.negatives.mine_negatives`."""

    count: int
    skip: int
    depth: int
    sample: Literal["top", "random"]
    seed: int
    margin: float | None
    max_ratio: float | None
    unranked: Literal["lowest", "drop"]
    drop_below: int | None
    keep_scores: bool

    def __post_init__(self) -> None:
        if self.count < 1:
            raise DataError("out of range", field="count", found=self.count, expected="at least 1")
        if not 0 <= self.skip < self.depth:
            raise DataError(
                "out of range", field="skip", found=self.skip, expected=f"0 to {self.depth - 1} (depth - 1)"
            )
        if self.sample not in ("top", "random"):
            raise DataError("unknown", field="sample", found=self.sample, expected="top or random")
        if not 0 <= self.seed < 2**64:
            raise DataError("out of range", field="seed", found=self.seed, expected="0 to 2**64 - 1")
        if self.margin is not None and not 0 <= self.margin < math.inf:
            raise DataError("out of range", field="margin", found=self.margin, expected="a number from 0 on")
        if self.max_ratio is not None and not 0 < self.max_ratio <= 1:
            raise DataError(
                "out of range", field="max_ratio", found=self.max_ratio, expected="above 0 and at most 1",
                hint="95 % is 0.95",
            )  # fmt: skip
        if self.unranked not in ("lowest", "drop"):
            raise DataError("unknown", field="unranked_positive", found=self.unranked, expected="lowest or drop")
        if self.drop_below is not None and self.drop_below < 1:
            raise DataError(
                "out of range", field="drop_if_positive_below", found=self.drop_below, expected="at least 1"
            )

    @property
    def by_score(self) -> bool:
        """Whether the positive's score decides."""
        return self.margin is not None or self.max_ratio is not None

    def limit(self, positive: float) -> float:
        """The highest score that a negative may have."""
        limits = [math.inf]
        if self.margin is not None:
            limits.append(positive - self.margin)
        if self.max_ratio is not None:
            # A share of a negative score would lie above it.
            limits.append(positive * (self.max_ratio if positive > 0 else 2 - self.max_ratio))
        return min(limits)

    def pick(self, query_id: str, candidates: Pairs) -> Pairs:
        """``count`` of the candidates, in their order."""
        if self.sample == "top" or len(candidates) <= self.count:
            return candidates[: self.count]
        # The smallest keyed hashes are a uniform sample, and it depends on no other query and no generator's state.
        key = [xxhash.xxh3_64_intdigest(f"{query_id}\t{docid}".encode(), seed=self.seed) for docid, _ in candidates]
        chosen = sorted(sorted(range(len(candidates)), key=key.__getitem__)[: self.count])
        return [candidates[at] for at in chosen]
