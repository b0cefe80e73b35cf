"""Faults, many of each: kills, flipped bytes, full disks, two writers, dead workers, slow readers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from benchmarks.faults import flips, forks, kills, others, works

from . import Context, Result, claim
from .runner import RESULTS

# Of one run; what earlier runs tried is added to it.
KILLS, FLIPS, OTHERS = 305, 305, 2
WANTED = 300
# Each training has a gate at its end and takes several times as long as the other works.
SHARE = {"train": 0.06, "encode": 0.235, "index": 0.235, "mine": 0.235, "evaluate": 0.235}
FLIP_SHARE = {"checkpoint": 0.03, "recipe of a run": 0.03, "log of a run": 0.02}


@claim(
    "faults", name="faults", peer=None,
    target=f"over all runs {WANTED} kills or more of train, encode, index, mine, evaluate and {WANTED} flipped bytes "
    "in what they leave: after a kill the same command leaves the same bytes and no other file, 0 lost; every flipped "
    "byte is an error that names the file or changes nothing, 0 undetected. Full disks, two writers, dead workers, "
    "slow readers: 0 lost",
)  # fmt: skip
def faults(context: Context) -> Result:
    """Seeds are drawn on from run to run, so that each run tries others."""
    before = _before()
    seed, scale = context.seed + 1000 * int(before["runs"]), 0.1 if context.quick else 1.0
    tried: dict[str, list[int]] = {}  # name to tried, lost
    lines: list[str] = []
    detected = harmless = 0
    os.environ[forks.TRAINING] = "1"
    shop = works.Workshop(context.work)
    for name, work in works.WORKS.items():
        killed = kills.kill_often(shop, work, max(1, round(KILLS * SHARE[name] * scale)), seed)
        tried[f"kill {name}"] = [killed.tried, len(killed.lost)]
        print(f"    kill {name}: {killed.tried} tried, {killed.lost}", flush=True)
        lines += killed.lost
    rest = (1 - sum(FLIP_SHARE.values())) / (len(flips.KEEPS) - len(FLIP_SHARE))
    for name, keep in flips.KEEPS.items():
        found = flips.flip_often(shop, keep, max(1, round(FLIPS * FLIP_SHARE.get(name, rest) * scale)), seed)
        tried[f"flip {name}"] = [found.tried, len(found.undetected)]
        print(f"    flip {name}: {found.tried} tried, {found.undetected}", flush=True)
        detected, harmless = detected + found.detected, harmless + found.harmless
        lines += found.undetected
    for name, attempt in _others(shop, max(1, round(OTHERS * scale)), seed).items():
        try:
            survived = attempt()
        except (RuntimeError, TimeoutError) as error:
            # What could not be tried at all counts as lost, and the others are tried.
            survived = kills.Survived(1, 1, [f"{name}: {error}"])
        tried[name] = [survived.tried, len(survived.lost)]
        print(f"    {name}: {survived.tried} tried, {len(survived.lost)} lost", flush=True)
        lines += survived.lost
    return _result(before, tried, detected, harmless, lines)


def _others(shop: works.Workshop, times: int, seed: int) -> dict[str, Callable[[], kills.Survived]]:
    attempts: dict[str, Callable[[], kills.Survived]] = {
        "slow reader": lambda: others.read_slowly(shop, 2 * times, seed),
        "kill a rank of two": lambda: others.kill_a_rank(shop, max(1, times // 2), seed),
        "kill a worker of encode": lambda: others.kill_a_worker(shop, max(1, times // 2), seed),
    }
    for name, work in works.WORKS.items():
        attempts[f"full disk, {name}"] = lambda work=work: others.fill_disk(shop, work, times, seed)  # type: ignore[misc]
        attempts[f"two writers, {name}"] = lambda work=work: others.two_writers(shop, work, times, seed)  # type: ignore[misc]
    return attempts


def _before() -> dict[str, Any]:
    """The totals of the runs so far."""
    path = RESULTS / "faults.json"
    none = {"runs": 0, "tried": {}, "detected": 0, "harmless": 0}
    return json.loads(path.read_bytes())["details"]["totals"] if path.is_file() else none


def _result(
    before: dict[str, Any], tried: dict[str, list[int]], detected: int, harmless: int, lines: list[str]
) -> Result:
    names = dict.fromkeys([*before["tried"], *tried])
    sums = {
        name: [sum(each.get(name, [0, 0])[at] for each in (before["tried"], tried)) for at in (0, 1)] for name in names
    }
    totals = {
        "runs": before["runs"] + 1, "tried": sums, "detected": before["detected"] + detected,
        "harmless": before["harmless"] + harmless,
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
    return Result(figures, enough and not figures["lost in all"], note, {"totals": totals, "lost": lines})
