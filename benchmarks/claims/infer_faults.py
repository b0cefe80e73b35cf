"""Claims of teva-infer when things go wrong: kills, a full disk, a directory that may not be written."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from . import Context, Result, claim
from .infer_encoding import _small_model


@claim(
    "infer", name="killed_at_random", peer=None,
    target="an encode killed with SIGKILL at ten random moments of its work (not of its start) and started again each "
    "time leaves the files and the bytes of one that was not, manifest included",
)  # fmt: skip
def killed_at_random(context: Context) -> Result:
    """Each moment is a random time after a further shard is there, of about what a few shards take."""
    kills = 3 if context.quick else 10
    words = _prepare(context, 5_000 if context.quick else 12_000, shard_size=100)
    whole, killed = context.work / "whole", context.work / "killed"
    pace = _undisturbed(words, whole)
    rng, moments, began = random.Random(context.seed), [], 0
    for _ in range(kills):
        before = len(_shards(killed))
        with subprocess.Popen(
            [*words, str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:  # fmt: skip
            while process.poll() is None and len(_shards(killed)) <= before:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 5) * pace)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
        began += any(killed.glob(".*.tmp"))
        moments.append(len(_shards(killed)))
    subprocess.run([*words, str(killed)], check=True, capture_output=True)
    digests = [_digests(place) for place in (whole, killed)]
    other = [name for name in {*digests[0], *digests[1]} if digests[0].get(name) != digests[1].get(name)]
    left = sorted({path.name for path in killed.iterdir()} ^ {path.name for path in whole.iterdir()})
    shards = len(_shards(whole))
    figures = {
        "kills": kills, "whole shards after each": str(moments), "of": shards,
        "kills that left a file half written": began, "files with other bytes": len(other),
        "files too many or too few": len(left),
    }  # fmt: skip
    within = all(low < high for low, high in itertools.pairwise([0, *moments])) and moments[-1] < shards
    return Result(figures, within and not other and not left)


def _undisturbed(words: Sequence[str], output: Path) -> float:
    """Encode without a kill; the seconds from one shard to the next."""
    times: list[float] = []
    with subprocess.Popen([*words, str(output)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if len(_shards(output)) > len(times):
                times.append(time.monotonic())
            time.sleep(0.002)
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)}: status {process.returncode}")
    return (times[-1] - times[0]) / (len(times) - 1)


def _shards(directory: Path) -> list[Path]:
    return list(directory.glob("shard-*.arrow"))


@claim(
    "infer", name="full_disk", peer=None,
    target="on a full disk, and in a directory that may not be written, encode ends with one line that names the file "
    "and the reason, no traceback; shards finished before are whole, and the same command finishes the work when there "
    "is room",
)  # fmt: skip
def full_disk(context: Context) -> Result:
    """A file system of 3 MiB in a mount namespace; its shards are copied out before it goes."""
    words = _prepare(context, 6000)
    mounted, saved = context.work / "mounted", context.work / "saved"
    mounted.mkdir()
    script = (
        f"mount -t tmpfs -o size=3m tmpfs {mounted} && {' '.join(words)} {mounted}/emb; code=$?; "
        f"cp -r {mounted}/emb {saved}; exit $code"
    )
    full = _in_namespace(script)
    names = sorted(path.name for path in saved.glob("shard-*.arrow"))
    readonly = _in_namespace(f"mount -t tmpfs -o ro,size=1m tmpfs {mounted} && {' '.join(words)} {mounted}/emb")
    whole = context.work / "whole"
    subprocess.run([*words, str(whole)], check=True, capture_output=True)
    expected = _digests(whole)
    damaged = [name for name in names if _digests(saved)[name] != expected[name]]
    subprocess.run([*words, str(saved)], check=True, capture_output=True)
    last = [done.stderr.strip().splitlines()[-1] for done in (full, readonly)]
    passed = (
        full.returncode == readonly.returncode == 1 and 0 < len(names) < len(expected) and not damaged
        and "emb/shard-" in last[0] and "No space left" in last[0] and "Read-only" in last[1]
        and not any("Traceback" in done.stderr for done in (full, readonly)) and _digests(saved) == expected
    )  # fmt: skip
    figures = {
        "full disk": last[0], "read-only": last[1],
        "shards whole": len(names), "of": len(expected) - 1,
        "damaged": len(damaged),
    }  # fmt: skip
    return Result(figures, passed)


def _prepare(context: Context, documents: int, shard_size: int = 256) -> list[str]:
    """A model of one layer, a corpus, and the command that encodes it, but for the output."""
    model, data = context.work / "model", context.work / "data"
    _small_model(model)
    data.mkdir()
    with (data / "corpus.jsonl").open("w") as file:
        for row in range(documents):
            print(json.dumps({"docid": f"d{row}", "text": f"document number {row} " * (row % 9 + 1)}), file=file)
    command = shutil.which("teva-infer") or "teva-infer"
    return [command, "encode", str(model), str(data), "--device", "cpu", "--shard-size", str(shard_size), "--output"]


def _in_namespace(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)


def _digests(directory: Path) -> dict[str, str]:
    paths = [*directory.glob("shard-*.arrow"), directory / "manifest.json"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
