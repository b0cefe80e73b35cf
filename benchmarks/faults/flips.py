"""Flipped bytes in what teva has written: each must be an error that names the file, or change nothing.

A *keep* is a file or directory that a command has left. One byte of one of its files is changed, size and times stay;
then the keep's readers run in a process of their own. What they give is compared with what they give of the untouched
files: an error that names the file (or the directory it belongs to) is *detected*, the same result is *harmless* (white
space, a log, what is healed by making it again), anything else is *undetected*.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import forks, works
from .works import WORKS, Workshop

_LOOKED_AT = "looked-at.json"
_expected: dict[tuple[Path, str], Any] = {}  # what the readers give of untouched files; asked once


@dataclass(frozen=True)
class Keep:
    """What is damaged and who reads it.

    Attributes:
        name: shard, index, checkpoint, ...
        made: commands that leave it, from the pristine data on.
        files: patterns of its files.
        read: what its readers give of it, called in the directory; a JSON-able value.
        also: what an error may name in place of the file: the directory whose files belong together.
    """

    name: str
    made: tuple[tuple[str, ...], ...]
    files: tuple[str, ...]
    read: Callable[[], Any]
    also: str = ""


@dataclass
class Found:
    """What flips came to.

    Attributes:
        tried: flips.
        detected: errors that named the file.
        harmless: results that were what they are without the flip.
        undetected: all others, one line each.
    """

    tried: int = 0
    detected: int = 0
    harmless: int = 0
    undetected: list[str] = field(default_factory=list)
    by_file: Counter[str] = field(default_factory=Counter)


def _digest(*values: Any) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return digest.hexdigest()


def _read_embeddings() -> Any:
    """All that a reader of embeddings is told."""
    from teva_data.embeddings import Embeddings

    found = Embeddings.open("emb")
    vectors = [_digest(ids, vectors) for ids, vectors in found.shards()]
    return [found.manifest, found.dim, found.dtype, found.normalized, found.role, found.left_out, vectors]


def _read_index() -> Any:
    """What a search of the index finds."""
    from teva_data.embeddings import Embeddings
    from teva_infer.indexes.opened import Index

    corpus = Embeddings.open("emb")
    index = Index("index", corpus)
    scores, rows, filled = index.search(corpus.matrix()[:20], 10)
    return [index.job, index.knobs, _digest(scores, rows, filled)]


def _read_model() -> Any:
    """Vectors, and what the model says of itself."""
    from teva_infer import Encoder

    encoder = Encoder.load("run/artifact", device="cpu")
    artifact = encoder.artifact
    texts = ["how fast is the river", "bread and salt", "Winter"]
    vectors = [encoder.encode_queries(texts), encoder.encode_documents(texts)]
    return [artifact.fingerprint, artifact.teva, artifact.prompts, artifact.max_length, _digest(*vectors)]


def _resumed() -> Any:
    """The model that training ends with when it goes on from the checkpoint."""
    if forks._command(WORKS["train"].words):
        raise SystemExit(1)
    names = ("artifact/model.safetensors", "artifact/config.json", "artifact/sentence_bert_config.json")
    return [_digest(Path("run", name).read_bytes()) for name in names]


def _exported() -> Any:
    """The model that is made of a checkpoint and the run's recipe."""
    newest = str(max(Path("run/checkpoints").glob("step-*")))
    if forks._command(["teva-torch", "export", newest, "--output", "exported", "--device", "cpu"]):
        raise SystemExit(1)
    teva = json.loads(Path("exported/teva.json").read_bytes())
    return [_digest(Path("exported/model.safetensors").read_bytes()), works._timeless(teva)]


def _read_store() -> Any:
    """Every row of the stores, by row and by id, and training's batches."""
    from teva_data.dataset import Dataset

    data = Dataset.open("data")
    corpus, queries = data.corpus, data.queries("train")
    ids = corpus.docids(0, len(corpus))
    rows = [corpus.rows(ids).tolist(), queries.rows(queries.query_ids(0, len(queries))).tolist()]
    addresses = [corpus.address(row) for row in range(len(corpus))]
    told = [corpus.fingerprint, queries.fingerprint, corpus.kinds, queries.kinds]
    return [told, _digest(list(corpus), list(queries), rows, addresses, corpus.lookup(ids[::7]))]


def _read_evaluation() -> Any:
    """The record, and a comparison that reads the values of each query."""
    from teva_data.runs import read_run
    from teva_eval.comparing import read_values
    from teva_eval.records import read_record

    place = Path("results/tiny/data")
    record = read_record(place)
    measure = next(iter(record["scores"]))
    return [record, read_values(place, measure), _digest(read_run(place / "run.tsv.gz"))]


def _mined_again() -> Any:
    """The mined queries, after the same command once more."""
    if forks._command(WORKS["mine"].words):
        raise SystemExit(1)
    return _digest(Path("data/train-mined.jsonl").read_bytes())


_TRAIN, _ENCODE = WORKS["train"].words, WORKS["encode"].words
KEEPS = {
    keep.name: keep
    for keep in (
        Keep("shard", (_ENCODE,), ("emb/shard-*.arrow",), _read_embeddings),
        Keep("embeddings' manifest", (_ENCODE,), ("emb/manifest.json",), _read_embeddings),
        Keep("index", (_ENCODE, WORKS["index"].words), ("index/*.index",), _read_index),
        Keep("index's manifest", (_ENCODE, WORKS["index"].words), ("index/index.json",), _read_index),
        Keep("checkpoint", (_TRAIN,), ("run/checkpoints/step-00000012/*",), _resumed),
        Keep("log of a run", (_TRAIN,), ("run/metrics.jsonl",), _resumed),
        Keep("recipe of a run", (_TRAIN,), ("run/recipe.yaml",), _exported),
        Keep("model", (_TRAIN,), ("run/artifact/*.json", "run/artifact/*.safetensors", "run/artifact/*/*.json"),
             _read_model),
        Keep("store", (_TRAIN,), ("data/.teva/*-store/*",), _read_store, also="-store"),
        Keep("evaluation", (WORKS["evaluate"].words,), ("results/tiny/data/*.json", "results/tiny/data/*.tsv*"),
             _read_evaluation),
        Keep("mining", (WORKS["mine"].words,), ("work/*.tsv", "work/*.json", "data/train-mined.jsonl"), _mined_again),
    )
}  # fmt: skip


def flip_often(shop: Workshop, keep: Keep, flips: int, seed: int) -> Found:
    """Flip one byte at a time, ``flips`` times, and see what the readers say."""
    work = works.Work(keep.name, (), keep.made)
    rng, found = random.Random(f"{seed} {keep.name}"), Found()
    expected = _expected.get((shop.place, keep.name)) or _look(keep, shop.begin(work))
    if isinstance(expected, forks.Ended):
        raise RuntimeError(f"{keep.name}: cannot be read as it was written: {expected.output[-3000:]}")
    _expected[shop.place, keep.name] = expected
    for _ in range(flips):
        directory = shop.begin(work)
        path, place, what = _flip(directory, keep.files, rng)
        found.tried += 1
        seen = _look(keep, directory)
        where = f"{keep.name}: {path.relative_to(directory)}, byte {place} {what}"
        found.by_file[path.name] += 1
        if not isinstance(seen, forks.Ended):
            if seen == expected:
                found.harmless += 1
            else:
                found.undetected.append(f"{where}: other result")
        elif _names(seen.output, path, keep) and "Traceback" not in seen.output:
            found.detected += 1
        else:
            lines = seen.output.strip().splitlines()[-1:] or [f"status {seen.status}"]
            found.undetected.append(f"{where}: {lines[0][:300]}")
    return found


def _flip(directory: Path, patterns: Sequence[str], rng: random.Random) -> tuple[Path, int, str]:
    """Change a byte of a file, all files being as likely; the system's notes of it stay."""
    path = rng.choice(sorted(path for path in _files(directory, patterns) if path.stat().st_size))
    content, noted = bytearray(path.read_bytes()), path.stat()
    place = rng.randrange(len(content))
    before = content[place]
    # One bit, as a disk does it; or any other byte.
    content[place] ^= 1 << rng.randrange(8) if rng.random() < 0.5 else rng.randrange(1, 256)
    path.write_bytes(content)
    os.utime(path, ns=(noted.st_atime_ns, noted.st_mtime_ns))
    return path, place, f"{before:#04x} to {content[place]:#04x}"


def _files(directory: Path, patterns: Sequence[str]) -> Iterator[Path]:
    for pattern in patterns:
        yield from (path for path in directory.glob(pattern) if path.is_file())


def _names(output: str, path: Path, keep: Keep) -> bool:
    last = output.strip().splitlines()[-1] if output.strip() else ""
    belongs = bool(keep.also) and keep.also in last
    return path.name in last or belongs


def _look(keep: Keep, directory: Path) -> Any:
    """What the readers give; how they ended where they did not."""
    ended = forks.call(_looking, keep.read, directory=directory)
    if ended.status:
        return ended
    return json.loads((directory / _LOOKED_AT).read_bytes())


def _looking(read: Callable[[], Any]) -> int:
    from teva_data.errors import TevaError

    try:
        found = read()
    except TevaError as error:
        print(f"error: {error}")
        return 1
    Path(_LOOKED_AT).write_text(json.dumps(works._timeless(json.loads(json.dumps(found)))))
    return 0


def remove(directory: Path) -> None:
    """Remove a directory of trials."""
    shutil.rmtree(directory, ignore_errors=True)
