from __future__ import annotations

import pytest

import torch
from teva_data.recipe import TrainSection
from teva_data.schedule import learning_rate
from teva_torch.optim import make_optimizer


def _settings(**values):
    return TrainSection(output="x", steps=100, learning_rate=1.0, **values)


def test_warm_up_climbs_from_the_first_step():
    # A published recipe's warm-up is silently gone; here the first steps are below the peak.
    rates = [learning_rate(step, 100, _settings(warmup_ratio=0.1)) for step in range(11)]
    assert rates[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert rates[10] == 1.0


@pytest.mark.parametrize(
    ("schedule", "middle", "last"), [("linear", 0.5, 0.01), ("cosine", 0.5, 0.00025), ("constant", 1, 1)]
)
def test_decay(schedule, middle, last):
    settings = _settings(schedule=schedule, warmup_ratio=0)
    assert learning_rate(50, 100, settings) == pytest.approx(middle)
    assert learning_rate(99, 100, settings) == pytest.approx(last, rel=0.02)


def test_vectors_are_not_decayed():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    decayed, plain = make_optimizer(model, _settings(weight_decay=0.1)).param_groups
    assert ([p.ndim for p in decayed["params"]], decayed["weight_decay"]) == ([2], 0.1)
    assert ([p.ndim for p in plain["params"]], plain["weight_decay"]) == ([1, 1, 1], 0.0)
