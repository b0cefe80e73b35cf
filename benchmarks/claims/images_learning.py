"""Claims of pictures: that a small model learns to find them, here, by the commands that a user types."""

from __future__ import annotations

import json
import random
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks import bm25, picture_sets, small_towers

from . import Context, Result, claim
from .real_run import DTYPE, ROOT, _public, command, minilm

MEASURES = ("nDCG@10", "R@1", "R@10")
_SETS: Mapping[str, tuple[str, ...]] = {"emoji": (), "stamps": ("--part", "image")}


@claim(
    "images", name="images_learned", needs=("data",),
    target="caption to picture, emoji and stamps, pictures that training has not seen: nDCG@10 and R@1 above those "
    "before training, and nDCG@10 above chance by a permutation test at p < 0.01, on both",
)  # fmt: skip
def images_learned(context: Context) -> Result:
    """MiniLM reads and stays as it is; a tower of 0.4 million weights learns from scratch to see, on both at once."""
    work, log = context.work, list[str]()
    model = small_towers.make(work / "model", minilm())
    figures, sets = dict[str, Any](), dict[str, Path]()
    for name, part in _SETS.items():
        converted = work / f"{name}-converted"
        words = ("convert", context.data / name, converted, *part, "--splits", "train", "test")
        command("teva-data", *words, log=log)
        sets[name] = work / name
        more = _keywords(context.data) if name == "emoji" else {}
        counts = picture_sets.divide(converted, sets[name], variants=2 if context.quick else 7, texts=more)
        figures |= {f"{name}: {key}": value for key, value in counts.items()}
    before = {name: _searched(model, data / "test", work / f"{name}-before", log) for name, data in sets.items()}
    recipe = _recipe(model, [data / "train" for data in sets.values()], work / "run", 20 if context.quick else 600)
    (work / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command("teva-torch", "train", work / "recipe.yaml", log=log)
    artifact = work / "run/artifact"
    after = {name: _searched(artifact, data / "test", work / f"{name}-after", log) for name, data in sets.items()}
    passed = True
    for name, data in sets.items():
        chance, p = picture_sets.against_chance(*_judged(data / "test", work / f"{name}-after"), context.seed)
        old, new = before[name], after[name]
        figures |= {f"{name}: {key} before": old[key] for key in MEASURES}
        figures |= {f"{name}: {key} after": new[key] for key in MEASURES}
        figures |= {f"{name}: nDCG@10 by chance": round(chance, 4), f"{name}: p": p}
        passed &= p < 0.01 and all(new[key] > old[key] for key in ("nDCG@10", "R@1"))
    if not context.quick:
        _draw(sets, work, ROOT / "docs" / "images-learned.png", context.seed)
    lines = (work / "run/metrics.jsonl").read_text().splitlines()
    details = {
        "commands": _public(log, context),
        "recipe": recipe | {"data": "both"},
        "loss": [*map(json.loads, lines)],
    }
    return Result(
        figures, passed, "docs/images-learned.png shows queries drawn at random and what they find", details
    )  # fmt: skip


@claim(
    "images", name="images_docpages", needs=("data",), peer=bm25.version,
    target="headings read off page images of manuals that training has not seen: reported, without a target; the text "
    "layer of the same pages through MiniLM and BM25 beside it",
)  # fmt: skip
def images_docpages(context: Context) -> Result:
    """The same small model on pages of 128 x 128 pixels, where no letter can be read: what layout alone tells."""
    work, log = context.work, list[str]()
    model = small_towers.make(work / "model", minilm(), side=128, patch=16)
    command("teva-data", "convert", context.data / "docpages", work / "pages", log=log)
    counts = picture_sets.divide(work / "pages", work / "sets")
    data = work / "sets"
    rows = {"pages, before": _searched(model, data / "test", work / "before", log)}
    recipe = _recipe(model, [data / "train"], work / "run", 10 if context.quick else 60)
    (work / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command("teva-torch", "train", work / "recipe.yaml", log=log)
    rows["pages, after"] = _searched(work / "run/artifact", data / "test", work / "after", log)
    chance, p = picture_sets.against_chance(*_judged(data / "test", work / "after"), context.seed)
    layer = _text_layer(context.data / "docpages", data / "test", work / "layer")
    rows["text layer, MiniLM"] = _searched(minilm(), layer, work / "minilm", log)
    run = bm25.search(layer, "test", work / "bm25.run.tsv")
    rows["text layer, BM25"] = _scored(layer, run, work / "bm25.json", log)
    figures = {f"{row}: {key}": value for row, values in rows.items() for key, value in values.items()}
    figures |= counts | {"pages, nDCG@10 by chance": round(chance, 4), "pages, p": p}
    return Result(
        figures, passed=True, details={"commands": _public(log, context), "recipe": recipe | {"data": "pages"}}
    )


def _recipe(model: Path, data: Sequence[Path], output: Path, steps: int) -> dict[str, Any]:
    return {
        "model": {"name": str(model), "query_max_length": 32, "document_max_length": 32},
        "data": {"datasets": [{"path": str(each)} for each in data], "negatives": 0},
        "loss": {"temperature": 0.05},
        "train": {
            "output": str(output), "steps": steps, "batch_size": 128, "learning_rate": 1e-3, "weight_decay": 0.05,
            "log_every": 20,
        },
        "torch": {"device": "cpu", "freeze_text": True},
    }  # fmt: skip


def _keywords(data: Path) -> dict[str, list[str]]:
    """Of each emoji, Unicode's keywords as one more text."""
    found = picture_sets.rows(data / "emoji" / "corpus.jsonl.gz")
    return {row["docid"]: [", ".join(row["keywords"])] for row in found if row.get("keywords")}


def _searched(model: Path, data: Path, work: Path, log: list[str]) -> dict[str, float]:
    """Encode, search and score the test split: the means."""
    work.mkdir(parents=True, exist_ok=True)
    command("teva-infer", "encode", model, data, "--output", work / "corpus", *DTYPE, log=log)
    command("teva-infer", "encode", model, data, "--split", "test", "--output", work / "test", *DTYPE, log=log)
    sides = ("--queries", work / "test", "--corpus", work / "corpus")
    command("teva-infer", "search", *sides, "--output", work / "run.tsv", "--depth", "100", log=log)
    return _scored(data, work / "run.tsv", work / "scores.json", log)


def _scored(data: Path, run: Path, figures: Path, log: list[str]) -> dict[str, float]:
    words = ("--qrels", data / "qrels/test.tsv", "--run", run, "--measures", *MEASURES, "--json", figures)
    command("teva-eval", "score", *words, log=log)
    (row,) = json.loads(figures.read_text())["runs"]
    return {name: round(row["mean"][name], 4) for name in MEASURES}


def _judged(data: Path, work: Path) -> tuple[dict[str, list[str]], dict[str, dict[str, int]]]:
    """What was found for each query, best first, and its judgements."""
    from teva_data.dataset import Dataset
    from teva_data.runs import read_run

    found = {query: [docid for docid, _ in hits] for query, hits in read_run(work / "run.tsv").items()}
    return found, Dataset.open(data).qrels("test")


def _text_layer(source: Path, test: Path, output: Path) -> Path:
    """The dataset ``test`` with each page's text in place of its picture."""
    output.mkdir()
    texts = {row["docid"]: row["text"] for row in picture_sets.rows(source / "corpus.jsonl.gz")}
    pages = [{"docid": row["docid"], "text": texts[row["docid"]]} for row in picture_sets.rows(test / "corpus.jsonl")]
    picture_sets.write(output / "corpus.jsonl", pages)
    (output / "test.jsonl").symlink_to(test / "test.jsonl")
    (output / "qrels").symlink_to(test / "qrels")
    return output


def _draw(sets: Mapping[str, Path], work: Path, target: Path, seed: int, each: int = 6, best: int = 6) -> None:
    """Queries drawn at random, and the pictures that the trained model finds for them; the right one has a frame."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from PIL import Image

    figure, axes = pyplot.subplots(
        each * len(sets), best + 1, figsize=(9, 1.05 * each * len(sets)), width_ratios=[2, *[1] * best]
    )
    row = 0
    for name, data in sets.items():
        found, judged = _judged(data / "test", work / f"{name}-after")
        places = {
            one["docid"]: data / "test" / one["document_image"] for one in picture_sets.rows(data / "test/corpus.jsonl")
        }
        asked = {one["query_id"]: one["query_text"] for one in picture_sets.rows(data / "test/test.jsonl")}
        for query in random.Random(seed).sample(sorted(judged), each):
            ranks = [place for place, docid in enumerate(found[query], 1) if docid in judged[query]]
            place = f"rank {ranks[0] if ranks else 'above 100'} of {len(places)}"
            words = textwrap.fill(f"{name}: {asked[query]}", 28)
            axes[row, 0].text(0, 0.5, f"{words}\n{place}", va="center", fontsize=8)
            for column, docid in enumerate(found[query][:best], 1):
                with Image.open(places[docid]) as picture:
                    axes[row, column].imshow(picture.convert("RGB"))
                right = docid in judged[query]
                for side in axes[row, column].spines.values():
                    side.set(visible=right, color="green", linewidth=3)
            row += 1
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for axis in axes[:, 0]:
        axis.set_axis_off()
    figure.tight_layout(pad=0.3)
    figure.savefig(target, dpi=80)
    pyplot.close(figure)
