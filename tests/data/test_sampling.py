from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teva_data.mixture import Draw
from teva_data.sampling import Sampler, ScoresMissingError

METHODS = ("rotate", "best", "scored")


class One:
    """A sampler asked for one query at a time; many at once are tested against it."""

    def __init__(self, seed, **settings):
        self.sampler = Sampler(seed, **settings)

    def positive(self, count, scores, *place):
        return int(self.sampler.positives(np.array([count]), [scores], _draw([place]))[0])

    def negatives(self, count, wanted, scores, *place):
        (places,) = self.sampler.negatives(np.array([count]), np.array([wanted]), [scores], _draw([place]))
        return places


def _draw(places):
    return Draw(*(np.array(values, dtype=np.int64) for values in zip(*places, strict=True)))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_positives_rotate(count):
    sampler = One(7)
    starts = set()
    for row in range(40):
        places = [sampler.positive(count, None, 0, row, epoch) for epoch in range(3 * count)]
        assert sorted(places[:count]) == list(range(count))
        assert places[:count] == places[count : 2 * count]
        starts.add(places[0])
    assert starts == set(range(count))  # queries begin at different places


def test_negatives_walk_through_the_whole_list():
    sampler = One(7)
    for count, wanted in ((5, 2), (7, 3), (3, 1), (9, 8)):
        seen = [sampler.negatives(count, wanted, None, 0, 4, epoch) for epoch in range(count)]
        assert all(len(set(places)) == wanted for places in seen)
        # `count` epochs hold each of the list `wanted` times, and the first pass repeats nothing.
        assert Counter(itertools.chain(*seen)) == dict.fromkeys(range(count), wanted)
        first = list(itertools.chain(*seen))[:count]
        assert sorted(first) == list(range(count))
    assert len({tuple(sampler.negatives(9, 3, None, 0, row, 0)) for row in range(20)}) > 10


@pytest.mark.parametrize("method", METHODS)
def test_fewer_than_wanted_gives_all(method):
    sampler = One(1, negative=method)
    assert sorted(sampler.negatives(3, 5, [0.1, 0.3, 0.2], 0, 0, 0)) == [0, 1, 2]
    assert sampler.negatives(0, 5, None, 0, 0, 0) == []
    assert sampler.negatives(3, 0, None, 0, 0, 0) == []


def test_best_takes_the_highest_scores_in_every_epoch():
    sampler = One(1, positive="best", negative="best")
    for epoch in range(3):
        assert sampler.positive(3, [1.0, 9.0, 9.0], 0, 0, epoch) == 1
        assert sampler.negatives(5, 3, [0.5, -2.0, 0.7, 0.5, 0.1], 0, 0, epoch) == [2, 0, 3]
        # Without scores, in the order of the file.
        assert sampler.positive(3, None, 0, 0, epoch) == 0
        assert sampler.negatives(5, 3, None, 0, 0, epoch) == [0, 1, 2]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_scored_draws_by_softmax(temperature):
    scores = np.array([2.0, 1.0, 0.0, -1.0])
    expected = np.exp(scores / temperature)
    expected /= expected.sum()
    sampler = One(3, positive="scored", negative="scored", score_temperature=temperature)
    epochs = 6000
    for draw in (
        lambda epoch: sampler.positive(4, scores.tolist(), 0, 5, epoch),
        lambda epoch: sampler.negatives(4, 1, scores.tolist(), 0, 5, epoch)[0],
    ):
        counts = np.bincount([draw(epoch) for epoch in range(epochs)], minlength=4)
        # Chi-square with 3 degrees of freedom: below 21 with probability 0.9999.
        assert ((counts - epochs * expected) ** 2 / (epochs * expected)).sum() < 21


def test_scored_draws_several_without_replacement():
    scores = [1.0, 0.0, 0.5]
    weight = np.exp(scores)
    sampler = One(3, negative="scored")
    found = Counter(tuple(sampler.negatives(3, 2, scores, 0, 5, epoch)) for epoch in range(6000))
    for first, second in itertools.permutations(range(3), 2):
        # The first by softmax, the second by softmax over the rest.
        chance = weight[first] / weight.sum() * weight[second] / (weight.sum() - weight[first])
        assert found[first, second] / 6000 == pytest.approx(chance, abs=0.025)


@given(
    scores=st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=8), wanted=st.integers(1, 9),
    place=st.tuples(st.integers(0, 20), st.integers(0, 10**9), st.integers(0, 10**12)), method=st.sampled_from(METHODS),
)  # fmt: skip
def test_a_choice_depends_on_its_arguments_alone(scores, wanted, place, method):
    first, again = (One(5, positive=method, negative=method) for _ in range(2))
    assert first.positive(len(scores), scores, *place) == again.positive(len(scores), scores, *place)
    chosen = first.negatives(len(scores), wanted, scores, *place)
    assert chosen == again.negatives(len(scores), wanted, scores, *place)
    assert len(set(chosen)) == len(chosen) == min(wanted, len(scores))
    assert set(chosen) <= set(range(len(scores)))


@pytest.mark.parametrize("method", METHODS)
def test_many_queries_at_once_are_as_each_alone(method):
    random = np.random.default_rng(0)
    sampler, one = (kind(5, positive=method, negative=method) for kind in (Sampler, One))
    counts, wanted = random.integers(1, 9, 50), random.integers(0, 5, 50)
    places = list(zip(*random.integers(0, 1000, (3, 50)).tolist(), strict=True))
    scores = [random.normal(size=count).tolist() for count in counts]
    expected = [one.positive(count, own, *place) for count, own, place in zip(counts, scores, places, strict=True)]
    assert sampler.positives(counts, scores, _draw(places)).tolist() == expected
    expected = [
        one.negatives(count, most, own, *place)
        for count, most, own, place in zip(counts, wanted, scores, places, strict=True)
    ]
    assert sampler.negatives(counts, wanted, scores, _draw(places)) == expected


def test_seed_dataset_row_and_epoch_all_matter():
    def choices(seed=1, dataset=0, row=0, epoch=0):
        sampler = One(seed, negative="scored")
        return [tuple(sampler.negatives(50, 10, [0.0] * 50, dataset, row, epoch))]

    assert len({choices()[0], *choices(seed=2), *choices(dataset=1), *choices(row=1), *choices(epoch=1)}) == 5


def test_refusals():
    with pytest.raises(ScoresMissingError):
        One(1, positive="scored").positive(2, None, 0, 0, 0)
    counts, draw = np.array([2, 1, 2]), _draw([(0, 0, 0)] * 3)
    with pytest.raises(ScoresMissingError) as caught:
        Sampler(1, negative="scored").negatives(counts, np.array([1, 1, 1]), [[0.1, 0.2], None, None], draw)
    assert caught.value.at == 2  # the one before has no choice to make
    with pytest.raises(ValueError, match="'bests'; expected one of"):
        Sampler(1, positive="bests")
    for temperature in (0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="score_temperature"):
            Sampler(1, score_temperature=temperature)
