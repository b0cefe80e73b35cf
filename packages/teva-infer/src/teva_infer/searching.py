"""Exact search: every query against every document, memory bounded by a shard and a block of queries.

The backend ``exact`` is the reference, and its scores are reproducible to the last bit: it rounds each vector to a grid
of 2^-26 of its length and multiplies in float64, where every product and partial sum of such numbers is exact. No
order of summation, block size, thread count or processor can change such a score, equal documents get equal scores,
and it is nearer to the true inner product than a float32 product is (the largest error possible is
sqrt(dim) * 2^-26 of the two lengths; 4e-7 at 768 dimensions, 1e-8 is usual). Only what a float32 product cannot rule
out is multiplied so (`teva_infer.filtering`): the result is the same, in a fraction of the time.
"""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from teva_data.embeddings import Embeddings
from teva_data.errors import DataError, MissingExtraError, TevaError
from teva_data.progress import Progress
from teva_data.runs import Run, RunWriter, iterate_run

from .filtering import Filter, NumpyProduct, Product, parts, tiles
from .topk import MAX_ROWS, TopK

BATCH = 4096
"""Queries that pass over the corpus together by default."""

EXACT_ROWS = 512  # documents multiplied exactly at a time: they stay in a processor's cache
KEPT = 2**25  # hits kept at a time, 256 MiB: very deep searches take fewer queries together than asked for
GRID_BITS = 26  # two factors of 26 bits and the sum's spare bit make the 53 of float64

# Rows of the corpus that are done, and at the end the hits: scores, rows, and whether each place is filled.
Step = int | tuple[np.ndarray, np.ndarray, np.ndarray]


def search(
    queries: Embeddings | str | Path,
    corpus: Embeddings | str | Path,
    output: str | Path | None = None,
    *,
    depth: int = 1000,
    backend: Literal["exact", "faiss"] = "exact",
    batch: int = BATCH,
    layout: Literal["tsv", "trec"] = "tsv",
    exclude_self: bool = False,
    part: tuple[int, int] | None = None,
    device: str = "cpu",
    index: str | Path | None = None,
    knobs: Mapping[str, int] | None = None,
) -> Run | Path:
    """Find the documents with the greatest inner products for each query.

    Hits are ordered by score (float32) descending, equal scores by corpus row ascending; with ``exact`` the result
    depends on neither shard sizes nor ``batch``.

    Args:
        queries: embeddings, or their directory.
        corpus: embeddings of the same model, or their directory.
        output: the run file; without it the run is returned.
        depth: documents for each query; all where the corpus has fewer.
        backend: "exact" (numpy), or "faiss" (IndexFlatIP for each shard).
        batch: queries that pass over the corpus together; more take memory, fewer read the corpus more often.
        layout: of the run file: "tsv" (query_id, docid, score) or "trec" (six columns).
        exclude_self: leave out the document whose id is the query's (for collections whose queries are documents).
        part: ``(n, N)``: search the n-th (from 0) of N parts of the corpus alone; :func:`merge_runs` makes one run of
            the runs of all parts, which any number of processes or machines may make.
        device: where ``exact`` multiplies: "cpu" (numpy), or what an installed product knows: "cuda", "cuda:1"
            (teva-torch). The result is the same. An index is searched there by faiss-gpu.
        index: an index of the corpus (:mod:`teva_infer.indexes`): what it finds in place of all there is, with exact
            scores.
        knobs: of the index: how much is looked at.

    Returns:
        For each query_id its (docid, score) pairs, best first, as `teva_data.runs.read_run` gives them (but for the
        order of equal scores); or ``output``'s path.

    Raises:
        DataError: damaged or unfinished embeddings.
        TevaError: the two sides come from different models, or have other dimensions.
        MissingExtraError: FAISS is not installed.
    """
    if index is not None and (part, backend) != (None, "exact"):
        raise TevaError("an index is searched whole: leave part and backend out")
    # What an index was built from was compared then; here it is read at the places of candidates alone.
    queries, corpus = _opened(queries), _opened(corpus, verify=index is None)
    if part is not None:
        shards, corpus = len(corpus.sizes), corpus.part(*part)
        if not len(corpus):
            raise TevaError(f"{corpus.directory}: no vectors in part {part[0]} of {part[1]}: the corpus has {shards} "
                            "shards, and each is whole in one part. Make fewer parts, or smaller shards")  # fmt: skip
    check_pair(queries, corpus)
    if depth < 1 or batch < 1:
        raise TevaError(f"depth and batch start at 1; found {depth} and {batch}")
    if backend not in BACKENDS:
        raise TevaError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
    scan = BACKENDS[backend]
    if device != "cpu" and index is None:
        if backend != "exact":
            raise TevaError(f"device {device!r}: the backend {backend!r} searches on the CPU alone")
        scan = functools.partial(_scan_exact, product=functools.partial(_device_product(), device=device))
    if index is not None:
        from .indexes.opened import Index

        opened = Index(index, corpus, knobs, device)
        scan = opened.scan
        batch = min(batch, max(1, KEPT // (depth * max(1, opened.knobs["oversample"]))))
    elif knobs:
        raise TevaError("knobs are of an index; say which (index=, --index)")
    return collected(queries, corpus, output, scan, depth=depth, batch=batch, layout=layout, exclude_self=exclude_self)


def collected(
    queries: Embeddings,
    corpus: Embeddings,
    output: str | Path | None,
    scan: Callable[[np.ndarray, Embeddings, int], Iterator[Step]],
    *,
    depth: int,
    batch: int = BATCH,
    layout: Literal["tsv", "trec"] = "tsv",
    exclude_self: bool = False,
) -> Run | Path:
    """A run of what ``scan`` finds for each block of queries; arguments and result are those of :func:`search`.

    Args:
        queries: embeddings.
        corpus: embeddings.
        output: the run file; without it the run is returned.
        scan: is given a block of queries, float32 [Q, dim], the corpus and a depth; yields rows of the corpus that are
            done, and at the end the hits: scores, float32 [Q, depth], rows, int64, and which places are filled.
        depth: documents for each query.
        batch: queries of a block.
        layout: of the run file.
        exclude_self: leave out the document whose id is the query's.
    """
    hits = _hits(queries, corpus, depth, scan, batch, exclude_self)
    if output is None:
        return {query_id: list(zip(docids, scores, strict=True)) for query_id, docids, scores in hits}
    with RunWriter(Path(output), layout=layout) as run:
        for query_id, docids, scores in hits:
            run.write(query_id, docids, scores)
    return Path(output)


def search_block(
    queries: np.ndarray, corpus: Embeddings, depth: int, backend: Literal["exact", "faiss"] = "exact"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Search with queries that are in memory.

    Args:
        queries: float32 [Q, dim].
        corpus: embeddings.
        depth: documents for each query.
        backend: as :func:`search` has it.

    Returns:
        Scores, float32 [Q, depth], best first; corpus rows, int64 [Q, depth]; and which of the places are filled.
    """
    *_, last = BACKENDS[backend](queries, corpus, depth)
    assert not isinstance(last, int)
    return last


def _hits(
    queries: Embeddings,
    corpus: Embeddings,
    depth: int,
    scan: Callable[[np.ndarray, Embeddings, int], Iterator[Step]],
    batch: int,
    exclude_self: bool,
) -> Iterator[tuple[str, list[str], list[float]]]:
    """Yield each query's id with its documents and scores, best first."""
    # One more than asked for, since one may be the query itself.
    kept = min(depth + exclude_self, len(corpus))
    batch = max(1, min(batch, KEPT // kept))
    blocks = -(-len(queries) // batch)
    with Progress(blocks * len(corpus), "search", "documents") as progress:
        for query_ids, vectors in _query_blocks(queries, batch):
            for step in scan(vectors, corpus, kept):
                if isinstance(step, int):
                    progress.add(step)
                else:
                    scores, rows, filled = step
            docids = corpus.take_ids(np.where(filled, rows, 0))
            for row, query_id in enumerate(query_ids):
                keep = filled[row]
                if exclude_self:
                    keep &= docids[row] != query_id
                found = docids[row][keep][:depth].tolist()
                if len(set(found)) < len(found):
                    twice = next(docid for place, docid in enumerate(found) if docid in found[:place])
                    raise DataError("a docid stands twice in these embeddings", file=corpus.directory, field="id",
                                    found=twice, expected="each once", hint="Encode the corpus without it")  # fmt: skip
                yield query_id, found, scores[row][keep][:depth].tolist()


def _query_blocks(queries: Embeddings, batch: int) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield blocks of ``batch`` queries (the last one smaller), whatever the shards: ids and float32 vectors."""
    ids: list[str] = []
    parts: list[np.ndarray] = []
    for shard_ids, shard in queries.shards():
        start = 0
        while start < len(shard):
            stop = min(len(shard), start + batch - len(ids))
            ids += shard_ids[start:stop]
            parts.append(shard[start:stop].astype(np.float32))
            start = stop
            if len(ids) == batch:
                yield ids, np.concatenate(parts)
                ids, parts = [], []
    if ids:
        yield ids, np.concatenate(parts)


def _scan_exact(
    queries: np.ndarray, corpus: Embeddings, depth: int, product: Callable[[np.ndarray], Product] = NumpyProduct
) -> Iterator[Step]:
    """Search with a block of queries, float32 [Q, dim]; yields the rows done bit by bit, and the hits at the end."""
    left = on_grid(queries)

    kept = Filter(queries, depth, product(queries), functools.partial(exact_scores, left, corpus))
    first = 0
    for tile in tiles(corpus.vectors(), len(queries)):
        try:
            kept.add(tile, first)
        except OverflowError as error:
            raise DataError(
                str(error), file=corpus.directory, field="vector",
                hint="These vectors are too long for inner products; normalise them",
            ) from error  # fmt: skip
        first += len(tile)
        yield len(tile)
    yield kept.best()


def exact_scores(left: np.ndarray, corpus: Embeddings, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The exact inner products of pairs of a query and a document.

    Args:
        left: the queries as :func:`on_grid` gives them, float64 [Q, dim].
        corpus: the documents.
        query: rows of ``left``, integers [n].
        rows: rows of the corpus, integers [n].

    Returns:
        float32 [n].
    """
    scores = np.empty(len(rows), dtype=np.float32)
    order = np.argsort(rows, kind="stable")  # each thread reads a stretch of the corpus

    def score(part: tuple[int, int]) -> None:
        own = order[slice(*part)]
        # Kept from one to the next: to be given new memory each time takes longer than what is done with it.
        asked, numbers = np.empty((2, min(len(own), EXACT_ROWS), left.shape[1]))
        for places, vectors in corpus.take_vectors(rows[own], EXACT_ROWS):
            mine, count = own[places], len(places)
            np.take(left, query[mine], axis=0, out=asked[:count], mode="clip")
            on_grid(vectors, out=numbers[:count])
            scores[mine] = np.vecdot(asked[:count], numbers[:count])

    stretches = parts(len(rows), least=8 * EXACT_ROWS)
    with ThreadPoolExecutor(len(stretches)) as pool:
        list(pool.map(score, stretches))
    return scores


def _scan_faiss(queries: np.ndarray, corpus: Embeddings, depth: int) -> Iterator[Step]:
    """As `_scan_exact`, with one flat FAISS index for each shard."""
    faiss = _faiss()
    best = TopK(len(queries), depth)
    first = 0
    for shard in corpus.vectors():
        if not len(shard):  # all of it was left out
            continue
        index = faiss.IndexFlatIP(corpus.dim)
        index.add(np.ascontiguousarray(shard, dtype=np.float32))
        # FAISS answers with row -1 where there are fewer documents than asked for.
        scores, rows = index.search(queries, min(depth, len(shard)))
        best.add_hits(scores, rows + first)
        first += len(shard)
        yield len(shard)
    yield best.best()


BACKENDS: dict[str, Callable[[np.ndarray, Embeddings, int], Iterator[Step]]] = {
    "exact": _scan_exact, "faiss": _scan_faiss,
}  # fmt: skip


def on_grid(vectors: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Vectors as float64, each rounded to a multiple of 2^-26 of the power of two at its length.

    Inner products of such vectors are exact in float64: a number has at most 27 bits, and by Cauchy and Schwarz no
    partial sum of products exceeds 2^53 units of the product's grid.

    Args:
        vectors: float16 or float32 [N, dim].
        out: where they go, float64 [N, dim]; new memory where not given.
    """
    numbers: np.ndarray = np.square(vectors, out=out, dtype=np.float64)
    lengths = np.sqrt(numbers.sum(axis=1))
    # A vector normalised in float32 or float16 may be a little longer than 1; it is to count as 1.
    exponents = np.frexp(lengths * (1 - 2.0**-10))[1]
    np.multiply(vectors, np.ldexp(1.0, GRID_BITS - exponents)[:, None], out=numbers)
    np.rint(numbers, out=numbers)
    numbers *= np.ldexp(1.0, exponents - GRID_BITS)[:, None]
    return numbers


def merge_runs(
    parts: Sequence[str | Path], output: str | Path, *, depth: int = 1000, layout: Literal["tsv", "trec"] = "tsv"
) -> Path:
    """Make one run of the runs over parts of a corpus.

    Args:
        parts: the runs of all parts, of the same queries in the same order, as :func:`search` writes them; in the order
            of the parts, so that equal scores keep the order of the corpus.
        output: the run file.
        depth: documents for each query.
        layout: as :func:`search` has it.

    Raises:
        DataError: the runs do not have the same queries, or two of them have the same document.
    """
    with RunWriter(Path(output), layout=layout) as run, Progress(None, "merge", "queries") as progress:
        for lines in itertools.zip_longest(*map(iterate_run, parts)):
            names = {line and line.query_id for line in lines}
            if len(names) > 1:
                raise DataError("these runs are not of the same queries", file=parts[0], found=sorted(map(str, names)),
                                expected="one query at this place in all", hint="Search each part again with the same queries")  # fmt: skip  # noqa: E501
            pairs = merge_hits([line.pairs for line in lines], depth)
            run.write(lines[0].query_id, *map(list, zip(*pairs, strict=True)))
            progress.add(1)
    return Path(output)


def merge_hits(parts: Iterable[Sequence[tuple[str, float]]], depth: int) -> list[tuple[str, float]]:
    """The best (docid, score) pairs of a query's hits in all parts, best first; of equal scores the earlier part's."""
    pairs = [pair for part in parts for pair in part]
    pairs.sort(key=lambda pair: -pair[1])  # stable
    return pairs[:depth]


def _device_product() -> Callable[..., Product]:
    for point in importlib.metadata.entry_points(group="teva_infer.products"):
        found: Callable[..., Product] = point.load()
        return found
    raise MissingExtraError("search on a device", "teva-infer[torch]")


def _faiss() -> Any:
    # While it is imported, FAISS tells of every build of its library that it does not find.
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("the backend 'faiss'", "teva-infer[faiss]") from error
    return faiss


def _opened(embeddings: Embeddings | str | Path, verify: bool = True) -> Embeddings:
    return embeddings if isinstance(embeddings, Embeddings) else Embeddings.open(embeddings, verify=verify)


def check_pair(queries: Embeddings, corpus: Embeddings) -> None:
    """Refuse sides whose inner products would mean nothing."""
    for side in (queries, corpus):
        if not len(side):
            raise DataError("no vectors to search", file=side.directory)
    if len(corpus) > MAX_ROWS:
        raise TevaError(f"{corpus.directory}: {len(corpus):,} documents; search takes at most {MAX_ROWS:,}")
    if (queries.role, corpus.role) == ("document", "query"):
        raise TevaError(f"{queries.directory} holds documents and {corpus.directory} queries; are they exchanged?")
    for name, left, right in (
        ("dim", queries.dim, corpus.dim),
        ("model_fingerprint", *(side.manifest["job"].get("model_fingerprint") for side in (queries, corpus))),
        ("normalized", queries.normalized, corpus.normalized),
    ):
        if left != right:
            raise TevaError(
                f"queries and corpus do not belong together: {name} is {left!r} in {queries.directory} and {right!r} "
                f"in {corpus.directory}. Encode both with the same model"
            )
