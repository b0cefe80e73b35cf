"""kill -9 at random moments of a command, then the command again: what is left must be what an undisturbed one leaves.

A moment is drawn from the writing: after a number of changes to files that is uniform among those of an undisturbed
run, right there (the process waits at the change for its SIGKILL) or a random while later.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from . import forks, works


@dataclass
class Survived:
    """What faults of one kind came to.

    Attributes:
        tried: faults: processes that were killed, disks that were full, ...
        trials: times that the work was begun, killed and finished.
        lost: what was not as it should be, one line each.
    """

    tried: int = 0
    trials: int = 0
    lost: list[str] = field(default_factory=list)


def kill_often(shop: works.Workshop, work: works.Work, kills: int, seed: int) -> Survived:
    """Kill a work at ``kills`` random moments in all, one to four times before it is let to its end.

    Args:
        shop: where.
        work: what.
        kills: how many; the last trial may add a few.
        seed: of the moments.
    """
    undisturbed, expected = shop.undisturbed(work)
    rng, found = random.Random(f"{seed} {work.name}"), Survived()
    pace = undisturbed.seconds / undisturbed.changes
    while found.tried < kills:
        directory, moments = shop.begin(work), []
        for _ in range(rng.randint(1, 4)):
            # Later starts have less left to do: small numbers are drawn more often for them.
            change = rng.randint(1, max(1, undisturbed.changes // (1 + len(moments))))
            moment = forks.Moment(change, None if rng.random() < 0.5 else rng.uniform(0, 4 * pace))
            ended = forks.run(work.words, directory, moment)
            if not ended.killed:
                break
            moments.append(moment)
        found.tried += len(moments)
        found.trials += 1
        last = forks.run(work.words, directory)
        found.lost += [f"{work.name}, killed at {moments}: {what}" for what in wrong(last, directory, expected)]
    return found


def wrong(last: forks.Ended, directory: Path, expected: dict[str, str]) -> list[str]:
    """What is not as it should be after the last start of a command that was disturbed before, one line each."""
    if last.status:
        return [f"does not go on (status {last.status}): {last.output.strip().splitlines()[-1:]}"]
    there = works.left(directory)
    return [
        f"{name}: {'missing' if name not in there else 'left over' if name not in expected else 'other bytes'}"
        for name in sorted({*there, *expected})
        if there.get(name) != expected.get(name)
    ]
