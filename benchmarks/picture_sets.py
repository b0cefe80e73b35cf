"""A collection of pictures, clips or recordings as two datasets: some to train on, with variants, others to search."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teva_data import measures

Row = dict[str, Any]
_ASKING = ("query_image", "query_video", "query_audio")


def rows(path: Path) -> Iterator[Row]:
    """The rows of a JSONL file, gzipped or not."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def write(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSONL."""
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")


def divide(
    data: Path,
    output: Path,
    *,
    variants: int = 0,
    texts: Mapping[str, Sequence[str]] | None = None,
    kind: str = "image",
) -> Row:
    """Two datasets of a converted one whose splits ask for different pictures (or clips, or recordings).

    ``train`` holds the pictures of the training queries, each with ``variants`` of it: mirrored, shifted and scaled, so
    that a small collection tells what stays the same. ``test`` holds the pictures of the test queries, without those
    that are, pixel for pixel, among the training pictures or the ones before.

    Args:
        data: a dataset with the splits train and test.
        output: where.
        variants: of each training picture.
        texts: further training queries: docid to texts.
        kind: of the documents: ``image``, ``video`` or ``audio``.

    Returns:
        How many there are of what.
    """
    splits = {split: list(rows(data / f"{split}.jsonl")) for split in ("train", "test")}
    named = {
        split: {docid for row in found for docid in row["positive_document_ids"]} for split, found in splits.items()
    }
    pictures = {row["docid"]: data / row[f"document_{kind}"] for row in rows(data / "corpus.jsonl")}
    content = _pixels if kind == "image" else _bytes
    known = {content(pictures[docid]) for docid in named["train"]}
    kept = []
    for docid in sorted(named["test"]):
        pixels = content(pictures[docid])
        if pixels not in known:
            known.add(pixels)
            kept.append(docid)
    _test(output / "test", data, splits["test"], {docid: pictures[docid] for docid in kept}, kind)
    queries = [*splits["train"]]
    for docid, each in (texts or {}).items():
        if docid in named["train"]:
            queries += [
                {"query_id": f"{docid}~{number}", "query_text": text, "positive_document_ids": [docid]}
                for number, text in enumerate(each)
            ]
    _train(output / "train", queries, {docid: pictures[docid] for docid in sorted(named["train"])}, variants, kind)
    _link_asking(output / "train", data, queries)
    name = {"image": "pictures", "video": "clips", "audio": "recordings"}[kind]
    return {
        f"training {name}": len(named["train"]), "training queries": len(queries), f"test {name}": len(kept),
        "left out of them, seen before": len(named["test"]) - len(kept),
        "test queries": sum(1 for _ in rows(output / "test" / "test.jsonl")),
    }  # fmt: skip


def _train(directory: Path, queries: Sequence[Row], pictures: Mapping[str, Path], variants: int, kind: str) -> None:
    (directory / "media").mkdir(parents=True)
    documents, others = [], {}
    for docid, path in pictures.items():
        names = [docid]
        (directory / "media" / path.name).symlink_to(path.resolve())
        documents.append({"docid": docid, f"document_{kind}": f"media/{path.name}"})
        vary, end = {"image": (_vary, "jpg"), "audio": (_vary_sound, "wav")}.get(kind, (None, ""))
        for number in range(variants if vary else 0):
            name = f"{path.stem}~{number}.{end}"
            vary(path, directory / "media" / name, f"{docid}~{number}")
            documents.append({"docid": f"{docid}~{number}", f"document_{kind}": f"media/{name}"})
            names.append(f"{docid}~{number}")
        others[docid] = names
    write(directory / "corpus.jsonl", documents)
    # A query's positive rotates by epoch, so its variants take turns.
    write(
        directory / "train.jsonl",
        (
            {**row, "positive_document_ids": [each for docid in row["positive_document_ids"] for each in others[docid]]}
            for row in queries
        ),
    )


def _test(directory: Path, data: Path, queries: Sequence[Row], pictures: Mapping[str, Path], kind: str) -> None:
    (directory / "media").mkdir(parents=True)
    (directory / "qrels").mkdir()
    for path in pictures.values():
        (directory / "media" / path.name).symlink_to(path.resolve())
    write(
        directory / "corpus.jsonl",
        ({"docid": docid, f"document_{kind}": f"media/{path.name}"} for docid, path in pictures.items()),
    )
    answered = [row for row in queries if not pictures.keys().isdisjoint(row["positive_document_ids"])]
    _link_asking(directory, data, answered)
    write(directory / "test.jsonl", answered)
    ids = {row["query_id"] for row in answered}
    header, *judged = (data / "qrels/test.tsv").read_text(encoding="utf-8").splitlines()
    lines = [line for line in judged if line.split("\t")[0] in ids and line.split("\t")[1] in pictures]
    (directory / "qrels/test.tsv").write_text("\n".join([header, *lines, ""]), encoding="utf-8")


def _link_asking(directory: Path, data: Path, queries: Sequence[Row]) -> None:
    for name in (row[key] for row in queries for key in _ASKING if row.get(key)):
        (directory / name).symlink_to((data / name).resolve())


def _pixels(path: Path) -> str:
    from PIL import Image

    with Image.open(path) as picture:
        return hashlib.sha256(picture.convert("RGB").tobytes() + repr(picture.size).encode()).hexdigest()


def _bytes(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _vary_sound(source: Path, target: Path, seed: str) -> None:
    """A recording a little faster or slower, higher or lower with it, louder or quieter, later, with some noise."""
    import soundfile
    import soxr

    from teva_data.modalities import decode
    from teva_data.pieces import Media

    found = decode(Media("audio", str(source)))
    drawn = np.random.default_rng(int(hashlib.sha256(seed.encode()).hexdigest()[:12], 16))
    sound = soxr.resample(found.samples, found.rate, round(found.rate * drawn.uniform(0.85, 1.18)))
    sound = np.concatenate([np.zeros(int(drawn.uniform(0, 0.15) * found.rate)), sound * drawn.uniform(0.5, 1.5)])
    sound += drawn.normal(0, drawn.uniform(0, 0.01), len(sound))
    soundfile.write(target, sound.clip(-1, 1).astype(np.float32), found.rate)


def _vary(source: Path, target: Path, seed: str) -> None:
    """A picture mirrored or not, a little larger or smaller, a little aside, on white."""
    from PIL import Image, ImageOps

    drawn = random.Random(seed)
    with Image.open(source) as picture:
        whole = picture.convert("RGB")
    if drawn.random() < 0.5:
        whole = ImageOps.mirror(whole)
    scale = drawn.uniform(0.8, 1.1)
    scaled = whole.resize((round(whole.width * scale), round(whole.height * scale)))
    page = Image.new("RGB", whole.size, "white")
    places = (drawn.randint(*sorted((0, room))) for room in (whole.width - scaled.width, whole.height - scaled.height))
    page.paste(scaled, tuple(places))
    page.save(target, quality=90)


def against_chance(
    found: Mapping[str, Sequence[str]], judged: Mapping[str, Mapping[str, int]], seed: int, times: int = 20_000
) -> tuple[float, float]:
    """Whether rankings fit their own queries better than other queries: a permutation test of the mean nDCG@10.

    Queries with the same judgements (a picture's captions in several languages) have much in common: they are given
    another's judgements together, so that they count as one draw.

    Args:
        found: query to docids, best first.
        judged: query to docid to grade; the same queries.
        seed: of the permutations.
        times: permutations.

    Returns:
        The mean where each ranking is judged as an answer to a query drawn at random, and the share of permutations
        (itself one of them) whose mean is at least that of the rankings as they are.
    """
    queries, sets, own = sorted(judged), list[Mapping[str, int]](), list[int]()
    for each in queries:
        if judged[each] not in sets:
            sets.append(judged[each])
        own.append(sets.index(judged[each]))
    # [i, j]: the ranking of query i, by the judgements j.
    table: NDArray[np.float64] = np.array(
        [measures.ndcg(*measures.rank_gains([found.get(each, ())] * len(sets), sets), k=10) for each in queries]
    )
    at, of, generator = np.arange(len(queries)), np.array(own), np.random.default_rng(seed)
    mean = float(table[at, of].mean())
    means = np.array([table[at, generator.permutation(len(sets))[of]].mean() for _ in range(times)])
    return float(means.mean()), float((1 + (means >= mean - 1e-12).sum()) / (times + 1))
