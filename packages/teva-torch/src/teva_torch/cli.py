"""The command line ``teva-torch``."""

from __future__ import annotations

import json as json_
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
    if words[:1] in (["train"], ["plan"]):
        words, overrides = commandline.split_overrides(words)

    def train(
        recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")], overwrite: bool = False
    ) -> None:
        from .training import train as train_

        result = train_(recipe, overrides, overwrite=overwrite)
        if os.environ.get("RANK", "0") == "0":  # under torchrun, one of the processes speaks for all
            print(f"{result.artifact.path}  (loss {result.loss:.4f} after {result.steps} steps)")

    def plan(
        recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")],
        *,
        gpu: str,
        gpus: int = 1,
        config: Path | None = None,
        json: bool = False,
    ) -> None:
        """Memory of each GPU by part, the time of a step, and what would fit, before anything is loaded.

        The model's configuration is all that is read; it is run on tensors that have shapes and no values. Any key of
        the recipe can be replaced, as for train: `--torch.strategy fsdp2`.

        Args:
            recipe: a YAML file, or the name of a recipe that ships with teva-torch.
            gpu: H100, A100-80, L40S, RTX-4090, ... in whatever way it is written; cpu: the memory of tensors alone.
            gpus: how many; each is a process that shares the batch.
            config: the model's config.json, where model.name cannot be reached.
            json: print JSON: bytes and seconds.
        """
        from .planning import as_json, as_text
        from .planning import plan as plan_

        found = plan_(recipe, overrides, gpu=gpu, gpus=gpus, config=config)
        print(json_.dumps(as_json(found), indent=2) if json else as_text(found))

    if words[:1] == ["train"]:
        from .init import key_table

        train.__doc__ = _TRAIN_HELP.format(keys=key_table())
    else:
        train.__doc__ = "Train a retriever from a recipe."
    return commandline.run(
        "teva-torch",
        "Trains dense retrievers on PyTorch: a recipe in, an artifact out.",
        {"train": train, "plan": plan, "init": init, "export": export, "merge": merge, "recipes": recipes},
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
    push: Annotated[str | None, tyro.conf.arg(metavar="OWNER/NAME")] = None,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    dry_run: bool = False,
    parity_cosine: float | None = None,
    device: str = "auto",
) -> None:
    """Write an artifact from a checkpoint or another layout, compare its vectors by every runtime, and publish it.

    Args:
        source: a checkpoint of a run, a model directory (an artifact is checked where it is), or a hub id.
        output: where the artifact is written; for a checkpoint, a directory of the run where not given.
        push: upload it there; the repository is made where it is missing.
        private: a new repository is seen by its owner alone.
        revision: the branch to write, made where it is missing.
        token: the hub's access token; the one that is logged in where not given.
        dry_run: with push: print what would be uploaded, and upload nothing.
        parity_cosine: the smallest cosine between runtimes that passes.
        device: where vectors are computed.
    """
    from .publishing import export_model
    from .publishing import push as push_

    artifact = export_model(source, output, threshold=parity_cosine, device=device)
    if push is None:
        print(artifact.path)
        return
    files = push_(artifact, push, private=private, revision=revision, token=token, dry_run=dry_run)
    if dry_run:
        print("\n".join(f"{size:>15,}  {name}" for name, size in files.items()))
    print(f"{push}: {len(files)} files, {sum(files.values()):,} bytes{', not uploaded' if dry_run else ''}")


def merge(
    adapter: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ADAPTER")],
    *,
    output: Path,
    base: str | None = None,
    pooling: str | None = None,
    normalize: bool | None = None,
    parity_cosine: float | None = None,
    device: str = "auto",
) -> None:
    """Merge a LoRA adapter (PEFT) into the weights of its model, and compare the vectors by every runtime.

    Args:
        adapter: directory with adapter_config.json; in an artifact it is `adapter`.
        output: where the artifact is written.
        base: the model that it adapts; as it says itself where not given.
        pooling: cls, mean or last, where neither an artifact around the adapter nor the base says.
        normalize: vectors of length 1, likewise.
        parity_cosine: the smallest cosine between runtimes that passes.
        device: where vectors are computed.
    """
    from .publishing import merge_adapter

    artifact = merge_adapter(
        adapter, output, base=base, pooling=pooling, normalize=normalize, threshold=parity_cosine, device=device
    )
    print(artifact.path)


def recipes(
    action: Annotated[Literal["list", "show"], tyro.conf.Positional],
    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None,
) -> None:
    """List the recipes that ship with teva-torch, or show one.

    Args:
        action: list them all, or show one.
        name: the one to show.
    """
    from teva_data.shipped import list_or_show

    print(list_or_show(action, name, "teva_torch"), end="")


if __name__ == "__main__":
    sys.exit(main())
