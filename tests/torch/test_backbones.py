from __future__ import annotations

import json
import shutil

import pytest
from tests.torch.backbones import ARCHITECTURES, DECODERS, ENCODERS, make

import torch
from teva_data.artifact import Artifact
from teva_data.errors import ArtifactError, RecipeError
from teva_data.parity import ParityError
from teva_data.rendering import Renderer, add_eos, ends_with_special, load_tokenizer
from teva_torch.backbones import load_backbone, reads_both_ways
from teva_torch.model import Retriever
from teva_torch.training import train

IDS = [[3, 5, 9, 11, 20, 21, 8, 30, 31, 7, 2], [3, 12, 2], [3, 40, 41, 6, 2], [3, 2]]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            made[name] = make(tmp_path_factory.mktemp(name), name)
        return made[name]

    return get


def _hidden(path, texts, bidirectional):
    """transformers' own hidden states of each text alone: float32 [T, H]."""
    from transformers import AutoConfig, AutoModel

    config, options = AutoConfig.from_pretrained(path), {}
    if bidirectional and config.model_type == "gemma3_text":
        config = type(config)(**{**config.to_dict(), "use_bidirectional_attention": True})
    elif bidirectional:
        options["is_causal"] = False
    model = AutoModel.from_pretrained(path, config=config).eval()
    with torch.no_grad():
        return [model(input_ids=torch.tensor([ids]), **options).last_hidden_state[0] for ids in texts]


def _pooled(hidden, pooling):
    vector = {"cls": lambda: hidden[0], "mean": lambda: hidden.mean(0), "last": lambda: hidden[-1]}[pooling]()
    return vector / vector.norm()


@pytest.mark.parametrize(
    ("name", "bidirectional"), [*((n, None) for n in ARCHITECTURES), *((n, True) for n in DECODERS)]
)
def test_vectors_are_the_pooled_hidden_states(backbone, name, bidirectional):
    path, pooling = backbone(name), "mean" if bidirectional else "last" if name in DECODERS else "cls"
    model = Retriever.load(Artifact.load(path), pooling=pooling, normalize=True, bidirectional=bidirectional).eval()
    expected = torch.stack([_pooled(hidden, pooling) for hidden in _hidden(path, IDS, bidirectional)])
    with torch.no_grad():
        # One pass over rows of all lengths, and passes of few tokens: padding changes nothing.
        torch.testing.assert_close(model.vectors(IDS), expected, rtol=1e-4, atol=2e-6)
        torch.testing.assert_close(model.encode(IDS, chunk_tokens=12), expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_on_either_side(backbone, name, bidirectional):
    model = Retriever.load(
        Artifact.load(backbone(name)), pooling="last", normalize=True, bidirectional=bidirectional
    ).eval()
    ids, mask = model.pad(IDS)
    left_ids, left_mask = ids.clone(), mask.clone()
    for row, text in enumerate(IDS):
        left_ids[row], left_mask[row] = ids[row].roll(-len(text)), mask[row].roll(-len(text))
    assert left_mask[3].tolist() == [0] * 9 + [1, 1]
    with torch.no_grad():
        torch.testing.assert_close(model(left_ids, left_mask), model(ids, mask), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_direction(backbone, name):
    artifact = Artifact.load(backbone(name))
    assert artifact.is_decoder
    assert not reads_both_ways(load_backbone(artifact))
    assert reads_both_ways(load_backbone(artifact, bidirectional=True))
    assert not reads_both_ways(load_backbone(artifact, bidirectional=False))


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_cannot_read_from_left_to_right(backbone, name):
    artifact = Artifact.load(backbone(name))
    assert not artifact.is_decoder
    assert reads_both_ways(load_backbone(artifact, bidirectional=True))
    with pytest.raises(RecipeError, match=r"model\.bidirectional: .* reads both ways whatever"):
        load_backbone(artifact, bidirectional=False)


def test_layers_with_a_state_are_refused(tmp_path):
    from transformers import MambaConfig, MambaModel

    path = make(tmp_path / "mamba", "Qwen3")
    MambaModel(MambaConfig(vocab_size=60, hidden_size=32, num_hidden_layers=1)).save_pretrained(path)
    with pytest.raises(RecipeError, match="mamba has layers of linear_attention"):
        load_backbone(Artifact.load(path), bidirectional=True)


def test_an_architecture_that_does_not_heed_the_key_is_refused(tmp_path):
    from transformers import OpenAIGPTConfig, OpenAIGPTModel

    path = make(tmp_path / "gpt", "Qwen3")
    OpenAIGPTModel(OpenAIGPTConfig(vocab_size=60, n_embd=32, n_layer=1, n_head=2, n_positions=64)).save_pretrained(path)
    with pytest.raises(RecipeError, match="openai-gpt reads from left to right whatever its configuration says"):
        load_backbone(Artifact.load(path), bidirectional=True)


def test_an_encoder_decoder_is_refused(tmp_path):
    from transformers import T5Config, T5Model

    path = make(tmp_path / "t5", "Llama")
    T5Model(T5Config(vocab_size=60, d_model=16, d_ff=16, d_kv=4, num_layers=1, num_heads=2)).save_pretrained(path)
    with pytest.raises(ArtifactError, match=r"encoder-decoder \(t5\)"):
        load_backbone(Artifact.load(path))


def test_capped_scores_are_told(short, tmp_path, caplog):
    # transformers' sdpa leaves the cap out without a word; a cap this low shows it.
    path = make(tmp_path / "gemma", "Gemma2", attn_logit_softcapping=0.01)
    eager, fast = (load_backbone(Artifact.load(path), attention=name).eval() for name in ("eager", "sdpa"))
    ids = torch.tensor([IDS[0]])
    with torch.no_grad():
        difference = eager(input_ids=ids).last_hidden_state - fast(input_ids=ids).last_hidden_state
    assert difference.abs().max() > 1e-3
    short["model"] |= {"name": str(path), "pooling": "last"}
    with caplog.at_level("WARNING", "teva_torch"):
        train(short)
    assert "gemma2 caps the scores of its attention at 0.01" in caplog.text
    caplog.clear()
    short["train"]["output"] += "-2"
    with pytest.raises(ParityError, match="gives other vectors for the exported model"):
        train(short, {"torch.attention": "eager", "torch.parity_cosine": 0.999999})
    assert "caps" not in caplog.text


# Training, export, reload and both runtimes.


@pytest.fixture
def short(recipe):
    recipe["train"] |= {"steps": 2, "save_every": 2, "log_every": 1}
    recipe["model"] |= {"normalize": True}
    return recipe


@pytest.mark.parametrize(
    ("name", "bidirectional", "pooling"),
    [
        *((name, None, "cls" if name != "ModernBert" else "mean") for name in ENCODERS),
        *((name, None, "last") for name in DECODERS),
        *((name, True, "mean") for name in DECODERS),
    ],
)
def test_trained_exported_and_reloaded(backbone, short, name, bidirectional, pooling):
    short["model"] |= {"name": str(backbone(name)), "pooling": pooling, "bidirectional": bidirectional}
    artifact = train(short).artifact
    figures = artifact.teva["parity"]
    assert set(figures) == {"teva-torch", "sentence-transformers"}
    assert all(figure["max_difference"] < 1e-5 for figure in figures.values()), figures
    both = name in ENCODERS or bool(bidirectional)
    assert artifact.is_decoder is not both
    # What is stored alone decides: nothing is said about the direction here.
    assert reads_both_ways(load_backbone(artifact)) is both
    config = json.loads((artifact.path / "config.json").read_text())
    if bidirectional:
        assert config["use_bidirectional_attention"] is True
    assert config.get("sliding_window") in (None, 6) or name == "ModernBert"
    tokenizer = load_tokenizer(artifact)
    assert tokenizer("red tea")["input_ids"][-1] == 2 or pooling == "mean"


def test_gradient_checkpointing_changes_no_gradient(backbone, short, tmp_path):
    from teva_torch.recipe import read_recipe

    gradients = []
    for checkpointing in (False, True):
        short["torch"]["gradient_checkpointing"] = checkpointing
        short["model"] |= {"name": str(backbone("Qwen3")), "pooling": "last"}
        base = Artifact.load(backbone("Qwen3"))
        model = Retriever.for_training(base, read_recipe(short), torch.device("cpu")).train()
        assert model.backbone.is_gradient_checkpointing is checkpointing
        model.vectors(IDS)[:, 0].sum().backward()
        gradients.append({name: value.grad for name, value in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-7)


# EOS.


def _ids(tokenizer, text="red tea", **options):
    return tokenizer(text, **options)["input_ids"]


@pytest.mark.parametrize("ending", ["$A", "<bos> $A", "<bos> $A <eos>", "$A <eos>"])
def test_defect_18_eos_is_added_once(tmp_path, ending):
    path = make(tmp_path / "model", "Llama", ending=ending)
    tokenizer = load_tokenizer(Artifact.load(path))
    begin = [3] if "<bos>" in ending else []
    text = _ids(tokenizer, add_special_tokens=False)
    assert add_eos(tokenizer) is ("<eos>" not in ending)
    assert ends_with_special(tokenizer)
    assert add_eos(tokenizer) is False
    assert _ids(tokenizer) == [*begin, *text, 2]
    assert _ids(tokenizer, "") == [*begin, 2]
    # Truncation cuts the text and leaves EOS the last.
    assert _ids(tokenizer, "red " * 50, truncation=True, max_length=6)[-2:] == [text[0], 2]
    tokenizer.save_pretrained(tmp_path / "saved")
    shutil.copy(path / "config.json", tmp_path / "saved")
    assert _ids(load_tokenizer(Artifact.load(tmp_path / "saved"))) == [*begin, *text, 2]
    from tokenizers import Tokenizer

    # text-embeddings-inference reads this file alone.
    assert Tokenizer.from_file(str(tmp_path / "saved/tokenizer.json")).encode("red tea").ids == [*begin, *text, 2]


@pytest.mark.parametrize("kind", ["byte level", "byte level and template", "bert"])
def test_eos_beside_other_processors(tmp_path, kind):
    from tokenizers import processors

    path = make(tmp_path / "model", "Llama", ending="$A")
    tokenizer = load_tokenizer(Artifact.load(path))
    template = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 3)])
    tokenizer.backend_tokenizer.post_processor = {
        "byte level": processors.ByteLevel(trim_offsets=False),
        # As Llama 3 is published.
        "byte level and template": processors.Sequence([processors.ByteLevel(), template]),
        "bert": processors.BertProcessing(("<eos>", 2), ("<bos>", 3)),
    }[kind]
    text = _ids(tokenizer, add_special_tokens=False)
    assert add_eos(tokenizer) is (kind != "bert")
    assert _ids(tokenizer) == [*([] if kind == "byte level" else [3]), *text, 2]


def test_a_published_model_without_eos_stays_as_it_is(short, tmp_path):
    from teva_data.layout import write_layout

    path = make(tmp_path / "published", "Qwen3")
    write_layout(
        path, pooling="last", normalize=True, dim=32, max_length=32, prompts={}, teva={}, card="",
    )  # fmt: skip
    short["model"] |= {"name": str(path)}
    artifact = train(short).artifact
    assert artifact.teva["recipe"]["model"]["append_eos"] is False
    assert _ids(load_tokenizer(artifact))[-1] != 2
    short["train"]["output"] += "-2"
    assert _ids(load_tokenizer(train(short, {"model.append_eos": True}).artifact))[-1] == 2


def test_defect_18_no_eos_to_add(short, tmp_path):
    path = make(tmp_path / "model", "Llama")
    config = json.loads((path / "tokenizer_config.json").read_text())
    del config["eos_token"]
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    short["model"] |= {"name": str(path), "pooling": "last"}
    with pytest.raises(ArtifactError, match=r"no eos_token.*model\.append_eos: false"):
        train(short)
    assert train(short, {"model.append_eos": False}).artifact.pooling == "last"


def test_the_limit_counts_eos(tmp_path):
    artifact = Artifact.load(make(tmp_path / "model", "Llama", ending="$A"))
    renderer = Renderer.from_artifact(artifact, max_length=3, append_eos=True)
    assert [len(ids) for ids in renderer.tokenize(["red tea salt sugar", "red"])] == [3, 2]
    with pytest.raises(ArtifactError, match="more than the 1 special tokens"):
        Renderer.from_artifact(artifact, max_length=1, append_eos=True)
