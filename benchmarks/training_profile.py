"""Where the time of training goes: operators of one step by their own time, as benchmarks/training_speed.py trains.

python -m benchmarks.training_profile teva|padded|peer DATA MODEL WORK
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.profiler import ProfilerActivity, profile

from .training_speed import by_peer, by_teva

STEPS = 3  # the last is profiled: the first two allocate memory and warm caches


def main(words: list[str]) -> None:
    system, data, model, work = words[0], *map(Path, words[1:])
    profiler = profile(activities=[ProfilerActivity.CPU])
    seen = 0

    def begin(*_: Any) -> None:
        # From the end of one step of the optimiser to the end of the next.
        nonlocal seen
        seen += 1
        if seen == STEPS - 1:
            profiler.start()
        elif seen == STEPS:
            profiler.stop()

    register_optimizer_step_post_hook(begin)
    if system == "peer":
        by_peer(data, model, STEPS, work)
    else:
        by_teva(data, model, STEPS, work, padded=system == "padded")
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=45))


if __name__ == "__main__":
    main(sys.argv[1:])
