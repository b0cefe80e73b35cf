"""`teva-torch plan`: what it predicts against steps that are taken, and what it says would fit."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
from benchmarks import step_memory
from benchmarks.claims.scale_plan import configuration, recipe
from tests.torch import vision_models

import torch
from teva_data.artifact import Artifact
from teva_data.errors import ArtifactError, RecipeError, TevaError
from teva_torch.cli import main
from teva_torch.distributed import Processes
from teva_torch.model import Retriever
from teva_torch.planning import as_text, find_gpu, gpus, plan, predict
from teva_torch.planning import tracing as tracing_module
from teva_torch.planning.gpus import CPU
from teva_torch.planning.layout import layout, sizes
from teva_torch.planning.tracing import Build, trace
from teva_torch.recipe import LoraSection, read_recipe

LORA = LoraSection(rank=4).model_dump_json()


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("bert", {}),
        ("bert", {"precision": "bfloat16"}),
        ("bert", {"gradient_checkpointing": True}),
        ("llama", {"lora": {"rank": 4}}),
    ],
)
def test_memory_of_a_step_is_what_the_allocator_gives_out(kind, options, cached, tmp_path):
    config = configuration(kind, 64, 2)
    job = read_recipe(recipe(queries=8, negatives=2, length=64, gradient_cache=cached, chunk_tokens=512, **options))
    real = step_memory.measure(job, config, tmp_path, Processes())
    found = predict(job, config, CPU, 1)
    assert found.bytes == pytest.approx(real["peak"], rel=0.15)
    assert real["between"] < real["peak"]
    base = sum(found.parts[key] for key in ("weights", "optimizer states"))
    assert base == pytest.approx(real["between"], rel=0.1)


def test_a_deep_model_is_what_two_shallow_ones_say(monkeypatch):
    config = json.loads(configuration("llama", 64, 9)) | {"vocab_size": 500}
    shape = tracing_module.config_of(json.dumps(config))
    for build in (Build(half=True, checkpointing=True), Build(weights=16, half=True, lora=LORA)):
        short = trace(shape, build, 4, 32)
        with monkeypatch.context() as patch:
            patch.setattr(tracing_module, "_DEPTHS", 100)
            whole = trace(shape, build, 4, 32)
        for name in ("kept", "flops", "back_flops", "blind", "shared"):
            assert getattr(short, name) == pytest.approx(getattr(whole, name), rel=0.02), name


def test_operations_are_two_for_each_weight_and_token_forward_and_four_back():
    config = configuration("bert", 64, 2)
    found = trace(tracing_module.config_of(config), Build(), 8, 16)
    size = sizes(config, Build())
    linear = 2 * (4 * 64 * 64 + 2 * 64 * 256)
    attention = 2 * 4 * 16 * 64  # both products of 16 keys, in each of 2 layers
    pooler = 2 * 64 * 64  # BERT's own, of one token of each text; nothing goes back through it
    assert found.flops == 8 * 16 * (2 * linear + attention) + 8 * pooler
    assert found.back_flops == 8 * 16 * (4 * linear + 2.5 * attention)
    assert size.parameters > linear


def test_parts_of_a_model_shrink_with_the_stage():
    size = sizes(configuration("bert", 64, 2), Build())
    assert size.parameters == size.trained + 64 * 64 + 64  # BERT's own pooler is not trained
    held = {
        name: layout(name, size, 4, half=True, optimizer="adamw", zero={"reduce_bucket_size": 1})
        for name in ("ddp", "zero1", "zero2", "zero3", "fsdp2")
    }
    total = {name: one.weights + one.masters + one.optimizer + one.gradients for name, one in held.items()}
    assert total["ddp"] > total["zero1"] > total["zero2"] > total["zero3"] == pytest.approx(total["fsdp2"], rel=0.01)
    assert total["ddp"] == pytest.approx(16 * size.parameters, rel=0.05)
    assert total["zero3"] == pytest.approx(16 / 4 * size.parameters, rel=0.05)
    adapted = sizes(configuration("bert", 64, 2), Build(lora=LORA))
    assert adapted.trained == 2 * 4 * (4 * (64 + 64) + 2 * (64 + 256))  # rank 4: q, k, v, out; up and down
    assert adapted.parameters == size.parameters + adapted.trained
    offload = layout("zero3-offload", size, 4, half=True, optimizer="adamw", zero={"reduce_bucket_size": 1})
    assert offload.host == pytest.approx(total["zero3"], rel=0.01)
    assert offload.weights == offload.optimizer == offload.masters == 0


def test_the_cheapest_change_fits_and_is_the_cheapest(tmp_path):
    (tmp_path / "config.json").write_text(configuration("bert", 128, 4))
    wanted = recipe(queries=20_000, negatives=7, length=128, precision="bfloat16")
    found = plan(wanted, gpu="L4", gpus=2, config=tmp_path)
    assert not found.asked.fits
    best = found.cheapest
    assert best is not None
    assert best.changes
    assert best.gpus == 2
    again = predict(read_recipe(wanted, best.changes), configuration("bert", 128, 4), found.gpu, 2)
    assert again.bytes == best.prediction.bytes <= found.gpu.memory * 2**30
    assert all(one.cost >= best.cost for one in found.others if one.fits)
    assert {one.prediction.strategy for one in found.others} >= {"ddp", "fsdp2", "zero3-offload"}
    assert any(not one.fits for one in found.others)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("h100", "H100"), ("NVIDIA H100 80GB", "H100"), ("NVIDIA A100-SXM4-80GB", "A100-80"), ("a100 40gb", "A100-40"),
        ("RTX 4090", "RTX-4090"), ("NVIDIA GeForce RTX 4090", "RTX-4090"), ("mi300x", "MI300X"), ("L40S", "L40S"),
    ],
)  # fmt: skip
def test_a_gpu_is_found_in_whatever_way_it_is_written(written, name):
    assert find_gpu(written).name == name


def test_an_unknown_gpu_is_refused_with_the_nearest():
    with pytest.raises(TevaError, match="Did you mean 'H100'"):
        find_gpu("H1000")
    with pytest.raises(TevaError, match=r"Known: A100-40.*"):
        find_gpu("abacus")
    assert all(gpu.source and min(dataclasses.astuple(gpu)[1:-1]) > 0 for gpu in gpus().values())


def test_the_command_prints_a_plan_and_json(tmp_path, capsys):
    (tmp_path / "config.json").write_text(configuration("llama", 64, 2))
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe(queries=64, negatives=1, length=32)))
    words = ["plan", str(tmp_path / "recipe.yaml"), "--gpu", "h100", "--config", str(tmp_path / "config.json")]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "fits" in text
    assert "Assumed" in text
    assert main([*words, "--json", "--gpus", "2", "--torch.strategy", "fsdp2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["plan"]["strategy"] == "fsdp2"
    assert found["plan"]["bytes"] == pytest.approx(sum(found["plan"]["parts"].values()), abs=20)
    assert found["plan"]["seconds"] > 0
    assert main(["plan", str(tmp_path / "recipe.yaml"), "--gpu", "h10"]) == 1
    assert "Did you mean" in capsys.readouterr().err


def test_what_cannot_be_planned_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(configuration("bert", 64, 2))
    one = recipe(queries=8, negatives=1, length=32)
    with pytest.raises(ArtifactError, match="--config"):
        plan(one, {"model.name": str(tmp_path / "nothing")}, gpu="h100")
    with pytest.raises(RecipeError, match="expected at least 1"):
        plan(one, gpu="h100", gpus=0, config=tmp_path)
    with pytest.raises(RecipeError, match="Use auto or ddp"):
        plan(one, {"torch.strategy": "single"}, gpu="h100", gpus=2, config=tmp_path)


_TRAINED = ({}, {"freeze_vision": True}, {"lora": {"rank": 2}}, {"lora": {"rank": 2, "vision": True}})


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        # A plan traces a dozen steps: of each kind and each architecture one belongs to the short tier.
        pytest.param(name, kind, marks=[] if (name == "Qwen2_5_VL") ^ ("freeze_vision" in kind) else pytest.mark.slow)
        for name, kind in itertools.product(vision_models.ARCHITECTURES, _TRAINED)
    ],
)
def test_pictures_are_planned_by_parameters_and_patches(name, kind, tmp_path):
    model = vision_models.make(tmp_path / "model", name)
    job = read_recipe({
        "model": {"name": str(model), "pooling": "last", "query_max_length": 8, "document_max_length": 64},
        "data": {"path": "-", "negatives": 1},
        "train": {"output": "-", "steps": 1, "batch_size": 8, "precision": "bfloat16"},
        "torch": {"gradient_cache": True, "chunk_tokens": 256, **kind},
    })  # fmt: skip
    if name == "Qwen3VL" and kind.get("lora", {}).get("vision"):
        with pytest.raises(RecipeError, match="Name the layers to adapt"):  # as the run would
            plan(job, gpu="H100")
        return
    found, texts, more = (
        plan(job, changes, gpu="H100", pictures=pictures)
        for pictures, changes in ((None, {}), (0, {}), (None, {"model.document_max_length": 128}))
    )
    real = Retriever.for_training(
        Artifact.load(model), read_recipe(job, {"model.normalize": True}), torch.device("cpu")
    )
    whole = sum(one.numel() for one in real.parameters())
    trained = sum(one.numel() for one in real.parameters() if one.requires_grad)
    assert (found.asked.prediction.parameters, found.asked.prediction.trained) == (whole, trained)
    assert found.seen.tokens == 62
    assert found.seen.trained is (kind in ({}, {"lora": {"rank": 2, "vision": True}}))
    assert texts.seen is None
    assert found.asked.prediction.seconds["computation"] > texts.asked.prediction.seconds["computation"]
    assert more.asked.prediction.seconds["computation"] > found.asked.prediction.seconds["computation"]
    kept = found.asked.prediction.parts.get("pictures", 0)
    vectors = 2 if name == "Qwen3VL" else 1  # of the last layer, and of one before it
    assert kept == (0 if found.seen.trained else 16 * 62 * 32 * 2 * vectors)
    assert "Each document holds 1 picture(s) of 62 tokens" in as_text(found)
