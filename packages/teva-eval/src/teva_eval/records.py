"""The record of a result: what was run on what, how it was scored, and what came out; ``result.json``.

Fields: ``task`` (the whole declaration), ``system`` (what it says of itself), ``data`` (source, counts, fingerprints,
checksums of stretches of rows), ``settings``, ``scores`` (means), ``variants`` (the same of each), ``counts``, ``run``
(file and checksum), ``versions``, ``request`` (how to do it again), ``seconds``, ``written``.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash

from teva_data.dataset import Dataset
from teva_data.errors import DataError
from teva_data.files import read_whole
from teva_data.runs import Qrels
from teva_data.versions import DECODERS, installed

SCHEMA = "1"
RESULT, RUN, PER_QUERY = "result.json", "run.tsv.gz", "per_query.tsv"
STRETCHES = 256  # of rows, each with a checksum of its own: a changed row is found again to 1/256 of the data
# Of the data, what decides no score; earlier versions did not write the last of these.
_TOLD = ("rows", "source", "modalities")
MOST = 8  # stretches that are named one by one where more rows changed
_PACKAGES = (
    "teva-eval", "teva-data", "teva-infer", "teva-torch", "pytrec-eval-terrier", "numpy", "pyarrow", "torch",
    "transformers", "tokenizers", "bm25s", *DECODERS,
)  # fmt: skip


def read_record(path: str | Path) -> dict[str, Any]:
    """A ``result.json``, or that of a directory.

    Raises:
        DataError: there is none, it is no JSON, or another version wrote it.
    """
    path = Path(path)
    path = path / RESULT if path.is_dir() else path
    try:
        record = read_whole(path, "Run the task again with --overwrite")
    except OSError as error:
        raise DataError("no result", file=path, hint="`teva-eval run` writes one for each task") from error
    found = record.get("schema")
    if found != SCHEMA or "task" not in record:
        raise DataError("not a result of this version", file=path, field="schema", found=found, expected=SCHEMA)
    return record


def find_records(directories: Iterable[str | Path]) -> list[tuple[Path, dict[str, Any]]]:
    """All results below some directories, with their files; by path.

    Raises:
        DataError: there is none below one of them.
    """
    found: dict[Path, dict[str, Any]] = {}
    for directory in map(Path, directories):
        paths = [directory] if directory.is_file() else sorted(directory.rglob(RESULT))
        if not paths:
            raise DataError("no results", file=directory, expected=f"{RESULT} in it or below it",
                            hint="`teva-eval run` writes one for each task")  # fmt: skip
        found |= {path: read_record(path) for path in paths}
    return list(found.items())


def describe_data(dataset: Dataset, split: str, qrels: Qrels, source: str) -> dict[str, Any]:
    """What the data are: fingerprints of files, and checksums of stretches of rows, so a difference has a place."""
    corpus, queries = dataset.corpus, dataset.queries(split)
    documents = ((each.docid, f"{each.title!r}{each.document_text!r}{each.media!r}") for each in _documents(dataset))
    asked = ((each.query_id, f"{each.query_text!r}{each.prompt!r}{each.media!r}") for each in queries)
    judged = ((query_id, repr(sorted(grades.items()))) for query_id, grades in qrels.items())
    return {
        "source": source, "split": split, "documents": len(corpus), "queries": len(queries), "judged": len(qrels),
        "judgements": sum(map(len, qrels.values())),
        "modalities": {
            side: sorted(kind for kind, rows in store.kinds.items() if rows)
            for side, store in (("queries", queries), ("documents", corpus))
        },
        "corpus_fingerprint": corpus.fingerprint, "queries_fingerprint": queries.fingerprint,
        "rows": {
            "document": stretches(len(corpus), documents), "query": stretches(len(queries), asked),
            "judged query": stretches(len(qrels), judged),
        },
    }  # fmt: skip


def stretches(count: int, rows: Iterable[tuple[str, str]]) -> list[list[Any]]:
    """First id, last id, rows and checksum of each of at most ``STRETCHES`` stretches of rows (id, content)."""
    size = max(1, -(-count // STRETCHES))
    found: list[list[Any]] = []
    digest, ids = xxhash.xxh3_64(), []
    for name, content in rows:
        digest.update(f"{name}\0{content}\1".encode("utf-8", "surrogatepass"))
        ids.append(name)
        if len(ids) == size:
            found.append([ids[0], ids[-1], len(ids), digest.hexdigest()])
            digest, ids = xxhash.xxh3_64(), []
    if ids:
        found.append([ids[0], ids[-1], len(ids), digest.hexdigest()])
    return found


def _documents(dataset: Dataset, block: int = 8192) -> Iterator[Any]:
    corpus = dataset.corpus
    for start in range(0, len(corpus), block):
        yield from corpus.documents(start, min(start + block, len(corpus)))


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that may move a score, where they are installed."""
    return {"python": platform.python_version(), **installed(_PACKAGES)}


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Where two records differ in what decides a score or in what came out, one line each; none: they are identical."""
    lines: list[str] = []
    for section in ("task", "system", "settings", "versions"):
        lines += _compared(section, one.get(section), other.get(section))
    data = [{key: value for key, value in (each.get("data") or {}).items() if key not in _TOLD} for each in
            (one, other)]  # fmt: skip
    lines += _compared("data", *data)
    rows = [(each.get("data") or {}).get("rows", {}) for each in (one, other)]
    for kind in sorted(rows[0].keys() | rows[1].keys()):
        lines += _moved(kind, rows[0].get(kind, []), rows[1].get(kind, []))
    for section in ("scores", "variants", "counts"):
        lines += _compared(section, one.get(section), other.get(section))
    runs = [
        {name or "main": run["checksum"] for name, run in (each.get("runs") or {}).items()} for each in (one, other)
    ]
    return lines + _compared("run", *runs)


def _compared(name: str, one: Any, other: Any) -> list[str]:
    if one == other:
        return []
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = [*one, *(key for key in other if key not in one)]
        return [line for key in keys for line in _compared(f"{name}.{key}", one.get(key), other.get(key))]
    return [f"{name}: {_short(one)} there, {_short(other)} now"]


def _moved(kind: str, one: list[list[Any]], other: list[list[Any]]) -> list[str]:
    if one == other:
        return []
    if [each[:3] for each in one] != [each[:3] for each in other]:
        place = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        where = one[place] if place < len(one) else other[place]
        return [f"data: {kind} rows were added, taken away or moved, from about {where[0]!r} on"]
    lines, start = [], 1
    for mine, theirs in zip(one, other, strict=True):
        if mine != theirs:
            stop = start + mine[2] - 1
            lines.append(f"data: {kind} {_range(start, stop)} of {sum(e[2] for e in one)} "
                         f"({_range(repr(mine[0]), repr(mine[1]))}) differ{'s' if start == stop else ''}")  # fmt: skip
        start += mine[2]
    if len(lines) > MOST:
        return [*lines[:3], f"data: {kind} rows: {len(lines)} of {len(one)} stretches differ in all"]
    return lines


def _range(first: object, last: object) -> str:
    return f"{first}" if first == last else f"{first} to {last}"


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, float) else f"{value:.8g}"
    return text if len(text) <= 100 else f"{text[:99]}…"
