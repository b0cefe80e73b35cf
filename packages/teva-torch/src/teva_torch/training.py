"""Training: one explicit loop, from a recipe to an artifact.

``train(recipe)`` is the whole of it. An output directory holds ``recipe.yaml`` (resolved), ``train.log``,
``metrics.jsonl``, ``loss.png``, ``checkpoints/`` and, at the end, ``artifact/``. Starting again with the same recipe on
the same data goes on from the newest checkpoint, on CPU to bit-equal weights.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

import torch
from teva_data.artifact import Artifact
from teva_data.dataset import Dataset
from teva_data.errors import RecipeError, TevaError
from teva_data.files import atomic_file, fingerprint, lock_directory, recover, remove_leftovers
from teva_data.logfile import log_to
from teva_data.plan import BatchPlan
from teva_data.progress import Progress
from teva_data.prompting import resolve_prompts, training_renderer
from teva_data.recipe import Recipe

from . import checkpoint, parity
from .device import choose_device
from .export import export
from .feed import Feed, TokenBatch
from .losses import Targets, build_loss
from .metrics import MetricsLog, draw_loss, read_metrics
from .model import Retriever
from .optim import learning_rate, make_optimizer
from .recipe import read_recipe, torch_section

logger = logging.getLogger("teva_torch")


class TrainingError(TevaError):
    """Training cannot go on."""


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a finished run leaves.

    Attributes:
        artifact: the model.
        output: the run's directory.
        steps: optimiser steps in all.
        loss: mean loss of the last logged interval.
    """

    artifact: Artifact
    output: Path
    steps: int
    loss: float


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    overwrite: bool = False,
) -> TrainResult:
    """Train a retriever.

    Args:
        recipe: a YAML file, the name of a recipe that ships with teva-torch, a mapping or a recipe.
        overrides: dotted keys that replace the recipe's.
        overwrite: begin anew where the output directory holds another run, or this one; without it a run of the same
            recipe is resumed and another one is refused.

    Returns:
        The artifact and the figures of the run.

    Raises:
        RecipeError: the recipe is not valid, or the output directory holds another run.
        DataError: bad data, with its address.
        TrainingError: the loss or the gradient is not finite, or the device has too little memory.
        ParityError: the exported artifact gives other vectors than the trained model.
    """
    checked = read_recipe(recipe, overrides)
    output = Path(checked.train.output)
    output.mkdir(parents=True, exist_ok=True)
    with log_to(output / "train.log", "teva_data", "teva_torch"), lock_directory(output, "training"):
        return _Run(checked, output, overwrite).go()


def resolve(recipe: Recipe, artifact: Artifact, datasets: Sequence[Dataset]) -> Recipe:
    """Fill what the recipe leaves open: pooling and normalisation as the model has them; prompts as the datasets' cards
    say, else as the model has them.

    Where the cards differ, each dataset is trained with its own card's prompt, and the artifact keeps the model's.
    """
    normalize = artifact.normalize if recipe.model.normalize is None else recipe.model.normalize
    model = recipe.model.model_copy(
        update={"pooling": recipe.model.pooling or artifact.pooling, "normalize": normalize}
    )
    recipe = resolve_prompts(recipe, artifact, datasets)
    if model.pooling is None:
        raise RecipeError(
            f"model.pooling: {artifact.name} has no modules.json, so it does not say how to pool; set cls or mean "
            "(encoders such as BERT) or last (decoders such as Llama)"
        )
    if model.normalize and recipe.loss.temperature > 0.3:
        # A cosine is at most 1: divided by such a temperature, the softmax stays flat and little is learned.
        logger.warning("loss.temperature is %s with normalised vectors; 0.01 to 0.05 is usual", recipe.loss.temperature)
    return recipe.model_copy(update={"model": model})


class _Run:
    """One run: what it is made of, and its loop."""

    def __init__(self, recipe: Recipe, output: Path, overwrite: bool) -> None:
        self.output, self.checkpoints = output, output / "checkpoints"
        base = Artifact.load(recipe.model.name, revision=recipe.model.revision)
        datasets = [Dataset.open(one.path) for one in recipe.data.listed()]
        self.recipe = recipe = resolve(recipe, base, datasets)
        self.settings, self.options = recipe.train, torch_section(recipe)
        self.loss = build_loss(recipe.loss, hidden=base.dim, normalize=bool(recipe.model.normalize))
        if next(self.loss.parameters(), None) is not None:
            raise RecipeError(f"loss.{recipe.loss.name}: has parameters of its own, which are not trained yet")
        self.renderer = training_renderer(recipe, base)
        self.plan = BatchPlan.from_recipe(recipe, datasets)
        self.total = self.settings.steps or self.plan.steps(self.settings.epochs or 0)
        self.identity = {
            "recipe": recipe.deciding(),
            "data": self.plan.data_fingerprints,
            "plan": self.plan.fingerprint,
            "base": base.fingerprint,
        }
        self.base, self.overwrite = base, overwrite
        self.start = 0 if overwrite else self._where_to_start()
        self.device = choose_device(self.options.device)
        # Texts of like length go together: small passes hold little padding, large ones keep a GPU busy.
        self.chunk_tokens = self.options.chunk_tokens or (1024 if self.device.type == "cpu" else 16384)
        torch.manual_seed(self.settings.seed)
        self.model = Retriever.load(
            base, pooling=recipe.model.pooling, normalize=recipe.model.normalize,
            attention=self.options.attention, device=self.device,
        )  # fmt: skip
        self.optimizer = make_optimizer(self.model, self.settings)

    def _where_to_start(self) -> int:
        """Steps that the newest checkpoint has done; refuses a directory that holds another run."""
        recover(self.output / "artifact")
        newest = checkpoint.latest(self.checkpoints)
        if newest is not None:
            state = checkpoint.read_state(newest)
            self._refuse_another(state["run"])
            return int(state["step"])
        if (self.output / "artifact").exists():
            self._refuse_another(Artifact.load(self.output / "artifact").teva.get("run", {}))
            raise RecipeError(
                f"{self.output}: holds the finished model of this recipe and no checkpoint. It is in "
                f"{self.output / 'artifact'}; --overwrite trains it again"
            )
        return 0

    def _refuse_another(self, found: Mapping[str, Any]) -> None:
        if found != self.identity:
            raise RecipeError(
                f"{self.output}: holds another run ({_difference(found, self.identity)}). Give another "
                "train.output, or --overwrite to begin anew"
            )

    def _prepare_output(self) -> None:
        """Remove what is to be overwritten and what kills left behind; only now that everything else has loaded."""
        if self.overwrite:
            for old in (self.checkpoints, self.output / "artifact"):
                shutil.rmtree(old, ignore_errors=True)
            (self.output / "metrics.jsonl").unlink(missing_ok=True)
        # By name: the output may be a directory that holds other people's hidden files too.
        for name in ("artifact", "metrics.jsonl", "recipe.yaml", "loss.png"):
            remove_leftovers(self.output, name)
        remove_leftovers(self.checkpoints, "step-????????")

    def go(self) -> TrainResult:
        """Train from where the run stands, export, and say what came out."""
        self._prepare_output()
        with atomic_file(self.output / "recipe.yaml", "w") as file:
            yaml.safe_dump(self.recipe.to_dict(), file, sort_keys=False, allow_unicode=True)
        if self.start:
            logger.info("going on after step %d of %d", self.start, self.total)
            checkpoint.restore(self.checkpoints / f"step-{self.start:08}", self.model, self.optimizer)
        trainable = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        if self.plan.size < self.settings.batch_size:
            logger.warning(
                "train.batch_size %d is more than the %d queries: each stands in a batch several times",
                self.settings.batch_size, self.plan.size,
            )  # fmt: skip
        logger.info(
            "%s: %s trainable parameters on %s, %s queries, %d steps of %d, loss %s",
            self.recipe.model.name, f"{trainable:,}", self.device, f"{self.plan.size:,}", self.total,
            self.settings.batch_size, self.recipe.loss.name,
        )  # fmt: skip
        _tell_mixture(self.plan, self.total)
        loss = self._loop()
        draw_loss(self.output / "metrics.jsonl", self.output / "loss.png")
        artifact = export(
            self.model.eval(), self.renderer, self.recipe, self.output / "artifact",
            record={
                "run": self.identity,
                "data": _data_record(self.plan),
                "base": {"name": self.base.name, "revision": self.base.revision, "fingerprint": self.base.fingerprint},
                "steps": self.total,
                "loss": loss,
            },
            texts=parity.sample_texts(self.plan, self.renderer),
        )  # fmt: skip
        logger.info("artifact: %s", artifact.path)
        return TrainResult(artifact, self.output, self.total, loss)

    def _loop(self) -> float:
        """All steps from the first that is missing; the mean loss of the last logged interval."""
        settings, metrics = self.settings, MetricsLog(self.output / "metrics.jsonl", self.start)
        feed = Feed(self.plan, self.renderer, self.recipe)
        self.model.train()
        interval = _Interval()
        done_queries = self.start * settings.batch_size
        with Progress(self.total * settings.batch_size, "train", "queries", done=done_queries) as progress:
            for item in feed.batches(self.start, self.total):
                done = item.batch.step + 1
                interval.add(*self._step(item), item)
                progress.add(settings.batch_size, f"step {done}, loss {interval.loss:.4f}")
                # Sums are logged at fixed steps and saved steps begin a new one, so a resumed log has the same lines.
                if done % settings.log_every == 0 or done % settings.save_every == 0 or done == self.total:
                    row = interval.row(done, learning_rate(done - 1, self.total, settings))
                    metrics.write(row)
                    interval = _Interval(loss=row["loss"])
                if done % settings.save_every == 0 or done == self.total:
                    checkpoint.save(self.checkpoints, done, self.model, self.optimizer, self.identity)
                    checkpoint.prune(self.checkpoints, settings.keep_checkpoints)
        metrics.close()
        return interval.loss if self.start < self.total else _last_loss(self.output / "metrics.jsonl")

    def _step(self, item: TokenBatch) -> tuple[float, float]:
        """One optimiser step: the loss and the norm of the gradient before clipping."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(item.batch.step, self.total, self.settings)
        try:
            loss = self._loss(item)
            self._finite("loss", float(loss.detach()), item)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"step {item.batch.step + 1}: out of memory on {self.device}. Lower train.batch_size, "
                "data.negatives or model.document_max_length, or use train.precision "
                "bfloat16. The newest checkpoint is kept"
            ) from error
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm))
        # Clipping by a norm that is not finite would put NaN into every weight.
        self._finite("norm of the gradient", norm, item)
        self.optimizer.step()
        return float(loss.detach()), norm

    def _loss(self, item: TokenBatch) -> torch.Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            queries = self.model.encode(item.query_ids, chunk_tokens=self.chunk_tokens)
            documents = self.model.encode(item.document_ids, chunk_tokens=self.chunk_tokens)
        loss: torch.Tensor = self.loss(queries, documents, Targets.of(item.batch, self.device))
        return loss

    def _finite(self, what: str, value: float, item: TokenBatch) -> None:
        if not math.isfinite(value):
            ids = ", ".join(query.query_id for query in item.batch.queries[:8])
            raise TrainingError(
                f"step {item.batch.step + 1}: the {what} is {value}; queries {ids}, … Lower train.learning_rate, or "
                "use precision float32. The newest checkpoint is kept"
            )


class _Interval:
    """Sums between two lines of the metrics log."""

    def __init__(self, loss: float = math.nan) -> None:
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._queries = self._tokens = 0
        self._start, self._before = time.monotonic(), loss

    def add(self, loss: float, norm: float, item: TokenBatch) -> None:
        self._losses.append(loss)
        self._norms.append(norm)
        self._queries += len(item.batch.queries)
        self._tokens += item.tokens

    @property
    def loss(self) -> float:
        """The mean so far; that of the interval before where this one is empty."""
        return sum(self._losses) / len(self._losses) if self._losses else self._before

    def row(self, step: int, rate: float) -> dict[str, Any]:
        seconds = time.monotonic() - self._start
        return {
            "step": step,
            "loss": self.loss,
            "grad_norm": sum(self._norms) / len(self._norms),
            "learning_rate": rate,
            "queries_per_second": round(self._queries / seconds, 3),
            "tokens_per_second": round(self._tokens / seconds, 1),
        }


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The settings in which two runs differ, in words."""
    old, new = before.get("recipe", {}), now["recipe"]
    parts = [
        f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in {**old, **new} if old.get(key) != new.get(key)
    ]
    then, data = before.get("data"), now["data"]
    if then != data:
        which = ""
        if isinstance(then, list) and len(then) == len(data) > 1:
            numbers = [str(place) for place, (one, other) in enumerate(zip(then, data, strict=True)) if one != other]
            which = f" of data.datasets.{', '.join(numbers)}"
        parts.append(f"the data{which} differ")
    if before.get("base") != now["base"]:
        parts.append("the weights of the base model differ")
    if not parts:
        parts.append("the order of its batches differs; another version of teva-data made it")
    return "; ".join(parts)


def _data_record(plan: BatchPlan) -> dict[str, Any]:
    """What ``teva.json`` says about the data."""
    parts = [
        {"name": part.dataset.card.name, "split": part.split, "fingerprint": one}
        for part, one in zip(plan.parts, plan.data_fingerprints, strict=True)
    ]
    alone = len(parts) == 1
    return {
        "name": parts[0]["name"] if alone else None,
        "fingerprint": parts[0]["fingerprint"] if alone else fingerprint("data", *plan.data_fingerprints),
        "plan": plan.fingerprint,
        "datasets": parts,
    }


def _tell_mixture(plan: BatchPlan, steps: int) -> None:
    """What comes of the settings: each dataset's share and epochs; and what of the data the model does not see."""
    for part, share, count in zip(plan.parts, plan.mixture.shares, plan.mixture.counts, strict=True):
        if len(plan.parts) > 1:
            logger.info(
                "%s %s: %s queries, %.2f %% of the batches, %.2f epochs", part.dataset.path, part.split, f"{count:,}",
                100 * share, share * steps * plan.batch_size / count,
            )  # fmt: skip
        stores = (part.dataset.corpus, part.dataset.queries(part.split))
        if media := sorted({kind for store in stores for kind, rows in store.kinds.items() if rows and kind != "text"}):
            logger.warning("%s holds %s; this model reads its texts alone", part.dataset.path, ", ".join(media))


def _last_loss(metrics: Path) -> float:
    return float(read_metrics(metrics)[-1]["loss"])
