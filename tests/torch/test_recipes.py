"""Every shipped recipe trains a tiny model of its own architecture; its facts are those of its source."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import yaml
from tests.conftest import make_tiny_data
from tests.torch import backbones, omni_models, vision_models

from teva_data.conversion import LAYOUTS
from teva_data.datasets import NAMES
from teva_torch.cli import main
from teva_torch.recipe import read_recipe, shipped, torch_section
from teva_torch.training import train

# The class of each recipe's model, and how its published tokenizer ends a text.
MODELS = {
    "bert-dpr-nq": ("Bert", None),
    "bert-msmarco": ("Bert", None),
    "bert-scifact": ("Bert", None),
    "bge-m3": ("XLMRoberta", None),
    "e5-base-distill": ("Bert", None),
    "e5-base-matryoshka": ("Bert", None),
    "e5-base-msmarco": ("Bert", None),
    "minilm-medquad": ("Bert", None),
    "minilm-tldr": ("Bert", None),
    "mistral-7b-msmarco": ("Mistral", "<bos> $A"),
    "multilingual-e5-base-miracl": ("XLMRoberta", None),
    "qwen3-embedding-4b-scifact": ("Qwen3", "$A <eos>"),
    "repllama-llama31-8b": ("Llama", "<bos> $A"),
    "tevatron-bge": ("Qwen2_5_VL", None),
    "tevatron-omni": ("Qwen2_5Omni", None),
    "tevatron-omni-multivent": ("Qwen2_5Omni", None),
    "tevatron-vl": ("Qwen2_5_VL", None),
    "tevatron-wikiss": ("Qwen2_5_VL", None),
}
# Recipes that leave pooling and normalisation to a model that says them, which the bare tiny one does not.
SAID_BY_THE_MODEL = ("minilm-medquad", "minilm-tldr")


# Sources: the commands in Tevatron's repository (README "Tevatron 101"; examples/repllama with the adapter that it
# published; examples/example_qwen3.md, example_msmarco.md, example_dpr.md, example_scifact.md; examples/distill), and
# the defaults of its arguments where a command is silent. `group` is --train_group_size, 1 positive and the negatives;
# `queries` are those of one softmax, `updates` how many of these make an update.
# rate, temperature, normalised, pooling, group, queries, updates, query and document length, epochs, LoRA rank / alpha
FACTS = {
    "mistral-7b-msmarco": (1e-4, 0.01, True, "last", 16, 32, 4, 32, 156, 1, (16, 64)),
    "repllama-llama31-8b": (1e-4, 0.01, True, "last", 16, 32, 4, 32, 196, 1, (32, 64)),
    "qwen3-embedding-4b-scifact": (1e-4, 0.01, True, "last", 16, 32, 1, 32, 512, 10, (16, 64)),
    "bert-msmarco": (1e-5, 1.0, False, "cls", 8, 8, 1, 16, 128, 3, None),
    "bert-dpr-nq": (1e-5, 1.0, False, "cls", 2, 128, 1, 32, 156, 40, None),
    "bert-scifact": (1e-5, 1.0, False, "cls", 2, 64, 1, 64, 512, 80, None),
    "e5-base-distill": (2e-5, 0.02, True, "mean", 16, 64, 4, 350, 350, 5, None),
    # The paper, section 3.1, and examples/multimodal/qwen2.5vl.
    "tevatron-bge": (1e-4, 0.02, True, "last", 4, 128, 1, 512, 512, 1, (16, 64)),
    "tevatron-omni": (1e-4, 0.02, True, "last", 4, 128, 1, 512, 1280, 1, (16, 64)),
    "tevatron-omni-multivent": (1e-4, 0.02, True, "last", 4, 8, 4, 512, 3072, 4, (16, 64)),
    "tevatron-vl": (1e-4, 0.02, True, "last", 4, 128, 1, 512, 832, 1, (16, 64)),
    "tevatron-wikiss": (1e-4, 0.02, True, "last", 4, 128, 1, 512, 832, 1, (16, 64)),
}
PROMPTS = {
    "mistral-7b-msmarco": ("Query: ", "Passage: "),
    "repllama-llama31-8b": ("query: ", "passage: "),
    "qwen3-embedding-4b-scifact": (
        "Find a relevant scientific paper abstract to support or reject the claim. Query: ", ""
    ),
    "bert-msmarco": ("", ""),
    "bert-dpr-nq": ("", ""),
    "bert-scifact": ("", ""),
    "e5-base-distill": ("query: ", "passage: "),
    **dict.fromkeys(
        ("tevatron-bge", "tevatron-omni", "tevatron-omni-multivent", "tevatron-vl", "tevatron-wikiss"), ("Query: ", "")
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def scored_data(tmp_path_factory):
    """The tiny data with a teacher's scores, which distillation needs and nothing else reads."""
    directory = tmp_path_factory.mktemp("scored-data")
    make_tiny_data(directory)
    rows = [json.loads(line) for line in (directory / "train.jsonl").read_text().splitlines()]
    for row in rows:
        row["positive_scores"] = [0.9 for _ in row["positive_document_ids"]]
        row["negative_scores"] = [0.1 * (at + 1) for at, _ in enumerate(row["negative_document_ids"])]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    for split in ("train", "train-mined"):
        (directory / f"{split}.jsonl").write_text(text)
    return directory


@pytest.fixture(scope="module")
def picture_data(tmp_path_factory):
    return vision_models.make_data(tmp_path_factory.mktemp("pictures") / "data")


@pytest.fixture(scope="module")
def media_data(tmp_path_factory):
    return omni_models.make_data(tmp_path_factory.mktemp("media") / "data")


def test_every_recipe_is_tried():
    assert sorted(shipped()) == sorted(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_trains_to_an_artifact(name, scored_data, request, tmp_path):
    architecture, ending = MODELS[name]
    # 128 positions: a query's prompt alone takes more than the usual tiny model has.
    positions = {"max_position_embeddings": 130 if architecture == "XLMRoberta" else 128}
    hearing = architecture == "Qwen2_5Omni"
    seeing = hearing or architecture in vision_models.ARCHITECTURES
    if hearing and shutil.which("ffmpeg") is None:
        pytest.skip("makes its clips with ffmpeg")
    if seeing:
        model = (
            omni_models.make(tmp_path / "model") if hearing else vision_models.make(tmp_path / "model", architecture)
        )
        (model / "chat_template.jinja").write_text("red {{ messages[0]['content'] }} green")
    else:
        model = backbones.make(tmp_path / "model", architecture, ending=ending, **positions)
    recipe = read_recipe(name)
    kind = "media_data" if hearing else "picture_data"
    data = [str(scored_data if name == "tevatron-bge" or not seeing else request.getfixturevalue(kind))]
    if recipe.data.datasets:  # texts alone, and media
        data = [str(scored_data), *data * (len(recipe.data.datasets) - 1)]
    keys = [f"data.datasets.{at}.path" for at in range(len(data))] if recipe.data.datasets else ["data.path"]
    sizes = {
        "model.name": str(model), **dict(zip(keys, data, strict=True)), "train.output": str(tmp_path / "run"),
        "train.steps": 2, "train.epochs": None, "train.batch_size": 4, "torch.device": "cpu",
        "model.query_max_length": min(32, recipe.model.query_max_length), "model.document_max_length": 32,
    }  # fmt: skip
    if seeing:
        sizes["model.max_pixels"] = 256
    if hearing:
        sizes |= {"model.document_max_length": 256, "model.video_pixels": 256}
    if recipe.loss.matryoshka_dims:
        sizes["loss.matryoshka_dims"] = [8, 16, 32]
    if name in SAID_BY_THE_MODEL:
        sizes |= {"model.pooling": "mean", "model.normalize": True}
    artifact = train(recipe, sizes).artifact
    parity = json.loads((artifact.path / "teva.json").read_text())["parity"]
    assert ("sentence-transformers" in parity) is not hearing
    assert all(one["min_cosine"] >= torch_section(recipe).parity_cosine for one in parity.values())
    assert (artifact.path / "adapter").is_dir() == (torch_section(recipe).lora is not None)


@pytest.mark.parametrize("name", FACTS)
def test_facts_are_those_of_the_source(name):
    recipe = read_recipe(name)
    model, loss, run, lora = recipe.model, recipe.loss, recipe.train, torch_section(recipe).lora
    temperature = loss.student_temperature or loss.temperature
    assert (
        run.learning_rate, temperature, model.normalize, model.pooling, 1 + recipe.data.negatives, run.batch_size,
        run.accumulate, model.query_max_length, model.document_max_length, run.epochs,
        lora and (lora.rank, lora.alpha),
    ) == FACTS[name]  # fmt: skip
    assert (recipe.prompts.query, recipe.prompts.document) == PROMPTS[name]
    assert (run.weight_decay, run.schedule) == (0, "linear")  # transformers' defaults, which Tevatron has
    if lora is not None:
        all_seven = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
        assert set(lora.targets) == all_seven - ({"k_proj"} if name.startswith("repllama") else set())
        assert lora.dropout == 0.1
    # RepLLaMA: 100 updates of an epoch of 498k queries; those with pictures 0.005; all others 0.1, the default.
    expected = 100 * run.batch_size * run.accumulate / 498_000 if name.startswith("repllama") else 0.1
    expected = 0.005 if name.startswith("tevatron") else expected
    assert run.warmup_ratio == pytest.approx(expected, rel=0.01)


def test_the_teacher_and_the_student_have_one_temperature():
    loss = read_recipe("e5-base-distill").loss
    assert (loss.name, loss.student_temperature, loss.teacher_temperature) == ("kl", 0.02, 0.02)


def test_matryoshka_ends_at_the_whole_vector():
    assert read_recipe("e5-base-matryoshka").loss.matryoshka_dims == [64, 128, 256, 512, 768]


@pytest.mark.parametrize("name", MODELS)
def test_says_what_it_is_and_how_its_data_are_made(name, capsys):
    text = shipped()[name].read_text()
    first = text.splitlines()[0]
    assert re.fullmatch(r"# \S.{20,90}", first), first
    assert main(["recipes", "list"]) == 0
    line = next(one for one in capsys.readouterr().out.splitlines() if one.split()[0] == name)
    assert line.endswith(first.lstrip("# "))
    assert main(["recipes", "show", name]) == 0
    assert capsys.readouterr().out == text
    if name in SAID_BY_THE_MODEL:
        return  # written before: their data are other projects' own
    data = yaml.safe_load(text)["data"]
    paths = [one["path"] for one in data.get("datasets", [data])]
    made = re.findall(
        r"^#.*?teva-data convert (\S+) (\S+)(?: --from (\S+))?", text[text.index("# Data") :], flags=re.MULTILINE
    )[: len(paths)]
    assert [destination for _, destination, _ in made] == paths
    assert all(source in NAMES or layout in LAYOUTS for source, _, layout in made)
