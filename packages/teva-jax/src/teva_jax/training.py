"""Training: one explicit loop, from a recipe to an artifact.

``train(recipe)`` is the whole of it. An output directory holds ``recipe.yaml`` (resolved), ``train.log``,
``metrics.jsonl``, ``loss.png``, ``checkpoints/`` and, at the end, ``artifact/``. Starting again with the same recipe on
the same data goes on from the newest checkpoint: on the same mesh of CPUs to bit-equal weights, on another mesh too.

Several hosts run the same command over one mesh. The batches are those of teva-torch, whatever the mesh.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

import jax
from teva_data import parity, running
from teva_data.artifact import Artifact
from teva_data.development import MEASURE
from teva_data.errors import RecipeError
from teva_data.files import lock_directory, recover, remove_leftovers
from teva_data.logfile import log_to
from teva_data.metrics import History, Interval, MetricsLog, draw_loss
from teva_data.plan import BatchPlan
from teva_data.progress import Progress
from teva_data.prompting import training_renderer
from teva_data.recipe import Recipe
from teva_data.schedule import learning_rate

from . import guards, processes
from .checkpoint import Checkpoints
from .evaluation import Evaluation
from .export import export
from .feed import Feed, MeshBatch
from .recipe import jax_section, read_recipe
from .state import Setup, mesh_of

logger = logging.getLogger("teva_jax")


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a finished run leaves.

    Attributes:
        artifact: the model.
        output: the run's directory.
        steps: optimiser steps in all; fewer than the recipe's where training ended early.
        loss: mean loss of the last logged interval.
        best: ``step`` and ``nDCG@10`` of the weights in the artifact, where ``train.eval_every`` is set.
    """

    artifact: Artifact
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
        recipe: a YAML file, the name of a recipe that ships with teva-jax, a mapping or a recipe.
        overrides: dotted keys that replace the recipe's.
        overwrite: begin anew where the output directory holds another run, or this one; without it a run of the same
            recipe is resumed and another one is refused.

    Returns:
        The artifact and the figures of the run.

    Raises:
        RecipeError: the recipe is not valid, or the output directory holds another run.
        DataError: bad data, with its address.
        TrainingError: the loss or the gradient is not finite, or a device has too little memory.
        ParityError: the exported artifact gives other vectors than the trained model.
        ProcessError: the processes of several hosts do not go together.
    """
    checked = read_recipe(recipe, overrides)
    options, output = jax_section(checked), Path(checked.train.output)
    if options.compilation_cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(options.compilation_cache))
    processes.join(options)
    with contextlib.ExitStack() as stack:
        if processes.main():
            running.make_output(output)
            stack.enter_context(log_to(output / "train.log", "teva_data", "teva_jax"))
            stack.enter_context(lock_directory(output, "training"))
            recover(output / "artifact")
        processes.together("start")
        return _Run(checked, output, overwrite).go()


class _Run:
    """One run: what it is made of, and its loop."""

    def __init__(self, recipe: Recipe, output: Path, overwrite: bool) -> None:
        self.output, self.overwrite = output, overwrite
        if not recipe.model.tied:
            raise RecipeError("model.tied: false: teva-jax trains one encoder for both so far. Use teva-torch")
        self.base = base = Artifact.load(recipe.model.name, revision=recipe.model.revision)
        self.datasets = running.open_datasets(recipe)
        self.recipe = recipe = running.resolve(recipe, base, self.datasets)
        if recipe.model.merging not in (None, "sequence"):
            raise RecipeError(
                f"model.merging: {recipe.model.merging}: teva-jax trains on a record's texts in one sequence. Use "
                "teva-torch"
            )
        self.settings, self.options = recipe.train, jax_section(recipe)
        self.renderer = training_renderer(recipe, base)
        self.plan = BatchPlan.from_recipe(recipe, self.datasets)
        self.total = running.steps_in_all(recipe, self.plan)
        self.identity = json.loads(json.dumps(running.identity(recipe, self.plan, base.fingerprint)))
        self.setup = Setup.of(recipe, base, mesh_of(self.options))
        every = self.settings.eval_every
        self.evaluation = Evaluation(self.setup, self.datasets, self.renderer) if every else None

    def go(self) -> TrainResult:
        """Train from where the run stands, export, and say what came out."""
        processes.expect_same("recipe, data or base model", json.dumps(self.identity, sort_keys=True))
        if self.overwrite and processes.main():
            self._remove()
        processes.together("removed")
        with contextlib.ExitStack() as stack:
            self.checkpoints, self.best = (
                Checkpoints(self.output / name, self.identity, keep)
                for name, keep in (("checkpoints", self.settings.keep_checkpoints), ("best", 1))
            )
            stack.callback(self.checkpoints.close)
            stack.callback(self.best.close)
            start = self._where_to_start()
            self.best.remove_after(start)  # measured by a run that was killed: it will be measured again
            if processes.main():
                self._prepare_output()
            self.state = self.setup.load()
            if start:
                logger.info("going on after step %d of %d", start, self.total)
                self.state = self.checkpoints.restore(start, self.state)
            self._tell()
            steps, loss, history = self._loop(start)
            self.checkpoints.wait()
            if history.best is not None:
                self.best.wait()
                self.state = self.best.restore(int(history.best["step"]), self.state)
            artifact = self._export(steps, loss, history.best)
        return TrainResult(artifact, self.output, steps, loss, history.best)

    def _where_to_start(self) -> int:
        """Steps that the newest checkpoint has done; refuses a directory that holds another run."""
        artifact = self.output / "artifact"
        if (newest := self.checkpoints.latest()) is not None:
            running.refuse_another(self.output, self.checkpoints.meta(newest)["run"], self.identity)
            return newest
        if artifact.exists():
            running.refuse_another(self.output, Artifact.load(artifact).teva.get("run", {}), self.identity)
            raise RecipeError(
                f"{self.output}: holds the finished model of this recipe and no checkpoint. It is in {artifact}; "
                "--overwrite trains it again"
            )
        return 0

    def _remove(self) -> None:
        for name in ("checkpoints", "best", "artifact"):
            shutil.rmtree(self.output / name, ignore_errors=True)
        (self.output / "metrics.jsonl").unlink(missing_ok=True)

    def _prepare_output(self) -> None:
        for name in ("artifact", "metrics.jsonl", "recipe.yaml", "loss.png"):
            remove_leftovers(self.output, name)
        running.write_recipe(self.output / "recipe.yaml", self.recipe)

    def _tell(self) -> None:
        """What is trained, on what, for how long."""
        if not processes.main():
            return
        mesh, trained = self.setup.mesh, self.state.trained["retriever"]
        if self.plan.size < self.settings.batch_size:
            logger.warning(
                "train.batch_size %d is more than the %d queries: each stands in a batch several times",
                self.settings.batch_size, self.plan.size,
            )  # fmt: skip
        logger.info(
            "%s: %s trainable parameters on %d x %s (%s), %s queries, %d steps of %s, loss %s",
            self.recipe.model.name, f"{sum(one.size for one in trained.values()):,}", mesh.size,
            mesh.devices.flat[0].device_kind, " x ".join(f"{name} {size}" for name, size in mesh.shape.items()),
            f"{self.plan.size:,}", self.total, running.times(self.settings.accumulate, self.settings.batch_size),
            self.recipe.loss.name,
        )  # fmt: skip
        running.tell_mixture(self.plan, self.total * self.settings.accumulate)

    def _loop(self, start: int) -> tuple[int, float, History]:
        """All steps from the first that is missing: how many are done, the mean loss of the last logged interval."""
        settings, every = self.settings, self.settings.accumulate
        feed = Feed(
            self.plan, self.renderer, self.recipe, self.setup.shapes, self.setup.mesh, scored=self.setup.loss.scored()
        )
        items = feed.batches(start * every, self.total * every)
        queries = settings.batch_size * every
        history = History(self.output / "metrics.jsonl", start, MEASURE)
        interval, done = Interval(history.loss), start
        with self._log(start) as (log, progress):
            for step in range(start, self.total):
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
                    row = interval.row(done, learning_rate(step, self.total, settings), interval.tokens)
                    if self.evaluation is not None and (measured or last):
                        row[MEASURE] = self.evaluation.measure(*self.setup.parts(self.state))
                    log(row)
                    interval = Interval(interval.loss)
                    if history.add(row):
                        logger.info("step %d: %s %.4f, the best so far", done, MEASURE, row[MEASURE])
                        self.best.save(done, self.state)
                ends = settings.patience is not None and history.since_best >= settings.patience
                if (done % settings.save_every == 0 or last or ends) and self.checkpoints.latest() != done:
                    self.checkpoints.save(done, self.state)
        return done, interval.loss, history

    def _step(self, step: int, items: Iterator[MeshBatch]) -> tuple[float, float, int]:
        """One optimiser step: the mean loss, the gradient's norm before clipping, the tokens."""
        setup, state, every = self.setup, self.state, self.settings.accumulate
        total, figures, tokens = setup.gradient.zeros(state.trained), [], 0
        try:
            with guards.memory(setup.shapes, cached=setup.gradient.cached, remat=setup.retriever.remat):
                for _ in range(every):
                    batch = next(items)
                    total, found = setup.gradient.add(state.trained, state.frozen, total, batch, 1 / every)
                    figures.append(found)
                    tokens += batch.item.tokens
                rate = jnp.float32(learning_rate(step, self.total, self.settings))
                state.trained, state.optimizer, norm = setup.optimizer.update(
                    state.trained, state.optimizer, total, rate
                )
                # The first number that is waited for; until here all was sent ahead.
                length = float(norm)
            losses = [float(one.loss) for one in figures]
            finite = all(bool(one.finite) for one in figures)
            guards.expect_finite(finite, sum(losses), length, batch)
            setup.gradient.check(max(float(one.difference) for one in figures))
        except guards.TrainingError as error:
            raise type(error)(f"step {step + 1}: {error}") from error
        return sum(losses) / every, length, tokens

    @contextlib.contextmanager
    def _log(self, start: int) -> Iterator[tuple[Callable[[dict[str, Any]], None], Callable[[int, str], None]]]:
        """Where a line of metrics goes, and who is told the progress: files and the terminal, from process 0."""
        if not processes.main():
            yield lambda row: None, lambda queries, note: None
            return
        each = self.settings.batch_size * self.settings.accumulate
        metrics = MetricsLog(self.output / "metrics.jsonl", start)
        try:
            with Progress(self.total * each, "train", "queries", done=start * each) as progress:
                yield metrics.write, progress.add
        finally:
            metrics.close()

    def _export(self, steps: int, loss: float, best: dict[str, float] | None) -> Artifact:
        if processes.main():
            draw_loss(self.output / "metrics.jsonl", self.output / "loss.png", MEASURE)
        base = {"name": self.base.name, "revision": self.base.revision, "fingerprint": self.base.fingerprint}
        record = {
            "run": self.identity, "data": running.data_record(self.plan), "base": base, "steps": steps, "loss": loss,
            **({} if best is None else {"best": best}),
        }  # fmt: skip
        artifact = export(
            self.setup.retriever, *self.setup.parts(self.state), self.base, self.renderer, self.recipe,
            self.output / "artifact", record=record, texts=parity.sample_texts(self.plan, self.renderer),
            threshold=self.options.parity_cosine, bfloat16=self.options.export_weights == "bfloat16",
        )  # fmt: skip
        logger.info("artifact: %s", artifact.path)
        return artifact
