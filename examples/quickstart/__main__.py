"""`python -m examples.quickstart`: from text to a better retriever, with the command line of every step."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import tyro

from teva_data.errors import TevaError

from .options import Options

if TYPE_CHECKING:
    from .pipeline import Outcome

DESCRIPTION = """Train, encode, search and evaluate a retriever on real text, and see what it gained.

Five parts: make a dataset (of Python's own documentation, or of --data), score the model on held-out queries, take the
documents that it confuses with the answers as negatives, train, score again. Each part is also shown as the command
that does the same. Leaves a page, report.html, in the output directory."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the quickstart; returns the exit status: 0, or 1 where training gained nothing or an input is bad."""
    options = tyro.cli(Options, prog="python -m examples.quickstart", description=DESCRIPTION, args=argv)
    logging.basicConfig(level=os.environ.get("TEVA_LOG", "INFO"), format="    %(message)s", stream=sys.stderr)
    try:
        return _run(options)
    except TevaError as error:
        print(f"quickstart: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("quickstart: stopped; the same command goes on from here", file=sys.stderr)
        return 130


def _run(options: Options) -> int:
    print("Put `uv run --only-group quickstart` before the commands below to run them by hand.", flush=True)
    # Imported late, so that --help is quick.
    from .pipeline import run
    from .report import write_report

    outcome = run(options)
    report = options.output / "report.html"
    write_report(outcome, report)
    print(f"\n{_table(outcome)}\n\n{_places(outcome)}\n\n{_next(outcome)}", flush=True)
    if outcome.better or not options.require_gain:
        return 0
    print(
        f"quickstart: nDCG@10 has not risen on {outcome.after.queries} held-out queries "
        f"({outcome.before.mean['nDCG@10']:.4f} before, {outcome.after.mean['nDCG@10']:.4f} after). Try more --steps, "
        "another --learning-rate, or more data; --no-require-gain accepts it",
        file=sys.stderr,
    )
    return 1


def _table(outcome: Outcome) -> str:
    lines = [f"{outcome.after.queries:,} held-out queries   before    after   change"]
    width = lines[0].index("before") - 1
    for name, before in outcome.before.mean.items():
        after = outcome.after.mean[name]
        lines.append(f"{name:<{width}}{before:>7.4f}  {after:>7.4f}  {after - before:>+7.4f}")
    return "\n".join(lines)


def _places(outcome: Outcome) -> str:
    output = outcome.options.output
    places = {
        "report": output / "report.html",
        "artifact": outcome.training.artifact.path,
        "run": outcome.run_after,
        "loss": outcome.training.output / "loss.png",
        "recipe": output / "recipe.yaml",
        "data": outcome.prepared.path,
    }
    width = max(map(len, places))
    return "\n".join(f"{name:<{width}}  {path}" for name, path in places.items())


def _next(outcome: Outcome) -> str:
    again = shlex.join(["python", "-m", "examples.quickstart", "--data", "pairs.csv", "--output", "my-run"])
    return (
        f"What next? Open the report. Use the artifact: "
        f'teva_infer.Encoder.load("{outcome.training.artifact.path}").encode_queries(["..."])\n'
        f"Your own questions and passages: {again}\n"
        f"Another recipe: teva-torch train {outcome.options.output / 'recipe.yaml'} --train.output other-run "
        "--train.steps 200"
    )


if __name__ == "__main__":
    sys.exit(main())
