from __future__ import annotations

import itertools
import math
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teva_data.embedding_writer import EmbeddingWriter
from teva_data.embeddings import Embeddings
from teva_data.errors import DataError, MissingExtraError, TevaError
from teva_data.runs import Run, best_first, read_run
from teva_infer.searching import merge_runs, on_grid, search
from teva_infer.topk import EMPTY, TopK, keys

JOB = {"normalized": True, "model_fingerprint": "m1"}


def unit(rows: int, dim: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def store(directory, vectors, role="document", shard=1000, dtype="float32", prefix="d", **job) -> Embeddings:
    shards = [min(shard, len(vectors) - start) for start in range(0, len(vectors), shard)]
    ids = [f"{prefix}{row}" for row in range(len(vectors))]
    job = {"role": role, **JOB, **job}
    with EmbeddingWriter(
        directory, job=job, shards=shards, dim=vectors.shape[1], dtype=dtype, overwrite=True
    ) as writer:
        for number, start in enumerate(range(0, len(vectors), shard)):
            writer.write(number, ids[start : start + shard], vectors[start : start + shard])
    return Embeddings.open(directory)


@pytest.fixture
def pair(tmp_path):
    """Makes both sides: query and document vectors to two directories."""

    def make(queries, documents, shard=1000, query_shard=1000, **options):
        return (
            store(tmp_path / "q", queries, "query", query_shard, prefix="q", **options),
            store(tmp_path / "c", documents, "document", shard, **options),
        )

    return make


@pytest.mark.parametrize("backend", ["exact", "faiss"])
def test_a_shard_of_which_all_is_left_out(tmp_path, backend):
    """As encoding with bad_media="skip" may leave it."""
    vectors = np.random.default_rng(3).standard_normal((6, 8)).astype(np.float32)
    with EmbeddingWriter(tmp_path / "c", job={"role": "document", **JOB}, shards=[2, 6], dim=8) as writer:
        writer.write(0, [], vectors[:0], {"x0": "not a picture", "x1": "not a picture"})
        writer.write(1, [f"d{row}" for row in range(6)], vectors)
    queries = store(tmp_path / "q", vectors[:2], "query", prefix="q")
    found = search(queries, tmp_path / "c", depth=4, backend=backend)
    assert [[docid for docid, _ in pairs] for pairs in found.values()] == [
        [docid for docid, _ in line] for line in brute_force(vectors[:2], vectors, 4)
    ]


def brute_force(queries: np.ndarray, documents: np.ndarray, depth: int) -> list[list[tuple[str, float]]]:
    """By sorting all pairs in Python: score descending, row ascending."""
    scores = queries.astype(np.float64) @ documents.astype(np.float64).T
    return [
        [(f"d{row}", line[row]) for row in sorted(range(len(line)), key=lambda row: (-line[row], row))[:depth]]
        for line in scores
    ]


def hits(run: Run) -> list[list[tuple[str, float]]]:
    return list(run.values())


def names(found: list[tuple[str, float]]) -> list[str]:
    return [name for name, _ in found]


def assert_same(found, expected, tolerance=1e-6):
    """Scores to ``tolerance``; ids wherever no neighbour is as near as that."""
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert len(mine) == len(theirs)
        np.testing.assert_allclose([s for _, s in mine], [s for _, s in theirs], rtol=0, atol=tolerance)
        assert len({name for name, _ in mine}) == len(mine)
        for rank, (name, score) in enumerate(theirs[:-1]):
            near = [abs(score - other) for _, other in theirs[max(0, rank - 1) : rank + 2] if other != score]
            if len(near) == min(rank + 1, 2) and min(near) > 2 * tolerance:
                assert mine[rank][0] == name


@pytest.mark.parametrize("backend", ["exact", "faiss"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_equal_to_brute_force(pair, backend, dtype):
    queries, documents = unit(37, 48, 1), unit(5003, 48, 2)
    q, c = pair(queries, documents, shard=1111, query_shard=10, dtype=dtype)
    run = search(q, c, depth=100, backend=backend, batch=16)
    assert list(run) == [f"q{row}" for row in range(37)]
    assert_same(hits(run), brute_force(q.matrix(), c.matrix(), 100))


def test_the_two_backends_agree(pair):
    q, c = pair(unit(20, 64, 3), unit(3000, 64, 4), shard=700)
    assert_same(hits(search(q, c, depth=50, backend="faiss")), hits(search(q, c, depth=50)))


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(), n=st.integers(1, 40), m=st.integers(1, 9), dim=st.integers(1, 5), depth=st.integers(1, 60),
    shard=st.integers(1, 41), query_shard=st.integers(1, 10), batch=st.integers(1, 10),
)  # fmt: skip
def test_ties_and_depth_against_integers(tmp_path_factory, data, n, m, dim, depth, shard, query_shard, batch):
    # Small integers: every arithmetic gives the same scores, and most of them are ties.
    numbers = st.lists(st.integers(-3, 3), min_size=dim, max_size=dim).filter(any)
    queries = np.array(data.draw(st.lists(numbers, min_size=m, max_size=m)), dtype=np.float32)
    documents = np.array(data.draw(st.lists(numbers, min_size=n, max_size=n)), dtype=np.float32)
    place = tmp_path_factory.mktemp("ties")
    q = store(place / "q", queries, "query", query_shard, prefix="q")
    c = store(place / "c", documents, "document", shard)
    run = search(q, c, depth=depth, batch=batch)
    assert hits(run) == brute_force(queries, documents, depth)


@pytest.mark.parametrize("depth", [3, 50, 400])
def test_parts_merged_are_the_whole(pair, tmp_path, depth):
    documents = unit(300, 16, 2)
    documents[250:280] = documents[20:50]  # ties across parts
    q, c = pair(unit(9, 16, 1), documents, shard=17)
    whole = search(q, c, depth=depth)
    parts = [search(q, c, tmp_path / f"{n}.tsv", depth=depth, part=(n, 4)) for n in range(4)]
    merged = read_run(merge_runs(parts, tmp_path / "run.tsv", depth=depth))
    # A file orders ties by docid; which documents of a tie are in is the corpus's order in both.
    assert merged == {query_id: best_first(*zip(*found, strict=True)) for query_id, found in whole.items()}
    other = tmp_path / "other.tsv"
    other.write_text("q1\td5\t0.5\n")
    with pytest.raises(DataError, match="not of the same queries"):
        merge_runs([parts[0], other], tmp_path / "x.tsv")
    with pytest.raises(DataError, match="document"):
        merge_runs([parts[0], parts[0]], tmp_path / "x.tsv")
    with pytest.raises(TevaError, match="found 4 of 4"):
        search(q, c, part=(4, 4))
    with pytest.raises(TevaError, match=r"part 0 of 99: the corpus has \d+ shards.*Make fewer parts"):
        search(q, c, part=(0, 99))


def test_a_product_on_a_device_gives_the_same_bits(pair):
    q, c = pair(unit(9, 64, 1), unit(5000, 64, 2), shard=700)
    assert hits(search(q, c, depth=30, device="auto")) == hits(search(q, c, depth=30))
    with pytest.raises(TevaError, match="searches on the CPU alone"):
        search(q, c, backend="faiss", device="cuda")


def test_one_document_many_times_over_costs_no_memory_and_no_exactness(pair):
    base = unit(3, 32, 2)
    documents = np.concatenate([np.repeat(base, 4000, axis=0), unit(50, 32, 3)])
    # The last bit of one number: float32 products cannot tell these apart, float64 can.
    documents[::7, 0] = np.nextafter(documents[::7, 0], np.float32(2))
    q, c = pair(unit(5, 32, 4), documents, shard=1000)
    grid = on_grid(q.matrix()) @ on_grid(documents).T
    narrow = grid.astype(np.float32)
    for row, found in enumerate(hits(search(q, c, depth=10))):
        order = np.lexsort((np.arange(len(documents)), -narrow[row]))[:10]
        assert found == [(f"d{at}", narrow[row, at]) for at in order]


def test_float32_cannot_tell_and_the_result_is_right_all_the_same(pair):
    # Scores that differ by less than float32's error of a product of 768 numbers, in an order that favours the wrong.
    queries = unit(4, 768, 1)
    rng = np.random.default_rng(5)
    documents = np.repeat(unit(1, 768, 2), 3000, axis=0)
    documents += rng.standard_normal(documents.shape).astype(np.float32) * np.float32(1e-7)
    q, c = pair(queries, documents)
    narrow = (on_grid(queries) @ on_grid(documents).T).astype(np.float32)
    for row, found in enumerate(hits(search(q, c, depth=25))):
        order = np.lexsort((np.arange(len(documents)), -narrow[row]))[:25]
        assert names(found) == [f"d{at}" for at in order]


def test_a_docid_that_stands_twice_is_refused(tmp_path):
    vectors = unit(4, 8, 1)
    q = store(tmp_path / "q", vectors[:1], "query", prefix="q")
    job = {"role": "document", **JOB}
    with EmbeddingWriter(tmp_path / "c", job=job, shards=[4], dim=8) as writer:
        writer.write(0, ["a", "b", "a", "c"], vectors)
    with pytest.raises(DataError, match=r"a docid stands twice.*found 'a'"):
        search(q, tmp_path / "c")


def test_bits_do_not_depend_on_shards_or_batches(tmp_path):
    queries, documents = unit(13, 96, 5), unit(2500, 96, 6)
    documents[2200:2400] = documents[100:300]  # ties that lie in different blocks
    found = []
    for shard, batch, query_shard in [(2500, 4096, 13), (17, 7, 2), (999, 1, 13), (2049, 13, 1)]:
        q = store(tmp_path / "q", queries, "query", query_shard, prefix="q")
        c = store(tmp_path / "c", documents, shard=shard)
        found.append(search(q, c, depth=300, batch=batch))
    for other in found[1:]:
        assert hits(other) == hits(found[0])
    for line in hits(found[0]):
        order = names(line)
        for low in range(100, 300):
            if f"d{low + 2100}" in order:
                assert order.index(f"d{low}") == order.index(f"d{low + 2100}") - 1


def test_scores_of_a_query_do_not_depend_on_its_company(pair):
    queries = unit(50, 384, 7)
    documents = unit(800, 384, 8)
    together = search(*pair(queries, documents), depth=800)
    for row in (0, 31, 49):
        alone = search(*pair(queries[row : row + 1], documents), depth=800)
        assert hits(alone)[0] == hits(together)[row]


def test_grid_products_are_exact_and_near():
    left, right = unit(6, 1024, 9) * np.float32(37.5), unit(7, 1024, 10) * np.float32(1e-4)
    scores = on_grid(left) @ on_grid(right).T
    order = np.random.default_rng(0).permutation(1024)
    np.testing.assert_array_equal(scores, on_grid(left)[:, order] @ on_grid(right)[:, order].T)
    for i, j in itertools.product(range(6), range(7)):
        exact = math.fsum((left[i].astype(np.float64) * right[j]).tolist())
        assert abs(scores[i, j] - exact) <= math.sqrt(1024) * 2.0**-26 * 37.5e-4 * 1.01
        on_the_grid = math.fsum((on_grid(left)[i] * on_grid(right)[j]).tolist())
        assert scores[i, j] == on_the_grid


def test_grid_keeps_a_zero_vector_and_uneven_lengths():
    vectors = np.array([[0, 0], [3e-30, 1e-30], [1e30, 5]], dtype=np.float32)
    np.testing.assert_allclose(on_grid(vectors)[:2], vectors[:2], rtol=1e-7)
    assert on_grid(vectors)[2, 0] == pytest.approx(1e30, rel=1e-7)


def test_keys_sort_as_scores_then_rows():
    scores = np.array([np.inf, 3.5, 1e-40, 0.0, -0.0, -1e-40, -2.0, -np.inf], dtype=np.float32)
    found = keys(scores, np.arange(8))
    assert np.all(found[:-1] < found[1:])  # 0.0 and -0.0 are one score: row 3 before row 4
    best = TopK(1, 8)
    best.add_hits(scores[None, ::-1], np.arange(8)[None, ::-1])
    got, rows, filled = best.best()
    np.testing.assert_array_equal(got[0], scores)
    assert rows[0].tolist() == list(range(8))
    assert filled.all()
    assert found.max() < EMPTY


@pytest.mark.parametrize("backend", ["exact", "faiss"])
def test_depth_beyond_the_corpus_gives_every_document_once(pair, backend):
    q, c = pair(unit(3, 8, 1), unit(10, 8, 2), shard=4)
    for found in hits(search(q, c, depth=1000, backend=backend)):
        assert sorted(names(found)) == sorted(f"d{row}" for row in range(10))
        assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


@pytest.mark.parametrize("backend", ["exact", "faiss"])
def test_one_query_one_document_all_negative(pair, backend):
    q, c = pair(np.array([[1.0, 2.0]], np.float32), np.array([[-1.0, -1.0]], np.float32))
    assert search(q, c, depth=1, backend=backend) == {"q0": [("d0", -3.0)]}


@pytest.mark.parametrize("backend", ["exact", "faiss"])
def test_a_document_is_not_its_own_hit(tmp_path, backend):
    vectors = unit(30, 8, 1)
    q = store(tmp_path / "q", vectors[5:15], "query", prefix="d")  # queries d0..d9 are vectors 5..14
    c = store(tmp_path / "c", vectors)
    run = search(q, c, depth=7, backend=backend, exclude_self=True)
    for query_id, found in run.items():
        assert query_id not in names(found)
        assert len(found) == 7
    plain = search(q, c, depth=8, backend=backend)
    for query_id, found in run.items():
        assert found == [hit for hit in plain[query_id] if hit[0] != query_id][:7]
    everything = search(q, c, depth=100, backend=backend, exclude_self=True)
    assert {len(found) for found in everything.values()} == {29}


@pytest.mark.parametrize("layout", ["tsv", "trec"])
def test_the_run_file_holds_what_the_dict_holds(pair, tmp_path, layout):
    q, c = pair(unit(5, 16, 1), unit(200, 16, 2), shard=64)
    path = search(q.directory, c.directory, tmp_path / "out" / "run.txt", depth=20, layout=layout)
    assert path == tmp_path / "out" / "run.txt"
    expected = search(q, c, depth=20)
    assert read_run(path) == {query_id: best_first(*zip(*found, strict=True)) for query_id, found in expected.items()}
    assert list(read_run(path)) == [f"q{row}" for row in range(5)]
    assert len(path.read_text().splitlines()[0].split()) == {"tsv": 3, "trec": 6}[layout]


def test_memory_is_bounded_by_the_tile_and_not_by_the_corpus(pair):
    q, c = pair(unit(4, 128, 1), unit(40_000, 128, 2), shard=1000)
    corpus_bytes = 40_000 * 128 * 4
    tracemalloc.start()
    run = search(q, c, depth=10, batch=4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(run) == 4
    assert peak < corpus_bytes / 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_fingerprint": "m2"}, "model_fingerprint is 'm1' in .*/q and 'm2' in .*/c"),
        ({"normalized": False}, "normalized is True in .*/q and False in .*/c"),
        ({"role": "document"}, None),
    ],
)
def test_sides_that_do_not_belong_together(tmp_path, change, message):
    q = store(tmp_path / "q", unit(2, 8, 1), "query")
    c = store(tmp_path / "c", unit(5, 8, 2), **change)
    if message is None:
        assert len(search(q, c)) == 2
    else:
        with pytest.raises(TevaError, match=message):
            search(q, c)


def test_other_dimensions_and_exchanged_sides(tmp_path):
    q, c = store(tmp_path / "q", unit(2, 8, 1), "query"), store(tmp_path / "c", unit(5, 9, 2))
    with pytest.raises(TevaError, match=r"dim is 8 in .* and 9 in"):
        search(q, c)
    with pytest.raises(TevaError, match="exchanged"):
        search(c, q)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"depth": 0}, "depth and batch"), ({"batch": 0}, "depth and batch"), ({"backend": "hnsw"}, "exact, faiss")],
)
def test_bad_options(pair, options, message):
    q, c = pair(unit(2, 8, 1), unit(5, 8, 2))
    with pytest.raises(TevaError, match=message):
        search(q, c, **options)


def test_empty_sides_and_scores_beyond_float32(pair, tmp_path):
    q, c = pair(unit(2, 8, 1), unit(5, 8, 2))
    empty = store(tmp_path / "empty", np.empty((0, 8), np.float32))
    with pytest.raises(DataError, match="no vectors"):
        search(q, empty)
    with pytest.raises(DataError, match="no vectors"):
        search(empty, c)
    huge = np.full((2, 8), 1e25, np.float32)
    with pytest.raises(DataError, match="too large"):
        search(*pair(huge, huge))


def test_without_faiss_the_extra_is_named(pair, monkeypatch):
    q, c = pair(unit(2, 8, 1), unit(5, 8, 2))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r'pip install "teva-infer\[faiss\]"'):
        search(q, c, backend="faiss")
    assert len(search(q, c)) == 2


def test_damaged_embeddings_are_refused(pair):
    q, c = pair(unit(2, 8, 1), unit(5, 8, 2))
    path = next(c.directory.glob("*.arrow"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="shard-00000-of-00001"):
        search(q.directory, c.directory)
