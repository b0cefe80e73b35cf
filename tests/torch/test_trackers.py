from __future__ import annotations

import importlib.util
import json
import shutil

import pytest

from teva_data.errors import MissingExtraError, RecipeError
from teva_data.metrics import read_metrics
from teva_torch.recipe import read_recipe
from teva_torch.trackers import Trackers
from teva_torch.training import train


def _events(directory):
    """Steps and values of each measure in TensorBoard's files, in the order in which they were written."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for file in sorted(directory.glob("events.*"), key=lambda file: file.stat().st_mtime_ns):
        events = EventAccumulator(str(file))
        events.Reload()
        for name in events.Tags()["scalars"]:
            found.setdefault(name, []).extend((one.step, one.value) for one in events.Scalars(name))
    return found


def _expect_sent(output):
    rows = read_metrics(output / "metrics.jsonl")
    found = _events(output / "tensorboard")
    assert set(found) == set(rows[0]) - {"step"}
    for name in ("loss", "grad_norm", "learning_rate"):
        assert [step for step, _ in found[name]] == [row["step"] for row in rows]
        assert [value for _, value in found[name]] == pytest.approx([row[name] for row in rows], rel=1e-6)


def test_tensorboard_gets_each_line_once(recipe, tmp_path):
    recipe["torch"]["trackers"] = "tensorboard"
    result = train(recipe)
    _expect_sent(result.output)
    kept = list((result.output / "tensorboard").rglob("hparams.yml"))
    assert len(kept) == 1
    assert "train.learning_rate: 0.001" in kept[0].read_text()
    # Killed after step 10 of 12, with the checkpoint of step 8: steps 9 and 10 are taken again, and not sent again.
    shutil.rmtree(result.output / "checkpoints/step-00000012")
    shutil.rmtree(result.output / "artifact")
    metrics = result.output / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:5]))
    for file in (result.output / "tensorboard").glob("events.*"):
        file.unlink()
    _send_again(result, metrics)
    train(recipe)
    _expect_sent(result.output)
    assert len(list((result.output / "tensorboard").rglob("hparams.yml"))) == 1


def _send_again(result, metrics):
    """TensorBoard's file as the killed run left it."""
    recipe = read_recipe(result.output / "recipe.yaml")
    trackers = Trackers(recipe, ["tensorboard"], "teva", result.output, sent=1)
    for row in read_metrics(metrics):
        trackers.write(row)
    trackers.close()


def test_begun_anew_it_is_another_run(recipe):
    recipe["torch"]["trackers"] = ["tensorboard"]
    output = train(recipe).output
    first = (output / "tracker_run").read_text()
    train(recipe, overwrite=True)
    assert (output / "tracker_run").read_text() != first
    _expect_sent(output)


def test_trackers_do_not_decide_what_is_trained(recipe):
    assert read_recipe(recipe).deciding() == read_recipe(recipe, {"torch.trackers": "tensorboard,wandb"}).deciding()


def test_a_tracker_that_fails_does_not_end_training(recipe, monkeypatch, caplog):
    from accelerate.tracking import TensorBoardTracker

    log, calls = TensorBoardTracker.log, []

    def failing(self, values, step=None, **options):
        calls.append(step)
        if step == 4:
            raise ConnectionError("no route")
        log(self, values, step=step, **options)

    monkeypatch.setattr(TensorBoardTracker, "log", failing)
    recipe["torch"]["trackers"] = "tensorboard"
    result = train(recipe)
    assert calls == [2, 4]
    assert "tensorboard gets no more lines, from step 4 on: no route" in caplog.text
    assert [row["step"] for row in read_metrics(result.output / "metrics.jsonl")] == [2, 4, 6, 8, 10, 12]


def test_one_that_is_not_installed_is_refused_before_training(recipe, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else found(name, *rest)
    )
    recipe["torch"]["trackers"] = "tensorboard,wandb"
    with pytest.raises(MissingExtraError, match=r"teva-torch\[trackers,wandb\]"):
        train(recipe)


def test_an_unknown_one_is_refused(recipe):
    with pytest.raises(RecipeError, match=r"torch\.trackers.*tensorboard"):
        read_recipe(recipe, {"torch.trackers": "tensorbord"})


@pytest.mark.slow
def test_wandb_offline_and_trackio(recipe, monkeypatch, tmp_path):
    """Where they are installed: uv pip install wandb trackio."""
    pytest.importorskip("wandb")
    trackio = pytest.importorskip("trackio")
    monkeypatch.setenv("WANDB_MODE", "offline")
    recipe["torch"] |= {"trackers": "wandb,trackio", "tracker_project": f"teva-{tmp_path.name[-1]}-test"}
    output = train(recipe).output
    assert list(output.glob("wandb/offline-run-*/run-*.wandb"))
    runs = list(trackio.Api().runs(recipe["torch"]["tracker_project"]))
    assert [run.name for run in runs] == [f"run-{(output / 'tracker_run').read_text()}"]
    json.dumps(recipe)
