"""A small Qwen2-VL of random weights as it is published: byte-level BPE with the same special tokens, both processors.

Real runtimes load it, which they would not a model whose sizes are too odd for their kernels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
PATCH, MERGE = 14, 2
POSITIONS = 1024
SMALL_TEXT: Mapping[str, Any] = {
    "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 256, "max_position_embeddings": POSITIONS,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
}  # fmt: skip
SMALL_VISION: Mapping[str, Any] = {"depth": 2, "embed_dim": 64, "hidden_size": 128, "num_heads": 2, "mlp_ratio": 2}


def make(directory: Path, texts: Iterable[str], *, words: int = 800, most_pixels: int = 28 * 28 * 36) -> Path:
    """Write the bare model, its tokenizer and its processors.

    Args:
        directory: where.
        texts: what the tokenizer is trained on.
        words: of its vocabulary, special tokens not counted.
        most_pixels: of a picture.
    """
    from transformers import Qwen2VLModel

    import torch

    torch.manual_seed(0)
    model = Qwen2VLModel(describe(directory, texts, words=words, most_pixels=most_pixels))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)  # or all inputs have nearly one vector
    model.save_pretrained(directory)
    return directory


def describe(
    directory: Path,
    texts: Iterable[str],
    *,
    words: int = 800,
    most_pixels: int = 28 * 28 * 36,
    text: Mapping[str, Any] = SMALL_TEXT,
    vision: Mapping[str, Any] = SMALL_VISION,
) -> Any:
    """Write all but the model: its tokenizer and its processors.

    Args:
        directory: where.
        texts: what the tokenizer is trained on.
        words: of the tokenizer's vocabulary, special tokens not counted.
        most_pixels: of a picture.
        text: sizes of the model that reads; as many words as the tokenizer has, where it does not say how many.
        vision: sizes of the tower.

    Returns:
        The model's transformers configuration.
    """
    from transformers import Qwen2VLConfig

    ids = _tokenizer(directory, texts, words)
    ends = {"pad": "<|endoftext|>", "bos": "<|im_start|>", "eos": "<|im_end|>"}
    text = {"vocab_size": len(ids), **{f"{one}_token_id": ids[word] for one, word in ends.items()}, **text}
    vision = {"patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": 2, "in_channels": 3, **vision}
    marks = {
        f"{one}_token_id": ids[f"<|{word}|>"]
        for one, word in (
            ("vision_start", "vision_start"), ("vision_end", "vision_end"), ("image", "image_pad"),
            ("video", "video_pad"),
        )
    }  # fmt: skip
    settings = {
        "patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2, "image_mean": [0.48, 0.46, 0.41],
        "image_std": [0.27, 0.26, 0.28], "size": {"shortest_edge": 28 * 28, "longest_edge": most_pixels},
    }  # fmt: skip
    names = {"processor_class": "Qwen2VLProcessor", "image_processor_type": "Qwen2VLImageProcessor"}
    (directory / "preprocessor_config.json").write_text(json.dumps({**names, **settings}))
    return Qwen2VLConfig(text_config=text, vision_config=vision, **marks)


def _tokenizer(directory: Path, texts: Iterable[str], words: int) -> dict[str, int]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    plain.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=words, initial_alphabet=letters, show_progress=False)
    )
    learned = json.loads(plain.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"], merges=[tuple(pair) for pair in learned["merges"]], eos_token="<|im_end|>",
        pad_token="<|endoftext|>", unk_token=None, extra_special_tokens=list(SPECIAL), model_max_length=POSITIONS,
    )  # fmt: skip
    tokenizer.save_pretrained(directory)
    return dict(tokenizer.get_vocab())
