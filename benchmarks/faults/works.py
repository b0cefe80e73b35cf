"""Five commands that write something worth keeping, on a tiny model and tiny data, and what they leave behind."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import forks

# Of one file of JSON: what differs from one run to the next and says nothing of the work.
_TIMES = {
    "seconds",
    "written",
    "queries_per_second",
    "tokens_per_second",
    "git",
    "time",
    "seal",
    "mtime_ns",
    "checked_ns",
}
_LOGS = {"train.log", "run.log", "encode.log", ".lock"}
_MODEL, _DATA = "../model", "data"


@dataclass(frozen=True)
class Work:
    """A command with its inputs.

    Attributes:
        name: train, encode, index, mine, evaluate.
        words: the command, run in a directory that holds ``data`` and what ``before`` has left.
        before: commands whose output it takes.
    """

    name: str
    words: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()


_ENCODE = ("teva-infer", "encode", _MODEL, _DATA, "--output", "emb", "--device", "cpu", "--shard-size", "8")
WORKS = {
    work.name: work
    for work in (
        Work("train", ("teva-torch", "train", "../recipe.yaml")),
        Work("encode", _ENCODE),
        Work(
            "index",
            ("teva-infer", "index", "emb", "--output", "index", "--kind", "hnsw", "--part-rows", "10"),
            (_ENCODE,),
        ),
        Work(
            "mine",
            ("teva-infer", "mine", _MODEL, _DATA, "--work", "work", "--count", "4", "--depth", "20", "--device", "cpu"),
        ),
        Work(
            "evaluate",
            ("teva-eval", "run", "--model", f"tiny={_MODEL}", "--dataset", _DATA, "--output", "results", "--depth",
             "50", "--device", "cpu"),
        ),
    )
}  # fmt: skip


class Workshop:
    """A place with a model, data and a recipe, where works are done again and again.

    Args:
        place: an empty directory.
    """

    def __init__(self, place: Path) -> None:
        self.place = place.resolve()
        made = forks.call(_make, directory=self.place)
        if made.status:
            raise RuntimeError(made.output)
        (self.place / "recipe.yaml").write_text(json.dumps(_recipe()))
        self._inputs: dict[tuple[tuple[str, ...], ...], Path] = {}
        self._undisturbed: dict[str, tuple[forks.Ended, dict[str, str]]] = {}

    @property
    def here(self) -> Path:
        """Where a work is done: the same path each time, since some outputs hold it."""
        return self.place / "here"

    def begin(self, work: Work) -> Path:
        """An empty place for a work, with its inputs."""
        if work.before not in self._inputs:
            self._empty(self.place / "pristine")
            for words in work.before:
                finish(words, self.here)
            self._inputs[work.before] = self.place / f"inputs-{len(self._inputs)}"
            shutil.copytree(self.here, self._inputs[work.before])
        self._empty(self._inputs[work.before])
        return self.here

    def undisturbed(self, work: Work) -> tuple[forks.Ended, dict[str, str]]:
        """How a work ends that nothing disturbs, and what it leaves; done once."""
        if work.name not in self._undisturbed:
            directory = self.begin(work)
            self._undisturbed[work.name] = finish(work.words, directory), left(directory)
        return self._undisturbed[work.name]

    def _empty(self, inputs: Path) -> None:
        shutil.rmtree(self.here, ignore_errors=True)
        shutil.copytree(inputs, self.here)


def _make() -> None:
    from tests.conftest import make_tiny_bert, make_tiny_data

    make_tiny_bert(Path("model"))
    data = Path("pristine", "data")
    data.mkdir(parents=True)
    make_tiny_data(data)


def finish(words: Sequence[str], directory: Path) -> forks.Ended:
    """Run a command that must succeed, and count its changes to files.

    Raises:
        RuntimeError: it did not.
    """
    ended = forks.run(words, directory, forks.Moment(0))
    if ended.status:
        raise RuntimeError(f"{' '.join(words)}: status {ended.status}: {ended.output[-3000:]}")
    return ended


def left(directory: Path) -> dict[str, str]:
    """Every file that is there, by name, with a digest of what it says; of logs that they are there."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(directory))] = "" if path.name in _LOGS else _digest(path)
    return found


def _digest(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix in (".json", ".jsonl"):
        values = [json.loads(line) for line in ([content] if path.suffix == ".json" else content.splitlines())]
        content = json.dumps([_timeless(value) for value in values], sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(each) for key, each in value.items() if key not in _TIMES}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


def _recipe() -> dict[str, Any]:
    return {
        "schema": "1",
        "model": {"name": _MODEL, "query_max_length": 8, "document_max_length": 16},
        "data": {"path": _DATA, "negatives": 2},
        "loss": {"temperature": 0.05},
        "train": {
            "output": "run", "steps": 12, "batch_size": 8, "learning_rate": 1e-3, "save_every": 3, "log_every": 2,
        },
        "torch": {"device": "cpu", "chunk_tokens": 64},
    }  # fmt: skip
