"""Steps of teva-torch and teva-jax that take turns in one process: ``python -m benchmarks.jax_speed RECIPE ROUNDS``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

import jax
import torch
from benchmarks.jax_case import Case


def of_torch(recipe: Any, case: Case, device: str = "cpu", tokens: int = 1024) -> Callable[[int], None]:
    """A step of teva-torch: batch, gradient, update."""
    from teva_data.feed import Feed
    from teva_torch.caching import BatchGradient, Passes
    from teva_torch.distributed import Processes
    from teva_torch.losses import build_loss
    from teva_torch.model import Retriever
    from teva_torch.recipe import read_recipe, torch_section
    from teva_torch.strategies import prepare

    checked = read_recipe(recipe).model_copy(update={"model": case.recipe.model})
    place = torch.device(device)
    model = Retriever.for_training(case.setup.base, checked, place)
    precision = torch.bfloat16 if checked.train.precision == "bfloat16" else torch.float32
    loss = build_loss(checked.loss, hidden=case.setup.retriever.dim, normalize=model.normalize)
    strategy = prepare("single", model, loss, checked.train, torch_section(checked), Processes(), place)
    gradient = BatchGradient(model, loss, Passes(tokens, precision=precision), Processes(), strategy)
    feed = Feed(case.plan, case.renderer, case.recipe)
    strategy.trained.train()

    def step(number: int) -> None:
        strategy.zero_grad()
        gradient.add(feed.batch(number))
        strategy.update(1e-5, lambda norm: None)
        if place.type == "cuda":
            torch.cuda.synchronize()

    return step


def of_jax(case: Case) -> Callable[[int], None]:
    """A step of teva-jax: the same."""
    setup, state = case.setup, case.state

    def step(number: int) -> None:
        total = setup.gradient.zeros(state.trained)
        total, _ = setup.gradient.add(state.trained, state.frozen, total, case.feed.batch(number))
        state.trained, state.optimizer, norm = setup.optimizer.update(
            state.trained, state.optimizer, total, jnp.float32(1e-5)
        )
        jax.block_until_ready((state.trained, norm))

    return step


def timed(step: Callable[[int], None], number: int) -> float:
    """Seconds of one step."""
    start = time.perf_counter()
    step(number)
    return time.perf_counter() - start


def main(recipe: Any, rounds: int, device: str = "cpu", tokens: int = 1024) -> dict[str, Any]:
    """Seconds of the steps of each, and what explains them; ``device`` and tokens of a pass are torch's."""
    case = Case(recipe)
    steps = {"torch": of_torch(recipe, case, device, tokens), "jax": of_jax(case)}
    # Until every length has been seen: what compiles is told apart.
    first = {name: sum(timed(step, number) for number in range(3)) for name, step in steps.items()}
    seconds: dict[str, list[float]] = {"torch": [], "jax": []}
    for number in range(3, 3 + rounds):
        for name in seconds if number % 2 else reversed(seconds):
            seconds[name].append(timed(steps[name], number))
    batches = [case.feed.batch(number) for number in range(3, 3 + rounds)]
    tokens, padded = (sum(values) / rounds for values in (
        [one.item.tokens for one in batches], [one.padded_tokens for one in batches],
    ))  # fmt: skip
    weights = sum(value.size for name, value in case.state.trained["retriever"].items() if "*" in name)
    matrix = torch.randn(1024, 1024)
    product = min(timed(lambda _: matrix @ matrix, 0) for _ in range(10))
    return {
        **seconds, "tokens": tokens, "padding": padded / tokens, "first": first["jax"], "flops": 6 * padded * weights,
        "programs": sum(case.setup.gradient.compilations().values()) + 1, "product": 2 * 1024**3 / product / 1e9,
        "threads": torch.get_num_threads(), "cores": int(np.size(jax.devices())),
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
