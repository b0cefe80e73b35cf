"""nDCG@10 during training: its value, the step that is kept, and when training ends."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from teva_data.artifact import Artifact
from teva_data.dataset import Dataset
from teva_data.errors import DataError, RecipeError
from teva_data.metrics import History, draw_loss, figure_of, read_metrics
from teva_data.rendering import Renderer
from teva_eval import score
from teva_torch.caching import Passes
from teva_torch.engine import TorchEngine
from teva_torch.evaluation import Evaluation
from teva_torch.model import Retriever
from teva_torch.recipe import read_recipe
from teva_torch.training import resolve, train


def _evaluated(recipe, **settings):
    recipe["train"] |= {"eval_every": 4, "eval_split": "test", **settings}
    return recipe


def _evaluation(recipe, dataset, artifact):
    checked = resolve(read_recipe(_evaluated(recipe)), artifact, [dataset])
    return Evaluation(checked, [dataset], Renderer.from_artifact(artifact, max_length=16))


def _by_trec_eval(model, renderer, dataset, docids=None):
    """Texts one by one, scores in float64, trec_eval's own code."""
    engine = TorchEngine(model)
    documents = [
        one for one in dataset.corpus.documents(0, len(dataset.corpus)) if docids is None or one.docid in docids
    ]

    def vectors(texts):
        return np.concatenate([engine.encode([ids]) for ids in renderer.tokenize(texts)]).astype(np.float64)

    queries = list(dataset.queries("test"))
    scores = (
        vectors([renderer.query(each.query_text) for each in queries])
        @ vectors([renderer.document(each.document_text, each.title) for each in documents]).T
    )
    run = {
        query.query_id: list(zip([one.docid for one in documents], row.tolist(), strict=True))
        for query, row in zip(queries, scores, strict=True)
    }
    return score(dataset.qrels("test"), run, ["nDCG@10"]).mean["nDCG@10"]


def test_the_value_is_trec_evals(recipe, tiny_data, tiny_model):
    artifact, dataset = Artifact.load(tiny_model), Dataset.open(tiny_data)
    model = Retriever.load(artifact).train()
    evaluation = _evaluation(recipe, dataset, artifact)
    value = evaluation.measure(model, Passes(64))
    assert model.training
    assert value == evaluation.measure(model, Passes(10**6)) == pytest.approx(value)
    expected = _by_trec_eval(model, evaluation.renderer, dataset)
    assert value == pytest.approx(expected, abs=1e-9)
    assert 0 < value < 1


def test_a_small_corpus_holds_all_that_is_judged(recipe, tiny_data, tiny_model):
    artifact, dataset = Artifact.load(tiny_model), Dataset.open(tiny_data)
    recipe["train"]["eval_documents"] = 20
    evaluation = _evaluation(recipe, dataset, artifact)
    (part,) = evaluation.parts
    judged = {docid for grades in dataset.qrels("test").values() for docid in grades}
    assert judged < set(part.docids)
    assert len(part.docids) == 20
    model = Retriever.load(artifact)
    expected = _by_trec_eval(model, evaluation.renderer, dataset, set(part.docids))
    assert evaluation.measure(model, Passes(64)) == pytest.approx(expected, abs=1e-9)
    recipe["train"] |= {"eval_documents": 1, "eval_queries": 3}
    (part,) = _evaluation(recipe, dataset, artifact).parts
    assert len(part.queries) == 3
    assert {docid for grades in part.qrels for docid in grades} == set(part.docids)


def test_the_best_steps_weights_are_exported(recipe, tmp_path):
    result = train(_evaluated(recipe, steps=22, learning_rate=5e-3))
    rows = read_metrics(tmp_path / "run/metrics.jsonl")
    measured = {row["step"]: row["nDCG@10"] for row in rows if "nDCG@10" in row}
    assert sorted(measured) == [4, 8, 12, 16, 20, 22]
    assert result.best == {"step": max(measured, key=measured.get), "nDCG@10": max(measured.values())}
    assert result.artifact.teva["best"] == result.best
    (kept,) = (tmp_path / "run/best").iterdir()
    assert kept.name == f"step-{result.best['step']:08}"
    exported, best = load_file(result.artifact.path / "model.safetensors"), load_file(kept / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    assert np.array_equal(exported[name], best[f"retriever.backbone.{name}"])
    # And the artifact has that value.
    dataset = Dataset.open(recipe["data"]["path"])
    value = _by_trec_eval(Retriever.load(result.artifact), Renderer.from_artifact(result.artifact), dataset)
    assert value == pytest.approx(result.best["nDCG@10"], abs=1e-9)


def test_resumed_it_knows_what_was_best(recipe, tmp_path):
    recipe = _evaluated(recipe, steps=20, learning_rate=5e-3, eval_every=2)
    whole = train(recipe)
    weights = (whole.artifact.path / "model.safetensors").read_bytes()
    log = read_metrics(tmp_path / "run/metrics.jsonl")
    shutil.rmtree(tmp_path / "run/artifact")
    shutil.rmtree(tmp_path / "run/checkpoints/step-00000020")
    again = train(recipe)
    assert again.best == whole.best
    assert (again.artifact.path / "model.safetensors").read_bytes() == weights
    found = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [(row["step"], row["loss"], row.get("nDCG@10")) for row in found] == [
        (row["step"], row["loss"], row.get("nDCG@10")) for row in log
    ]


def test_training_ends_when_nothing_gets_better(recipe, tmp_path):
    # At such a rate no document changes its place, so the first measurement stays the best.
    recipe = _evaluated(recipe, steps=40, learning_rate=1e-12, patience=2, save_every=100)
    result = train(recipe)
    assert (result.steps, result.best["step"]) == (12, 4)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000012"]
    assert "ends after step 12: 2 measurements without a better one" in (tmp_path / "run/train.log").read_text()
    weights = (result.artifact.path / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "run/artifact")
    again = train(recipe)
    assert (again.steps, again.best) == (12, result.best)
    assert (again.artifact.path / "model.safetensors").read_bytes() == weights


def test_what_was_best_is_read_from_the_log(tmp_path):
    rows = [(2, 0.1), (4, None), (6, 0.3), (8, math.nan), (10, 0.3), (12, 0.2), (14, 0.9)]
    lines = [{"step": step, "loss": float(step), **({} if value is None else {"m": value})} for step, value in rows]
    (tmp_path / "log").write_text("".join(json.dumps(line) + "\n" for line in lines))
    history = History(tmp_path / "log", 12, "m")
    assert (history.best, history.since_best, history.loss) == ({"step": 6, "m": 0.3}, 3, 12.0)
    assert not history.add({"step": 13, "loss": 1.0, "m": 0.3})
    assert history.add({"step": 14, "loss": 1.0, "m": 0.31})
    assert (history.best["step"], history.since_best) == (14, 0)
    assert History(tmp_path / "none", 5, "m").best is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"eval_split": "tset"}, r"train\.eval_split: found 'tset'; expected .*one of test, train"),
        ({"patience": 3, "eval_every": None}, r"train\.patience: of no use without eval_every"),
    ],
)
def test_settings_that_cannot_be(recipe, change, words):
    with pytest.raises(RecipeError, match=words):
        train(_evaluated(recipe, **change))


def test_judgements_of_documents_that_are_not_there(recipe, tiny_data, tmp_path):
    data = Path(shutil.copytree(tiny_data, tmp_path / "data", ignore=shutil.ignore_patterns(".teva")))
    with (data / "qrels/test.tsv").open("a") as file:
        file.write("q41\tmissing\t1\n")
    recipe["data"]["path"] = str(data)
    with pytest.raises(DataError, match="a judged document that the corpus does not have; found 'missing'"):
        train(_evaluated(recipe))


def test_the_picture_of_a_run_has_the_measure_and_its_best_step(tmp_path):
    rows = [{"step": step, "loss": 4 / step, "learning_rate": 0.1} for step in range(1, 7)]
    rows[1]["nDCG@10"], rows[3]["nDCG@10"], rows[5]["nDCG@10"] = 0.2, 0.5, 0.4
    loss, measure, rate = figure_of(rows, "nDCG@10").axes
    assert loss.lines[0].get_xydata()[:, 1].tolist() == [row["loss"] for row in rows]
    assert measure.lines[0].get_xydata().tolist() == [[2, 0.2], [4, 0.5], [6, 0.4]]
    assert measure.lines[1].get_xydata().tolist() == [[4, 0.5]]
    assert rate.lines[0].get_xydata()[:, 1].tolist() == [0.1] * 6
    rows[0]["nDCG@10"] = math.nan  # is never the best, in whatever place
    (best,) = figure_of(rows, "nDCG@10").axes[1].lines[1].get_xdata()
    assert best == max(rows[1:], key=lambda row: row.get("nDCG@10", -1))["step"]
    assert len(figure_of([{"step": 1, "loss": 1.0, "learning_rate": 0.1}], "nDCG@10").axes) == 2
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw_loss(tmp_path / "metrics.jsonl", tmp_path / "loss.png", "nDCG@10")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
