"""A real Ray cluster of this machine: the output of one process, whatever happens to the workers."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from tests.conftest import write_jsonl

from teva_data.embeddings import Embeddings
from teva_data.errors import TevaError
from teva_infer import encode, search
from teva_infer.clusters import encode_on_ray, imported_ray, search_on_ray

if importlib.util.find_spec("ray") is None:
    pytest.skip("needs the group ray", allow_module_level=True)
ray = imported_ray()
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    # Beside the two workers, Ray Data needs room for its own tasks.
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def alone(tiny_model, tiny_data, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("alone")
    encode(tiny_model, tiny_data, directory / "corpus", shard_size=5, device="cpu")
    encode(tiny_model, tiny_data, directory / "test", split="test", shard_size=5, device="cpu")
    return directory


def same(one: Path, other: Path) -> None:
    left, right = (Embeddings.open(each) for each in (one, other))
    for name in sorted(path.name for path in one.glob("*.arrow")):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert left.manifest["job"] == right.manifest["job"]


def workers() -> list[int]:
    """Processes that encode: Ray writes into their command lines what they are."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().startswith(b"ray::") and b"_ShardEncoder" in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def test_two_workers_encode_and_search(cluster, alone, tiny_model, tiny_data, tmp_path):
    settings = {"shard_size": 5, "device": "cpu", "max_length": 9, "document_prompt": "of the "}
    encode(tiny_model, tiny_data, tmp_path / "alone", **settings)
    encode_on_ray(tiny_model, tiny_data, tmp_path / "prompted", workers=2, writes="workers", **settings)
    same(tmp_path / "alone", tmp_path / "prompted")
    encode_on_ray(tiny_model, tiny_data, tmp_path / "corpus", workers=2, shard_size=5, device="cpu")
    encode_on_ray(tiny_model, tiny_data, tmp_path / "test", workers=2, split="test", shard_size=5, device="cpu")
    for name in ("corpus", "test"):
        same(alone / name, tmp_path / name)
    for depth, batch in ((9, 4096), (100, 3)):
        found = search_on_ray(
            tmp_path / "test", tmp_path / "corpus", tmp_path / "run.tsv", parts=4, depth=depth, batch=batch
        )
        search(alone / "test", alone / "corpus", tmp_path / "alone.tsv", depth=depth)
        assert found.read_bytes() == (tmp_path / "alone.tsv").read_bytes()


def test_it_goes_on_where_one_process_stopped(cluster, alone, tiny_model, tiny_data, tmp_path):
    """And the other way round: the directory is the same job's."""
    encode_on_ray(tiny_model, tiny_data, tmp_path / "corpus", workers=1, shard_size=5, device="cpu")
    kept = sorted((tmp_path / "corpus").glob("*.arrow"))
    kept[2].unlink()
    before = kept[0].stat().st_mtime_ns
    encode(tiny_model, tiny_data, tmp_path / "corpus", shard_size=5, device="cpu")
    assert kept[0].stat().st_mtime_ns == before
    same(alone / "corpus", tmp_path / "corpus")


def test_a_killed_worker_loses_nothing(cluster, alone, tiny_model, tiny_data, tmp_path):
    """SIGKILL to an actor in the middle: Ray starts it again, and all shards are there."""
    killed: list[int] = []

    def kill() -> None:
        until = time.monotonic() + 400
        while not killed and time.monotonic() < until:
            if len(list((tmp_path / "corpus").glob("*.arrow"))) >= 2:
                killed.extend(workers()[:1])
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    thread = threading.Thread(target=kill)
    thread.start()
    encode_on_ray(tiny_model, tiny_data, tmp_path / "corpus", workers=2, shard_size=5, device="cpu", batch_rows=1)
    thread.join()
    assert killed
    found = Embeddings.open(tmp_path / "corpus")
    assert found.ids() == Embeddings.open(alone / "corpus").ids()
    assert abs(found.matrix() - Embeddings.open(alone / "corpus").matrix()).max() < 1e-6


def test_workers_run_in_the_environment_that_is_there(cluster):
    """Under `uv run` too, as this test is mostly run: nothing is packed, and no environment is made for workers."""
    env = ray.get_runtime_context().runtime_env
    assert "py_executable" not in env
    assert "working_dir" not in env


def test_a_worker_says_what_is_wrong(cluster, tiny_model, tmp_path):
    """What is seen when a worker reads a row: this process has looked at no row."""
    (tmp_path / "a.png").write_bytes(b"not looked at")
    rows = [{"docid": "d1", "text": "water"}, {"docid": "d2", "image": "a.png"}]
    write_jsonl(tmp_path / "corpus.jsonl", rows)
    with pytest.raises(TevaError, match=r"corpus.jsonl:2: a document without text"):
        encode_on_ray(tiny_model, tmp_path, tmp_path / "emb", workers=1, device="cpu")
