from __future__ import annotations

import json

import pytest
from tests.torch.backbones import DECODERS, ENCODERS, make

import torch
from teva_data.artifact import Artifact
from teva_data.errors import ArtifactError, MissingExtraError, RecipeError, TevaError
from teva_torch import checkpoint
from teva_torch.backbones import load_backbone
from teva_torch.lora import add_lora, default_targets, merge
from teva_torch.model import Retriever
from teva_torch.recipe import LoraSection, read_recipe
from teva_torch.training import train

IDS = [[3, 5, 9, 11, 20, 21, 8, 30, 31, 7, 2], [3, 12, 2], [3, 40, 41, 6, 2], [3, 2]]
LLAMA_TARGETS = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


@pytest.fixture
def adapted(recipe, tmp_path):
    """A recipe that trains adapters on a tiny Llama."""
    make(tmp_path / "llama", "Llama")
    recipe["model"] |= {"name": str(tmp_path / "llama"), "pooling": "last", "normalize": True}
    recipe["train"] |= {"steps": 4, "save_every": 2, "learning_rate": 1e-2}
    recipe["torch"]["lora"] = {"rank": 4, "alpha": 8}
    return recipe


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_default_targets(tmp_path, name):
    backbone = load_backbone(Artifact.load(make(tmp_path, name)))
    assert default_targets(backbone) == {
        "ModernBert": ["Wi", "Wo", "Wqkv"],
        **{key: ["intermediate.dense", "key", "output.dense", "query", "value"] for key in ("Bert", "XLMRoberta")},
    }.get(name, LLAMA_TARGETS)  # fmt: skip
    linear = [n for n, m in backbone.named_modules() if isinstance(m, torch.nn.Linear) and not n.startswith("pooler")]
    model = add_lora(backbone, LoraSection(rank=2))
    found = {n.removeprefix("base_model.model.") for n, m in model.named_modules() if hasattr(m, "lora_A")}
    assert found == set(linear)
    assert all(("lora_" in n) is p.requires_grad for n, p in model.named_parameters())


def test_names_are_made_unlike_those_outside_the_blocks():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.ModuleDict({"dense": torch.nn.Linear(2, 2)}) for _ in "ab"])
            self.pooler = torch.nn.ModuleDict({"dense": torch.nn.Linear(2, 2)})

    with pytest.raises(RecipeError, match="'dense' also stands outside the blocks"):
        default_targets(Model())


@pytest.mark.parametrize("kind", ["plain", "rslora", "dora", "bfloat16"])
def test_gradient_is_that_of_peft(adapted, kind):
    peft = pytest.importorskip("peft")
    from transformers import AutoModel

    options = {kind: True} if kind in ("rslora", "dora") else {}
    weights = "bfloat16" if kind == "bfloat16" else "float32"
    adapted["torch"] |= {"lora": {"rank": 4, "alpha": 8, **options}, "weights": weights}
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    checked = read_recipe(adapted)
    torch.manual_seed(3)
    model = Retriever.for_training(Artifact.load(adapted["model"]["name"]), checked, torch.device("cpu"))
    trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert {value.dtype for value in trainable.values()} == {torch.float32}
    frozen = {value.dtype for value in model.parameters() if not value.requires_grad}
    assert frozen == {dtype}

    other = peft.get_peft_model(
        AutoModel.from_pretrained(adapted["model"]["name"], dtype=dtype),
        peft.LoraConfig(
            r=4, lora_alpha=8, target_modules=LLAMA_TARGETS, use_rslora=kind == "rslora", use_dora=kind == "dora"
        ),
    )
    generator = torch.Generator().manual_seed(5)
    theirs = {name: value for name, value in other.named_parameters() if value.requires_grad}
    assert {f"backbone.{name}" for name in theirs} == set(trainable)
    with torch.no_grad():
        for name, value in theirs.items():
            if "lora_A" in name or "lora_B" in name:
                value.normal_(generator=generator, std=0.1)
            trainable[f"backbone.{name}"].copy_(value)
    weight = torch.randn(4, 32, generator=generator)
    (model.vectors(IDS) * weight).sum().backward()
    # One text at a time, without padding, pooled by hand.
    total = 0.0
    for ids, row in zip(IDS, weight, strict=True):
        vector = other(input_ids=torch.tensor([ids])).last_hidden_state[0, -1].float()
        total = total + (vector / vector.norm() * row).sum()
    total.backward()
    ours = torch.cat([trainable[f"backbone.{name}"].grad.flatten() for name in theirs])
    expected = torch.cat([value.grad.flatten() for value in theirs.values()])
    assert expected.norm() > 0
    assert (ours - expected).norm() / expected.norm() < (2e-2 if kind == "bfloat16" else 1e-5)


@pytest.mark.parametrize("change", [{}, {"dora": True}, {"rslora": True}, {"targets": "q_proj,v_proj"}])
def test_a_run_leaves_merged_weights_and_the_adapter(adapted, tmp_path, change):
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModel

    result = train(adapted, {f"torch.lora.{key}": value for key, value in change.items()})
    path = result.artifact.path
    figures = result.artifact.teva["parity"]
    assert all(figure["max_difference"] < 1e-5 for figure in figures.values()), figures
    config = json.loads((path / "adapter/adapter_config.json").read_text())
    assert (config["task_type"], config["r"]) == ("FEATURE_EXTRACTION", 4)
    assert config["base_model_name_or_path"] == adapted["model"]["name"]
    assert sorted(config["target_modules"]) == (["q_proj", "v_proj"] if "targets" in change else LLAMA_TARGETS)
    # The adapter over the base, by peft itself, gives the artifact's vectors.
    base = AutoModel.from_pretrained(adapted["model"]["name"])
    merged = AutoModel.from_pretrained(path).eval()
    before, now = load_file(f"{adapted['model']['name']}/model.safetensors"), load_file(path / "model.safetensors")
    assert before.keys() == now.keys()
    changed = {name.split(".")[-2] for name in now if not torch.equal(before[name], now[name])}
    assert sorted(changed) == sorted(config["target_modules"])
    over = PeftModel.from_pretrained(base, path / "adapter").eval()
    ids = torch.tensor([IDS[0]])
    with torch.no_grad():
        torch.testing.assert_close(
            merged(input_ids=ids).last_hidden_state, over(input_ids=ids).last_hidden_state, rtol=1e-4, atol=1e-5
        )


def test_checkpoints_hold_what_is_trained_and_resume_bit_equal(adapted, tmp_path):
    import shutil

    from safetensors.torch import load_file

    whole = train(adapted).artifact.path
    expected = load_file(whole / "model.safetensors")
    newest = checkpoint.latest_checkpoint(tmp_path / "run/checkpoints")
    assert all("lora_" in name for name in load_file(newest / "model.safetensors") if "rotary" not in name)
    shutil.rmtree(whole)
    shutil.rmtree(newest)
    found = load_file(train(adapted).artifact.path / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_merge_that_loses_the_adapter_is_told(adapted, tmp_path, monkeypatch):
    # A published toolkit saves the adapter and serves the base. After few steps no threshold on the cosine sees it.
    from teva_torch import lora

    adapted["train"]["learning_rate"] = 1e-6
    monkeypatch.setattr(lora, "merge", lambda base, adapter, **options: load_backbone(base))
    with pytest.raises(TevaError, match="gives the vectors of the model without its adapter"):
        train(adapted)
    assert not (tmp_path / "run/artifact").exists()


def test_bfloat16_weights_are_merged_in_float32(adapted):
    from safetensors.torch import load_file

    adapted["torch"]["weights"] = "bfloat16"
    artifact = train(adapted, {"torch.parity_cosine": 0.999}).artifact
    weights = load_file(artifact.path / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    # What was trained beside were rounded weights: they are what is merged.
    before = load_file(f"{adapted['model']['name']}/model.safetensors")["embed_tokens.weight"]
    assert torch.equal(weights["embed_tokens.weight"], before.bfloat16().float())
    assert not torch.equal(before, before.bfloat16().float())


def test_on_the_command_line(adapted):
    for nothing in ({"lora": None}, {}):
        given = read_recipe(
            {**adapted, "torch": nothing}, ["--torch.lora.rank", "8", "--torch.lora.targets=q_proj,v_proj"]
        )
        assert (given.torch["lora"]["rank"], given.torch["lora"]["targets"]) == (8, ["q_proj", "v_proj"])


@pytest.mark.parametrize("name", ["Bert", "ModernBert", "Gemma3Text"])
def test_other_architectures(adapted, tmp_path, name):
    make(tmp_path / "llama", name)
    change = {"model.bidirectional": True} if name == "Gemma3Text" else {}
    artifact = train(adapted, {"model.pooling": "mean", "torch.gradient_cache": True, **change}).artifact
    figures = artifact.teva["parity"]
    assert all(figure["max_difference"] < 1e-5 for figure in figures.values()), figures
    # The adapter by itself, merged again through what the artifact around it says (its direction too).
    from teva_torch.publishing import merge_adapter

    again = merge_adapter(artifact.path / "adapter", tmp_path / "again", device="cpu")
    assert (again.path / "config.json").read_text() == (artifact.path / "config.json").read_text()


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_an_artifact_of_half_the_size(adapted, tmp_path, lora):
    from safetensors.torch import load_file
    from transformers import AutoModel

    adapted["torch"] |= {"lora": lora, "parity_cosine": 0.999}
    artifact = train(adapted, {"torch.export_weights": "bfloat16"}).artifact
    half = load_file(artifact.path / "model.safetensors")
    assert {value.dtype for value in half.values()} == {torch.bfloat16}
    assert AutoModel.from_pretrained(artifact.path).dtype == torch.bfloat16
    # What is trained is not rounded: the same run, exported whole, rounds to the same.
    (tmp_path / "run/artifact").rename(tmp_path / "half")
    for step in (tmp_path / "run/checkpoints").iterdir():
        if step.name.endswith("4"):
            step.rename(tmp_path / "last")
    whole = load_file(train(adapted, {"torch.export_weights": "float32"}).artifact.path / "model.safetensors")
    assert all(torch.equal(half[name], value.bfloat16()) for name, value in whole.items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"torch.lora.targets": "q_prj"}, "no linear layer is called 'q_prj'. Did you mean 'q_proj'"),
        ({"torch.lora.targets": "embed_tokens"}, "no linear layer is called 'embed_tokens'"),
        ({"torch.lora.ranks": 4}, r"torch\.lora\.ranks: unknown key. Did you mean 'rank'"),
        ({"torch.lora.rank": 0}, r"torch\.lora\.rank: .*greater than or equal to 1"),
        ({"torch.lora": None, "torch.weights": "bfloat16"}, r"torch\.weights: weights that are trained stay float32"),
    ],
)  # fmt: skip
def test_bad_settings_are_told(adapted, change, words):
    with pytest.raises(RecipeError, match=words):
        train(adapted, change)


@pytest.mark.parametrize("change", [{"torch.weights": "nf4"}, {"torch.optimizer": "adamw_8bit"}])
def test_without_bitsandbytes(adapted, monkeypatch, change):
    import importlib.util
    import sys

    original = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "bitsandbytes" else original(name, *a)
    )
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(MissingExtraError, match=r'pip install "teva-torch\[bitsandbytes\]"'):
        train(adapted, change)


@pytest.mark.parametrize("change", [{"torch.weights": "nf4"}, {"torch.optimizer": "adamw_8bit"}])
def test_with_bitsandbytes(adapted, tmp_path, change):
    import shutil

    from safetensors.torch import load_file

    # A state of 8 bits is for tensors of 4096 numbers and more alone.
    make(tmp_path / "llama", "Llama", hidden_size=64, intermediate_size=128, head_dim=16)
    adapted["torch"]["lora"]["rank"] = 64
    change = {**change, "torch.parity_cosine": 0.99}
    artifact = train(adapted, change).artifact
    expected = load_file(artifact.path / "model.safetensors")
    original = load_file(tmp_path / "llama/model.safetensors")
    assert {value.dtype for value in expected.values()} == {torch.float32}
    # What 4 bits leave of a weight is what the adapter was trained beside, and what it is merged into.
    moved = expected["layers.0.mlp.up_proj.weight"] - original["layers.0.mlp.up_proj.weight"]
    assert 0 < moved.norm() / original["layers.0.mlp.up_proj.weight"].norm() < 0.5
    newest = checkpoint.latest_checkpoint(tmp_path / "run/checkpoints")
    state = load_file(newest / "optimizer.safetensors")
    kinds = {value.dtype for name, value in state.items() if name.endswith((":state1", ":exp_avg"))}
    assert (torch.uint8 in kinds) is ("torch.optimizer" in change)
    shutil.rmtree(artifact.path)
    shutil.rmtree(newest)
    found = load_file(train(adapted, change).artifact.path / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_without_peft(adapted, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r'pip install "teva-torch\[lora\]"'):
        train(adapted)


@pytest.mark.parametrize("changes", [{"num_hidden_layers": 1}, {"num_hidden_layers": 3}, {"hidden_size": 64}])
def test_an_adapter_of_another_model_is_refused(adapted, tmp_path, changes):
    artifact = train(adapted).artifact
    other = Artifact.load(make(tmp_path / "other", "Llama", **changes))
    with pytest.raises(ArtifactError, match=r"cannot be loaded into|has no place for|that the model asks for"):
        merge(other, artifact.path / "adapter")
