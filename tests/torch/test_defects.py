"""Defects of a published toolkit, each numbered as in the list of them; here they must not happen.

Those of losses, backbones and gradients stand in the tests of those.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import teva_data
import teva_torch
import torch
from teva_data.artifact import Artifact
from teva_data.development import _search
from teva_data.errors import DataError, RecipeError, TevaError
from teva_data.feed import Feed
from teva_data.metrics import read_metrics
from teva_data.plan import BatchPlan
from teva_data.rendering import Renderer
from teva_torch import checkpoint
from teva_torch.distributed import Processes
from teva_torch.engine import TorchEngine
from teva_torch.init import SECTIONS
from teva_torch.model import Retriever
from teva_torch.recipe import LoraSection, TorchSection, read_recipe
from teva_torch.strategies import Strategy
from teva_torch.training import train


def _weights(artifact):
    return load_file(artifact.path / "model.safetensors")


def _equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def _copy(data: Path, to: Path) -> Path:
    return Path(shutil.copytree(data, to, ignore=shutil.ignore_patterns(".teva")))


def _rewrite(file: Path, change) -> None:
    rows = [change(json.loads(line)) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _feed(recipe):
    checked = read_recipe(recipe)
    renderer = Renderer.from_artifact(Artifact.load(recipe["model"]["name"]), max_length=16)
    return Feed(BatchPlan.from_recipe(checked), renderer, checked)


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_defect_1_a_resumed_run_has_the_model_it_saved(recipe, tmp_path, lora):
    recipe["torch"]["lora"] = lora
    trained = _weights(train(recipe).artifact)
    base = load_file(Path(recipe["model"]["name"]) / "model.safetensors")
    assert not _equal(trained, base)
    # Nothing is left to do: what comes out is what was saved.
    shutil.rmtree(tmp_path / "run/artifact")
    assert _equal(_weights(train(recipe).artifact), trained)


def test_defect_1_a_checkpoint_that_does_not_fit_is_refused(recipe, tmp_path):
    train(recipe)
    from safetensors.torch import save_file

    newest = checkpoint.latest_checkpoint(tmp_path / "run/checkpoints")
    stored = load_file(newest / "model.safetensors")
    save_file({name.removeprefix("retriever."): value for name, value in stored.items()}, newest / "model.safetensors")
    settings = read_recipe(recipe).train
    strategy = Strategy(torch.nn.Linear(2, 2), None, settings, TorchSection(), Processes(), torch.device("cpu"))
    with pytest.raises(TevaError, match=r"found no tensor 'retriever\.bias'"):
        checkpoint.restore(newest, strategy)


def test_defect_2_overwrite_begins_anew_and_nothing_else_does(recipe, tmp_path):
    train(recipe)
    recipe["train"]["seed"] = 3
    with pytest.raises(RecipeError, match="another run"):
        train(recipe)
    again = _weights(train(recipe, overwrite=True).artifact)
    assert "going on after" not in (tmp_path / "run/train.log").read_text()
    assert _equal(again, _weights(train(recipe, {"train.output": str(tmp_path / "fresh")}).artifact))


@pytest.mark.parametrize("cached", [False, True])
def test_defect_4_a_run_divides_what_it_accumulates(recipe, tmp_path, cached):
    """The mean of two gradients is at most as long as they are in the mean; their sum is longer, unless they oppose."""
    recipe["train"] |= {"learning_rate": 1e-12, "log_every": 1, "max_grad_norm": 1e9}
    recipe["torch"]["gradient_cache"] = cached
    norms = {}
    for accumulate, steps in ((1, 2), (2, 1)):
        output = tmp_path / str(accumulate)
        train(recipe, {"train.output": str(output), "train.accumulate": accumulate, "train.steps": steps})
        norms[accumulate] = [row["grad_norm"] for row in read_metrics(output / "metrics.jsonl")]
    assert len(norms[1]) == 2
    (together,) = norms[2]
    assert np.mean(norms[1]) / 2 < together < np.mean(norms[1])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_defect_5_the_rate_climbs_in_the_share_of_steps_that_the_recipe_says(recipe, tmp_path, accumulate):
    recipe["train"] |= {"warmup_ratio": 0.5, "log_every": 1, "schedule": "constant", "accumulate": accumulate}
    train(recipe)
    rates = [row["learning_rate"] for row in read_metrics(tmp_path / "run/metrics.jsonl")]
    assert rates == pytest.approx([1e-3 * min(1, step / 6) for step in range(1, 13)])


def test_defect_10_small_steps_are_not_lost_in_bfloat16(recipe):
    recipe["train"] |= {"precision": "bfloat16", "learning_rate": 1e-5, "warmup_ratio": 0, "steps": 3}
    weights = _weights(train(recipe).artifact)
    name = "encoder.layer.0.output.LayerNorm.weight"
    # In bfloat16, 1 - 1e-5 is 1.
    moved = (weights[name] - 1).abs()
    assert float(moved.max()) < 1e-4
    assert float(moved.median()) > 1e-6
    assert {value.dtype for value in weights.values()} == {torch.float32}


def test_defect_11_a_document_has_one_text_in_training_and_after(recipe):
    item = _feed(recipe).batch(0)
    artifact = train(recipe).artifact
    renderer = Renderer.from_artifact(artifact)
    titled = [document for document in item.batch.documents if document.title]
    assert 0 < len(titled) < len(item.batch.documents)
    texts = [renderer.document(each.document_text, each.title) for each in item.batch.documents]
    assert renderer.tokenize(texts, 16) == item.document_ids
    encoder = pytest.importorskip("teva_infer").Encoder.load(artifact.path, device="cpu", max_length=16)
    with torch.no_grad():
        expected = Retriever.load(artifact).eval().vectors(item.document_ids)
    np.testing.assert_allclose(encoder.encode_documents(item.batch.documents), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["passage", "document_txt", "contentss"])
def test_defect_12_a_corpus_without_the_field_is_refused(recipe, tiny_data, tmp_path, name):
    data = _copy(tiny_data, tmp_path / "data")
    _rewrite(data / "corpus.jsonl", lambda row: {"docid": row["docid"], name: row["document_text"]})
    recipe["data"]["path"] = str(data)
    with pytest.raises(DataError, match=r"corpus\.jsonl:1"):
        train(recipe)


def test_defect_12_documents_that_have_a_title_alone_are_told(recipe, tiny_data, tmp_path, caplog):
    data = _copy(tiny_data, tmp_path / "data")
    _rewrite(data / "corpus.jsonl", lambda row: {"docid": row["docid"], "title": "tea", "body": row["document_text"]})
    recipe["data"]["path"] = str(data)
    train(recipe, {"train.steps": 1})
    told = [line for line in caplog.messages if "have no field of text" in line]
    assert len(told) == 1
    assert "corpus.jsonl" in told[0]
    assert "not read: body" in told[0]


def test_defect_8_bfloat16_is_bfloat16_when_the_model_is_measured_too(recipe):
    """A number above what float16 holds, which nothing takes up: bfloat16 goes on, float16 has no vector."""
    recipe["train"] |= {"precision": "bfloat16", "eval_every": 4, "eval_split": "test", "learning_rate": 1e-9}
    base = Path(recipe["model"]["name"])
    weights = load_file(base / "model.safetensors")
    large = Path(shutil.copytree(base, Path(recipe["train"]["output"]).parent / "large"))
    weights["encoder.layer.0.intermediate.dense.bias"][0] = 1e5
    weights["encoder.layer.0.output.dense.weight"][:, 0] = 0
    save_file(weights, large / "model.safetensors", metadata={"format": "pt"})
    recipe["model"]["name"] = str(large)
    ranks = [row["nDCG@10"] for row in read_metrics(train(recipe).output / "metrics.jsonl") if "nDCG@10" in row]
    assert len(ranks) == 3
    assert all(0 < rank <= 1 for rank in ranks)
    model = Retriever.load(Artifact.load(large)).eval()
    with torch.autocast("cpu", dtype=torch.float16):
        assert not model.vectors([[5, 6, 7]]).isfinite().all()
    for dtype, finite in (("bfloat16", True), ("float16", False)):  # as `teva-infer encode --dtype` computes
        vectors = TorchEngine.load(Artifact.load(large), device="cpu", dtype=dtype).encode([[5, 6, 7]])
        assert np.isfinite(vectors).all() == finite


def test_defect_13_fewer_documents_than_ranks_are_each_ranked_once():
    vectors = np.eye(4, dtype=np.float32)
    found = _search(vectors[:2], vectors[:3], ["b", "c", "a"])
    assert found == [["b", "c", "a"], ["c", "b", "a"]]
    assert _search(vectors[:1], vectors[:0], []) == [[]]


def test_defect_15_every_key_of_a_recipe_is_read_somewhere():
    """Somewhere else than where it is declared and checked."""
    sources = [file for package in (teva_data, teva_torch) for file in Path(package.__file__).parent.rglob("*.py")]
    text = "\n".join(file.read_text() for file in sources if file.name != "recipe.py")
    dead = [
        f"{section}.{key}"
        for section, kind in {**SECTIONS, "torch.lora": LoraSection}.items()
        for key in kind.model_fields
        if not re.search(rf"\.{key}\b", text)
    ]
    assert not dead


def test_defect_15_a_key_that_nobody_reads_is_refused(recipe):
    recipe["model"]["untie_encoder"] = True
    with pytest.raises(RecipeError, match=r"model\.untie_encoder: unknown key"):
        train(recipe)


def test_defect_16_queries_with_few_negatives_or_none_train_the_same_twice(recipe, tiny_data, tmp_path):
    data = _copy(tiny_data, tmp_path / "data")
    _rewrite(data / "train.jsonl", lambda row: {**row, "negative_document_ids": row["negative_document_ids"][:1]})
    recipe["data"] = {"path": str(data), "negatives": 4}
    first, second = (train(recipe, {"train.output": str(tmp_path / name)}) for name in ("a", "b"))
    assert _equal(_weights(first.artifact), _weights(second.artifact))
    _rewrite(data / "train.jsonl", lambda row: {**row, "negative_document_ids": []})
    assert train(recipe).steps == 12


def test_defect_17_null_texts_and_titles_are_no_texts_and_titles(recipe, tiny_data, tmp_path):
    data = _copy(tiny_data, tmp_path / "data")

    def nulls(row):
        if int(row["docid"][1:]) % 2:
            return {**row, "title": None}
        return {**row, "title": row["title"] or "tea", "document_text": None}

    _rewrite(data / "corpus.jsonl", nulls)
    recipe["data"]["path"] = str(data)
    item = _feed(recipe).batch(0)
    texts = [document.document_text or document.title for document in item.batch.documents]
    renderer = Renderer.from_artifact(Artifact.load(recipe["model"]["name"]), max_length=16)
    assert renderer.tokenize(texts) == item.document_ids
    assert train(recipe).steps == 12


def test_defect_25_a_batch_may_be_of_one_dataset_and_masks_what_is_no_negative(recipe, tiny_data, tmp_path):
    other = _copy(tiny_data, tmp_path / "other")
    _rewrite(other / "corpus.jsonl", lambda row: {**row, "document_text": f"tea {row['document_text']}"})
    # All queries ask the same, so the positive of each is a positive of all.
    _rewrite(tmp_path / "other/train.jsonl", lambda row: {**row, "query_text": "the same", "negative_document_ids": []})
    recipe["data"] = {"datasets": [{"path": str(tiny_data)}, {"path": str(other)}], "batches": "one_dataset"}
    feed = _feed(recipe)
    batches = [feed.batch(step).batch for step in range(10)]
    assert all(len(set(batch.dataset.tolist())) == 1 for batch in batches)
    assert {int(batch.dataset[0]) for batch in batches} == {0, 1}
    for batch in batches:
        if batch.dataset[0] == 1:
            # All queries ask the same: the only document that is left to each is its own.
            left = batch.allowed.sum(axis=1)
            assert left.tolist() == [1] * len(batch.queries)


def test_defect_26_a_batch_does_not_depend_on_who_makes_it_and_when(recipe):
    steps = [0, 7, 3, 12, 5]  # 40 queries in batches of 8: an epoch has 5 steps
    at_random = {step: _feed(recipe).batch(step) for step in steps}
    in_order = {item.batch.step: item for item in _feed(recipe).batches(0, 13)}
    for step in steps:
        assert at_random[step].document_ids == in_order[step].document_ids
        assert at_random[step].query_ids == in_order[step].query_ids
    negatives: dict[str, set[tuple[str, ...]]] = {}
    for item in in_order.values():
        names = [document.docid for document in item.batch.documents]
        for query, group in zip(item.batch.queries, item.batch.groups.tolist(), strict=True):
            negatives.setdefault(query.query_id, set()).add(tuple(names[at] for at in group[1:] if at >= 0))
    # Later epochs have other negatives, where there are more than are taken.
    assert max(map(len, negatives.values())) > 1
