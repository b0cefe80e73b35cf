"""Training: one explicit loop, from a recipe to an artifact.

``train(recipe)`` is the whole of it. An output directory holds ``recipe.yaml`` (resolved), ``train.log``,
``metrics.jsonl``, ``loss.png``, ``checkpoints/`` and, at the end, ``artifact/``. Starting again with the same recipe on
the same data goes on from the newest checkpoint, on CPU with as many processes to bit-equal weights.

Under torchrun the processes share each batch: the same batches as one process would have, whatever their number. What
dropout draws is a function of (seed, batch, process), so that no generator has a state worth keeping.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from teva_data.artifact import Artifact
from teva_data.development import MEASURE
from teva_data.errors import RecipeError, TevaError
from teva_data.feed import Feed, TokenBatch
from teva_data.files import fingerprint, lock_directory, recover, remove_leftovers
from teva_data.logfile import log_to
from teva_data.metrics import (
    DAMAGED_LOG,
    History,
    Interval,
    MetricsLog,
    draw_loss,
    log_fingerprint,
    read_metrics,
)
from teva_data.pair import ArtifactPair, load_artifact, load_base
from teva_data.parity import expect_same, sample_texts
from teva_data.plan import BatchPlan
from teva_data.progress import Progress
from teva_data.prompting import training_renderer
from teva_data.recipe import Recipe
from teva_data.running import (
    data_record,
    difference,
    identity,
    make_output,
    open_datasets,
    refuse_another,
    resolve,
    steps_in_all,
    tell_mixture,
    times,
    write_recipe,
)
from teva_data.schedule import learning_rate

from . import checkpoint, parity
from .caching import BatchGradient, Passes
from .device import choose_device
from .distributed import ProcessError, Processes, join
from .evaluation import Evaluation
from .export import export
from .guards import TrainingError, gradient_not_finite, memory
from .losses import build_loss
from .model import Retriever
from .pair import RetrieverPair, base_record, for_training
from .recipe import read_recipe, torch_section
from .skipping import FILE as SKIPPED
from .skipping import Skipped
from .strategies import SHARDED, choose, prepare
from .trackers import expect_installed, tracked

logger = logging.getLogger("teva_torch")


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a finished run leaves.

    Attributes:
        artifact: the model; a pair of them with ``model.tied: false``.
        output: the run's directory.
        steps: optimiser steps in all; fewer than the recipe's where training ended early.
        loss: mean loss of the last logged interval.
        best: ``step`` and ``nDCG@10`` of the weights in the artifact, where ``train.eval_every`` is set.
    """

    artifact: Artifact | ArtifactPair
    output: Path
    steps: int
    loss: float
    best: dict[str, float] | None = None


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
        ProcessError: another process of the run failed; its message is told.
    """
    checked = read_recipe(recipe, overrides)
    output, section = Path(checked.train.output), torch_section(checked)
    with (
        join(section.device, section.timeout, section.strategy in SHARDED) as processes,
        contextlib.ExitStack() as stack,
    ):
        with processes.together():
            if processes.main:
                make_output(output)
                stack.enter_context(log_to(output / "train.log", "teva_data", "teva_torch"))
                stack.enter_context(lock_directory(output, "training"))
            else:
                stack.enter_context(_quiet())
            run = _Run(checked, output, overwrite, processes)
        return run.go()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what process 0 tells for all."""
    loggers = [logging.getLogger(name) for name in ("teva_data", "teva_torch")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


class _Run:
    """One run: what it is made of, and its loop."""

    def __init__(self, recipe: Recipe, output: Path, overwrite: bool, processes: Processes) -> None:
        self.output, self.processes = output, processes
        self.checkpoints, self.best = output / "checkpoints", output / "best"
        bases = load_base(recipe)
        base = bases.front
        datasets = open_datasets(recipe)
        self.recipe = recipe = resolve(recipe, base, datasets)
        self.settings, self.options = recipe.train, torch_section(recipe)
        expect_installed(self.options.trackers)
        loss = build_loss(recipe.loss, hidden=base.dim, normalize=bool(recipe.model.normalize))
        self.renderer = training_renderer(recipe, base)
        self.plan = BatchPlan.from_recipe(recipe, datasets)
        self.total = steps_in_all(recipe, self.plan)
        self.identity = identity(recipe, self.plan, bases.fingerprint)
        self.base, self.overwrite = bases, overwrite
        self.start = 0 if overwrite else self._where_to_start()
        self.device = choose_device(self.options.device, processes.local if processes.world > 1 else None)
        torch.manual_seed(self.settings.seed)
        name = choose(self.options, processes, tied=recipe.model.tied)
        # Parts go to their device one by one: the whole need not fit there.
        place = torch.device("cpu") if name in SHARDED else self.device
        self.model = for_training(bases, recipe, self.device, place)
        every = self.settings.eval_every
        self.evaluation = Evaluation(recipe, datasets, self.renderer, processes, name in SHARDED) if every else None
        self._loss, self._name = loss, name
        skips = recipe.data.bad_pictures == "skip" and self.renderer.pictures is not None
        self.skipped = Skipped(self.output, processes, resumed=self.start > 0) if skips else None

    def _lay_out(self) -> None:
        """Put the model where it is trained, whole or in parts; the processes exchange its values."""
        loss = self._loss
        self.strategy = prepare(
            self._name, self.model, loss if isinstance(loss, torch.nn.Module) else None, self.settings, self.options,
            self.processes, self.device,
        )  # fmt: skip
        self.gradient = BatchGradient(self.model, loss, self._passes(), self.processes, self.strategy)
        self.trained = self.strategy.trained

    def _passes(self) -> Passes:
        """Texts of like length go together: small passes hold little padding, large ones keep a GPU busy."""
        cached = self.options.gradient_cache
        return Passes(
            # Without caching the activations of all passes are kept anyway.
            chunk_tokens=self.options.chunk_tokens or (1024 if cached and self.device.type == "cpu" else 16384),
            cached=cached,
            full=cached,
            check=self.options.gradient_cache_check,
            keep_vision=self.options.keep_vision,
            precision=torch.bfloat16 if self.settings.precision == "bfloat16" else torch.float32,
        )

    def _where_to_start(self) -> int:
        """Steps that the newest checkpoint has done; refuses a directory that holds another run."""
        if self.processes.main:
            recover(self.output / "artifact")
        newest = checkpoint.latest_checkpoint(self.checkpoints)
        if newest is not None:
            state = checkpoint.read_state(newest)
            refuse_another(self.output, state["run"], self.identity)
            log = self.output / "metrics.jsonl"
            if state.get("log") not in (None, log_fingerprint(log, int(state["step"]))):
                raise TevaError(
                    f"{log}: not what the run had logged when it saved {newest.name}: damaged, edited or removed. "
                    f"{DAMAGED_LOG}"
                )
            return int(state["step"])
        if (self.output / "artifact").exists():
            found = load_artifact(self.output / "artifact").teva.get("run", {})
            refuse_another(self.output, found, self.identity)
            raise RecipeError(
                f"{self.output}: holds the finished model of this recipe and no checkpoint. It is in "
                f"{self.output / 'artifact'}; --overwrite trains it again"
            )
        return 0

    def _prepare_output(self) -> None:
        """Remove what is to be overwritten and what kills left behind; only now that everything else has loaded."""
        if self.overwrite:
            for old in (self.checkpoints, self.best, self.output / "artifact", self.output / "tensorboard"):
                shutil.rmtree(old, ignore_errors=True)
            for name in ("metrics.jsonl", SKIPPED):
                (self.output / name).unlink(missing_ok=True)
        # By name: the output may be a directory that holds other people's hidden files too.
        for name in ("artifact", "metrics.jsonl", "recipe.yaml", "loss.png", SKIPPED):
            remove_leftovers(self.output, name)
        for directory in (self.checkpoints, self.best):
            remove_leftovers(directory, "step-????????")
        # Measured after the step that is gone on from, by a run that was killed: it will be measured again.
        checkpoint.prune_after(self.best, self.start)
        # A kill may have fallen into the removal of an old one. Only now: the best may be older than those above.
        for directory, keep in ((self.checkpoints, self.settings.keep_checkpoints), (self.best, 1)):
            checkpoint.prune(directory, keep)

    def go(self) -> TrainResult:
        """Train from where the run stands, export, and say what came out."""
        self._same_everywhere()
        with self.processes.together(exchanging=True):
            self._lay_out()
        with self.processes.together():
            if self.processes.main:
                self._prepare_output()
                write_recipe(self.output / "recipe.yaml", self.recipe)
        with self.processes.together(exchanging=self.strategy.sharded):
            if self.start:
                logger.info("going on after step %d of %d", self.start, self.total)
                checkpoint.restore(self.checkpoints / f"step-{self.start:08}", self.strategy)
        self._tell()
        steps, loss, history = self._loop()
        left_out = self._left_out()
        best = history.best
        path = self.checkpoints / f"step-{steps:08}" if best is None else self.best / f"step-{int(best['step']):08}"
        if best is not None:
            with self.processes.together():
                checkpoint.read_state(path)  # that it is there, and whole
            with self.processes.together(exchanging=self.strategy.sharded):
                checkpoint.restore(path, self.strategy)
        trained = self._whole_model(path)
        with self.processes.together():
            if self.processes.main:
                self._export(trained, steps, loss, best, left_out)
        return TrainResult(load_artifact(self.output / "artifact"), self.output, steps, loss, best)

    def _whole_model(self, path: Path) -> Retriever | RetrieverPair:
        """The trained model in one piece, for process 0 to export; of the others, what they have.

        Where each process holds a part, it is made from the base and the checkpoint, and its vectors are compared with
        those of the parts.

        Raises:
            ParityError: it gives other vectors.
        """
        if not self.strategy.sharded:
            return self.model
        texts = sample_texts(self.plan, self.renderer)
        found = parity.vectors(self.model, self.renderer, texts)
        model = self.model
        with self.processes.together():
            if self.processes.main:
                model = for_training(self.base, self.recipe, torch.device("cpu"))
                checkpoint.restore_weights(path, model, "retriever.")
                whole = parity.vectors(model, self.renderer, texts)
                expect_same("the model in one piece", whole, found, self._rounded)
        return model

    @property
    def _rounded(self) -> float:
        """The least cosine with a model whose parts compute in half precision, whatever the recipe says."""
        return 0.999 if self.settings.precision == "bfloat16" else self.options.parity_cosine

    def _same_everywhere(self) -> None:
        """Refuse to train one model on two sets of data, or from two places."""
        told = self.processes.texts(json.dumps([self.identity, self.start], sort_keys=True))
        if any(one != told[0] for one in told):
            rank, other = next((rank, one) for rank, one in enumerate(told) if one != told[0])
            (first, start), (second, begins) = json.loads(told[0]), json.loads(other)
            what = f"step {start} and step {begins}" if first == second else difference(first, second)
            raise ProcessError(
                f"processes 0 and {rank} do not train the same: {what}. All machines need the same recipe, data and "
                "versions, and one directory for train.output"
            )

    def _tell(self) -> None:
        """What is trained, on what, for how long."""
        trainable = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        if self.plan.size < self.settings.batch_size:
            logger.warning(
                "train.batch_size %d is more than the %d queries: each stands in a batch several times",
                self.settings.batch_size, self.plan.size,
            )  # fmt: skip
        logger.info(
            "%s: %s trainable parameters on %s, %s queries, %d steps of %s, loss %s",
            self.recipe.model.name, f"{trainable:,}",
            f"{self.processes.world} x {self.device.type}" if self.processes.world > 1 else self.device,
            f"{self.plan.size:,}", self.total, times(self.settings.accumulate, self.settings.batch_size),
            self.recipe.loss.name,
        )  # fmt: skip
        seen = () if self.renderer.pictures is None else self.renderer.pictures.kinds
        tell_mixture(self.plan, self.total * self.settings.accumulate, seen)

    def _left_out(self) -> dict[str, int] | None:
        """How many queries and documents were left out; None where nothing is to be."""
        if self.skipped is None:
            return None
        with self.processes.together(exchanging=True):
            found = self.skipped.write()
        if any(found.values()):
            logger.warning(
                "%d queries and %d documents were left out, whose pictures cannot be read: %s names them",
                found["query"], found["document"], self.skipped.path,
            )  # fmt: skip
        return found

    def _export(
        self,
        model: Retriever | RetrieverPair,
        steps: int,
        loss: float,
        best: dict[str, float] | None,
        left_out: dict[str, int] | None,
    ) -> None:
        draw_loss(self.output / "metrics.jsonl", self.output / "loss.png", MEASURE)
        artifact = export(
            model.eval(), self.base, self.renderer, self.recipe, self.output / "artifact",
            record={
                "run": self.identity,
                "data": data_record(self.plan),
                "base": base_record(self.base),
                "steps": steps,
                "loss": loss,
                **({} if best is None else {"best": best}),
                **({} if left_out is None else {"left_out": left_out}),
            },
            texts=sample_texts(self.plan, self.renderer),
        )  # fmt: skip
        logger.info("artifact: %s", artifact.path)

    def _loop(self) -> tuple[int, float, History]:
        """All steps from the first that is missing: how many are done, the mean loss of the last logged interval."""
        settings, every = self.settings, self.settings.accumulate
        feed = Feed(self.plan, self.renderer, self.recipe, self.processes.rank, self.processes.world)
        items = feed.batches(self.start * every, self.total * every)
        queries = settings.batch_size * every
        history = History(self.output / "metrics.jsonl", self.start, MEASURE)
        interval, done = Interval(history.loss), self.start
        self.trained.train()
        with self._log() as (log, progress):
            for step in range(self.start, self.total):
                if settings.patience is not None and history.since_best >= settings.patience:
                    logger.info("ends after step %d: %d measurements without a better one", step, settings.patience)
                    break
                done = step + 1
                step_loss, norm, tokens = self._step(step, items)
                interval.add(step_loss, norm, queries, tokens)
                progress(queries, f"step {done}, loss {interval.loss:.4f}")
                # Sums are logged at fixed steps and saved steps begin a new one, so a resumed log has the same lines.
                measured, last = done % (settings.eval_every or done + 1) == 0, done == self.total
                if done % settings.log_every == 0 or done % settings.save_every == 0 or measured or last:
                    row = interval.row(
                        done, learning_rate(step, self.total, settings), self.processes.totals(interval.tokens)[0]
                    )
                    if self.evaluation is not None and (measured or last):
                        row[MEASURE] = self.evaluation.measure(self.model, self.gradient.passes)
                    log(row)
                    interval = Interval(interval.loss)
                    if history.add(row):
                        logger.info("step %d: %s %.4f, the best so far", done, MEASURE, row[MEASURE])
                        self._save(self.best, done, keep=1)
                ends = settings.patience is not None and history.since_best >= settings.patience
                if done % settings.save_every == 0 or last or ends:
                    self._save(self.checkpoints, done, settings.keep_checkpoints)
        return done, interval.loss, history

    @contextlib.contextmanager
    def _log(self) -> Iterator[tuple[Callable[[dict[str, Any]], None], Callable[[int, str], None]]]:
        """Where a line of metrics goes, and who is told the progress: files and the terminal, from process 0."""
        if not self.processes.main:
            yield lambda row: None, lambda queries, note: None
            return
        each = self.settings.batch_size * self.settings.accumulate
        path, options = self.output / "metrics.jsonl", self.options
        # Also the lines after the checkpoint, of a run that was killed: trackers keep them.
        sent = max((row["step"] for row in read_metrics(path)), default=0)
        metrics = MetricsLog(path, self.start)
        try:
            with (
                tracked(self.recipe, options.trackers, options.tracker_project, self.output, sent) as trackers,
                Progress(self.total * each, "train", "queries", done=self.start * each) as progress,
            ):

                def write(row: dict[str, Any]) -> None:
                    metrics.write(row)
                    trackers.write(row)

                yield write, progress.add
        finally:
            metrics.close()

    def _save(self, directory: Path, done: int, keep: int) -> None:
        if self.skipped is not None:
            with self.processes.together(exchanging=True):
                self.skipped.write()
        log = log_fingerprint(self.output / "metrics.jsonl", done) if self.processes.main else None
        checkpoint.save(directory, done, self.strategy, self.identity, log)
        with self.processes.together():
            if self.processes.main:
                checkpoint.prune(directory, keep)

    def _step(self, step: int, items: Iterator[TokenBatch]) -> tuple[float, float, int]:
        """One optimiser step: the mean loss, the gradient's norm before clipping, the tokens of this process."""
        self.strategy.zero_grad()
        every, loss, tokens = self.settings.accumulate, 0.0, 0
        try:
            for _ in range(every):
                with self.processes.together():
                    item = next(items)
                if self.skipped is not None:
                    item = self.skipped.agree(item)
                _seed(self.settings.seed, item.batch.step, self.processes.rank)
                loss += self.gradient.add(item, 1 / every) / every
                tokens += item.tokens
        except TrainingError as error:
            raise type(error)(f"step {step + 1}: {error}") from error

        def check(norm: float) -> None:
            # Clipping by a norm that is not finite would put NaN into every weight.
            if not math.isfinite(norm):
                raise gradient_not_finite(step, norm, item)

        with self.processes.together(exchanging=True), memory("the optimiser", item, self.gradient.passes):
            norm = self.strategy.update(learning_rate(step, self.total, self.settings), check)
        return loss, norm, tokens


def _seed(seed: int, batch: int, rank: int) -> None:
    """Dropout as a function of the batch and the process: a resumed run draws what it would have drawn."""
    torch.manual_seed(int(fingerprint("dropout", seed, batch, rank), 16))
