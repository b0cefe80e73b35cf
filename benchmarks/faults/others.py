"""A disk that is full, two writers at once, workers that die, readers that are slow; each at random moments."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import socket
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from . import forks, works
from .flips import _digest, _read_embeddings
from .kills import Survived, wrong
from .works import WORKS, Work, Workshop

_PAGE = 4096
_SMALL, _SAVED = "small", "saved"
_NEW_MOUNTS, _NEW_USER, _PRIVATE = 0x00020000, 0x10000000, (1 << 18) | (1 << 14)
_ENCODE_OTHERWISE = (*WORKS["encode"].words, "--document-prompt", "otherwise ", "--overwrite")


def fill_disk(shop: Workshop, work: Work, times: int, seed: int) -> Survived:
    """Do a work on a file system with room for a part of what it writes, then go on where there is room."""
    directory = shop.begin(work)
    before = _pages(directory)
    works.finish(work.words, directory)
    growth, expected = _pages(directory) - before, works.left(directory)
    rng, found = random.Random(f"{seed} {work.name}"), Survived()
    for _ in range(times):
        directory = shop.begin(work)
        pages = before + 8 + int(rng.uniform(0.05, 0.95) * growth)
        full = forks.call(_on_small_disk, work.words, pages * _PAGE, directory=directory)
        if not full.status:
            continue  # it was enough after all: directories and temporary files are estimates
        found.tried += 1
        found.trials += 1
        last = (full.output.strip().splitlines() or [""])[-1]
        if full.status != 1 or "No space left" not in last or "Traceback" in full.output:
            found.lost.append(f"{work.name}, disk of {pages} pages: not told: status {full.status}: {last[:300]}")
            continue
        saved = shop.place / _SAVED
        shutil.rmtree(saved, ignore_errors=True)
        shutil.move(directory / _SAVED, saved)
        shutil.rmtree(directory)
        shutil.move(saved, directory)
        ended = forks.run(work.words, directory)
        found.lost += [f"{work.name}, disk of {pages} pages: {what}" for what in wrong(ended, directory, expected)]
    return found


def _pages(directory: Path) -> int:
    return sum(-(-path.stat().st_size // _PAGE) for path in directory.rglob("*") if path.is_file())


def _on_small_disk(words: Sequence[str], size: int) -> int:
    """Run a command on a file system of ``size`` bytes that this process alone sees, and copy out what it left."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    _succeed(libc.unshare(_NEW_MOUNTS | (_NEW_USER if user else 0)))
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _succeed(libc.mount(b"none", b"/", None, _PRIVATE, None))
    here = Path.cwd()
    inputs = list(here.iterdir())
    Path("model").symlink_to(here.parent / "model")
    Path("recipe.yaml").symlink_to(here.parent / "recipe.yaml")
    small = here / _SMALL
    small.mkdir()
    _succeed(libc.mount(b"tmpfs", os.fsencode(small), b"tmpfs", 0, f"size={size}".encode()))
    for path in inputs:
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, small / path.name)
    os.chdir(small)
    try:
        return forks._command(words)
    finally:
        shutil.copytree(small, here / _SAVED)


def _succeed(status: int) -> None:
    if status:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def two_writers(shop: Workshop, work: Work, times: int, seed: int) -> Survived:
    """Start a work twice at once in one place: one at least does it, whoever does not says why, and it is done once."""
    undisturbed, expected = shop.undisturbed(work)
    seconds, rng, found = undisturbed.seconds, random.Random(f"{seed} {work.name}"), Survived()
    for _ in range(times):
        directory = shop.begin(work)
        with forks.started(forks._command, work.words, directory=directory) as first:
            time.sleep(rng.uniform(0, seconds / 2))
            with forks.started(forks._command, work.words, directory=directory) as second:
                ends = [first.wait(), second.wait()]
        found.tried += 1
        found.trials += 1
        refused = [end for end in ends if end.status]
        silent = [end for end in refused if "Traceback" in end.output or "process" not in end.output.splitlines()[-1]]
        if len(refused) == len(ends) or silent:
            told = [(end.output.strip().splitlines() or [""])[-1][:300] for end in refused]
            found.lost.append(f"{work.name}, two writers: {told}")
        ended = forks.run(work.words, directory)
        found.lost += [f"{work.name}, two writers: {what}" for what in wrong(ended, directory, expected)]
    return found


def kill_a_rank(shop: Workshop, times: int, seed: int) -> Survived:
    """Train in two processes and kill one at a random moment: the other ends by itself, and training goes on after."""
    work = WORKS["train"]
    rng, found = random.Random(f"{seed} rank"), Survived()
    directory = shop.begin(work)
    ends = _train_together(directory, None, 0)
    if any(end.status for end in ends):
        raise RuntimeError("; ".join(end.output[-1500:] for end in ends))
    expected, seconds = works.left(directory), ends[0].seconds
    for _ in range(times):
        directory = shop.begin(work)
        victim, after = rng.randrange(2), rng.uniform(0.2, 0.9) * seconds
        ends = _train_together(directory, victim, after)
        if not ends[victim].killed:
            continue
        found.tried += 1
        found.trials += 1
        if ends[1 - victim].status == 0:
            found.lost.append(f"train, rank {victim} killed: the other one ended as if nothing were")
        again = _train_together(directory, None, 0)
        where = f"train, rank {victim} killed after {after:.2f} s"
        for end in again:
            found.lost += [f"{where}: {what}" for what in wrong(end, directory, expected)]
    return found


def _train_together(directory: Path, victim: int | None, after: float) -> list[forks.Ended]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with contextlib.ExitStack() as stack:
        ranks = [
            stack.enter_context(
                forks.started(forks._command, WORKS["train"].words, directory=directory,
                              prepare=partial(_as_rank, rank, port))
            )
            for rank in range(2)
        ]  # fmt: skip
        if victim is not None:
            time.sleep(after)
            ranks[victim].kill()
        return [rank.wait(120) for rank in ranks]


def _as_rank(rank: int, port: int) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip


def kill_a_worker(shop: Workshop, times: int, seed: int) -> Survived:
    """Encode with a worker process for each of two devices and kill one: encoding ends or goes on; nothing is lost."""
    work = WORKS["encode"]
    _, expected = shop.undisturbed(work)
    words = tuple("cpu,cpu" if word == "cpu" else word for word in work.words)
    rng, found = random.Random(f"{seed} worker"), Survived()
    for _ in range(times):
        directory = shop.begin(work)
        with forks.started(forks._command, words, directory=directory) as process:
            workers = _children(process.pid)
            time.sleep(rng.uniform(0, 1))
            if not workers:
                raise RuntimeError(f"no worker was started: {process.output()[-2000:]}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(workers), signal.SIGKILL)
            end = process.wait(120)
        found.tried += 1
        found.trials += 1
        if end.status and "Traceback" in end.output:
            found.lost.append(f"encode, worker killed: {end.output.strip().splitlines()[-1][:300]}")
        ended = forks.run(work.words, directory)
        found.lost += [f"encode, worker killed: {what}" for what in wrong(ended, directory, expected)]
    return found


def _children(pid: int, seconds: float = 60) -> list[int]:
    """Processes that a process has started, waited for."""
    until, file = time.monotonic() + seconds, Path(f"/proc/{pid}/task/{pid}/children")
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            if children := [int(each) for each in file.read_text().split()]:
                return children
        time.sleep(0.01)
    return []


def read_slowly(shop: Workshop, times: int, seed: int) -> Survived:
    """Readers that stand in the middle of embeddings and of a store while others overwrite them.

    Each gets the rows as they were, or an error that says what happened; never some of each.
    """
    work = WORKS["encode"]
    rng, found = random.Random(f"{seed} slow"), Survived()
    for number in range(times):
        directory = shop.begin(Work("slow", (), (work.words,)))
        reader = _slow_embeddings if number % 2 else _slow_store
        ended = forks.call(reader, rng.randrange(1, 7), directory=directory)
        found.tried += 1
        found.trials += 1
        if ended.status:
            found.lost.append(f"slow reader: {(ended.output.strip().splitlines() or [''])[-1][:300]}")
    return found


def _slow_embeddings(after: int) -> int:
    from teva_data.embeddings import Embeddings
    from teva_data.errors import DataError

    expected = _read_embeddings()[-1]
    got: list[Any] = []
    with contextlib.suppress(DataError):
        for number, (ids, vectors) in enumerate(Embeddings.open("emb").shards(), 1):
            got.append(_digest(ids, vectors))
            if number == after and forks._command(_ENCODE_OTHERWISE):
                return 1
    if _read_embeddings()[-1] == expected:
        print("the embeddings were not overwritten: nothing was tried")
        return 1
    return _as_it_was(got, expected)


def _slow_store(after: int) -> int:
    from teva_data.dataset import Dataset
    from teva_data.errors import DataError

    corpus = Dataset.open("data").corpus
    expected = [repr(document) for document in corpus]
    got: list[Any] = []
    with contextlib.suppress(DataError):
        for row in range(len(corpus)):
            got += [repr(document) for document in corpus.documents(row, row + 1)]
            if row == after * 5:
                rows = [json.loads(line) for line in Path("data/corpus.jsonl").read_text().splitlines()]
                for each in rows:
                    each["document_text"] += " and something else"
                Path("data/corpus.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows[::-1]))
                if [repr(document) for document in Dataset.open("data").corpus] == expected:
                    print("the store was not built again: nothing was tried")
                    return 1
    return _as_it_was(got, expected)


def _as_it_was(got: list[Any], expected: list[Any]) -> int:
    if got != expected[: len(got)]:
        print("rows of two versions in one reading")
        return 1
    return 0
