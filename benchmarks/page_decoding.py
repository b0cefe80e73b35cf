"""How fast pages become patches, and how long a training step waits for them."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BATCH = 8
IN_THE_LOOP, ONE, TWO = "decoded in the loop", "by a thread in the background", "by two threads in the background"
WAYS = (IN_THE_LOOP, ONE, TWO)
_MAX_PIXELS = 614_656  # 784 x 784
_STEP_PIXELS = 200_704  # of a page in a step, 256 tokens: the step is a small model's
_LARGE = 1654  # pixels of an A4 page's width at 200 dots an inch


@dataclasses.dataclass(frozen=True)
class Work:
    """What is measured on.

    Attributes:
        model: a random Qwen2.5-VL with patches of 14 pixels.
        pages: docpages, converted.
        large: its pages as large JPEGs.
    """

    model: Path
    pages: Path
    large: Path


@dataclasses.dataclass(frozen=True)
class Took:
    """Seconds of a step, and those of them in which it waited for its batch."""

    step: float
    waiting: float


def make(work: Path, data: Path) -> Work:
    """The model and the data.

    Args:
        work: where.
        data: the directory of the collections.
    """
    source, pages = data / "docpages", work / "pages"
    subprocess.run(
        [Path(sys.executable).parent / "teva-data", "convert", source, pages], check=True, stdout=subprocess.DEVNULL
    )
    return Work(_make_model(work / "model"), pages, _enlarged(pages, work / "large"))


def _make_model(directory: Path) -> Path:
    """As the tests' tiny one, with patches of the published size and enough layers for a step to take its time."""
    from tests.torch import vision_models
    from transformers import AutoConfig, Qwen2_5_VLModel

    vision_models.make(directory, "Qwen2_5_VL", longest_edge=_MAX_PIXELS, shortest_edge=3136)
    config = AutoConfig.from_pretrained(directory).to_dict()
    config["text_config"] |= {"num_hidden_layers": 4, "hidden_size": 256, "intermediate_size": 1024, "head_dim": 64}
    config["text_config"] |= {"max_position_embeddings": 2048, "layer_types": ["full_attention"] * 4}
    config["text_config"]["rope_parameters"] |= {"mrope_section": [16, 8, 8]}
    config["vision_config"] |= {"patch_size": 14, "window_size": 112, "depth": 4, "hidden_size": 192, "num_heads": 4}
    config["vision_config"] |= {"intermediate_size": 512, "out_hidden_size": 256, "fullatt_block_indexes": [3]}
    Qwen2_5_VLModel(type(AutoConfig.from_pretrained(directory)).from_dict(config)).save_pretrained(directory)
    for name, changes in (
        ("preprocessor_config.json", {"patch_size": 14}), ("tokenizer_config.json", {"model_max_length": 2048}),
    ):  # fmt: skip
        settings = json.loads((directory / name).read_text()) | changes
        (directory / name).write_text(json.dumps(settings))
    return directory


def _enlarged(pages: Path, directory: Path, most: int = 128) -> Path:
    """Some of the pages as large JPEGs, and the queries that ask for them."""
    from PIL import Image

    from teva_data.dataset import Dataset

    (directory / "images").mkdir(parents=True)
    dataset, kept = Dataset.open(pages), {}
    for document in itertools.islice(dataset.corpus, most):
        image = Image.open(io.BytesIO(document.media[0].read())).convert("RGB")
        image = image.resize((_LARGE, round(image.height * _LARGE / image.width)), Image.Resampling.BICUBIC)
        image.save(directory / f"images/{len(kept)}.jpg", quality=90)
        kept[document.docid] = f"images/{len(kept)}.jpg"
    queries = [
        {"query_id": query.query_id, "query_text": query.query_text,
         "positive_document_ids": [one for one in query.positive_document_ids if one in kept]}
        for query in dataset.queries("train").queries(0, len(dataset.queries("train")))
    ]  # fmt: skip
    rows: dict[str, list[dict[str, Any]]] = {
        "corpus": [{"docid": docid, "image": image} for docid, image in kept.items()],
        "train": [query for query in queries if query["positive_document_ids"]],
    }
    for name, each in rows.items():
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in each))
    return directory


def speed(model: Path, data: Path, pages: int, workers: int, media: Mapping[str, Any] | None = None) -> float:
    """Documents of media a second from bytes to patches or spectrograms, the better of two times."""
    from teva_data.artifact import Artifact
    from teva_data.dataset import Dataset
    from teva_data.inputs import load_media
    from teva_data.rendering import Renderer

    renderer = Renderer.from_artifact(Artifact.load(model), max_length=2048, media=media)
    documents = list(itertools.islice(Dataset.open(data).corpus, pages))
    seconds = []
    for _ in range(2):
        ids = renderer.tokenize([renderer.document("", "", None, document.media) for document in documents])
        begun = time.perf_counter()
        load_media(ids, workers)
        seconds.append(time.perf_counter() - begun)
    return len(documents) / min(seconds)


def make_clips(work: Path, data: Path) -> Work:
    """A small random Qwen2.5-Omni, real clips, and clips asked for by recordings of speech.

    Args:
        work: where.
        data: the directory of the collections.
    """
    for name, words in (("realvideo", ()), ("spokenwords-en", ("--splits", "test"))):
        convert = [Path(sys.executable).parent / "teva-data", "convert", data / name, work / name, *words]
        subprocess.run(convert, check=True, stdout=subprocess.DEVNULL)
    (work / "realvideo/train.jsonl").write_text((work / "realvideo/test.jsonl").read_text())
    return Work(_make_omni(work / "model"), work / "spokenwords-en", work / "realvideo")


def _make_omni(directory: Path) -> Path:
    from tests.torch import omni_models
    from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    omni_models.make(directory)
    config = Qwen2_5OmniThinkerConfig.from_pretrained(directory).to_dict()
    config["text_config"] |= {"num_hidden_layers": 4, "hidden_size": 256, "intermediate_size": 1024}
    config["text_config"] |= {"max_position_embeddings": 2048, "layer_types": ["full_attention"] * 4}
    config["text_config"]["rope_parameters"] |= {"mrope_section": [16, 8, 8]}
    config["vision_config"] |= {"patch_size": 14, "window_size": 112, "depth": 4, "hidden_size": 192, "num_heads": 4}
    config["vision_config"] |= {"intermediate_size": 512, "out_hidden_size": 256, "fullatt_block_indexes": [3]}
    config["audio_config"] |= {"output_dim": 256, "num_mel_bins": 128, "max_source_positions": 1500, "n_window": 100}
    changed = Qwen2_5OmniThinkerConfig.from_dict(config)
    Qwen2_5OmniThinkerForConditionalGeneration(changed).save_pretrained(directory)
    for name, changes in (
        ("preprocessor_config.json", {"patch_size": 14, "feature_size": 128}),
        ("tokenizer_config.json", {"model_max_length": 2048}),
        ("video_preprocessor_config.json", {"size": {"shortest_edge": 784, "longest_edge": 78_400}}),
    ):  # fmt: skip
        settings = json.loads((directory / name).read_text()) | changes
        (directory / name).write_text(json.dumps(settings))
    return directory


def steps(work: Work, how: str, count: int, media: Mapping[str, Any] | None = None) -> Took:
    """Training steps on the large pages.

    Args:
        work: as :func:`make` gives.
        how: one of ``WAYS``.
        count: steps beside the first, which is left out.
        media: limits of clips and recordings.
    """
    import torch
    from teva_data.artifact import Artifact
    from teva_data.feed import Feed
    from teva_data.plan import BatchPlan
    from teva_data.rendering import Renderer
    from teva_torch.caching import BatchGradient, Passes
    from teva_torch.losses import InfoNCE
    from teva_torch.model import Retriever
    from teva_torch.recipe import read_recipe

    recipe = read_recipe({
        "model": {"name": str(work.model), "pooling": "last", "normalize": True, "query_max_length": 64,
                  "document_max_length": 512},
        "data": {"path": str(work.large), "negatives": 0, "picture_workers": 2 if how == TWO else 1},
        "train": {"output": "-", "steps": 1, "batch_size": BATCH}, "torch": {"device": "cpu", "lora": {"rank": 8}},
    })  # fmt: skip
    renderer = Renderer.from_artifact(Artifact.load(work.model), max_length=512, max_pixels=_STEP_PIXELS, media=media)
    feed = Feed(BatchPlan.from_recipe(recipe), renderer, recipe)
    items = map(feed.batch, range(count + 1)) if how == IN_THE_LOOP else feed.batches(0, count + 1)
    model = Retriever.for_training(Artifact.load(work.model), recipe, torch.device("cpu")).train()
    step = BatchGradient(model, InfoNCE(temperature=0.05), Passes(2048, cached=True, full=True))
    step.add(next(items))
    waiting, begun = 0.0, time.perf_counter()
    for _ in range(count):
        asked = time.perf_counter()
        item = next(items)
        waiting += time.perf_counter() - asked
        model.zero_grad()
        step.add(item)
    return Took((time.perf_counter() - begun) / count, waiting / count)
