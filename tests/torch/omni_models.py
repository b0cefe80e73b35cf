"""A tiny random Qwen2.5-Omni, and data of texts, pictures, clips and recordings in any combination for it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from tests.conftest import WORDS
from tests.torch.backbones import make_tokenizer

import torch

# Token ids and what the published tokenizer calls them.
MARKS = ("vision_bos", "IMAGE", "VIDEO", "vision_eos", "audio_bos", "AUDIO", "audio_eos")
SPECIAL = ["<unk>", "<pad>", "<eos>", "<bos>", *(f"<|{mark}|>" for mark in MARKS)]
PATCH, MERGE, MELS = 4, 2, 16
KINDS = ("text", "image", "video", "audio")
_TEXT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 512, "pad_token_id": 1, "bos_token_id": 3, "eos_token_id": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
}  # fmt: skip
_VISION = {"depth": 2, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": 2,
           "in_channels": 3, "hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 32, "window_size": 16,
           "fullatt_block_indexes": [1]}  # fmt: skip
_AUDIO = {"num_mel_bins": MELS, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
          "d_model": 16, "max_source_positions": 64, "n_window": 20, "output_dim": 32}  # fmt: skip


def config() -> Any:
    """The configuration of the part that reads, sees and hears."""
    from transformers import Qwen2_5OmniThinkerConfig

    ids = {mark: SPECIAL.index(f"<|{mark}|>") for mark in MARKS}
    return Qwen2_5OmniThinkerConfig(
        text_config={**_TEXT, "vocab_size": len(SPECIAL) + len(WORDS)}, vision_config=_VISION, audio_config=_AUDIO,
        image_token_index=ids["IMAGE"], video_token_index=ids["VIDEO"], audio_token_index=ids["AUDIO"],
        vision_start_token_id=ids["vision_bos"], vision_end_token_id=ids["vision_eos"],
        audio_start_token_id=ids["audio_bos"], audio_end_token_id=ids["audio_eos"],
    )  # fmt: skip


def make(directory: Path) -> Path:
    """A model of random weights, head included, with its tokenizer and its processors' settings."""
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration

    torch.manual_seed(0)
    model = Qwen2_5OmniThinkerForConditionalGeneration(config())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)  # or all inputs have nearly one vector
    model.save_pretrained(directory)
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    make_tokenizer(directory, vocabulary, "$A <eos>", SPECIAL[4:])
    tokenizer = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "model_max_length": 512}))
    settings = {
        "image_processor_type": "Qwen2VLImageProcessor", "patch_size": PATCH, "merge_size": MERGE,
        "temporal_patch_size": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25],
        "size": {"shortest_edge": 64, "longest_edge": 1024},
        "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": MELS, "sampling_rate": 16000,
        "hop_length": 160, "chunk_length": 30, "n_fft": 400, "return_attention_mask": True,
        "processor_class": "Qwen2_5OmniProcessor",
    }  # fmt: skip
    (directory / "preprocessor_config.json").write_text(json.dumps(settings))
    frames = {"video_processor_type": "Qwen2VLVideoProcessor", "size": {"shortest_edge": 64, "longest_edge": 256}}
    (directory / "video_preprocessor_config.json").write_text(json.dumps(frames))
    return directory


def make_media(directory: Path, count: int = 3) -> dict[str, list[str]]:
    """Pictures, clips (one in two with a sound track) and recordings; their paths by kind."""
    import soundfile
    from PIL import Image

    directory.mkdir(parents=True)
    random, found = np.random.default_rng(5), dict[str, list[str]](image=[], video=[], audio=[])
    for number in range(count):
        height, width = random.integers(9, 40, 2)
        Image.fromarray(random.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(directory / f"{number}.png")
        length, rate = int(random.integers(3000, 9000)), (16000, 8000, 44100)[number % 3]
        soundfile.write(directory / f"{number}.wav", random.normal(0, 0.1, (length, 1 + number % 2)), rate)
        make_clip(directory / f"{number}.mp4", 1.0 + number, sound=number % 2 == 0, seed=number)
        for kind, end in (("image", "png"), ("video", "mp4"), ("audio", "wav")):
            found[kind].append(f"{directory.name}/{number}.{end}")
    return found


def make_clip(path: Path, seconds: float, *, sound: bool, seed: int = 0, rate: int = 8) -> Path:
    """A clip of noise that changes, by FFmpeg."""
    frames = np.random.default_rng(seed).integers(0, 255, (round(seconds * rate), 6, 8, 3), dtype=np.uint8)
    frames = frames.repeat(4, axis=1).repeat(4, axis=2)
    heard = ["-f", "lavfi", "-i", f"sine=frequency={300 + 100 * seed}:duration={seconds}", "-c:a", "aac"]
    subprocess.run(
        ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "32x24", "-r", str(rate),
         "-i", "-",
         *(heard if sound else []), "-c:v", "libx264", "-pix_fmt", "yuv420p", str(path)],
        input=frames.tobytes(), check=True, capture_output=True,
    )  # fmt: skip
    return path


def make_data(directory: Path) -> Path:
    """Queries and documents of each kind and of several kinds; speech among the queries."""
    media = make_media(directory / "media")
    random, documents, queries = np.random.default_rng(6), [], []
    for number in range(18):
        text = " ".join(random.choice(WORDS, random.integers(2, 7)))
        image, video, audio = (media[kind][number // 6] for kind in ("image", "video", "audio"))
        document = [
            {"text": text}, {"image": image}, {"video": video}, {"audio": audio},
            {"text": [text, "and"], "image": [image, None], "video": [None, video]},
            {"text": text, "video": video, "audio": audio},
        ][number % 6]  # fmt: skip
        documents.append({"docid": f"d{number}", **document})
        asked = [{"query_text": text}, {"query_text": "", "query_audio": audio}, {"query_text": text}][number % 3]
        wrong = [f"d{(number + step) % 18}" for step in (1, 5)]
        queries.append({"query_id": f"q{number}", **asked, "positive_document_ids": [f"d{number}"],
                        "negative_document_ids": wrong})  # fmt: skip
    for name, rows in (("corpus", documents), ("train", queries)):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory
