"""A model with two towers that is small enough to be trained on two CPU cores: MiniLM reads, a tower from scratch sees.

It is transformers' ``VisionTextDualEncoder`` (LiT's setting, Zhai et al., arXiv 2111.07991: the tower that reads is
trained already and left as it is, the other learns to say the same), in sentence-transformers' layout.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from teva_data.artifact import write_layout

POSITIONS = 64


def make(directory: Path, reader: Path, *, side: int = 48, patch: int = 8, width: int = 128, layers: int = 3) -> Path:
    """Write an untrained model.

    Args:
        directory: where.
        reader: a directory with the BERT that reads, and its tokenizer.
        side: pixels of a picture's side.
        patch: pixels of a patch's side.
        width: of the tower that sees.
        layers: of it.
    """
    from transformers import (
        BertModel,
        CLIPVisionConfig,
        CLIPVisionModel,
        VisionTextDualEncoderConfig,
        VisionTextDualEncoderModel,
    )

    import torch

    torch.manual_seed(0)
    # It is to stay as it is: dropout would change what it says.
    steady = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    text = BertModel.from_pretrained(str(reader), local_files_only=True, **steady)
    vision = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers, num_attention_heads=width // 32,
            image_size=side, patch_size=patch,
        )
    )  # fmt: skip
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision.config, text.config, projection_dim=text.config.hidden_size
    )
    VisionTextDualEncoderModel(config, vision_model=vision, text_model=text).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(reader / name, directory)
    size = {"height": side, "width": side}
    processor = {
        "image_processor_type": "CLIPImageProcessor", "size": size, "crop_size": size, "do_center_crop": False,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    }  # fmt: skip
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))
    write_layout(
        directory, pooling="towers", normalize=True, dim=config.projection_dim, max_length=POSITIONS,
        prompts={}, teva={}, card="A small model with two towers, untrained.\n",
    )  # fmt: skip
    return directory
