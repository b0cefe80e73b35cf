"""Bytes by part in each phase of a step (teva_torch.caching): passes forward, the loss, the way back, the optimiser."""

from __future__ import annotations

import torch
from teva_torch.losses.tiled import tile_side

from .layout import Layout
from .tracing import Costs

# Costs of a process's passes in their order, and how often each comes.
Passes = list[tuple[Costs, int]]


def phases_of(
    held: Layout,
    passes: Passes,
    *,
    cached: bool,
    accumulated: bool,
    own: int,
    own_queries: int,
    everyone: int,
    hidden: int,
    device: torch.device,
) -> dict[str, dict[str, float]]:
    """Bytes by part in each phase.

    Args:
        held: what the strategy makes of the model.
        passes: of one batch.
        cached: gradient caching.
        accumulated: whether a batch before this one has left gradients.
        own: texts of this process; ``own_queries`` of them are queries.
        own_queries: see ``own``.
        everyone: texts of all processes.
        hidden: size of a vector.
        device: decides the loss's tiles.
    """
    vectors = 4.0 * hidden * (2 * own + 2 * everyone)  # own, distinct and in order; all, and their gradient
    tile = 4.0 * tile_side(None, device) ** 2
    tile = 3 * min(tile, 4.0 * own_queries * everyone)
    before = held.gradients if held.standing or accumulated else 0.0
    base = {"weights": held.weights, "masters": held.masters, "optimizer states": held.optimizer}
    kept = 0.0 if cached else sum(cost.kept * count for cost, count in passes)
    shared = max(cost.shared for cost, _ in passes)
    gathered = {"gathered weights": held.gathered}
    half_vectors = vectors / 4
    if cached:
        forward = {"working memory": max(cost.blind for cost, _ in passes)}
    else:
        forward = {"activations": kept, "working memory": shared + max(cost.forward for cost, _ in passes)}
    phases = {
        "forward": {**base, "gradients": before, **gathered, **forward, "vectors": half_vectors},
        "loss": {
            **base, "gradients": before, "activations": kept, "vectors": vectors, "loss": tile,
            "working memory": 0.0 if cached else passes[-1][0].shared_back,
        },
        "optimizer": {**base, "gradients": held.gradients, "exchange buffers": held.step},
    }  # fmt: skip
    for name, parts in _back(cached, held, passes, kept, before).items():
        phases[name] = {**base, **gathered, **parts, "vectors": vectors}
    phases["end of the way back"] = {
        **base,
        **gathered,
        "gradients": held.gradients,
        "exchange buffers": held.at_end,
        "vectors": vectors,
    }
    return phases


def _back(cached: bool, held: Layout, passes: Passes, kept: float, before: float) -> dict[str, dict[str, float]]:
    """The way back: of the first pass, whose gradients are not there yet, and of those after it."""
    sharded = bool(held.gathered)
    several = sum(count for _, count in passes) > 1

    def parts(cost: Costs, activations: float, gradients: float, exchange: float, working: float) -> dict[str, float]:
        return {
            "gradients": gradients, "exchange buffers": exchange, "activations": activations,
            "working memory": cost.shared_back + working,
        }  # fmt: skip

    if cached:
        found = {}
        for at, (cost, _) in enumerate(passes):
            found[f"back {at}"] = parts(cost, cost.kept, held.gradients, held.exchange, cost.backward)
            again = {**found[f"back {at}"], "working memory": cost.shared + cost.forward}
            found[f"again {at}"] = again
        return found
    last, previous = passes[-1][0], passes[-1][0] if passes[-1][1] > 1 or len(passes) == 1 else passes[-2][0]
    # Nothing leaves before all passes are gone back through: until then autograd sums their gradients, whole.
    fresh = last.backward if sharded or before else last.fresh
    found = {"back first": parts(last, kept, before, 0.0, fresh)}
    if several:
        there = max(before, held.whole_gradients + (held.gradients if held.standing else 0.0))
        found["back"] = parts(previous, kept - last.kept, there, 0.0, previous.backward)
        found["back last"] = parts(passes[0][0], passes[0][0].kept, there, held.exchange, passes[0][0].backward)
    else:
        found["back last"] = parts(last, 0.0, held.gradients, held.exchange, 0.0)
    return found
