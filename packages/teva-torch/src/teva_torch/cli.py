"""The command line ``teva-torch``."""

from __future__ import annotations

import json as json_
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from teva_data.trainer import Trainer, Verbs
from teva_data.uploading import NO_UPLOAD, Upload

_TRAINER = Trainer(
    "teva_torch",
    "Trains dense retrievers on PyTorch: a recipe in, an artifact out.",
    processes="Several processes, one for each GPU, share each batch: "
    "`torchrun --nproc_per_node 8 -m teva_torch.cli train RECIPE`.",
    rank="RANK",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``teva-torch``; returns the exit status."""
    return _TRAINER.run(argv, _verbs)


def _verbs(overrides: list[str]) -> Verbs:
    """The verbs that only teva-torch has."""

    def plan(
        recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")],
        *,
        gpu: str,
        gpus: int = 1,
        config: Path | None = None,
        pictures: int | None = None,
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
            pictures: of a document, where the model sees; 1 if not given.
            json: print JSON: bytes and seconds.
        """
        from .planning import as_json, as_text
        from .planning import plan as plan_

        found = plan_(recipe, overrides, gpu=gpu, gpus=gpus, config=config, pictures=pictures)
        print(json_.dumps(as_json(found), indent=2) if json else as_text(found))

    return {"plan": plan, "export": export, "merge": merge}


def export(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL_OR_CHECKPOINT")],
    *,
    output: Path | None = None,
    upload: Annotated[Upload, tyro.conf.OmitArgPrefixes] = NO_UPLOAD,
    parity_cosine: float | None = None,
    device: str = "auto",
) -> None:
    """Write an artifact from a checkpoint or another layout, compare its vectors by every runtime, and publish it.

    Args:
        source: a checkpoint of a run, a model directory (an artifact is checked where it is), or a hub id.
        output: where the artifact is written; for a checkpoint, a directory of the run where not given.
        upload: whether and where it is published.
        parity_cosine: the smallest cosine between runtimes that passes.
        device: where vectors are computed.
    """
    from .publishing import export_model

    upload.send(export_model(source, output, threshold=parity_cosine, device=device), "teva-torch")


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


if __name__ == "__main__":
    sys.exit(main())
