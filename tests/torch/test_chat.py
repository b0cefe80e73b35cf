"""Texts and pictures as messages of a chat template: the same ids in every runtime, cut within the message."""

from __future__ import annotations

import json

import pytest
from tests.conftest import WORDS
from tests.torch import vision_models

from teva_data.artifact import Artifact
from teva_data.dataset import Dataset
from teva_data.errors import ArtifactError
from teva_data.rendering import Renderer, load_tokenizer
from teva_torch.training import train

# As that of Qwen2.5-VL where a message is a text.
QWEN = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TINY = "{% for message in messages %}red {{ message['content'] }} <bos>green{% endfor %}"


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """A tokenizer of Qwen's own class with a small byte-level vocabulary, and its chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    directory = tmp_path_factory.mktemp("qwen")
    plain = Qwen2Tokenizer(vocab={}, merges=[])
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = plain.backend_tokenizer.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    made = Qwen2Tokenizer(
        vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]], eos_token="<|endoftext|>",
        pad_token="<|endoftext|>", extra_special_tokens=special[1:], chat_template=QWEN,
    )  # fmt: skip
    made.save_pretrained(directory)
    (directory / "config.json").write_text(
        json.dumps({"model_type": "qwen2", "hidden_size": 8, "max_position_embeddings": 512})
    )
    return directory


def test_ids_are_those_of_the_template(qwen, tmp_path):
    renderer = Renderer.from_artifact(
        Artifact.load(qwen), query_prompt="Query: ", max_length=64, append_eos=True, chat=True
    )
    bare = load_tokenizer(Artifact.load(qwen))
    renderer.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((qwen / "config.json").read_text())
    again = Renderer.from_artifact(Artifact.load(tmp_path), query_prompt="Query: ", max_length=64)
    twice = Renderer.from_artifact(Artifact.load(tmp_path), query_prompt="Query: ", max_length=64, chat=True)
    for text in ("red river", "¿qué?", "x" * 9):
        written = bare.apply_chat_template([{"role": "user", "content": f"Query: {text}"}], tokenize=False)
        expected = bare(written + "<|endoftext|>", add_special_tokens=False)["input_ids"]
        for one in (renderer, again, twice):
            assert one.tokenize([one.query(text)]) == [expected]
            assert one.lengths([one.query(text)]) == [len(expected)]
    (cut,) = again.tokenize([again.query("red river " * 40)], 50)
    assert len(cut) == 50
    frame = bare(QWEN[QWEN.index("<|im_start|>system") : QWEN.index("{% endif")], add_special_tokens=False)["input_ids"]
    assert cut[: len(frame)] == frame
    assert bare.decode(cut[-3:]) == "<|im_end|>\n<|endoftext|>"


def test_a_run_whose_artifact_every_runtime_reads_the_same(tmp_path):
    model, data = vision_models.make(tmp_path / "model", "Qwen2_5_VL"), vision_models.make_data(tmp_path / "data")
    settings = {
        "model": {"name": str(model), "pooling": "last", "normalize": True, "format": "chat", "query_max_length": 48,
                  "document_max_length": 64, "max_pixels": 256},
        "data": {"path": str(data), "negatives": 2},
        "train": {"output": str(tmp_path / "run"), "steps": 2, "batch_size": 4},
        "torch": {"device": "cpu"},
    }  # fmt: skip
    with pytest.raises(ArtifactError, match=r"no chat template.*format: plain"):
        train(settings)
    (model / "chat_template.jinja").write_text(TINY)
    artifact = train(settings, {"train.output": str(tmp_path / "chat")}).artifact
    # sentence-transformers has read the same ids: the parity gate has passed.
    assert "sentence-transformers" in json.loads((artifact.path / "teva.json").read_text())["parity"]
    renderer, plain = Renderer.from_artifact(artifact), Renderer.from_artifact(Artifact.load(model), max_length=64)
    red, green, end = plain.tokenizer.convert_tokens_to_ids(["red", "green", "<bos>"])
    for document in Dataset.open(data).corpus:
        text = plain.document(document.document_text, "", None, document.pieces)
        (bare,) = Renderer.from_artifact(Artifact.load(model), max_length=64, max_pixels=256).tokenize([text])
        (found,) = renderer.tokenize([renderer.document(document.document_text, "", None, document.pieces)])
        assert found == [red, *bare[:-1], end, green, bare[-1]]
        seen = [one for one in bare if one in (4, 5, 6)]
        if seen and len(seen) < len(bare) - 1:  # text beside a picture
            (cut,) = renderer.tokenize([renderer.document("", "", None, document.pieces)], len(seen) + 4)
            assert [one for one in cut if one in (4, 5, 6)] == seen
            assert (cut[0], cut[-3:]) == (red, [end, green, bare[-1]])
