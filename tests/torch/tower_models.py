"""Tiny random models with two towers, of transformers' own classes, with tokenizer and image processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.conftest import WORDS
from tests.torch.backbones import make_tokenizer

import torch

SIDE, PATCH, POSITIONS = 16, 8, 24
_TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
         "max_position_embeddings": POSITIONS, "pad_token_id": 1, "bos_token_id": 3, "eos_token_id": 2}  # fmt: skip
_VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
           "image_size": SIDE, "patch_size": PATCH}  # fmt: skip
_STEADY = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
NAMES = ("CLIP", "Siglip", "VisionTextDualEncoder")


def make(directory: Path, name: str) -> Path:
    """A model of random weights.

    Args:
        directory: where.
        name: of the architecture in transformers; ``VisionTextDualEncoder`` reads with a BERT and sees as CLIP does.
    """
    import transformers

    torch.manual_seed(0)
    vocabulary = {word: number for number, word in enumerate(["<unk>", "<pad>", "<eos>", "<bos>", *WORDS])}
    text: dict[str, Any] = {**_TEXT, "vocab_size": len(vocabulary)}
    if name == "CLIP":
        end = len(vocabulary)  # id 2 has another meaning there: pool at the largest id
        vocabulary |= {"<eos>": end, "<spare>": 2}
        text |= {"vocab_size": end + 1, "eos_token_id": end}
        config = transformers.CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=24)
        model: Any = transformers.CLIPModel(config)
    elif name == "Siglip":
        model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=_VISION))
    else:
        config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
            transformers.CLIPVisionConfig(**_VISION), transformers.BertConfig(**text, **_STEADY), projection_dim=24
        )
        model = transformers.VisionTextDualEncoderModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)  # or all inputs have nearly one vector
    model.save_pretrained(directory)
    make_tokenizer(directory, vocabulary, "<bos> $A <eos>")
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    settings |= {"model_max_length": POSITIONS}
    if name == "Siglip":
        settings["model_input_names"] = ["input_ids"]  # as it is published: no mask
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    kind = "Siglip" if name == "Siglip" else "CLIP"
    size = {"height": SIDE, "width": SIDE} if kind == "Siglip" else {"shortest_edge": SIDE}
    processor = {
        "image_processor_type": f"{kind}ImageProcessor", "size": size, "do_resize": True, "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25],
        **({} if kind == "Siglip" else {"crop_size": {"height": SIDE, "width": SIDE}, "do_center_crop": True}),
    }  # fmt: skip
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))
    return directory
