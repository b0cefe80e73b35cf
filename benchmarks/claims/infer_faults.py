"""Claims of teva-infer when things go wrong: kills, a full disk, a directory that may not be written."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

from . import Context, Result, claim
from .infer_encoding import _small_model


@claim(
    "infer", name="killed_at_random", peer=None,
    target="an encode killed with SIGKILL at ten random moments and started again each time leaves the bytes of one "
    "that was not, manifest included",
)  # fmt: skip
def killed_at_random(context: Context) -> Result:
    """The moments are drawn over the whole time that an undisturbed run takes, loading included."""
    words = _prepare(context, 600 if context.quick else 6000)
    whole, killed = context.work / "whole", context.work / "killed"
    start = time.monotonic()
    subprocess.run([*words, str(whole)], check=True, capture_output=True)
    length = time.monotonic() - start
    rng, kills, moments = random.Random(context.seed), 0, []
    for _ in range(3 if context.quick else 10):
        with subprocess.Popen([*words, str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                process.wait(rng.uniform(0.3, 1) * length)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                kills += 1
        moments.append(len(list(killed.glob("shard-*.arrow"))))
    subprocess.run([*words, str(killed)], check=True, capture_output=True)
    digests = [_digests(place) for place in (whole, killed)]
    other = [name for name in {*digests[0], *digests[1]} if digests[0].get(name) != digests[1].get(name)]
    figures = {
        "kills": kills, "files": len(digests[0]), "whole shards after each": str(moments),
        "files with other bytes": len(other),
    }  # fmt: skip
    return Result(figures, not other and kills > 0)


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


def _prepare(context: Context, documents: int) -> list[str]:
    """A model of one layer, a corpus, and the command that encodes it, but for the output."""
    model, data = context.work / "model", context.work / "data"
    _small_model(model)
    data.mkdir()
    with (data / "corpus.jsonl").open("w") as file:
        for row in range(documents):
            print(json.dumps({"docid": f"d{row}", "text": f"document number {row} " * (row % 9 + 1)}), file=file)
    command = shutil.which("teva-infer") or "teva-infer"
    return [command, "encode", str(model), str(data), "--device", "cpu", "--shard-size", "256", "--output"]


def _in_namespace(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)


def _digests(directory: Path) -> dict[str, str]:
    paths = [*directory.glob("shard-*.arrow"), directory / "manifest.json"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
