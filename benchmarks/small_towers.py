"""Models with two towers that are small enough to be trained on two CPU cores: MiniLM reads, a tower from scratch sees;
or one from scratch reads, and one hears.

The one that sees is transformers' ``VisionTextDualEncoder`` (LiT's setting, Zhai et al., arXiv 2111.07991: the
tower that reads is trained already and left as it is, the other learns to say the same), in sentence-transformers'
layout.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from teva_data.layout import write_layout

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


def make_hearing(directory: Path, texts: Iterable[str], *, seconds: int = 2, width: int = 32, mels: int = 32) -> Path:
    """Write an untrained CLAP (Wu et al., arXiv 2211.06687) that reads letters, and hears 16,000 samples a second.

    Args:
        directory: where.
        texts: whose letters it knows.
        seconds: of a sound.
        width: of the tower that hears, at first; its second part has twice that.
        mels: rows of a spectrogram; four times as many columns stand for all of the sound.
    """
    from transformers import ClapConfig, ClapModel

    import torch

    torch.manual_seed(0)
    vocabulary = _letters(directory, texts)
    reads = {
        "vocab_size": vocabulary, "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 256, "max_position_embeddings": POSITIONS + 2, "pad_token_id": 1, "bos_token_id": 0,
        "eos_token_id": 2, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.0, "projection_dim": 128,
    }  # fmt: skip
    config = ClapConfig(text_config=reads, audio_config=_hears(width, mels), projection_dim=128)
    model = ClapModel(config)
    _settle(model)
    model.save_pretrained(directory)
    _extractor(seconds, mels).save_pretrained(directory)
    write_layout(
        directory, pooling="towers", normalize=True, dim=128, max_length=POSITIONS, prompts={}, teva={},
        card="A small model that hears, untrained.\n",
    )  # fmt: skip
    return directory


def add_hearing(directory: Path, *, seconds: int = 3, width: int = 32, mels: int = 32) -> Path:
    """Add an untrained tower that hears, CLAP's, to a model that :func:`make` has written.

    Args:
        directory: of the model.
        seconds: of a sound.
        width: as in :func:`make_hearing`.
        mels: likewise.
    """
    from transformers import VisionTextDualEncoderConfig, VisionTextDualEncoderModel

    import torch
    from teva_torch.hearing import model_class

    torch.manual_seed(0)
    kept = VisionTextDualEncoderModel.from_pretrained(str(directory), local_files_only=True)
    config = VisionTextDualEncoderConfig.from_pretrained(str(directory), local_files_only=True)
    config.audio_config = _hears(width, mels)
    model = model_class()(config, kept.vision_model, kept.text_model)
    _settle(model)
    model.save_pretrained(directory)
    seen = json.loads((directory / "preprocessor_config.json").read_text(encoding="utf-8"))
    heard = _extractor(seconds, mels).to_dict()
    (directory / "preprocessor_config.json").write_text(json.dumps({**heard, **seen}))
    return directory


def _settle(model: Any) -> None:
    """Give the normalisation of spectrograms what they are about like, in dB: it is not trained."""
    norm = model.audio_model.audio_encoder.batch_norm
    norm.running_mean.fill_(-50.0)
    norm.running_var.fill_(30.0**2)


def _hears(width: int, mels: int) -> dict[str, Any]:
    return {
        "num_mel_bins": mels, "spec_size": 2 * mels, "patch_size": 4, "patch_stride": [4, 4], "window_size": 4,
        "patch_embeds_hidden_size": width, "depths": [2, 2], "num_attention_heads": [2, 4], "hidden_size": 2 * width,
        "num_hidden_layers": 2, "projection_dim": 128, "enable_fusion": False, "drop_path_rate": 0.0,
    }  # fmt: skip


def _extractor(seconds: int, mels: int) -> Any:
    from transformers import ClapFeatureExtractor

    rate = 16_000
    return ClapFeatureExtractor(
        feature_size=mels, sampling_rate=rate, hop_length=-(-seconds * rate // (4 * mels - 1)), max_length_s=seconds,
        fft_window_size=512, frequency_min=50, frequency_max=7600, truncation="rand_trunc", padding="pad",
    )  # fmt: skip


def _letters(directory: Path, texts: Iterable[str]) -> int:
    """A tokenizer of letters, in lower case; returns how many tokens it knows."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted({letter for text in texts for letter in text.lower()})
    vocabulary = {name: number for number, name in enumerate(["<s>", "<pad>", "</s>", "<unk>", *letters])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.normalizer = normalizers.Lowercase()
    plain.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    plain.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    directory.mkdir(parents=True, exist_ok=True)
    PreTrainedTokenizerFast(
        tokenizer_object=plain, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        model_max_length=POSITIONS,
    ).save_pretrained(directory)  # fmt: skip
    return len(vocabulary)
