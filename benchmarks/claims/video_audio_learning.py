"""Claims of recordings and clips: that small models learn to find them, here, by the commands that a user types."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks import picture_sets, small_towers

from . import Context, Result, claim
from .images_learning import MEASURES, _judged, _searched
from .real_run import _public, command, minilm

_BAR = "nDCG@10 and R@1 above those before training, and nDCG@10 above chance by a permutation test at p < 0.01"

_SPOKEN = ("fr", "es", "ru")


@claim(
    "video_audio", name="media_words", needs=("data",),
    target=f"word to recording, words and recordings that training has not seen: {_BAR}",
)  # fmt: skip
def media_words(context: Context) -> Result:
    """A CLAP of 0.6 million weights learns from 451 spoken words how English is spelt, well enough to find others."""
    work, log = context.work, list[str]()
    command("teva-data", "convert", context.data / "spokenwords-en", work / "converted", log=log)
    counts = picture_sets.divide(work / "converted", work / "data", variants=2 if context.quick else 5, kind="audio")
    letters = ["abcdefghijklmnopqrstuvwxyz'- "]
    model = small_towers.make_hearing(work / "model", letters)
    recipe = _recipe(model, [work / "data/train"], work / "run", 10 if context.quick else 360)
    return _learned(context, model, recipe, {"words": work / "data/test"}, {"words": counts}, log)


@claim(
    "video_audio", name="media_clips", needs=("data",),
    target=f"description to clip, another take of animations that training has seen: {_BAR}; real scenes of another "
    "collection reported",
)  # fmt: skip
def media_clips(context: Context) -> Result:
    """MiniLM reads and stays as it is; a tower of 0.6 million weights learns to see 205 animations, by four frames."""
    work, log = context.work, list[str]()
    for name in ("screensavers", "realvideo"):
        command("teva-data", "convert", context.data / name, work / name, log=log)
    counts = picture_sets.divide(work / "screensavers", work / "data", kind="video")
    model = small_towers.make(work / "model", minilm())
    recipe = _recipe(model, [work / "data/train"], work / "run", 5 if context.quick else 120, batch_size=64)
    recipe["model"]["query_max_length"] = 24  # MiniLM's passes are most of a step, and first sentences tell most
    recipe["model"] |= {"video_rate": 2.0, "video_frames": 4}
    recipe["torch"]["freeze_text"] = True
    sets = {"animations": work / "data/test", "real scenes": work / "realvideo"}
    return _learned(context, model, recipe, sets, {"animations": counts}, log, reported=("real scenes",))


@claim(
    "video_audio", name="media_speech", needs=("data",),
    target=f"written caption to recording, and spoken caption to picture, none of which training has seen: {_BAR}, on "
    "both",
)  # fmt: skip
def media_speech(context: Context) -> Result:
    """One model of three towers: MiniLM reads and stays as it is, one learns to see, one to hear, in four languages."""
    work, log, counts = context.work, list[str](), dict[str, Any]()
    for part in ("image", "speech", "speech2image"):
        words = ("convert", context.data / "stamps", work / f"{part}-converted", "--part", part)
        command("teva-data", *words, "--splits", "train", "test", log=log)
    for part, kind in (("image", "image"), ("speech", "audio"), ("speech2image", "image")):
        more = _captions(context.data) if part == "image" else {}
        counts[part] = picture_sets.divide(work / f"{part}-converted", work / part, variants=2, texts=more, kind=kind)
    model = small_towers.add_hearing(small_towers.make(work / "model", minilm()))
    weights = {"speech2image": 2.0, "speech": 1.0, "image": 1.0}
    recipe = _recipe(model, [work / part / "train" for part in weights], work / "run", 8 if context.quick else 360)
    recipe["data"] |= {"mixing": "weighted", "batches": "one_dataset"}
    for one, weight in zip(recipe["data"]["datasets"], weights.values(), strict=True):
        one["weight"] = weight
    recipe["torch"]["freeze_text"] = True
    tests = {"caption to recording": work / "speech/test", "speech to picture": work / "speech2image/test"}
    return _learned(context, model, recipe, tests, counts, log)


def _captions(data: Path) -> dict[str, list[str]]:
    """Of each picture, its captions in the languages that are spoken; the English one asks for it anyway."""
    found = picture_sets.rows(data / "stamps" / "corpus.image.jsonl.gz")
    return {row["docid"]: [row["captions"][one] for one in _SPOKEN if one in row["captions"]] for row in found}


def _recipe(model: Path, data: Sequence[Path], output: Path, steps: int, batch_size: int = 128) -> dict[str, Any]:
    return {
        "model": {"name": str(model), "query_max_length": 64, "document_max_length": 64},
        "data": {"datasets": [{"path": str(each)} for each in data], "negatives": 0},
        "loss": {"temperature": 0.05, "directions": ["query_to_document", "document_to_query"]},
        "train": {
            "output": str(output), "steps": steps, "batch_size": batch_size, "learning_rate": 1e-3,
            "weight_decay": 0.05, "log_every": 20,
        },
        "torch": {"device": "cpu"},
    }  # fmt: skip


def _learned(
    context: Context,
    model: Path,
    recipe: dict[str, Any],
    sets: Mapping[str, Path],
    counts: Mapping[str, Mapping[str, Any]],
    log: list[str],
    reported: Sequence[str] = (),
) -> Result:
    """Train, search before and after, and judge each set but those that are only reported."""
    work = context.work
    figures: dict[str, Any] = {f"{name}: {key}": value for name, each in counts.items() for key, value in each.items()}
    before = {name: _searched(model, data, work / f"{name}-before", log) for name, data in sets.items()}
    (work / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command("teva-torch", "train", work / "recipe.yaml", log=log)
    passed = True
    for name, data in sets.items():
        new, old = _searched(work / "run/artifact", data, work / f"{name}-after", log), before[name]
        chance, p = picture_sets.against_chance(*_judged(data, work / f"{name}-after"), context.seed)
        figures |= {f"{name}: {key} before": old[key] for key in MEASURES}
        figures |= {f"{name}: {key} after": new[key] for key in MEASURES}
        figures |= {f"{name}: nDCG@10 by chance": round(chance, 4), f"{name}: p": p}
        if name not in reported:
            passed &= p < 0.01 and all(new[key] > old[key] for key in ("nDCG@10", "R@1"))
    lines = (work / "run/metrics.jsonl").read_text().splitlines()
    recipe = recipe | {"data": "the training part"}
    details = {"commands": _public(log, context), "recipe": recipe, "loss": [*map(json.loads, lines)]}
    return Result(figures, passed, details=details)
