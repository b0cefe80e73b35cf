"""Commands in forked processes: what they import is imported once, and each is a process that can be killed.

The standard library's fork server imports the modules; a child changes into its directory, tells the moments at which
it changes files there, and runs a command's ``main`` as the installed script would.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# All that the commands load on their way, and what training loads beside it: its gate asks sentence_transformers.
PRELOADED = (
    "torch", "transformers.models.bert.modeling_bert", "transformers.models.bert.tokenization_bert", "tyro", "yaml",
    "pytrec_eval", "faiss", "teva_data.cli", "teva_data.negatives", "teva_torch.engine", "teva_infer.cli",
    "teva_infer.encoding", "teva_infer.mining", "teva_infer.searching", "teva_infer.indexes.building",
    "teva_infer.indexes.opened", "teva_infer.indexes.faiss_kinds", "teva_infer.evaluating", "teva_eval.cli",
    "teva_eval.running", "teva_eval.benchmarks",
)  # fmt: skip
OF_TRAINING = (
    "sentence_transformers", "teva_torch.cli", "teva_torch.training", "matplotlib.figure",
    "matplotlib.backends.backend_agg",
)  # fmt: skip
TRAINING = "TEVA_FAULTS_TRAINING"  # the variable that tells the server to load these too
MAINS = {name: f"{name.replace('-', '_')}.cli" for name in ("teva-data", "teva-torch", "teva-infer", "teva-eval")}
# Audit events of Python that change a file, and where the path stands in their arguments.
_CHANGES = {"os.rename": 0, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0, "os.truncate": 0, "os.chmod": 0}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_started = threading.Lock()


@dataclass(frozen=True)
class Moment:
    """When a process is to be killed.

    Attributes:
        change: after this many changes to files (from 1); 0 tells how many there are and kills nothing.
        delay: seconds after it; None kills before the change is made.
    """

    change: int
    delay: float | None = None


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        status: the exit status; minus the signal's number of one that was killed.
        output: what it wrote to stdout and stderr.
        changes: changes to files that it made, where that was asked.
        seconds: how long it ran.
    """

    status: int
    output: str
    changes: int
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.status == -signal.SIGKILL


def run(
    words: Sequence[str], directory: Path, moment: Moment | None = None, *, prepare: Callable[[], Any] | None = None
) -> Ended:
    """Run one of teva's commands in a directory, to its end or until it is killed.

    Args:
        words: the command and its arguments, ``["teva-infer", "encode", ...]``.
        directory: where; relative paths are its.
        moment: when SIGKILL is sent.
        prepare: called in the process first; a module's function.
    """
    return call(_command, words, directory=directory, moment=moment, prepare=prepare)


def call(
    function: Callable[..., Any],
    *arguments: Any,
    directory: Path,
    moment: Moment | None = None,
    prepare: Callable[[], Any] | None = None,
    timeout: float = 300,
) -> Ended:
    """Call a module's function in a process of its own; what it returns is the exit status.

    Raises:
        TimeoutError: it does not end.
    """
    with started(function, *arguments, directory=directory, moment=moment, prepare=prepare) as process:
        return process.wait(timeout)


class Process:
    """A forked process that runs."""

    def __init__(self, process: Any, pipe: Connection, log: Path, moment: Moment | None) -> None:
        self._process, self._pipe, self._log, self._moment = process, pipe, log, moment
        self._began = time.monotonic()

    @property
    def pid(self) -> int:
        """The process's number."""
        return int(self._process.pid)

    def wait(self, timeout: float = 300) -> Ended:
        """Wait for its end; sends SIGKILL when the moment is there.

        Raises:
            TimeoutError: it does not end.
        """
        changes = 0
        with contextlib.suppress(EOFError, ConnectionResetError):
            if self._pipe.poll(timeout):
                changes = self._pipe.recv()
                if self._moment is not None and self._moment.change:
                    time.sleep(self._moment.delay or 0)
                    self.kill()
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f"process {self.pid} runs after {timeout} s: {self.output()[-2000:]}")
        return Ended(self._process.exitcode, self.output(), changes, time.monotonic() - self._began)

    def kill(self) -> None:
        """Send SIGKILL, to this process alone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def output(self) -> str:
        """What it has written to stdout and stderr."""
        return self._log.read_text(encoding="utf-8", errors="replace")


@contextlib.contextmanager
def started(
    function: Callable[..., Any],
    *arguments: Any,
    directory: Path,
    moment: Moment | None = None,
    prepare: Callable[[], Any] | None = None,
) -> Iterator[Process]:
    """Start a module's function in a process of its own, which is gone afterwards, its children too."""
    context = _context()
    ours, theirs = context.Pipe()
    log = directory.with_name(f"{directory.name}-{time.monotonic_ns()}.out")
    process = context.Process(
        target=_child, args=(function, arguments, str(directory), str(log), moment, theirs, prepare), daemon=False
    )
    log.touch()
    process.start()
    theirs.close()
    try:
        yield Process(process, ours, log, moment)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join(10)
        ours.close()
        log.unlink()


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    with _started:
        # Taken by the server, and by all that it forks. Threads do not survive a fork: there are to be none.
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = "1"
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        context.set_forkserver_preload(["benchmarks.faults.preloaded"])
    return context


def _child(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    directory: str,
    log: str,
    moment: Moment | None,
    pipe: Connection,
    prepare: Callable[[], Any] | None,
) -> None:
    os.setsid()
    os.chdir(directory)
    handle = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    counted = [0]
    if moment is not None:
        sys.addaudithook(_watch(os.path.realpath(directory), moment, pipe, counted))
    status = 1
    try:
        if prepare is not None:
            prepare()
        status = function(*arguments) or 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - as the interpreter would print it
        import traceback

        traceback.print_exc()
    if moment is not None and not moment.change:
        pipe.send(counted[0])
    sys.stdout.flush()
    sys.exit(status)


def _watch(root: str, moment: Moment, pipe: Connection, counted: list[int]) -> Callable[[str, tuple[Any, ...]], None]:
    """Counts changes to files below a directory, tells when the one is there, and waits there for the kill."""
    lock = threading.Lock()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, flags = arguments[0], arguments[2]
            if not isinstance(flags, int) or not flags & _WRITES:
                return
        elif (place := _CHANGES.get(event)) is not None:
            path = arguments[place]
        else:
            return
        if isinstance(path, int) or not os.path.abspath(os.fsdecode(path)).startswith(root):  # noqa: PTH100
            return
        with lock:
            counted[0] += 1
            if counted[0] != moment.change:
                return
            pipe.send(counted[0])
            while moment.delay is None:
                time.sleep(1)  # until the kill

    return hook


def _command(words: Sequence[str]) -> int:
    return int(importlib.import_module(MAINS[words[0]]).main(list(words[1:])))
