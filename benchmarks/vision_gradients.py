"""The gradient of a batch of texts, pictures and both by every way that teva-torch has, beside the plainest one.

As :mod:`benchmarks.gradients`, for a tiny random vision-language model, and for a Qwen2.5-Omni that is given clips and
recordings too; several processes are real ones too::

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m benchmarks.vision_gradients WORK OUT STRATEGY \
        KIND

STRATEGY may be empty: each process holds the whole model; KIND is one of :data:`CASES`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .gradients import STRATEGIES, Gradients, gradients_of, relative_difference

if TYPE_CHECKING:
    from teva_data.feed import TokenBatch
    from teva_torch.distributed import Processes
    from teva_torch.model import Retriever
    from torch import Tensor

# Name to (chunk_tokens, cached). Inputs have 2 to 24 tokens: with 24, one of two processes has more passes with a
# picture than the other.
PASSES: dict[str, tuple[int, bool]] = {
    "plain": (10**6, False), "plain in chunks": (24, False), "cached": (10**6, True), "cached unequal": (24, True),
}  # fmt: skip
# Name to the recipe's torch section.
TRAINED: dict[str, dict[str, Any]] = {
    "full": {}, "frozen tower": {"freeze_vision": True}, "lora": {"lora": {"rank": 2, "alpha": 4}},
    "lora with the tower": {"lora": {"rank": 2, "alpha": 4, "vision": True}},
    "frozen towers": {"freeze_vision": True, "freeze_audio": True},
    "lora with both towers": {"lora": {"rank": 2, "alpha": 4, "vision": True, "audio": True}},
    "frozen text": {"freeze_text": True}, "lora that hears": {"lora": {"rank": 2, "alpha": 4, "audio": True}},
}  # fmt: skip
MAX_LENGTH = 160
OMNI = "Qwen2_5Omni"
TOWERS = ("CLIP", "Siglip")
THREE = "three towers"


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to one gradient."""

    trained: str
    passes: str
    model: str = "Qwen2_5_VL"

    @property
    def name(self) -> str:
        return f"{self.model}, {self.trained}, {self.passes}"


def cases(*, quick: bool = False) -> list[Case]:
    """All of the matrix, and of the other architectures what is trained whole; or the three that differ most."""
    if quick:
        return [Case("full", "cached unequal"), Case("lora", "plain in chunks"), Case("frozen tower", "cached unequal")]
    seeing = ("full", "frozen tower", "lora", "lora with the tower")
    return [
        *(Case(*parts) for parts in itertools.product(seeing, PASSES)),
        *(Case("full", "cached unequal", model) for model in ("Qwen2VL", "Qwen3VL")),
    ]


def omni_cases(*, quick: bool = False) -> list[Case]:
    """Those of Qwen2.5-Omni, of texts, pictures, clips with and without sound, and recordings."""
    if quick:
        return [Case("full", "cached unequal", OMNI), Case("lora", "plain in chunks", OMNI)]
    kinds = [name for name in TRAINED if name not in ("frozen text", "lora that hears")]
    return [Case(*parts, OMNI) for parts in itertools.product(kinds, PASSES)]


def tower_cases(*, quick: bool = False) -> list[Case]:
    """Those of models with two towers, whose records of several pieces are the mean of these."""
    if quick:
        return [Case("full", "cached unequal", "CLIP"), Case("frozen tower", "plain in chunks", "Siglip")]
    kinds = ("full", "frozen tower", "frozen text")
    # SigLIP's layers have names that its head has too: a recipe must say which an adapter is for.
    adapted = itertools.product(["lora with the tower"], PASSES, ["CLIP"])
    return [Case(*parts) for parts in (*itertools.product(kinds, PASSES, TOWERS), *adapted)]


def three_cases(*, quick: bool = False) -> list[Case]:
    """Those of a model with three towers, of which a process may show one alone."""
    kinds = ("full", "frozen towers", "lora that hears") if not quick else ("full", "lora that hears")
    return [Case(kind, "cached unequal", THREE) for kind in kinds]


CASES = {"": cases, "omni": omni_cases, "towers": tower_cases, "three": three_cases}


def make(directory: Path) -> Path:
    """Data of texts, pictures and both, and the models, where they are not there yet; media where there is ffmpeg."""
    import shutil

    from tests.torch import omni_models, tower_models, vision_models

    from . import small_towers

    if not directory.exists():
        if shutil.which("ffmpeg"):
            omni_models.make_data(directory / "media")
            omni_models.make(directory / OMNI)
            small_towers.add_hearing(
                tower_models.make(directory / THREE, "VisionTextDualEncoder"), seconds=1, width=16, mels=16
            )
        vision_models.make_data(directory / "data")
        for name in vision_models.ARCHITECTURES:
            vision_models.make(directory / name, name)
        for name in TOWERS:
            tower_models.make(directory / name, name)
    return directory


def make_model(case: Case, work: Path) -> Retriever:
    """The case's model as a run has it, its adapter away from zero."""
    import torch
    from teva_data.artifact import Artifact
    from teva_torch.model import Retriever

    torch.manual_seed(1)
    model = Retriever.for_training(Artifact.load(work / case.model), _recipe(case, work), torch.device("cpu"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at first: then the other half would have no gradient
                parameter.normal_(std=0.1)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # CLAP's tower has some, and it draws by the pass
    return model.train()


def token_batch(case: Case, work: Path, processes: Processes | None = None) -> TokenBatch:
    """The first batch of the data, or a process's part of it."""
    from teva_data.artifact import Artifact
    from teva_data.feed import Feed
    from teva_data.plan import BatchPlan
    from teva_data.rendering import Renderer
    from teva_torch.distributed import Processes

    processes, recipe = processes or Processes(), _recipe(case, work)
    heard = {"video_sound": True} if case.model == OMNI else {}
    renderer = Renderer.from_artifact(
        Artifact.load(work / case.model), max_length=recipe.model.document_max_length, media=heard,
        merge=recipe.model.merging,
    )  # fmt: skip
    return Feed(BatchPlan.from_recipe(recipe), renderer, recipe, processes.rank, processes.world).batch(0)


def _recipe(case: Case, work: Path) -> Any:
    from teva_torch.recipe import read_recipe

    apart = case.model in (*TOWERS, THREE)
    limit = 24 if apart else MAX_LENGTH
    pooled = {"pooling": "towers", "merging": "mean"} if apart else {"pooling": "last"}
    return read_recipe({
        "model": {"name": str(work / case.model), **pooled, "normalize": True,
                  "query_max_length": limit, "document_max_length": limit},
        "data": {"path": str(work / ("media" if case.model in (OMNI, THREE) else "data")), "negatives": 2},
        "train": {"output": "-", "steps": 1, "batch_size": 9, "max_grad_norm": 1e9},
        "torch": {"device": "cpu", **TRAINED[case.trained]},
    })  # fmt: skip


def _loss() -> Any:
    from teva_torch.losses import InfoNCE

    return InfoNCE(temperature=0.05)


@functools.cache
def plainly(model: str, trained: str, work: Path) -> tuple[Gradients, float]:
    """By autograd alone: each input by itself, one graph over all, no code of the step; and the loss."""
    import torch
    from teva_torch.losses import Targets

    case = Case(trained, "", model)
    retriever, item = make_model(case, work), token_batch(case, work)
    vectors = [torch.cat([retriever.vectors([ids]) for ids in side]) for side in (item.query_ids, item.document_ids)]
    value = _loss()(*vectors, Targets.of(item.batch, "cpu"))
    value.backward()
    return gradients_of(torch.nn.ModuleDict({"retriever": retriever})), float(value.detach())


def patches_difference(case: Case, work: Path) -> float:
    """Relative L2 between the gradients of the pictures' patches, by a step of one process and by autograd alone."""
    import torch
    from teva_torch.caching import BatchGradient, Passes
    from teva_torch.losses import Targets

    tokens, cached = PASSES[case.passes]
    model, item = make_model(case, work), token_batch(case, work)
    with _patches_of(model) as found:
        BatchGradient(model, _loss(), Passes(tokens, cached, check="all")).add(item)
    with _patches_of(model) as expected:
        sides = (item.query_ids, item.document_ids)
        vectors = [torch.cat([model.vectors([ids]) for ids in side]) for side in sides]
        _loss()(*vectors, Targets.of(item.batch, "cpu")).backward()
    return relative_difference(found, expected)[0]


@contextlib.contextmanager
def _patches_of(model: Retriever) -> Iterator[Gradients]:
    """The gradient of each distinct picture's patches, summed over where it stands; complete when the block ends."""
    from teva_torch.vision import tower_name

    seen: list[tuple[Tensor, Tensor]] = []

    def leaf(_: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        patches = arguments[0].detach().requires_grad_()
        seen.append((patches, keywords["grid_thw"]))
        return (patches, *arguments[1:]), keywords

    hook = model.backbone.get_submodule(tower_name(model.backbone)).register_forward_pre_hook(leaf, with_kwargs=True)
    gradients: Gradients = {}
    try:
        yield gradients
    finally:
        hook.remove()
    for patches, grids in seen:
        sizes = grids.prod(1).tolist()
        if patches.grad is not None:  # of a pass without a way back there is none
            for picture, one in zip(patches.detach().split(sizes), patches.grad.split(sizes), strict=True):
                key = str(zlib.crc32(picture.numpy().tobytes()))
                gradients[key] = gradients[key] + one if key in gradients else one


def by_teva(case: Case, work: Path, processes: Processes | None = None, strategy: str = "") -> tuple[Gradients, float]:
    """The gradient as a training step has it, and the loss.

    Args:
        case: which way.
        work: as :func:`make` makes it.
        processes: those that share the batch.
        strategy: one of :data:`benchmarks.gradients.STRATEGIES`; each process holds the whole where not given.
    """
    import torch
    from teva_torch.caching import BatchGradient, Passes
    from teva_torch.distributed import Processes
    from teva_torch.recipe import TorchSection
    from teva_torch.strategies import prepare

    processes = processes or Processes()
    tokens, cached = PASSES[case.passes]
    model, loss, held = make_model(case, work), _loss(), None
    if strategy:
        options = TorchSection.model_validate({"device": "cpu", **STRATEGIES[strategy]})
        held = prepare(
            options.strategy, model, loss, _recipe(case, work).train, options, processes, torch.device("cpu")
        )
    step = BatchGradient(model, loss, Passes(tokens, cached, check="all"), processes, held)
    value = step.add(token_batch(case, work, processes))
    if held is not None:
        return held.gradients(), value
    processes.add_gradients(step.module.parameters())
    return gradients_of(step.module), value


def by_processes(
    count: int, work: Path, out: Path, strategy: str = "", *, quick: bool = False, kind: str = ""
) -> dict[str, tuple[Gradients, float]]:
    """The gradients of all cases by so many processes, and the losses.

    Args:
        count: processes.
        work: as :func:`make` makes it.
        out: a safetensors file to write.
        strategy: as in :func:`by_teva`.
        quick: as in :func:`cases`.
        kind: which of :data:`CASES`.
    """
    from .gradients import run_processes

    words = [strategy, kind, *(["quick"] if quick else [])]
    found = run_processes(count, "benchmarks.vision_gradients", work, out, *words)
    return {name: (each, float(each.pop("loss"))) for name, each in found.items()}


def _all(work: Path, processes: Processes, strategy: str, kind: str, *, quick: bool) -> Iterator[tuple[str, Tensor]]:
    import torch

    for case in CASES[kind](quick=quick):
        gradients, loss = by_teva(case, work, processes, strategy)
        for name, value in {**gradients, "loss": torch.tensor(loss)}.items():
            yield f"{case.name}/{name}", value


def main() -> None:
    """As one of several processes: all cases, written by process 0."""
    from safetensors.torch import save_file

    from teva_torch.distributed import join

    work, out = map(Path, sys.argv[1:3])
    with join("cpu", 120) as processes:
        found = dict(_all(work, processes, *sys.argv[3:5], quick="quick" in sys.argv))
        if processes.main:
            save_file(found, out)


if __name__ == "__main__":
    main()
