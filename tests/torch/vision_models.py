"""Tiny random vision-language models of real architectures, and data with pictures for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tests.conftest import WORDS
from tests.torch.backbones import make_tokenizer

import torch

# Token ids and what the published tokenizers call them.
SPECIAL = ["<unk>", "<pad>", "<eos>", "<bos>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>"]
PATCH, MERGE = 4, 2
_TEXT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 512, "head_dim": 8, "pad_token_id": 1, "bos_token_id": 3,
    "eos_token_id": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
}  # fmt: skip
_VISION = {"depth": 2, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": 2,
           "in_channels": 3}  # fmt: skip
# Name in transformers to what its vision configuration holds beside.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Qwen2VL": {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2},
    "Qwen2_5_VL": {"hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 32, "window_size": 16,
                   "fullatt_block_indexes": [1]},
    "Qwen3VL": {"hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 32, "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0]},
}  # fmt: skip


def make(directory: Path, name: str, **size: int) -> Path:
    """A bare vision-language model of random weights with its tokenizer and its image processor's settings.

    Args:
        directory: where.
        name: of the architecture in transformers.
        size: ``shortest_edge`` and ``longest_edge`` of the processor, in pixels.
    """
    import transformers

    torch.manual_seed(0)
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    ids = {f"{one}_token_id": SPECIAL.index(f"<|{word}|>") for one, word in (
        ("vision_start", "vision_start"), ("image", "image_pad"), ("vision_end", "vision_end"), ("video", "video_pad"),
    )}  # fmt: skip
    config = getattr(transformers, f"{name}Config")(
        text_config={**_TEXT, "vocab_size": len(vocabulary)}, vision_config={**_VISION, **ARCHITECTURES[name]}, **ids
    )
    model = getattr(transformers, f"{name}Model")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)  # or all inputs have nearly one vector
    model.save_pretrained(directory)
    make_tokenizer(directory, vocabulary, "$A <eos>", SPECIAL[4:])
    settings = {
        "image_processor_type": "Qwen2VLImageProcessor", "patch_size": PATCH, "merge_size": MERGE,
        "temporal_patch_size": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25],
        "size": {"shortest_edge": 64, "longest_edge": 1024, **size},
    }  # fmt: skip
    (directory / "preprocessor_config.json").write_text(json.dumps(settings))
    return directory


def make_data(directory: Path, pictures: int = 12) -> Path:
    """Queries and documents of text, of pictures, and of both: each third of them."""
    from PIL import Image

    (directory / "images").mkdir(parents=True)
    random = np.random.default_rng(5)
    for number in range(pictures):
        height, width = random.integers(9, 40, 2)
        pixels = random.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(directory / f"images/{number}.png")
    documents, queries = [], []
    for number in range(3 * pictures):
        text = " ".join(random.choice(WORDS, random.integers(2, 9)))
        image = f"images/{number % pictures}.png"
        document = [{"text": text}, {"image": image}, {"text": [text, "and"], "image": [image, None]}][number % 3]
        documents.append({"docid": f"d{number}", **document})
        question = " ".join(random.choice(WORDS, random.integers(1, 5)))
        asked = [{"query_text": question}, {"query_text": question}, {"query_text": "", "query_image": image}]
        wrong = [f"d{(number + step) % (3 * pictures)}" for step in (1, 5)]
        queries.append({"query_id": f"q{number}", **asked[number % 3], "positive_document_ids": [f"d{number}"],
                        "negative_document_ids": wrong})  # fmt: skip
    for name, rows in (("corpus", documents), ("train", queries)):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory
