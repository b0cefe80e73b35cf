"""Claims of pictures in training: one gradient by every way there is, the same vectors after saving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import Context, Result, claim

STRATEGIES = ("", "fsdp2", "zero3")  # of two processes; "" is ddp


@claim(
    "images", name="images_gradients",
    target="of a batch of texts, pictures and both on a tiny random Qwen2.5-VL, the whole gradient, the vision tower's "
    "and that of the patches differ by at most 1e-5 (relative L2) from inputs encoded one by one without caching: "
    "plain and cached, in full, with a frozen tower and with LoRA, 1 process, and 2 under ddp, fsdp2 and ZeRO-3; after "
    "a run with LoRA, the vectors of the artifact, loaded and encoded, differ from the trained model's by at most 1e-5",
    peer="autograd over inputs encoded one by one, {torch}; {deepspeed}",
)  # fmt: skip
def images_gradients(context: Context) -> Result:
    """Cases of benchmarks/vision_gradients.py; the processes are real ones that talk over gloo."""
    from benchmarks import vision_gradients

    return compared(context, vision_gradients.cases(quick=context.quick), "Qwen2_5_VL", "data")


def compared(context: Context, cases: Sequence[Any], model: str, data: str, **limits: Any) -> Result:
    """All gradients of cases beside the plainest, and what is saved beside what was trained.

    Args:
        context: of the claim.
        cases: of benchmarks/vision_gradients.py.
        model: whose run is saved.
        data: what it is trained on.
        limits: the recipe's, of media.
    """
    from benchmarks import vision_gradients

    work, hears = vision_gradients.make(context.work / "inputs"), model == vision_gradients.OMNI
    rows = [_row("1 process", case, vision_gradients.by_teva(case, work), work) for case in cases]
    for strategy in STRATEGIES:
        out = context.work / f"{strategy}.safetensors"
        found = vision_gradients.by_processes(2, work, out, strategy, quick=context.quick, kind="omni" if hears else "")
        rows += [_row(f"2 processes, {strategy or 'ddp'}", case, found[case.name], work) for case in cases]
    worst = max(rows, key=lambda row: row["whole"])
    patches = {
        case.name: vision_gradients.patches_difference(case, work)
        for case in cases if case.trained in ("full", "lora with the tower") and not hears
    }  # fmt: skip
    saved = _saved(context.work / "run", work / model, work / data, limits)
    figures: dict[str, Any] = {
        "gradients compared": len(rows), "largest relative L2": worst["whole"],
        "of": f"{worst['how']}, {worst['case']}",
        f"largest of the {'towers' if hears else 'vision tower'}": max(
            row["tower"] for row in rows if row["tower"] is not None
        ),
        **({"largest of the patches": max(patches.values())} if patches else {}),
        "largest relative difference of a loss": max(row["loss"] for row in rows),
        **{f"largest difference of vectors, {how}": value for how, value in saved.items()},
    }  # fmt: skip
    passed = all(value <= 1e-5 for key, value in figures.items() if key.startswith("largest"))
    return Result(figures, passed, details={"rows": rows, "patches": patches})


def _row(how: str, case: Any, found: tuple[Any, float], work: Path) -> dict[str, Any]:
    from benchmarks.gradients import relative_difference
    from benchmarks.vision_gradients import plainly

    expected, loss = plainly(case.model, case.trained, work)
    mine, theirs = (
        {name: one for name, one in each.items() if ".visual." in name or ".audio_tower." in name}
        for each in (found[0], expected)
    )  # fmt: skip
    return {
        "how": how, "case": case.name, "whole": relative_difference(found[0], expected)[0],
        "tower": relative_difference(mine, theirs)[0] if theirs else None, "loss": abs(found[1] - loss) / abs(loss),
    }  # fmt: skip


def _saved(output: Path, base: Path, data: Path, limits: Mapping[str, Any]) -> dict[str, float]:
    """A run with LoRA, the towers' too: the trained model's vectors beside those of what it wrote."""
    import numpy as np

    import torch
    from teva_data.artifact import Artifact
    from teva_data.dataset import Dataset
    from teva_data.rendering import Renderer
    from teva_infer import encode
    from teva_torch import checkpoint
    from teva_torch.model import Retriever
    from teva_torch.recipe import read_recipe
    from teva_torch.training import train

    adapted = {"rank": 2, "vision": True, **({"audio": True} if limits else {})}
    recipe = read_recipe({
        "model": {"name": str(base), "pooling": "last", "normalize": True, "query_max_length": 64,
                  "document_max_length": 160 if limits else 64, **limits},
        "data": {"path": str(data), "negatives": 2},
        "train": {"output": str(output), "steps": 4, "batch_size": 9, "learning_rate": 1e-2},
        "torch": {"device": "cpu", "gradient_cache": True, "chunk_tokens": 24, "lora": adapted},
    })  # fmt: skip
    artifact = train(recipe).artifact
    trained = Retriever.for_training(Artifact.load(base), recipe, torch.device("cpu"))
    newest = checkpoint.latest_checkpoint(output / "checkpoints")
    assert newest is not None
    checkpoint.restore_weights(newest, trained, "retriever.")
    renderer = Renderer.from_artifact(artifact)
    texts = [renderer.document(one.document_text, one.title, None, one.pieces) for one in Dataset.open(data).corpus]
    ids = renderer.tokenize(texts)
    with torch.no_grad():
        before, expected, loaded = (
            torch.cat([model.eval().vectors([one]) for one in ids]).numpy()
            for model in (Retriever.load(Artifact.load(base), pooling="last", normalize=True), trained,
                          Retriever.load(artifact))
        )  # fmt: skip
    assert np.abs(before - expected).max() > 1e-2  # else nothing was trained, and nothing shown
    encoded = encode(artifact.path, data, output / "vectors", device="cpu", batch_tokens=100).matrix()
    return {"loaded": float(np.abs(loaded - expected).max()), "encoded": float(np.abs(encoded - expected).max())}


@claim(
    "images", name="images_decoding",
    target="real pages are decoded and cut into patches by a thread for each core of two at 1.6 times the speed of one "
    "at least, and a step that computes longer than its pages take to decode waits for them at most 5 % of its time, "
    "the first step left out",
    peer="one thread, and decoding in the loop itself; Pillow {pillow}, {transformers}",
    needs=("data",),
)  # fmt: skip
def images_decoding(context: Context) -> Result:
    """Pages of docpages as they are, and as JPEGs of 200 dots an inch; steps of a small random Qwen2.5-VL on them."""
    from benchmarks import page_decoding

    pages, steps = (16, 3) if context.quick else (64, 10)
    work = page_decoding.make(context.work, context.data)
    figures: dict[str, Any] = {}
    gains = []
    for name, data in (("as they are (PNG)", work.pages), ("200 dots an inch (JPEG)", work.large)):
        speeds = {workers: page_decoding.speed(work.model, data, pages, workers) for workers in (1, 2)}
        figures |= {f"pages a second, {name}, {workers} threads": speed for workers, speed in speeds.items()}
        gains.append(speeds[2] / speeds[1])
        figures[f"gain, {name}"] = gains[-1]
    shares = []
    for how in page_decoding.WAYS:
        took = page_decoding.steps(work, how, steps)
        figures |= {f"seconds a step, {how}": took.step, f"share of it waiting, {how}": took.waiting / took.step}
        if how != page_decoding.IN_THE_LOOP:
            shares.append(took.waiting / took.step)
    passed = min(gains) >= 1.6 and max(shares) <= 0.05
    return Result(figures, passed, f"{pages} pages; steps of {page_decoding.BATCH} queries with a page each")
