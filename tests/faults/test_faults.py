"""A few faults of each kind, drawn at random; `python -m benchmarks.claims faults` tries hundreds."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from benchmarks.faults import flips, forks, kills, others, works

# One process imports everything, once; each trial is then a second or less.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return works.Workshop(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def seed():
    """Another one each day, told where a test fails."""
    return int(os.environ.get("FAULTS_SEED", random.SystemRandom().randrange(10**6)))


@pytest.mark.parametrize("name", ["encode", "index", "mine", "evaluate"])
def test_a_killed_command_goes_on_and_leaves_the_same(shop, seed, name):
    found = kills.kill_often(shop, works.WORKS[name], 2, seed)
    assert found.tried >= 2
    assert not found.lost, (seed, found.lost)


@pytest.mark.parametrize(
    "name", ["shard", "embeddings' manifest", "index", "index's manifest", "store", "evaluation", "mining"]
)
def test_a_flipped_byte_is_named_or_harmless(shop, seed, name):
    found = flips.flip_often(shop, flips.KEEPS[name], 3, seed)
    assert found.tried == found.detected + found.harmless, (seed, found.undetected)


@pytest.mark.skipif(not Path("/proc/self/ns/mnt").exists(), reason="needs Linux's mount namespaces")
def test_a_full_disk_loses_nothing(shop, seed):
    found = others.fill_disk(shop, works.WORKS["encode"], 1, seed)
    assert not found.lost, (seed, found.lost)


def test_two_writers_do_it_once(shop, seed):
    found = others.two_writers(shop, works.WORKS["index"], 1, seed)
    assert not found.lost, (seed, found.lost)


def test_a_slow_reader_never_sees_two_versions(shop, seed):
    found = others.read_slowly(shop, 2, seed)
    assert found.tried == 2
    assert not found.lost, (seed, found.lost)


def test_what_is_lost_is_seen(shop):
    """The comparison itself: a byte more, a file too many and one too few are told."""
    work = works.WORKS["index"]
    directory = shop.begin(work)
    ended = works.finish(work.words, directory)
    expected = works.left(directory)
    assert not kills.wrong(ended, directory, expected)
    with (directory / "index" / "part-00001.index").open("ab") as file:
        file.write(b"x")
    (directory / "index" / ".left.tmp").touch()
    (directory / "index" / "trained.index").unlink()
    assert [line.partition(": ")[2] for line in kills.wrong(ended, directory, expected)] == [
        "left over", "other bytes", "missing",
    ]  # fmt: skip


def test_a_moment_is_where_it_was_drawn(shop):
    work = works.WORKS["index"]
    changes = works.finish(work.words, shop.begin(work)).changes
    assert changes > 20
    before = forks.run(work.words, shop.begin(work), forks.Moment(1))
    assert before.killed
    assert not (shop.here / "index").exists()
    last = forks.run(work.words, shop.begin(work), forks.Moment(changes))
    assert last.killed
    assert (shop.here / "index" / "part-00005.index").exists()


@pytest.mark.slow
def test_training_too(shop, seed):
    assert not kills.kill_often(shop, works.WORKS["train"], 6, seed).lost
    for name in ("checkpoint", "recipe of a run", "model"):
        found = flips.flip_often(shop, flips.KEEPS[name], 6, seed)
        assert found.tried == found.detected + found.harmless, (seed, found.undetected)
    assert not others.kill_a_rank(shop, 2, seed).lost
    assert not others.kill_a_worker(shop, 2, seed).lost
