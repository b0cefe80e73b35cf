"""Faults, many of each: kills, flipped bytes, full disks, two writers, dead workers, slow readers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.faults import flips, forks, kills, others, works

from . import Context, Result, claim
from .runner import RESULTS

WANTED = 300
MINUTES = 9.0  # of one run; what earlier runs tried is added to it


@claim(
    "faults", name="faults", peer=None,
    target=f"over all runs {WANTED} kills or more of train, encode, index, mine, evaluate and {WANTED} flipped bytes "
    "in what they leave: after a kill the same command leaves the same bytes and no other file, 0 lost; every flipped "
    "byte is an error that names the file or changes nothing, 0 undetected. Full disks, two writers, dead workers, "
    "slow readers: 0 lost",
)  # fmt: skip
def faults(context: Context) -> Result:
    """Rounds of a few of each until the time is over. Seeds go on from run to run, so that each run tries others."""
    before = _before()
    os.environ[forks.TRAINING] = "1"
    shop = works.Workshop(context.work)
    until = time.monotonic() + 60 * (1 if context.quick else MINUTES)
    tally, rounds = _Tally(), 0
    while time.monotonic() < until:
        _round(shop, context.seed + 1000 * int(before["runs"]) + rounds, rounds, tally, until)
        rounds += 1
    return _result(before, tally)


@dataclass
class _Tally:
    """What one run has tried: of each kind of fault how often, and how often something was lost."""

    tried: dict[str, list[int]] = field(default_factory=dict)
    detected: int = 0
    harmless: int = 0
    lines: list[str] = field(default_factory=list)

    def add(self, name: str, tried: int, lost: list[str]) -> None:
        """Count one attempt."""
        sums = self.tried.setdefault(name, [0, 0])
        sums[0], sums[1] = sums[0] + tried, sums[1] + len(lost)
        self.lines += lost
        for line in lost:
            print(f"    LOST {line}", flush=True)


def _round(shop: works.Workshop, seed: int, number: int, tally: _Tally, until: float) -> None:
    """Three kills of each work and three flips in each keep, and one of the other faults; training every third time."""
    slow = number % 3 == 0
    for name, work in works.WORKS.items():
        if time.monotonic() < until and (slow or name != "train"):
            killed = kills.kill_often(shop, work, 3, seed)
            tally.add(f"kill {name}", killed.tried, killed.lost)
    for name, keep in flips.KEEPS.items():
        if time.monotonic() < until and (slow or keep.made[-1] != works.WORKS["train"].words or name == "model"):
            found = flips.flip_often(shop, keep, 3, seed)
            tally.add(f"flip {name}", found.tried, found.undetected)
            tally.detected, tally.harmless = tally.detected + found.detected, tally.harmless + found.harmless
    attempts = _others(shop, seed)
    name = list(attempts)[number % len(attempts)]
    if time.monotonic() < until:
        try:
            survived = attempts[name]()
        except (RuntimeError, TimeoutError) as error:
            survived = kills.Survived(1, 1, [f"{name}: {error}"])  # what could not be tried counts as lost
        tally.add(name, survived.tried, survived.lost)


def _others(shop: works.Workshop, seed: int) -> dict[str, Callable[[], kills.Survived]]:
    attempts: dict[str, Callable[[], kills.Survived]] = {"slow reader": partial(others.read_slowly, shop, 2, seed)}
    for name in ("encode", "evaluate", "mine", "index"):
        attempts[f"full disk, {name}"] = partial(others.fill_disk, shop, works.WORKS[name], 1, seed)
        attempts[f"two writers, {name}"] = partial(others.two_writers, shop, works.WORKS[name], 1, seed)
    return attempts | {
        "kill a rank of two": partial(others.kill_a_rank, shop, 1, seed),
        "kill a worker of encode": partial(others.kill_a_worker, shop, 1, seed),
        "full disk, train": partial(others.fill_disk, shop, works.WORKS["train"], 1, seed),
        "two writers, train": partial(others.two_writers, shop, works.WORKS["train"], 1, seed),
    }


def _before() -> dict[str, Any]:
    """The totals of the runs so far; anew after a run that lost something, since what is tried is then other code."""
    path = RESULTS / "faults.json"
    none = {"runs": 0, "tried": {}, "detected": 0, "harmless": 0}
    totals = json.loads(path.read_bytes())["details"]["totals"] if path.is_file() else none
    return none if any(lost for _, lost in totals["tried"].values()) else dict(totals)


def _result(before: dict[str, Any], tally: _Tally) -> Result:
    tried = tally.tried
    names = dict.fromkeys([*before["tried"], *tried])
    sums = {
        name: [sum(each.get(name, [0, 0])[at] for each in (before["tried"], tried)) for at in (0, 1)] for name in names
    }
    totals = {
        "runs": before["runs"] + 1, "tried": sums, "detected": before["detected"] + tally.detected,
        "harmless": before["harmless"] + tally.harmless,
    }  # fmt: skip
    counts = {kind: [sum(sums[name][at] for name in sums if name.startswith(kind)) for at in (0, 1)]
              for kind in ("kill ", "flip ", "full disk", "two writers", "slow reader")}  # fmt: skip
    figures = {
        "kills": counts["kill "][0], "lost after a kill": counts["kill "][1], "flipped bytes": counts["flip "][0],
        "undetected": counts["flip "][1], "named": totals["detected"], "harmless": totals["harmless"],
        "full disks": counts["full disk"][0], "two writers": counts["two writers"][0],
        "slow readers": counts["slow reader"][0], "runs": totals["runs"],
        "lost in all": sum(lost for _, lost in sums.values()),
    } | {f"{name}: tried, survived, lost": f"{n}, {n - lost}, {lost}" for name, (n, lost) in sums.items()}  # fmt: skip
    enough = counts["kill "][0] >= WANTED and counts["flip "][0] >= WANTED
    note = "totals of all runs; a run that lost something is told in details" + ("" if enough else "; run it again")
    return Result(figures, enough and not figures["lost in all"], note, {"totals": totals, "lost": tally.lines})
