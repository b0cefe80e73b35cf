"""Artifacts of what a run or another program has left: a checkpoint, a model in another layout."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax.numpy as jnp
from jax.sharding import Mesh

from teva_data.artifact import Artifact
from teva_data.errors import TevaError
from teva_data.exporting import git_revision
from teva_data.files import lock_directory
from teva_data.model_card import plain_card
from teva_data.parity import stock_texts
from teva_data.prompting import training_renderer
from teva_data.rendering import Renderer
from teva_data.running import expect_same_recipe
from teva_data.schema import SCHEMA
from teva_data.versions import installed

from .checkpoint import Checkpoints
from .export import VERSIONS, check, export, write_artifact
from .model import Retriever
from .recipe import JaxSection, jax_section, read_recipe
from .state import Setup, mesh_of


def export_model(source: str | Path, output: Path | None = None, *, threshold: float | None = None) -> Artifact:
    """An artifact of a checkpoint, of a model in another layout, or (checked anew) of an artifact.

    Args:
        source: a run's checkpoint (``RUN/checkpoints/step_00000100``), a model directory, or a hub id.
        output: where it is written. Not given: beside the checkpoints for a checkpoint; an artifact is checked where
            it is.
        threshold: the smallest cosine that passes; the recipe's (0.9999 without one) where not given.

    Raises:
        TevaError: no output for a model that is not an artifact; a checkpoint without its run, or of a run that is
            being trained.
        ArtifactError: the model cannot be read.
        ParityError: a runtime gives other vectors; nothing is written.
    """
    path = Path(source)
    if path.name.startswith("step_") and path.is_dir() and not (path / "config.json").exists():
        return _export_checkpoint(path, output, threshold)
    artifact = Artifact.load(source)
    if output is None and not artifact.teva:
        raise TevaError(f"{source}: not an artifact of teva yet; say where to write one (--output DIR)")
    retriever, params = Retriever.load(artifact, mesh_of(JaxSection()))
    renderer, limit = Renderer.from_artifact(artifact), threshold or JaxSection().parity_cosine
    texts = stock_texts(renderer)
    if output is None:
        check(retriever, params, None, renderer, texts, artifact.path, limit)
        return artifact
    base = {"name": artifact.name, "revision": artifact.revision, "fingerprint": artifact.fingerprint}
    record = {"schema": SCHEMA["artifact"], "git": git_revision(), "base": base}
    # An artifact's own card tells of its training; another model's card tells its authors' story, and its licence.
    readme = artifact.path / "README.md"
    card = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    origin = f"`{artifact.name}`, in the layout that every runtime loads with the same vectors."
    return write_artifact(
        retriever, params, None, artifact, renderer, output, texts=texts, threshold=limit,
        teva={**record, **artifact.teva, "versions": installed(VERSIONS)},
        card=card or plain_card(output.resolve().name, origin, renderer, base=artifact.name),
    )  # fmt: skip


def _export_checkpoint(path: Path, output: Path | None, threshold: float | None, mesh: Mesh | None = None) -> Artifact:
    run, step = path.parent.parent, int(path.name.removeprefix("step_"))
    if not (run / "recipe.yaml").is_file():
        raise TevaError(f"{path}: no {run / 'recipe.yaml'}; expected the checkpoint where its run wrote it")
    expect_same_recipe(run / "recipe.yaml")
    recipe = read_recipe(run / "recipe.yaml", {} if threshold is None else {"jax.parity_cosine": threshold})
    options, base = jax_section(recipe), Artifact.load(recipe.model.name, revision=recipe.model.revision)
    with lock_directory(run, "training or exporting"):
        # All are kept: nothing is saved here.
        checkpoints = Checkpoints(path.parent, {}, keep=1 << 30)
        try:
            identity = checkpoints.meta(step)["run"]
            if base.fingerprint != identity["base"]:
                raise TevaError(f"{path}: the weights of {base.name} are not those that the run began with")
            setup = Setup.of(recipe, base, mesh or mesh_of(options))
            state = checkpoints.restore(step, setup.load())
        finally:
            checkpoints.close()
    splits = [one.split for one in recipe.data.listed()]
    datasets = [
        {"name": None, "split": split, "fingerprint": one} for split, one in zip(splits, identity["data"], strict=True)
    ]
    renderer = training_renderer(recipe, base)
    record = {
        "run": identity,
        "data": {"name": None, "plan": identity["plan"], "datasets": datasets},
        "base": {"name": base.name, "revision": base.revision, "fingerprint": base.fingerprint},
        "steps": step,
    }
    return export(
        dataclasses.replace(setup.retriever, compute_dtype=jnp.float32), *setup.parts(state), base, renderer, recipe,
        output or run / f"artifact-{path.name}", record=record, texts=stock_texts(renderer),
        threshold=options.parity_cosine, bfloat16=options.export_weights == "bfloat16",
    )  # fmt: skip
