"""The command line that all trainers have: ``train``, ``init`` and ``recipes`` are the same but for the framework."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from . import commandline
from .shipped import list_or_show, schema_text

_TRAIN_HELP = """Train a retriever from a recipe.

Any key of the recipe can be replaced: `--train.steps 200 --data.path DIR`. Starting again with the same recipe, data
and output goes on from the newest checkpoint.

{processes}

Keys of a recipe and their defaults:

{keys}

Args:
    recipe: a YAML file, or the name of a recipe that ships with {command} (`{command} recipes list`).
    overwrite: begin anew where the output directory holds a run already.
"""
Verbs = Mapping[str, Callable[..., Any]]


@dataclasses.dataclass(frozen=True)
class Trainer:
    """A trainer's package, as its command line needs it.

    Its modules ``training``, ``init`` and its folder ``recipes`` have the functions that the verbs call; they are
    imported when a verb runs, so that ``--help`` needs no framework.

    Attributes:
        package: its import name.
        summary: one sentence for ``--help``.
        processes: how several processes are started, for the help of ``train``.
        rank: the environment's variable with a process's number: of several, one speaks for all.
    """

    package: str
    summary: str
    processes: str
    rank: str

    @property
    def command(self) -> str:
        """The command's name, which is the distribution's too."""
        return self.package.replace("_", "-")

    def run(self, argv: Sequence[str] | None, others: Callable[[list[str]], Verbs]) -> int:
        """Run one verb; returns the exit status.

        Args:
            argv: the arguments; those of the process where not given.
            others: the verbs that only this trainer has, from the recipe's overrides (``--section.key VALUE``) that
                stood among the words.
        """
        words, overrides = list(sys.argv[1:] if argv is None else argv), list[str]()
        if words[:1] in (["train"], ["plan"]):
            words, overrides = commandline.split_overrides(words)
        shared = {"train": self._train(overrides, words), "init": self._init(), "recipes": self._recipes()}
        return commandline.run(self.command, self.summary, {**shared, **others(overrides)}, words)

    def _train(self, overrides: list[str], words: list[str]) -> Callable[..., None]:
        def train(
            recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")], overwrite: bool = False
        ) -> None:
            result = import_module(f"{self.package}.training").train(recipe, overrides, overwrite=overwrite)
            if os.environ.get(self.rank, "0") == "0":
                print(f"{result.artifact.path}  (loss {result.loss:.4f} after {result.steps} steps)")

        train.__doc__ = "Train a retriever from a recipe."
        if words[:1] == ["train"]:  # the keys are looked up where they are asked for
            keys = import_module(f"{self.package}.init").key_table()
            train.__doc__ = _TRAIN_HELP.format(processes=self.processes, keys=keys, command=self.command)
        return train

    def _init(self) -> Callable[..., None]:
        def init(data: Path, model: str, *, split: str = "train", output: str | None = None) -> None:
            """Print a recipe with a comment for every key, its limits of length taken from the data.

            Args:
                data: dataset directory.
                model: model directory or hub id.
                split: the training split.
                output: the run's directory; runs/DATASET where not given.
            """
            propose = import_module(f"{self.package}.init").propose
            print(propose(data, model, split=split, output=output), end="")

        return init

    def _recipes(self) -> Callable[..., None]:
        def recipes(
            action: Annotated[Literal["list", "show", "schema"], tyro.conf.Positional],
            name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None,
        ) -> None:
            """List the recipes that ship with the trainer, show one, or print the JSON schema of all for an editor.

            An editor with a YAML language server checks a recipe while it is written, if the recipe begins with
            `# yaml-language-server: $schema=recipe.schema.json`.

            Args:
                action: list them all, show one, or print the schema (`> recipe.schema.json`).
                name: the one to show.
            """
            if action == "schema":
                print(schema_text(import_module(f"{self.package}.recipe").OWNERS), end="")
                return
            print(list_or_show(action, name, self.package), end="")

        return recipes
