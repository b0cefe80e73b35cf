"""The command line ``teva-jax``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from teva_data.trainer import Trainer, Verbs
from teva_data.uploading import NO_UPLOAD, Upload

_TRAINER = Trainer(
    "teva_jax",
    "Trains dense retrievers on JAX: a recipe in, an artifact out.",
    processes="All devices of a host are used by one process. On several hosts the same command runs on each (see "
    "jax.distributed).",
    rank="JAX_PROCESS_ID",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``teva-jax``; returns the exit status."""
    return _TRAINER.run(argv, _verbs)


def _verbs(overrides: list[str]) -> Verbs:
    """The verbs that only teva-jax has."""

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

    return {"plan": plan, "export": export}


def export(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL_OR_CHECKPOINT")],
    *,
    output: Path | None = None,
    upload: Annotated[Upload, tyro.conf.OmitArgPrefixes] = NO_UPLOAD,
    parity_cosine: float | None = None,
) -> None:
    """Write an artifact from a checkpoint or another layout, compare its vectors by every runtime, and publish it.

    Args:
        source: a checkpoint of a run (RUN/checkpoints/step_00000100), a model directory (an artifact is checked where
            it is), or a hub id.
        output: where the artifact is written; for a checkpoint, a directory of the run where not given.
        upload: whether and where it is published.
        parity_cosine: the smallest cosine between runtimes that passes.
    """
    from .publishing import export_model

    upload.send(export_model(source, output, threshold=parity_cosine), "teva-jax")


if __name__ == "__main__":
    sys.exit(main())
