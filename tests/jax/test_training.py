"""The loop: from a recipe to an artifact, stopped and gone on with, on the same mesh and on another."""

from __future__ import annotations

import shutil

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import yaml
from benchmarks.jax_case import Case

import jax
from teva_data.artifact import Artifact
from teva_data.errors import DataError, RecipeError
from teva_data.metrics import read_metrics
from teva_data.recipe import TrainSection
from teva_data.schedule import learning_rate
from teva_jax import training
from teva_jax.checkpoint import Checkpoints
from teva_jax.optim import Optimizer, schedule
from teva_jax.training import train


@pytest.fixture
def small(recipe, monkeypatch):
    """Without a peer beside it: test_export has that, and it takes long."""
    monkeypatch.setattr("teva_jax.export.sentence_transformers_vectors", lambda directory, texts: None)
    # One of the eight devices: a recipe's mesh is over all that there are.
    of = training.mesh_of
    monkeypatch.setattr(training, "mesh_of", lambda options: of(options, jax.devices()[:1]))
    return recipe


def _weights(path):
    from safetensors.numpy import load_file

    return load_file(path / "artifact" / "model.safetensors")


def test_a_run_ends_in_an_artifact_and_goes_on_bit_equal(small, tmp_path, monkeypatch):
    result = train(small)
    output = result.output
    assert {path.name for path in output.iterdir() if not path.name.startswith(".")} >= {
        "artifact", "best", "checkpoints", "loss.png", "metrics.jsonl", "recipe.yaml", "train.log",
    }  # fmt: skip
    rows = read_metrics(output / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["loss"] == result.loss < rows[0]["loss"]
    assert yaml.safe_load((output / "recipe.yaml").read_text())["jax"]["chunk_tokens"] == 128
    teva = Artifact.load(output / "artifact").teva
    assert teva["steps"] == 6
    assert teva["parity"]["teva-jax"]["min_cosine"] > 0.9999
    assert sorted(path.name for path in (output / "checkpoints").glob("step_*")) == ["step_00000004", "step_00000006"]
    # Another run: killed after step 4 was saved and while step 5 was computed.
    again = {**small, "train": {**small["train"], "output": str(tmp_path / "again")}}
    step = training._Run._step

    def dies(self, number, items):
        if number == 4:
            raise KeyboardInterrupt
        return step(self, number, items)

    monkeypatch.setattr(training._Run, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        train(again)
    monkeypatch.setattr(training._Run, "_step", step)
    resumed = train(again)
    first, second = _weights(output), _weights(resumed.output)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert [row["loss"] for row in read_metrics(resumed.output / "metrics.jsonl")] == [row["loss"] for row in rows]
    with pytest.raises(RecipeError, match=r"holds another run \(train.learning_rate was 0.001, is 0.002\)"):
        train(again, {"train.learning_rate": 2e-3})
    shutil.rmtree(resumed.output / "checkpoints")
    with pytest.raises(RecipeError, match=r"holds the finished model of this recipe and no checkpoint"):
        train(again)


def test_the_best_step_is_exported_and_patience_ends_a_run(small):
    found = train(small, {"train.eval_every": 1, "train.eval_split": "test", "train.patience": 2, "train.steps": 5})
    rows = read_metrics(found.output / "metrics.jsonl")
    measured = [row["nDCG@10"] for row in rows]
    assert found.best == {"step": 1 + int(np.argmax(measured)), "nDCG@10": max(measured)}
    assert found.steps == min(5, int(found.best["step"]) + 2)


def test_a_checkpoint_is_read_into_another_mesh(recipe, tmp_path):
    overrides = {"jax.lora": {"rank": 2}}
    one = Case(recipe, overrides)
    total, _ = one.setup.gradient.add(
        one.state.trained, one.state.frozen, one.setup.gradient.zeros(one.state.trained), one.feed.batch(0)
    )
    state = one.state
    state.trained, state.optimizer, _ = one.setup.optimizer.update(
        state.trained, state.optimizer, total, jnp.float32(0.1)
    )
    run = {"recipe": {"a": 1}}
    written = Checkpoints(tmp_path / "c", run, keep=1)
    written.save(1, state)
    written.close()
    eight = Case(recipe, overrides, sizes=(2, 2, 2))
    read = Checkpoints(tmp_path / "c", run, keep=1)
    assert read.latest() == 1
    assert read.meta(1)["run"] == run
    found = read.restore(1, eight.state)
    read.close()
    same = jax.tree.map(lambda a, b: np.array_equal(np.asarray(a), np.asarray(b)), state.trained, found.trained)
    assert all(jax.tree.leaves(same))
    assert int(found.optimizer[0].count) == 1
    # Where it lies: each part of the optimiser's state beside its parameter's.
    for tree in (found.optimizer[0].mu, found.optimizer[0].nu, eight.state.optimizer[0].mu):
        for name, value in tree["retriever"].items():
            assert value.sharding == eight.setup.places["retriever"][name]
    split = [one for one in eight.state.optimizer[0].mu["retriever"].values() if not one.sharding.is_fully_replicated]
    assert split, "nothing was split: this test shows nothing"


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
def test_schedules_are_those_of_torch_and_of_optax(kind):
    settings = TrainSection(output="x", steps=1, schedule=kind, learning_rate=3e-4, warmup_ratio=0.1)
    ours = schedule(settings, 100)
    after = {
        "linear": optax.linear_schedule(3e-4, 0, 90),
        "cosine": optax.cosine_decay_schedule(3e-4, 90),
        "constant": optax.constant_schedule(3e-4),
    }[kind]
    for step in (0, 3, 9, 10, 50, 99):
        assert float(ours(step)) == pytest.approx(learning_rate(step, 100, settings), rel=1e-6)
        expected = 3e-4 * (step + 1) / 10 if step < 10 else float(after(step - 10))
        assert float(ours(step)) == pytest.approx(expected, rel=1e-5, abs=1e-9)  # a cosine in float32


def test_the_optimiser_is_torchs():
    import torch

    settings = TrainSection(output="x", steps=1, weight_decay=0.1, max_grad_norm=0.5, adam_beta2=0.98)
    random = np.random.default_rng(0)
    start = {"layers.*.w": random.normal(size=(2, 4, 3)), "layers.*.b": random.normal(size=(2, 4))}
    start = {name: value.astype(np.float32) for name, value in start.items()}
    theirs = {name: [torch.nn.Parameter(torch.tensor(one)) for one in value] for name, value in start.items()}
    groups = [
        {"params": theirs["layers.*.w"], "weight_decay": 0.1},
        {"params": theirs["layers.*.b"], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.98), eps=1e-8)
    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    places = {"retriever": dict.fromkeys(start, place), "loss": {}}
    ours = Optimizer(settings, places, mesh, dict)
    trained = {"retriever": {name: jnp.asarray(value) for name, value in start.items()}, "loss": {}}
    state = ours.init(trained)
    for step in range(4):
        gradient = {name: random.normal(size=value.shape).astype(np.float32) for name, value in start.items()}
        for name, parts in theirs.items():
            for part, one in zip(parts, gradient[name], strict=True):
                part.grad = torch.tensor(one)
        for group in adam.param_groups:
            group["lr"] = 0.01 * (step + 1)
        norm = torch.nn.utils.clip_grad_norm_([one for parts in theirs.values() for one in parts], 0.5)
        adam.step()
        given = {"retriever": jax.tree.map(jnp.asarray, gradient), "loss": {}}
        trained, state, found = ours.update(trained, state, given, jnp.float32(0.01 * (step + 1)))
        assert float(found) == pytest.approx(float(norm), rel=1e-6)
    for name, parts in theirs.items():
        expected = np.stack([one.detach().numpy() for one in parts])
        np.testing.assert_allclose(np.asarray(trained["retriever"][name]), expected, rtol=2e-6, atol=1e-6)
    before = jax.tree.map(np.asarray, trained)
    bad = jax.tree.map(lambda value: jnp.full_like(value, jnp.nan), trained)
    trained, _, norm = ours.update(trained, state, bad, jnp.float32(0.1))
    assert not np.isfinite(float(norm))
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(trained), jax.tree.leaves(before), strict=True))


def test_a_distillation_without_scores_is_refused(small):
    with pytest.raises(DataError, match="has no teacher's score"):
        train(small, {"loss.name": "kl"})
