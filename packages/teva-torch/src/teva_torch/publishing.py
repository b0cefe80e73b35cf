"""`teva-torch export` and `teva-torch merge`: artifacts from checkpoints, adapters and other layouts.

Whatever an artifact is made from, its vectors are compared before it is kept: those of teva's own runtime and
those of sentence-transformers, where that is installed.
"""

from __future__ import annotations

import json
import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from teva_data.artifact import Artifact
from teva_data.errors import ArtifactError, TevaError
from teva_data.exporting import git_revision
from teva_data.model_card import plain_card
from teva_data.pair import ArtifactPair, load_artifact, load_base
from teva_data.parity import stock_texts
from teva_data.prompting import training_renderer
from teva_data.rendering import Renderer
from teva_data.running import expect_same_recipe
from teva_data.schema import SCHEMA

from . import checkpoint, lora, parity
from .backbones import save_backbone, weight_options
from .device import choose_device
from .export import export, versions, write_artifact
from .model import Retriever
from .pair import base_record, for_training
from .recipe import TorchSection, read_recipe

logger = logging.getLogger(__name__)


def export_model(
    source: str | Path, output: Path | None = None, *, threshold: float | None = None, device: str = "auto"
) -> Artifact | ArtifactPair:
    """An artifact of a checkpoint, of a model in another layout, or (checked anew) of an artifact.

    Args:
        source: a run's checkpoint (``RUN/checkpoints/step-00000100``), a model directory, or a hub id.
        output: where it is written. Not given: beside the checkpoints for a checkpoint; an artifact is checked where
            it is.
        threshold: the smallest cosine that passes; the recipe's (0.9999 without one) where not given.
        device: where vectors are computed.

    Raises:
        TevaError: no output for a model that is not an artifact; a checkpoint without its run.
        ArtifactError: the model cannot be read.
        ParityError: a runtime gives other vectors; nothing is written.
    """
    path = Path(source)
    if (path / "state.json").is_file():
        return _export_checkpoint(path, output or path.parent.parent / f"artifact-{path.name}", threshold, device)
    artifact = load_artifact(source)
    if isinstance(artifact, ArtifactPair):
        if output is not None:
            raise TevaError(f"{source}: a pair of artifacts already; leave --output out to check both halves")
        for half in (artifact.query, artifact.document):
            export_model(half.path, threshold=threshold, device=device)
        return artifact
    model, renderer = Retriever.load(artifact, device=choose_device(device)).eval(), Renderer.from_artifact(artifact)
    texts, limit = stock_texts(renderer), threshold or _default_threshold()
    if output is None:
        if not artifact.teva:
            raise TevaError(f"{source}: not an artifact of teva yet; say where to write one (--output DIR)")
        parity.check(model, renderer, artifact.path, texts, limit)
        return artifact
    assert artifact.pooling is not None  # Retriever.load has looked
    teva = {**_record(artifact), **artifact.teva, "versions": versions()}
    # An artifact's own card tells of its training; another model's card tells its authors' story, and its licence.
    readme = artifact.path / "README.md"
    origin = f"`{artifact.name}`, in the layout that every runtime loads with the same vectors."
    card = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    return write_artifact(
        output, model, renderer, pooling=artifact.pooling, teva=teva,
        card=card or plain_card(output.resolve().name, origin, renderer, base=artifact.name),
        save=partial(save_backbone, model.backbone), texts=texts, threshold=limit,
    )  # fmt: skip


def merge_adapter(
    adapter: Path,
    output: Path,
    *,
    base: str | None = None,
    pooling: str | None = None,
    normalize: bool | None = None,
    threshold: float | None = None,
    device: str = "auto",
) -> Artifact:
    """An artifact whose weights have a LoRA adapter in them, and the adapter beside them.

    Args:
        adapter: a directory in PEFT's format. Where it lies in an artifact (``artifact/adapter``), prompts, pooling and
            limit are the artifact's, else those of the base model.
        output: where the artifact is written.
        base: the model that the adapter was trained on; as the adapter says where not given.
        pooling: in place of what the artifact or base says.
        normalize: likewise.
        threshold: the smallest cosine that passes, between vectors of the adapter beside the base and in it.
        device: where vectors are computed.

    Raises:
        ArtifactError: not an adapter of this base, or of another kind than LoRA.
        ParityError: a runtime gives other vectors, or those of the base; nothing is written.
    """
    import peft

    config = _adapter_config(adapter)
    name = base or config.get("base_model_name_or_path")
    if not name:
        raise ArtifactError(f"{adapter}: does not say which model it adapts. Name it (--base NAME)")
    model_of = Artifact.load(name, revision=None if base else config.get("revision"))
    inside = (adapter.parent / "modules.json").is_file()
    layout = Artifact.load(adapter.parent) if inside else model_of
    recipe = layout.teva.get("recipe", {}) if inside else {}
    how = {
        "bidirectional": recipe.get("model", {}).get("bidirectional"),
        **weight_options(recipe.get("torch", {}).get("weights", "float32"), choose_device(device)),
    }
    pooling = pooling or layout.pooling
    length = layout.normalize if normalize is None else normalize
    trained = Retriever.load(model_of, pooling=pooling, normalize=length, device=choose_device(device), **how)
    assert pooling is not None  # Retriever.load has looked
    try:
        trained.backbone = peft.PeftModel.from_pretrained(trained.backbone, str(adapter))
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise ArtifactError(f"{adapter}: the adapter cannot be loaded into {model_of.name}: {error}") from error
    renderer = Renderer.from_artifact(layout, append_eos=pooling == "last" and layout.pooling is None)
    teva = {**_record(model_of), **layout.teva, "versions": versions()}
    origin = f"`{model_of.name}` with a LoRA adapter merged into its weights; the adapter lies in `{lora.ADAPTER}/`."

    def save(directory: Path) -> None:
        shutil.copytree(adapter, directory / lora.ADAPTER)
        save_backbone(lora.merge(model_of, adapter, **how), directory)

    return write_artifact(
        output, trained.eval(), renderer, pooling=pooling, teva=teva,
        card=plain_card(output.resolve().name, origin, renderer, base=model_of.name), save=save,
        texts=stock_texts(renderer), threshold=threshold or _default_threshold(),
    )  # fmt: skip


def _export_checkpoint(path: Path, output: Path, threshold: float | None, device: str) -> Artifact | ArtifactPair:
    run, state = path.parent.parent, checkpoint.read_state(path)
    if not (run / "recipe.yaml").is_file():
        raise TevaError(f"{path}: no {run / 'recipe.yaml'}; expected the checkpoint where its run wrote it")
    expect_same_recipe(run / "recipe.yaml")
    recipe = read_recipe(run / "recipe.yaml", {} if threshold is None else {"torch.parity_cosine": threshold})
    base, identity = load_base(recipe), state["run"]
    if base.fingerprint != identity["base"]:
        raise TevaError(f"{path}: the weights of {base.front.name} are not those that the run began with")
    renderer = training_renderer(recipe, base.front)
    model = for_training(base, recipe, choose_device(device))
    checkpoint.restore_weights(path, model, "retriever.")
    splits = [one.split for one in recipe.data.listed()]
    datasets = [
        {"name": None, "split": split, "fingerprint": one} for split, one in zip(splits, identity["data"], strict=True)
    ]
    record = {
        "run": identity,
        "data": {"name": None, "plan": identity["plan"], "datasets": datasets},
        "base": base_record(base),
        "steps": state["step"],
    }
    return export(model.eval(), base, renderer, recipe, output, record=record, texts=stock_texts(renderer))


def _record(base: Artifact) -> dict[str, Any]:
    return {"schema": SCHEMA["artifact"], "git": git_revision(), "base": base_record(base)}


def _default_threshold() -> float:
    return TorchSection().parity_cosine


def _adapter_config(adapter: Path) -> dict[str, Any]:
    file = adapter / "adapter_config.json"
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file}: cannot be read ({error}); expected a directory that peft has saved") from None
    if config.get("peft_type") != "LORA":
        raise ArtifactError(f"{file}: field 'peft_type': found {config.get('peft_type')!r}; expected 'LORA'")
    return config
