"""Indexes: one suite for every kind, beside exact search and beside the same structure made by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
from tests.infer.test_search import store

from teva_data.embeddings import Embeddings
from teva_data.errors import DataError, TevaError
from teva_data.files import read_sealed, write_sealed
from teva_data.runs import read_run
from teva_infer.cli import main
from teva_infer.indexes import building, find_kind, tuning
from teva_infer.indexes.building import MANIFEST, build_index, part_name
from teva_infer.indexes.opened import Index
from teva_infer.indexes.rescoring import rescore
from teva_infer.indexes.tuning import recall, tune
from teva_infer.searching import search, search_block

KINDS = ("flat", "ivf", "hnsw", "sq8", "pq", "rabitq", "binary")
APART = ("hnsw", "binary")  # kinds whose parts are searched one by one
DIM, ROWS, DEPTH = 32, 3000, 10


def clustered(rows: int, seed: int) -> np.ndarray:
    """Unit vectors around 40 centres: what has no structure cannot be indexed."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((40, DIM))
    vectors = centres[rng.integers(0, len(centres), rows)] + 0.6 * rng.standard_normal((rows, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Embeddings:
    return store(tmp_path_factory.mktemp("index") / "corpus", clustered(ROWS, 1), shard=700)


@pytest.fixture(scope="module")
def queries(corpus) -> Embeddings:
    return store(corpus.directory.parent / "queries", clustered(50, 2), "query", prefix="q")


def everything(kind: str) -> dict[str, int]:
    """Knobs at which a structure leaves nothing out."""
    return dict.fromkeys(find_kind(kind).knobs, 1000) | {"oversample": ROWS // DEPTH}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part_rows", [10**6, 1100])
def test_what_looks_at_everything_is_exact_search(kind, part_rows, corpus, queries, tmp_path):
    build_index(corpus, tmp_path, kind=kind, part_rows=part_rows)
    found = Index(tmp_path, corpus, everything(kind)).search(queries.matrix(), DEPTH)
    expected = search_block(queries.matrix(), corpus, DEPTH)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_its_defaults_find_nearly_all(kind, corpus, queries, tmp_path):
    build_index(corpus, tmp_path, kind=kind)
    scores, rows, filled = Index(tmp_path, corpus).search(queries.matrix(), DEPTH)
    exact_scores, exact_rows, _ = search_block(queries.matrix(), corpus, DEPTH)
    assert filled.all()
    assert recall(rows, exact_rows) >= 0.95
    # What is found has the score that exact search gives it.
    for query in range(len(rows)):
        known = dict(zip(exact_rows[query].tolist(), exact_scores[query].tolist(), strict=True))
        for row, score in zip(rows[query].tolist(), scores[query].tolist(), strict=True):
            assert known.get(row, score) == score
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_scores_are_those_of_the_structure(kind, corpus, queries, tmp_path):
    build_index(corpus, tmp_path, kind=kind)
    index = Index(tmp_path, corpus, {"oversample": 0})
    scores, rows, _ = index.search(queries.matrix(), DEPTH)
    knobs = {name: values[0] for name, values in index.kind.knobs.items()}
    ((_, _, structure),) = index._parts
    own, _ = structure.search(queries.matrix(), DEPTH, knobs)
    np.testing.assert_allclose(scores, np.sort(own, axis=1)[:, ::-1], atol=1e-6)
    exact = np.einsum("qd,qkd->qk", queries.matrix(), corpus.matrix()[rows])
    assert np.abs(scores - exact).max() < {"binary": 1.0, "rabitq": 0.5, "pq": 0.5, "sq8": 0.05}.get(kind, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_searched_as_one_where_the_structure_allows(kind, corpus, queries, tmp_path):
    settings = {"lists": 20} if "lists" in find_kind(kind).settings else {}
    build_index(corpus, tmp_path / "one", kind=kind, settings=settings)
    build_index(corpus, tmp_path / "four", kind=kind, settings=settings, part_rows=800)
    one, four = (Index(tmp_path / name, corpus, {"oversample": 0}) for name in ("one", "four"))
    assert [(start, rows) for start, rows, _ in four._parts] == (
        [(0, 800), (800, 800), (1600, 800), (2400, 600)] if kind in APART else [(0, 3000)]
    )
    if kind not in APART:
        for mine, other in zip(four.search(queries.matrix(), 10), one.search(queries.matrix(), 10), strict=True):
            np.testing.assert_array_equal(mine, other)


def test_a_graph_over_the_centres_of_lists(corpus, queries, tmp_path):
    """Chosen by itself from 8,192 lists on; it finds the same lists, or nearly."""
    assert find_kind("ivf").resolve({}, dim=DIM, rows=10**7)["graph"] == 32
    assert find_kind("ivf").resolve({"graph": 0}, dim=DIM, rows=10**7)["graph"] == 0
    assert find_kind("ivf").resolve({}, dim=DIM, rows=10**6)["graph"] == 0
    build_index(corpus, tmp_path / "flat", kind="ivf", settings={"lists": 60})
    build_index(corpus, tmp_path / "graph", kind="ivf", settings={"lists": 60, "graph": 16}, part_rows=1000)
    found = [
        Index(tmp_path / name, corpus, {"nprobe": 8}).search(queries.matrix(), 10)[1] for name in ("flat", "graph")
    ]
    assert recall(found[1], found[0]) >= 0.98


@pytest.mark.skipif(faiss.get_num_gpus() > 0, reason="a GPU is here")
def test_a_device_that_is_not_there(corpus, queries, tmp_path):
    build_index(corpus, tmp_path, kind="ivf")
    for device in ("cuda", "cuda:7", "tpu"):
        with pytest.raises(TevaError, match="this FAISS sees 0 GPUs; expected cpu, cuda or cuda:N"):
            Index(tmp_path, corpus, device=device)
    with pytest.raises(TevaError, match="sees 0 GPUs"):
        search(queries, corpus, index=tmp_path, device="cuda")
    build_index(corpus, tmp_path / "b", kind="binary")
    with pytest.raises(TevaError, match="on the CPU alone"):
        Index(tmp_path / "b", corpus, device="cuda")


def test_a_corpus_smaller_than_the_depth(tmp_path):
    corpus = store(tmp_path / "c", clustered(45, 3))
    for kind in KINDS:
        if kind == "pq":  # 256 codes cannot be learned from 45 vectors
            continue
        build_index(corpus, tmp_path / kind, kind=kind, part_rows=20)
        _, rows, filled = Index(tmp_path / kind, corpus, everything(kind)).search(clustered(2, 4), 100)
        assert filled.sum(axis=1).tolist() == [45, 45]
        assert sorted(rows[0][:45].tolist()) == list(range(45))
        assert not filled[:, 45:].any()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("scale", [1.0, 37.0])
def test_candidates_are_scored_as_exact_search_does_it(dtype, scale, queries, tmp_path):
    """Of any stored numbers and lengths, with equal documents among them, places without a candidate, uneven shards."""
    vectors = clustered(900, 5) * np.linspace(0.5, 1, 900, dtype=np.float32)[:, None] * scale
    vectors[400:420] = vectors[7]
    corpus = store(tmp_path / "c", vectors, shard=350, dtype=dtype)
    asked = queries.matrix()
    rows = np.tile(np.random.default_rng(1).permutation(900), (len(asked), 1))
    padded = np.concatenate([rows, np.full((len(asked), 30), -1)], axis=1)
    expected = search_block(asked, corpus, 50)
    for candidates in (rows, padded):
        for one, other in zip(rescore(asked, corpus, candidates, 50, 1.001 * scale), expected, strict=True):
            np.testing.assert_array_equal(one, other)
    few = rescore(asked, corpus, rows[:, :20], 50, 1.001 * scale)
    assert few[2].sum(axis=1).tolist() == [20] * len(asked)


def test_beside_the_same_structure_made_by_hand(corpus, queries, tmp_path):
    build_index(corpus, tmp_path, kind="ivf", settings={"lists": 32}, seed=7)
    rows = Index(tmp_path, corpus, {"nprobe": 4}).search(queries.matrix(), DEPTH)[1]
    by_hand = faiss.index_factory(DIM, "IVF32,Flat", faiss.METRIC_INNER_PRODUCT)
    by_hand.cp.seed = 7
    chosen = np.sort(np.random.default_rng(7).choice(ROWS, 64 * 32, replace=False))
    by_hand.train(corpus.matrix()[chosen])
    by_hand.add(corpus.matrix())
    by_hand.nprobe = 4
    np.testing.assert_array_equal(rows, by_hand.search(queries.matrix(), DEPTH)[1])


def test_a_search_writes_a_run(corpus, queries, tmp_path, capsys):
    words = ["index", str(corpus.directory), "--output", str(tmp_path / "i"), "--kind", "ivf", "--setting", "lists=16"]
    assert main(words) == 0
    words = ["search", "--queries", str(queries.directory), "--corpus", str(corpus.directory), "--depth", "5"]
    words += ["--output", str(tmp_path / "run.tsv")]
    by_index = [*words, "--index", str(tmp_path / "i")]
    assert main([*by_index, "--knob", "nprobe=16"]) == 0
    assert read_run(tmp_path / "run.tsv") == search(queries, corpus, depth=5)
    capsys.readouterr()
    assert main([*by_index, "--knob", "probes=3"]) == 1
    assert "nprobe" in capsys.readouterr().err
    assert main([*words, "--knob", "nprobe=3"]) == 1
    assert "say which" in capsys.readouterr().err


def test_tune(corpus, queries, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tuning, "LEAST_SECONDS", 0.01)
    build_index(corpus, tmp_path / "i", kind="ivf", settings={"lists": 76})
    found = tune(tmp_path / "i", corpus, queries, tmp_path / "t", depth=DEPTH)
    assert {point.knobs["nprobe"] for point in found.points} == set(find_kind("ivf").knobs["nprobe"])
    by_probes = {point.knobs["nprobe"]: point.recall for point in found.points}
    assert by_probes[1] < by_probes[16] <= by_probes[128] == 1.0
    written = json.loads((tmp_path / "t/tune.json").read_text())
    assert written["points"][0]["knobs"] == found.points[0].knobs
    assert (tmp_path / "t/tune.png").read_bytes()[:4] == b"\x89PNG"
    assert found.fastest(0.5).recall >= 0.5
    assert found.fastest(1.1) is None
    words = ["tune", str(tmp_path / "i"), "--corpus", str(corpus.directory), "--queries", str(queries.directory)]
    assert main([*words, "--output", str(tmp_path / "t"), "--depth", "5", "--recall", "0.9"]) == 0
    out = capsys.readouterr().out
    assert "fastest: --knob nprobe=" in out
    assert "\n* no other setting is both faster and finds more\n" in out


def test_a_build_goes_on_where_it_stopped(corpus, tmp_path):
    build_index(corpus, tmp_path / "whole", kind="ivf", part_rows=600)
    build_index(corpus, tmp_path / "i", kind="ivf", part_rows=600)
    kept = tmp_path / "i" / part_name(0)
    before = kept.stat().st_mtime_ns
    (tmp_path / "i" / part_name(1)).unlink()
    (tmp_path / "i" / part_name(3)).write_bytes(b"damaged")
    with pytest.raises(DataError, match="unfinished index"):
        Index(tmp_path / "i", corpus)
    build_index(corpus, tmp_path / "i", kind="ivf", part_rows=600)
    assert kept.stat().st_mtime_ns == before
    for name in ("trained.index", *map(part_name, range(5))):
        assert (tmp_path / "i" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_killed_build(corpus, tmp_path):
    """Killed by its own progress at a part's middle: what is finished stays, and the rest is built."""
    code = (
        "import os, signal, sys\nfrom teva_infer.indexes import building\nfrom teva_data.progress import Progress\n"
        "plain = Progress.add\n"
        "def add(self, units, note=''):\n"
        "    plain(self, units, note)\n"
        "    if self.count > 1500: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Progress.add = add\n"
        "building.build_index(sys.argv[1], sys.argv[2], kind='hnsw', part_rows=600)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(corpus.directory), str(tmp_path / "i")], check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "i" / part_name(1)).is_file()
    assert not (tmp_path / "i" / part_name(2)).exists()
    build_index(corpus, tmp_path / "i", kind="hnsw", part_rows=600)
    assert len(Index(tmp_path / "i", corpus)._parts) == 5


def test_settings_that_the_structure_would_not_survive(corpus, tmp_path):
    """FAISS divides by zero, ends the process, or goes on with another number."""
    few = store(tmp_path / "few", clustered(45, 3))
    for kind, settings, told in (
        ("hnsw", {"links": 1}, "links: found 1; expected at least 2"), ("ivf", {"graph": 1}, "graph: found 1"),
        ("ivf", {"lists": 46}, "lists: found 46; expected at most the 45 vectors"),
        ("pq", {}, "learns from 256 vectors at least; found 45"),
        ("hnsw", {"links": 2**31}, "links: found 2147483648; expected at most 2,147,483,647"),
    ):  # fmt: skip
        with pytest.raises(TevaError, match=told):
            build_index(few, tmp_path / "i", kind=kind, settings=settings)
    for seed in (-1, 2**31):
        with pytest.raises(TevaError, match="seed: found"):
            build_index(few, tmp_path / "i", seed=seed)
    build_index(few, tmp_path / "hnsw", kind="hnsw", settings={"links": 2})
    with pytest.raises(TevaError, match="efSearch: found 2147483648"):
        Index(tmp_path / "hnsw", few, {"efSearch": 2**31})
    assert find_kind("pq").resolve({}, dim=4, rows=300)["bytes"] == 1


def test_a_full_disk_is_told(corpus, tmp_path):
    """FAISS's own file says nothing of what is lost when it is closed."""
    for kind in ("flat", "binary"):
        structure = find_kind(kind).empty({}, dim=DIM, seed=0)
        structure.add(clustered(5, 1))
        with pytest.raises(OSError, match="No space left"):
            structure.save(Path("/dev/full"))


def test_an_index_of_a_part_is_that_parts_alone(tmp_path):
    corpus = store(tmp_path / "c", clustered(300, 6), shard=100)
    build_index(corpus.part(1, 3), tmp_path / "i", kind="flat")
    _, rows, _ = Index(tmp_path / "i", corpus.part(1, 3)).search(corpus.matrix()[[150]], 1)
    assert rows.tolist() == [[50]]
    for other in (corpus, corpus.part(0, 3)):
        with pytest.raises(DataError, match="an index of other embeddings"):
            Index(tmp_path / "i", other)


@pytest.mark.parametrize("kind", ["flat", "sq8"])
def test_vectors_too_long_are_refused_as_exact_search_does(kind, tmp_path):
    corpus = store(tmp_path / "c", clustered(100, 6) * np.float32(1e25))
    build_index(corpus, tmp_path / "i", kind=kind)
    asked = clustered(2, 7) * np.float32(1e15)
    for search_ in (lambda: search_block(asked, corpus, 3), lambda: Index(tmp_path / "i", corpus).search(asked, 3)):
        with pytest.raises(DataError, match="scores too large for float32"):
            search_()


def test_what_else_lies_there_stays(corpus, tmp_path, monkeypatch):
    """Another program's files, and a build that was killed before it had learned anything."""
    (tmp_path / "mine.index").write_text("precious")

    def killed(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(building._Build, "_train", killed)
        with pytest.raises(KeyboardInterrupt):
            build_index(corpus, tmp_path, kind="ivf")
    with pytest.raises(DataError, match="unfinished index"):
        Index(tmp_path, corpus)
    build_index(corpus, tmp_path, kind="ivf")
    assert (tmp_path / "mine.index").read_text() == "precious"


def test_an_index_of_another_version_is_not_gone_on_with(corpus, tmp_path):
    build_index(corpus, tmp_path, kind="flat")
    found = read_sealed(tmp_path / MANIFEST)
    write_sealed(tmp_path / MANIFEST, {**found, "schema": "1"})
    with pytest.raises(TevaError, match="one that this version does not read"):
        build_index(corpus, tmp_path, kind="flat")


def test_tune_of_what_does_not_belong_together(corpus, queries, tmp_path, monkeypatch):
    build_index(corpus, tmp_path / "i", kind="flat")
    other = store(tmp_path / "q", clustered(5, 2)[:, :8], "query", prefix="q")
    with pytest.raises(TevaError, match="do not belong together: dim"):
        tune(tmp_path / "i", corpus, other, tmp_path / "t")
    for numbers in ({"depth": 0}, {"most_queries": -1}):
        with pytest.raises(TevaError, match="start at 1"):
            tune(tmp_path / "i", corpus, queries, tmp_path / "t", **numbers)
    monkeypatch.setattr(tuning, "search_block", None)  # none of it is measured first
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        tune(tmp_path / "i", corpus, queries, tmp_path / "file")
    with pytest.raises(TevaError, match="oversample: found -1"):
        tune(tmp_path / "i", corpus, queries, tmp_path / "t", oversample=(1, -1))
    with pytest.raises(TevaError, match="an index is searched whole"):
        search(queries, corpus, index=tmp_path / "i", part=(0, 99))


def test_what_does_not_fit_is_refused(corpus, queries, tmp_path):
    build_index(corpus, tmp_path / "i", kind="hnsw")
    with pytest.raises(TevaError, match="holds another index"):
        build_index(corpus, tmp_path / "i", kind="ivf")
    with pytest.raises(TevaError, match="unknown kind"):
        build_index(corpus, tmp_path / "j", kind="hnws")
    with pytest.raises(TevaError, match="links"):
        build_index(corpus, tmp_path / "j", kind="hnsw", settings={"link": 3})
    with pytest.raises(TevaError, match="divisor of the dimension"):
        build_index(corpus, tmp_path / "j", kind="pq", settings={"bytes": 5})
    with pytest.raises(DataError, match="an index of other embeddings"):
        Index(tmp_path / "i", queries)
    with pytest.raises(DataError, match="no index here"):
        Index(tmp_path / "nothing", corpus)
    part = tmp_path / "i" / part_name(0)
    whole = bytearray(part.read_bytes())
    whole[len(whole) // 2] ^= 1
    part.write_bytes(whole)
    with pytest.raises(DataError, match="damaged index"):
        Index(tmp_path / "i", corpus)
    (tmp_path / "i" / MANIFEST).write_text("{}")
    with pytest.raises(DataError, match="damaged"):
        Index(tmp_path / "i", corpus)
    with pytest.raises(TevaError, match="--overwrite"):
        build_index(corpus, tmp_path / "i", kind="hnsw")
    build_index(corpus, tmp_path / "i", kind="ivf", overwrite=True)
    assert Index(tmp_path / "i", corpus).job["kind"] == "ivf"
