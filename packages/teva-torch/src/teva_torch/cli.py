"""The command line ``teva-torch``."""

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

Several processes, one for each GPU, share each batch: `torchrun --nproc_per_node 8 -m teva_torch.cli train RECIPE`.

Keys of a recipe and their defaults:

{keys}

Args:
    recipe: a YAML file, or the name of a recipe that ships with teva-torch (`teva-torch recipes list`).
    overwrite: begin anew where the output directory holds a run already.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``teva-torch``; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    overrides: list[str] = []
    if words[:1] == ["train"]:
        words, overrides = _split_overrides(words)

    def train(
        recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")], overwrite: bool = False
    ) -> None:
        from .training import train as train_

        result = train_(recipe, overrides, overwrite=overwrite)
        if os.environ.get("RANK", "0") == "0":  # under torchrun, one of the processes speaks for all
            print(f"{result.artifact.path}  (loss {result.loss:.4f} after {result.steps} steps)")

    if words[:1] == ["train"]:
        from .init import key_table

        train.__doc__ = _TRAIN_HELP.format(keys=key_table())
    else:
        train.__doc__ = "Train a retriever from a recipe."
    return commandline.run(
        "teva-torch",
        "Trains dense retrievers on PyTorch: a recipe in, an artifact out.",
        {"train": train, "init": init, "recipes": recipes},
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


def recipes(
    action: Annotated[Literal["list", "show"], tyro.conf.Positional],
    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None,
) -> None:
    """List the recipes that ship with teva-torch, or show one.

    Args:
        action: list them all, or show one.
        name: the one to show.
    """
    from teva_data.errors import RecipeError

    from .recipe import shipped, shipped_recipe

    if action == "list":
        for known, file in shipped().items():
            print(f"{known:<24} {file.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")
    elif name is None:
        raise RecipeError("recipes show: which one? `teva-torch recipes list` names them")
    else:
        print(shipped_recipe(name).read_text(encoding="utf-8"), end="")


def _split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take ``--section.key VALUE`` and ``--section.key=VALUE`` out of the words of a command."""
    rest: list[str] = []
    overrides: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word.startswith("--") and "." in word.partition("=")[0]:
            overrides.append(word)
            if "=" not in word and queue:
                overrides.append(queue.pop(0))
        else:
            rest.append(word)
    return rest, overrides


if __name__ == "__main__":
    sys.exit(main())
