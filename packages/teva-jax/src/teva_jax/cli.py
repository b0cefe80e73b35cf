"""The command line ``teva-jax``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from teva_data import commandline

_TRAIN_HELP = """Train a retriever from a recipe.

Any key of the recipe can be replaced: `--train.steps 200 --data.path DIR`. Starting again with the same recipe, data
and output goes on from the newest checkpoint.

All devices of a host are used by one process. On several hosts the same command runs on each (see jax.distributed).

Keys of a recipe and their defaults:

{keys}

Args:
    recipe: a YAML file, or the name of a recipe that ships with teva-jax (`teva-jax recipes list`).
    overwrite: begin anew where the output directory holds a run already.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``teva-jax``; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    overrides: list[str] = []
    if words[:1] in (["train"], ["plan"]):
        words, overrides = commandline.split_overrides(words)

    def train(
        recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")], overwrite: bool = False
    ) -> None:
        from .training import train as train_

        result = train_(recipe, overrides, overwrite=overwrite)
        if os.environ.get("JAX_PROCESS_ID", "0") == "0":  # of several processes, one speaks for all
            print(f"{result.artifact.path}  (loss {result.loss:.4f} after {result.steps} steps)")

    def plan(
        recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")],
        slice: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    ) -> int:
        """Compile a recipe's step for a TPU slice without one, or for the devices at hand, and tell what it needs.

        Prints memory of a device, exchanges between devices, and the largest chunks that fit; the exit status is 1
        where nothing does. No data are read, of the model config.json alone. Any key of the recipe can be replaced.

        Args:
            recipe: a YAML file, or the name of a recipe that ships with teva-jax.
            slice: v4-8, v5e-4, v5p-8, v6e-16 ...; the devices at hand where not given. Needs teva-jax[plan].
        """
        from .plan import plan as plan_

        found = plan_(recipe, overrides, target=slice)
        print(found)
        return 0 if found.fits else 1

    if words[:1] == ["train"]:
        from .init import key_table

        train.__doc__ = _TRAIN_HELP.format(keys=key_table())
    else:
        train.__doc__ = "Train a retriever from a recipe."
    return commandline.run(
        "teva-jax",
        "Trains dense retrievers on JAX: a recipe in, an artifact out.",
        {"train": train, "init": init, "export": export, "plan": plan, "recipes": recipes},
        words,
    )


def init(data: Path, model: str, *, split: str = "train", output: str | None = None) -> None:
    """Print a recipe with a comment for every key, its limits of length taken from the data.

    Args:
        data: dataset directory.
        model: model directory or hub id.
        split: the training split.
        output: the run's directory; runs/DATASET where not given.
    """
    from .init import propose

    print(propose(data, model, split=split, output=output), end="")


def export(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL_OR_CHECKPOINT")],
    *,
    output: Path | None = None,
    parity_cosine: float | None = None,
) -> None:
    """Write an artifact from a checkpoint or another layout, and compare its vectors by every runtime.

    Args:
        source: a checkpoint of a run (RUN/checkpoints/step_00000100), a model directory (an artifact is checked where
            it is), or a hub id.
        output: where the artifact is written; for a checkpoint, a directory of the run where not given.
        parity_cosine: the smallest cosine between runtimes that passes.
    """
    from .publishing import export_model

    print(export_model(source, output, threshold=parity_cosine).path)


def recipes(
    action: Annotated[Literal["list", "show"], tyro.conf.Positional],
    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None,
) -> None:
    """List the recipes that ship with teva-jax, or show one.

    Args:
        action: list them all, or show one.
        name: the one to show.
    """
    from teva_data.shipped import list_or_show

    print(list_or_show(action, name, "teva_jax"), end="")


if __name__ == "__main__":
    sys.exit(main())
