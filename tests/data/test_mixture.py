from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teva_data.mixture import Mixture

SIZES = [1, 5, 40, 300, 77]
GROUPS = ["text", "image", "text", "image,text", "image"]
SETTINGS = {
    "proportional": {},
    "weighted": {"weights": [0.1, 3.0, 0.0, 2.0, 0.5]},
    "temperature": {"temperature": 2.0},
    "round_robin": {},
}
BATCHES = ("mixed", "one_dataset", "one_modality")
ALL = list(itertools.product(SETTINGS, BATCHES))


def _mixture(strategy="proportional", batches="mixed", sizes=SIZES, **changes):
    chosen = SETTINGS[strategy] | ({"groups": GROUPS[: len(sizes)]} if batches == "one_modality" else {})
    return Mixture(sizes, **{"batch_size": 8, "seed": 3, "strategy": strategy, "batches": batches, **chosen, **changes})


def _draws(mixture, start, stop):
    """(dataset, row, epoch) of all slots of some steps, in order."""
    return [
        draw for step in range(start, stop) for draw in zip(*map(np.ndarray.tolist, mixture.draw(step)), strict=True)
    ]


def _expected_shares(strategy, batches, sizes, batch_size, groups):
    """The shares as the documentation words them, by plain sums."""
    if strategy == "proportional" and batches == "mixed":
        parts = list(sizes)
    elif strategy == "proportional" and batches == "one_dataset":
        parts = [math.ceil(size / batch_size) for size in sizes]
    elif strategy == "proportional":
        total = {group: sum(s for s, g in zip(sizes, groups, strict=True) if g == group) for group in groups}
        parts = [math.ceil(total[g] / batch_size) * s / total[g] for s, g in zip(sizes, groups, strict=True)]
    else:
        parts = {
            "weighted": SETTINGS["weighted"]["weights"],
            "temperature": [math.sqrt(size) for size in sizes],
            "round_robin": [1] * len(sizes),
        }[strategy]
    return np.array(parts) / sum(parts)


@pytest.mark.parametrize(("strategy", "batches"), ALL)
def test_every_dataset_has_its_share(strategy, batches):
    mixture = _mixture(strategy, batches)
    expected = _expected_shares(strategy, batches, SIZES, 8, GROUPS)
    assert mixture.shares == pytest.approx(expected, abs=1e-9)
    for start in (0, 10**7):
        counts = np.bincount([dataset for dataset, _, _ in _draws(mixture, start, start + 400)], minlength=5)
        # The part of a beat at either end is at random; all between is exact to a position of each level.
        assert np.abs(counts / 3200 - expected).max() < 0.03


@pytest.mark.parametrize("strategy", ["proportional", "weighted", "temperature"])
def test_shares_are_kept_closer_than_by_chance(strategy):
    sizes = [1_000_000, 30_000, 5_000, 700_000, 2]
    mixture = _mixture(strategy, sizes=sizes, batch_size=5000)
    expected = _expected_shares(strategy, "mixed", sizes, 5000, None)
    counts, slots = np.zeros(5), 0
    for step in range(100):
        counts += np.bincount(mixture.draw(step).dataset, minlength=5)
        slots += 5000
        # Independent draws would be off by several hundred at the end.
        assert np.abs(counts - slots * expected).max() < 64


@pytest.mark.parametrize(("strategy", "batches"), ALL)
def test_each_dataset_is_used_up_before_a_query_comes_again(strategy, batches):
    draws = _draws(_mixture(strategy, batches), 0, 300)
    assert {dataset for dataset, _, _ in draws} == ({0, 1, 3, 4} if strategy == "weighted" else {0, 1, 2, 3, 4})
    for number, size in enumerate(SIZES):
        own = [(row, epoch) for dataset, row, epoch in draws if dataset == number]
        passes = [own[start : start + size] for start in range(0, len(own) - size + 1, size)]
        for epoch, found in enumerate(passes):
            assert {each for _, each in found} == {epoch}
            assert sorted(row for row, _ in found) == list(range(size))
        if size >= 40 and len(passes) > 1:
            assert passes[0] != [(row, 0) for row, _ in passes[1]]


def test_an_epoch_of_a_proportional_mixture_has_every_query_once():
    mixture = _mixture()
    assert mixture.steps(1) == math.ceil(423 / 8)
    draws = _draws(mixture, 0, 160)
    for start in (0, 423, 846):
        assert sorted((dataset, row) for dataset, row, _ in draws[start : start + 423]) == [
            (dataset, row) for dataset, size in enumerate(SIZES) for row in range(size)
        ]
        assert {epoch for _, _, epoch in draws[start : start + 423]} == {start // 423}


def test_an_epoch_of_large_datasets_is_exact_too():
    sizes = [2000, 30, 1, 5000]  # many beats an epoch
    draws = _draws(_mixture(sizes=sizes, batch_size=7031), 0, 2)
    for epoch in (0, 1):
        counts = Counter((dataset, row) for dataset, row, _ in draws[epoch * 7031 : (epoch + 1) * 7031])
        assert len(counts) == 7031
    # The 30 of the small one are spread over the epoch.
    places = [at for at, (dataset, _, _) in enumerate(draws[:7031]) if dataset == 1]
    assert max(np.diff([0, *places, 7031])) < 3 * 7031 / 30


def test_an_epoch_of_batches_of_one_dataset():
    mixture = _mixture(batches="one_dataset")
    steps = mixture.steps(1)
    assert steps == sum(math.ceil(size / 8) for size in SIZES)
    found = Counter((dataset, row) for dataset, row, _ in _draws(mixture, 0, steps))
    assert set(found) == {(dataset, row) for dataset, size in enumerate(SIZES) for row in range(size)}
    assert all(times == 8 if dataset == 0 else times <= 2 for (dataset, _), times in found.items())


def test_repeats():
    mixture = _mixture(repeats=[1, 3, 1, 0.5, 2])
    total = 1 + 15 + 40 + 150 + 154
    assert mixture.steps(1) == total // 8
    assert mixture.steps(0.1) == math.ceil(total / 80)
    found = Counter((dataset, row) for dataset, row, _ in _draws(mixture, 0, total // 8))
    for dataset, times in ((0, {1}), (1, {3}), (2, {1}), (3, {1}), (4, {2})):
        assert {count for (one, _), count in found.items() if one == dataset} == times
    assert len([1 for dataset, _ in found if dataset == 3]) == 150


@pytest.mark.parametrize(("strategy", "batches"), ALL)
def test_limits_use_the_same_queries_in_all_epochs(strategy, batches):
    limits = [None, 5, 100, 20, 1]
    mixture = _mixture(strategy, batches, limits=limits)
    assert mixture.counts == [1, 5, 40, 20, 1]
    rows = {}
    for dataset, row, epoch in _draws(mixture, 0, 300):
        assert 0 <= row < SIZES[dataset]
        rows.setdefault(dataset, set()).add(row)
        assert epoch >= 0
    for dataset, found in rows.items():
        assert len(found) == mixture.counts[dataset]
    assert rows[3] != set(range(20))
    other = {
        row for dataset, row, _ in _draws(_mixture(strategy, batches, limits=limits, seed=4), 0, 300) if dataset == 3
    }
    assert rows[3] != other


@pytest.mark.parametrize("strategy", SETTINGS)
def test_batches_of_one_dataset_or_one_modality_never_mix(strategy):
    of_a_dataset, of_a_modality = _mixture(strategy, "one_dataset"), _mixture(strategy, "one_modality")
    for step in range(150):
        assert len(set(of_a_dataset.draw(step).dataset.tolist())) == 1
        held = set(of_a_modality.draw(step).dataset.tolist())
        assert len({GROUPS[dataset] for dataset in held}) == 1


def test_modality_batches_mix_the_datasets_of_a_modality():
    mixture = _mixture("round_robin", "one_modality")
    held = {tuple(sorted(set(mixture.draw(step).dataset.tolist()))) for step in range(50)}
    assert held == {(0, 2), (1, 4), (3,)}


@given(
    sizes=st.lists(st.integers(1, 10**9), min_size=1, max_size=6),
    step=st.integers(0, 10**10),
    batch_size=st.integers(1, 300),
    seed=st.integers(0, 2**70),
    which=st.sampled_from(ALL),
)
@settings(deadline=None, max_examples=50)
def test_a_step_depends_on_nothing_before_it(sizes, step, batch_size, seed, which):
    strategy, batches = which
    changes = {"batch_size": batch_size, "seed": seed, "sizes": sizes}
    if strategy == "weighted":
        changes["weights"] = [number % 3 + 0.25 for number in range(len(sizes))]
    if batches == "one_modality":
        changes["groups"] = [number % 2 for number in range(len(sizes))]
    mixture = _mixture(strategy, batches, **changes)
    for other in (step + 1, step, max(0, step - 1)):
        first, again = mixture.draw(other), _mixture(strategy, batches, **changes).draw(other)
        assert all((left == right).all() for left, right in zip(first, again, strict=True))
        assert all(len(values) == batch_size and values.dtype == np.int64 for values in first)
        assert (first.row < np.array(sizes)[first.dataset]).all()
        assert (first.row >= 0).all()
        # Whatever the strategy: one draw is never given twice, so an epoch's row is not either.
    near = [draw for other in (step, step + 1) for draw in zip(*mixture.draw(other), strict=True)]
    assert len(set(near)) == len(near)


def test_batch_size_cuts_one_sequence_differently():
    # Slots do not know of batches where all datasets may mix.
    small, large = _draws(_mixture(batch_size=3), 0, 200), _draws(_mixture(batch_size=50), 0, 12)
    assert small == large


def test_seeds_differ():
    assert _draws(_mixture(seed=1), 0, 5) != _draws(_mixture(seed=2), 0, 5)


def test_the_order_is_the_same_for_ever():
    # A change here would change every plan: resumed runs and published orders would no longer be what they were.
    draw = _mixture("temperature", "one_modality", seed=7).draw(1000)
    assert [values.tolist() for values in draw] == PINNED


PINNED = [[2, 2, 2, 2, 2, 0, 2, 2], [38, 31, 20, 0, 1, 0, 21, 28], [35, 35, 35, 35, 35, 229, 35, 35]]


def test_extreme_weights():
    mixture = Mixture([10, 10, 10], batch_size=4, seed=0, strategy="weighted", weights=[1e300, 1e-300, 0])
    assert mixture.shares == pytest.approx([1, 0, 0])
    assert mixture.shares[1] > 0 == mixture.shares[2]
    cold = Mixture([10**9, 1], batch_size=4, seed=0, strategy="temperature", temperature=1e-3)
    assert cold.shares == pytest.approx([1, 0])
    warm = Mixture([10**9, 1], batch_size=4, seed=0, strategy="temperature", temperature=1e9)
    assert warm.shares == pytest.approx([0.5, 0.5])
    alone = Mixture([3], batch_size=8, seed=0, strategy="weighted", weights=[0.1])
    assert Counter(alone.draw(0).row.tolist()) in (
        Counter({a: 3, b: 3, c: 2}) for a, b, c in itertools.permutations(range(3))
    )


def test_all_of_a_weight_on_one_modality():
    mixture = _mixture("weighted", "one_modality", weights=[0, 1, 0, 0, 0])
    assert {dataset for dataset, _, _ in _draws(mixture, 0, 50)} == {1}
    assert mixture.steps(2) == math.ceil(10 / 8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sizes": []}, "at least one dataset"),
        ({"sizes": [3, 0]}, "none empty"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"strategy": "wieghted"}, "'wieghted'; expected one of"),
        ({"batches": "both"}, "'both'; expected one of"),
        ({"strategy": "weighted"}, "weights belong"),
        ({"weights": [1] * 5}, "weights belong"),
        ({"strategy": "weighted", "weights": [1, 2]}, "one for each of 5"),
        ({"strategy": "weighted", "weights": [0] * 5}, "all 0"),
        ({"strategy": "weighted", "weights": [1, -1, 1, 1, 1]}, "weight -1"),
        ({"strategy": "weighted", "weights": [1, math.nan, 1, 1, 1]}, "weight nan"),
        ({"strategy": "temperature"}, "temperature belongs"),
        ({"strategy": "temperature", "temperature": 0.0}, "temperature 0.0"),
        ({"temperature": 2.0}, "temperature belongs"),
        ({"repeats": [1, 1, 0, 1, 1]}, "repeat 0"),
        ({"strategy": "round_robin", "repeats": [1, 1, 2, 1, 1]}, "takes no account"),
        ({"limits": [None, None, None, None, 0]}, "limit 0"),
        ({"batches": "one_modality"}, "groups belong"),
        ({"groups": GROUPS}, "groups belong"),
    ],
)
def test_settings_that_mean_nothing(changes, words):
    with pytest.raises(ValueError, match=words):
        Mixture(**{"sizes": SIZES, "batch_size": 8, "seed": 0, **changes})


def test_steps_and_epochs_out_of_range():
    with pytest.raises(ValueError, match="step -1"):
        _mixture().draw(-1)
    for epochs in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="epochs"):
            _mixture().steps(epochs)


def test_the_example():
    import doctest

    from teva_data import mixture

    assert doctest.testmod(mixture) == (0, 3)


def test_many_datasets():
    random = np.random.default_rng(0)
    sizes = random.integers(1, 10**6, 1000).tolist()
    mixture = Mixture(sizes, batch_size=100_000, seed=0)
    draws = [mixture.draw(step) for step in range(3)]
    counts = np.bincount(np.concatenate([draw.dataset for draw in draws]), minlength=1000)
    assert np.abs(counts - 300_000 * np.array(mixture.shares)).max() < 16
    near = {pair for draw in draws for pair in zip(draw.dataset.tolist(), draw.row.tolist(), strict=True)}
    assert len(near) == 300_000
