from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

from teva_data import embeddings
from teva_data.embedding_writer import EmbeddingWriter
from teva_data.embeddings import Embeddings
from teva_data.errors import DataError, TevaError
from teva_data.files import checksum
from teva_data.shardfiles import shard_name

JOB = {"role": "document", "normalized": True, "model_fingerprint": "m1", "prompt": "passage: ", "max_length": 64}


def vectors_of(rows: int, dim: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


def ids_of(rows: int, first: int = 0) -> list[str]:
    return [f"dök-{first + row}\t🦉" for row in range(rows)]


def fill(directory, shards=(3, 3, 2), dim=5, dtype="float32", skip=(), **options):
    """Write made-up rows, but not the shards in ``skip``; returns all of the rows."""
    ids, vectors = ids_of(sum(shards)), vectors_of(sum(shards), dim)
    starts = np.cumsum([0, *shards])
    with EmbeddingWriter(directory, job=JOB, shards=shards, dim=dim, dtype=dtype, **options) as writer:
        for shard in writer.missing():
            if shard not in skip:
                low, high = starts[shard], starts[shard + 1]
                writer.write(shard, ids[low:high], vectors[low:high])
    return ids, vectors


def test_what_was_written_is_read(tmp_path):
    ids, vectors = fill(tmp_path / "emb")
    found = Embeddings.open(tmp_path / "emb")
    assert len(found) == 8
    assert (found.dim, found.dtype, found.normalized, found.role) == (5, "float32", True, "document")
    assert found.ids() == ids
    np.testing.assert_array_equal(found.matrix(), vectors)
    parts = list(found.shards())
    assert [names for names, _ in parts] == [ids[:3], ids[3:6], ids[6:]]
    np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), vectors)


def test_float16_is_the_nearest_half_and_matrix_gives_float32(tmp_path):
    _, vectors = fill(tmp_path, dtype="float16")
    found = Embeddings.open(tmp_path)
    part = next(found.vectors())
    assert part.dtype == np.float16
    assert found.matrix().dtype == np.float32
    np.testing.assert_array_equal(found.matrix(), vectors.astype(np.float16).astype(np.float32))


def test_shards_are_views_of_the_file(tmp_path):
    fill(tmp_path, shards=[100], dim=1000)
    before = pa.total_allocated_bytes()
    part = next(Embeddings.open(tmp_path).vectors())
    assert not part.flags.writeable
    assert pa.total_allocated_bytes() - before < part.nbytes / 10


def test_other_programs_read_the_shards(tmp_path):
    ids, vectors = fill(tmp_path)
    table = pa.ipc.open_file(tmp_path / "shard-00001-of-00003.arrow").read_all()
    assert table.column("id").to_pylist() == ids[3:6]
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 5)
    np.testing.assert_array_equal(np.array(table.column("vector").to_pylist(), dtype=np.float32), vectors[3:6])


def test_the_manifest_says_what_is_there(tmp_path):
    fill(tmp_path, info={"versions": {"numpy": "2"}})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["schema"] == "1"
    assert manifest["count"] == 8
    assert {key: manifest["job"][key] for key in JOB} == JOB
    assert manifest["info"] == {"versions": {"numpy": "2"}}
    for entry in manifest["shards"]:
        path = tmp_path / entry["file"]
        assert (entry["bytes"], entry["checksum"]) == (path.stat().st_size, checksum(path))
    assert [entry["rows"] for entry in manifest["shards"]] == [3, 3, 2]


def test_take_ids_at_any_rows(tmp_path):
    ids, _ = fill(tmp_path, shards=[3, 1, 4])
    rows = np.array([[7, 0, 3], [3, 3, 2]])
    assert Embeddings.open(tmp_path).take_ids(rows).tolist() == [[ids[row] for row in line] for line in rows]
    assert Embeddings.open(tmp_path).take_ids(np.array([], dtype=np.int64)).tolist() == []


def test_no_rows(tmp_path):
    fill(tmp_path, shards=[])
    found = Embeddings.open(tmp_path)
    assert (len(found), found.ids(), found.matrix().shape) == (0, [], (0, 5))


def test_bytes_do_not_depend_on_the_order_or_the_number_of_starts(tmp_path):
    fill(tmp_path / "a")
    fill(tmp_path / "b", skip=[0, 2])
    fill(tmp_path / "b")
    files = sorted(path.name for path in (tmp_path / "a").iterdir() if not path.name.startswith("."))
    assert files == ["manifest.json", *(shard_name(shard, 3) for shard in range(3))]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_starting_again_does_only_what_is_missing(tmp_path):
    fill(tmp_path, skip=[1])
    times = {shard: (tmp_path / shard_name(shard, 3)).stat().st_mtime_ns for shard in (0, 2)}
    with EmbeddingWriter(tmp_path, job=JOB, shards=[3, 3, 2], dim=5) as writer:
        assert writer.missing() == [1]
    fill(tmp_path)
    assert times == {shard: (tmp_path / shard_name(shard, 3)).stat().st_mtime_ns for shard in (0, 2)}
    assert len(Embeddings.open(tmp_path)) == 8


def test_a_shard_that_the_manifest_does_not_know_is_kept(tmp_path):
    # As a kill between the rename of shard 2 and the manifest leaves it.
    fill(tmp_path, skip=[2])
    manifest = (tmp_path / "manifest.json").read_bytes()
    fill(tmp_path)
    whole = (tmp_path / "manifest.json").read_bytes()
    (tmp_path / "manifest.json").write_bytes(manifest)
    with EmbeddingWriter(tmp_path, job=JOB, shards=[3, 3, 2], dim=5) as writer:
        assert writer.missing() == []
    assert (tmp_path / "manifest.json").read_bytes() == whole


def test_all_shards_are_kept_when_the_manifest_is_lost(tmp_path):
    fill(tmp_path)
    whole = (tmp_path / "manifest.json").read_bytes()
    (tmp_path / "manifest.json").unlink()
    with EmbeddingWriter(tmp_path, job=JOB, shards=[3, 3, 2], dim=5) as writer:
        assert writer.missing() == []
    assert (tmp_path / "manifest.json").read_bytes() == whole


def damage_cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def damage_byte_of_a_vector(path):
    data = bytearray(path.read_bytes())
    place = bytes(data).index(vectors_of(8)[3].tobytes())
    data[place] ^= 1
    path.write_bytes(data)


def damage_byte_of_an_id(path):
    data = bytearray(path.read_bytes())
    data[bytes(data).index("dök".encode()) + 1] = 0xFF  # no longer UTF-8
    path.write_bytes(data)


def damage_empty(path):
    path.write_bytes(b"")


def damage_gone(path):
    path.unlink()


DAMAGES = [damage_cut, damage_byte_of_a_vector, damage_byte_of_an_id, damage_empty, damage_gone]


@pytest.mark.parametrize("known", [True, False], ids=["in-manifest", "not-in-manifest"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_refused_by_the_reader_and_made_again_by_the_writer(tmp_path, damage, known, caplog):
    fill(tmp_path)
    path = tmp_path / shard_name(1, 3)
    whole, others = path.read_bytes(), {s: (tmp_path / shard_name(s, 3)).stat().st_mtime_ns for s in (0, 2)}
    damage(path)
    with pytest.raises(DataError, match=r"shard-00001-of-00003|1 of 3 shards missing: shard-00001"):
        Embeddings.open(tmp_path)
    if not known:
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        del manifest["shards"][1], manifest["seal"]
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with EmbeddingWriter(tmp_path, job=JOB, shards=[3, 3, 2], dim=5) as writer:
        assert writer.missing() == [1]
    if known or damage is not damage_gone:
        assert "made again" in caplog.text
    fill(tmp_path)
    assert path.read_bytes() == whole
    assert others == {s: (tmp_path / shard_name(s, 3)).stat().st_mtime_ns for s in (0, 2)}


def test_without_verify_a_changed_byte_passes_and_a_changed_size_does_not(tmp_path):
    fill(tmp_path)
    damage_byte_of_a_vector(tmp_path / shard_name(1, 3))
    assert len(Embeddings.open(tmp_path, verify=False)) == 8
    with pytest.raises(DataError, match="checksum"):
        Embeddings.open(tmp_path)
    damage_cut(tmp_path / shard_name(0, 3))
    with pytest.raises(DataError, match="bytes"):
        Embeddings.open(tmp_path, verify=False)


def test_unfinished_embeddings_are_refused_with_the_missing_shards(tmp_path):
    fill(tmp_path, skip=[0, 2])
    with pytest.raises(DataError) as caught:
        Embeddings.open(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "2 of 3 shards missing: shard-00000-of-00003.arrow, shard-00002-of-00003.arrow" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"job": {**JOB, "prompt": "document: "}}, ["prompt: 'passage: ' there, 'document: ' now"]),
        ({"job": {**JOB, "max_length": 128, "new": 1}}, ["max_length: 64 there, 128 now", "new: None there, 1 now"]),
        ({"job": {k: v for k, v in JOB.items() if k != "prompt"}}, ["prompt: 'passage: ' there, None now"]),
        ({"shards": [4, 4]}, ["shards: [3, 3, 2] there, [4, 4] now"]),
        ({"dtype": "float16"}, ["dtype: 'float32' there, 'float16' now"]),
        ({"dim": 6}, ["dim: 5 there, 6 now"]),
    ],
)
def test_another_job_is_refused_and_the_difference_named(tmp_path, change, words):
    fill(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != ".lock"}
    options = {"job": JOB, "shards": [3, 3, 2], "dim": 5, **change}
    with pytest.raises(TevaError) as caught:
        EmbeddingWriter(tmp_path, **options)
    for word in (*words, "overwrite=True", str(tmp_path)):
        assert word in str(caught.value)
    assert len(words) == str(caught.value).count(" there, ")
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != ".lock"}
    with EmbeddingWriter(tmp_path, **options, overwrite=True) as writer:
        assert writer.missing() == list(range(len(options["shards"])))
    assert not list(tmp_path.glob("*.arrow"))


def test_shards_of_another_job_without_a_manifest_are_not_overwritten(tmp_path):
    fill(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(TevaError, match="another job"):
        EmbeddingWriter(tmp_path, job={**JOB, "prompt": ""}, shards=[3, 3, 2], dim=5)
    assert len(list(tmp_path.glob("*.arrow"))) == 3


def test_overwrite_leaves_other_files_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    fill(tmp_path)
    EmbeddingWriter(tmp_path, job=JOB, shards=[8], dim=5, overwrite=True).close()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def bad_rows():
    nan, infinite, zero = (vectors_of(3) for _ in range(3))
    nan[1, 2], infinite[2, 0], zero[0] = np.nan, -np.inf, 0
    return [
        (nan, "'b' holds NaN"), (infinite, "'c' holds NaN or infinity"), (zero, "'a' is zero throughout"),
        (vectors_of(2), r"3 ids, vectors \[2, 5\].*expected 3 ids, vectors \[3, 5\]"),
        (vectors_of(3, 4), r"vectors \[3, 4\]"), (vectors_of(3)[0], r"vectors \[5\]"),
        (vectors_of(3).astype(np.float64), "found 'float64'; expected float32"),
    ]  # fmt: skip


@pytest.mark.parametrize(("vectors", "message"), bad_rows())
def test_bad_vectors_are_refused_with_the_id(tmp_path, vectors, message):
    with EmbeddingWriter(tmp_path, job=JOB, shards=[3], dim=5) as writer:
        with pytest.raises(DataError, match=message) as caught:
            writer.write(0, ["a", "b", "c"], vectors)
        assert shard_name(0, 1) in str(caught.value)
        assert writer.missing() == [0]
    assert not list(tmp_path.glob("*.arrow"))


def test_numbers_that_do_not_fit_into_float16_are_refused(tmp_path):
    large, small = vectors_of(2), vectors_of(2)
    large[1, 0], small[0] = 70000, 1e-9
    with EmbeddingWriter(tmp_path, job=JOB, shards=[2], dim=5, dtype="float16") as writer:
        with pytest.raises(DataError, match="'b' holds NaN or infinity"):
            writer.write(0, ["a", "b"], large)
        with pytest.raises(DataError, match="'a' is zero"):
            writer.write(0, ["a", "b"], small)


def test_too_few_ids(tmp_path):
    with EmbeddingWriter(tmp_path, job=JOB, shards=[3], dim=5) as writer, pytest.raises(DataError, match="2 ids"):
        writer.write(0, ["a", "b"], vectors_of(3))


def test_a_closed_writer_does_not_write(tmp_path):
    writer = EmbeddingWriter(tmp_path, job=JOB, shards=[3], dim=5)
    writer.close()
    with pytest.raises(TevaError, match="closed"):
        writer.write(0, ids_of(3), vectors_of(3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "field 'schema': unknown version; found 'none'; expected 1"),
        ('{"schema": "2", "job": {}, "shards": []}', "field 'schema': unknown version; found '2'; expected 1"),
        ('{"schema": "1", "job": {"dim": 3}, "shards": []}', "field 'job'"),
        ('{"schema": "1", "job": {"dim": 3, "dtype": "float32", "shards": [1]}, "shards": [{}]}', "field 'shards'"),
    ],
)
def test_a_broken_manifest_is_refused_with_its_address(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text)
    for attempt in (
        lambda: Embeddings.open(tmp_path),
        lambda: EmbeddingWriter(tmp_path, job=JOB, shards=[3], dim=5),
    ):
        with pytest.raises(DataError, match=message) as caught:
            attempt()
        assert str(caught.value).startswith(str(tmp_path / "manifest.json"))


def test_no_embeddings_here(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match="no embeddings here"):
            Embeddings.open(place)


def test_an_unknown_dtype(tmp_path):
    with pytest.raises(TevaError, match="int8"):
        EmbeddingWriter(tmp_path, job=JOB, shards=[3], dim=5, dtype="int4")


def test_two_writers_on_one_directory(tmp_path):
    with EmbeddingWriter(tmp_path, job=JOB, shards=[3], dim=5) as writer:
        with pytest.raises(TevaError, match=f"process {os.getpid()} is writing"):
            EmbeddingWriter(tmp_path, job=JOB, shards=[3], dim=5, overwrite=True)
        writer.write(0, ids_of(3), vectors_of(3))
    EmbeddingWriter(tmp_path, job=JOB, shards=[3], dim=5).close()
    assert len(Embeddings.open(tmp_path)) == 3


def test_a_killed_writer_leaves_the_directory_free_and_no_rest(tmp_path):
    script = textwrap.dedent("""
        import sys, time, numpy as np
        from teva_data import shardfiles
        from teva_data.embedding_writer import EmbeddingWriter
        writer = EmbeddingWriter(sys.argv[1], job={"role": "query"}, shards=[2, 2], dim=3)
        writer.write(0, ["a", "b"], np.ones((2, 3), np.float32))
        inner = shardfiles._write_shard
        def half(file, *rest):
            inner(file, *rest)
            file.flush()
            print("inside", flush=True)
            time.sleep(60)
        shardfiles._write_shard = half
        writer.write(1, ["c", "d"], np.ones((2, 3), np.float32))
    """)
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "inside\n"
        process.send_signal(signal.SIGKILL)
    assert list(tmp_path.glob(".shard-*.tmp"))
    with EmbeddingWriter(tmp_path, job={"role": "query"}, shards=[2, 2], dim=3) as writer:
        assert writer.missing() == [1]
        writer.write(1, ["c", "d"], np.ones((2, 3), np.float32))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock", "manifest.json", shard_name(0, 2), shard_name(1, 2),
    ]  # fmt: skip
    assert Embeddings.open(tmp_path).ids() == ["a", "b", "c", "d"]


def test_threads_that_read_more_shards_than_stay_mapped(tmp_path, monkeypatch):
    """Exact scores are computed by several: each lets go of a shard while another maps one."""
    monkeypatch.setattr(embeddings, "MAPPED", 2)
    vectors = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    with EmbeddingWriter(tmp_path, job={"role": "document"}, shards=[2] * 32, dim=8) as writer:
        for shard in range(32):
            writer.write(shard, [f"d{2 * shard}", f"d{2 * shard + 1}"], vectors[2 * shard : 2 * shard + 2])
    corpus = Embeddings.open(tmp_path)

    def read(seed: int) -> None:
        for rows in np.random.default_rng(seed).integers(0, 64, (200, 20)):
            for places, found in corpus.take_vectors(rows, 100):
                np.testing.assert_array_equal(found, vectors[rows[places]])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(read, range(6)))
    finally:
        sys.setswitchinterval(interval)
