"""When a store is built, found again and built anew; and that nothing half-made is ever seen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from teva_data.building import CORPUS, ensure_store, fits
from teva_data.errors import DataError, TevaError
from teva_data.sources import Source
from teva_data.store import CorpusStore, QueryStore

DOCUMENTS = [{"docid": f"d{n}", "text": f"text {n}"} for n in range(50)]
LONG_AGO = time.time_ns() - 3_600_000_000_000


def age(path: Path, nanoseconds: int = 0) -> None:
    """Give a file a time that is well before now."""
    os.utime(path, ns=(LONG_AGO + nanoseconds, LONG_AGO + nanoseconds))


def built(directory: Path) -> int:
    """Which build of a store this is: a store is a new directory each time."""
    return directory.stat().st_ino


@pytest.fixture
def corpus(write) -> Path:
    path = write("corpus.jsonl", DOCUMENTS)
    age(path)
    return path


def test_store_stands_beside_its_source_and_is_found_again(corpus):
    directory = ensure_store(Source.of(corpus), CORPUS)
    assert directory == corpus.parent / ".teva" / "corpus.jsonl-store"
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["rows"] == 50
    first = built(directory)
    assert ensure_store(Source.of(corpus), CORPUS) == directory
    assert built(directory) == first


def test_new_time_with_the_same_bytes_keeps_the_store(corpus):
    directory = ensure_store(Source.of(corpus), CORPUS)
    first, fingerprint = built(directory), CorpusStore.open(corpus).fingerprint
    age(corpus, 5_000_000_000)
    assert ensure_store(Source.of(corpus), CORPUS) == directory
    assert (built(directory), CorpusStore.open(corpus).fingerprint) == (first, fingerprint)
    noted = json.loads((directory / "manifest.json").read_text())["source"]["files"]
    assert noted[0]["mtime_ns"] == corpus.stat().st_mtime_ns


@pytest.mark.parametrize("same_size", [True, False])
def test_new_bytes_make_a_new_store(corpus, same_size):
    before = CorpusStore.open(corpus)
    data = corpus.read_text().replace("text 7", "word 7" if same_size else "something longer")
    corpus.write_text(data)
    age(corpus, 5_000_000_000)
    after = CorpusStore.open(corpus)
    assert after.get([7])[0].document_text == ("word 7" if same_size else "something longer")
    assert after.fingerprint != before.fingerprint
    assert before.get([7])[0].document_text == "text 7"  # who has the old one open keeps it


def test_change_that_does_not_show_in_the_time_is_seen(write):
    """A file rewritten at once, with as many bytes, within one tick of the file system's clock."""
    path = write("corpus.jsonl", DOCUMENTS)
    os.utime(path, ns=(time.time_ns(), time.time_ns() // 10**9 * 10**9))  # a clock of whole seconds
    times = path.stat()
    assert CorpusStore.open(path).get([7])[0].document_text == "text 7"
    path.write_text(path.read_text().replace("text 7", "word 7"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert CorpusStore.open(path).get([7])[0].document_text == "word 7"


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 8)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("manifest.json", lambda path: path.write_text("{")),
        ("manifest.json", lambda path: path.write_text("[]")),
        ("manifest.json", lambda path: path.write_bytes(b"\xff")),
        ("manifest.json", lambda path: path.unlink()),
        ("manifest.json", lambda path: edit(path, schema="0")),
        ("manifest.json", lambda path: edit(path, kind="queries")),
        ("manifest.json", lambda path: edit(path, source={})),
        ("manifest.json", lambda path: edit(path, rows=7)),
        ("manifest.json", lambda path: flip(path, 40)),
        ("rows.arrow", cut),
        ("rows.arrow", lambda path: path.unlink()),
        ("rows.arrow", lambda path: flip(path, -1)),
        ("rows.arrow.checks", cut),
        ("ids.hashes", cut),
        ("ids.rows", lambda path: path.unlink()),
        ("places", cut),
    ],
)
def test_damaged_store_is_built_anew(corpus, file, damage):
    directory = ensure_store(Source.of(corpus), CORPUS)
    first = built(directory)
    damage(directory / file)
    store = CorpusStore.open(corpus)
    assert built(directory) != first
    assert store.get(store.rows(["d49"]))[0].document_text == "text 49"
    store.verify()


def test_failed_build_leaves_the_earlier_store(corpus):
    directory = ensure_store(Source.of(corpus), CORPUS)
    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    good = corpus.read_bytes()
    corpus.write_bytes(good + b'{"docid": "d50", "text": 5}\n')
    with pytest.raises(DataError, match=r"corpus\.jsonl:51: field 'text'"):
        CorpusStore.open(corpus)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == files
    assert sorted(path.name for path in directory.parent.iterdir()) == ["corpus.jsonl-store", "corpus.jsonl-store.lock"]
    first = built(directory)
    corpus.write_bytes(good)
    assert len(CorpusStore.open(corpus)) == 50
    assert built(directory) == first


def test_place_that_cannot_be_written_is_left_for_the_cache(corpus, tmp_path):
    (corpus.parent / ".teva").write_text("a file is where the directory would be")
    directory = ensure_store(Source.of(corpus), CORPUS)
    assert directory.is_relative_to(tmp_path / "cache")
    first = built(directory)
    assert ensure_store(Source.of(corpus), CORPUS) == directory
    assert built(directory) == first


def test_two_datasets_of_one_name_have_two_places_in_the_cache(tmp_path):
    stores = []
    for parent in ("one", "two"):
        path = tmp_path / parent / "data" / "corpus.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text(f'{{"docid": "{parent}", "text": "t"}}\n')
        (path.parent / ".teva").touch()
        stores.append(CorpusStore.open(path))
    assert [store.docids(0, 1) for store in stores] == [["one"], ["two"]]
    assert stores[0].directory != stores[1].directory


def test_no_place_at_all_is_told(corpus, tmp_path):
    (corpus.parent / ".teva").touch()
    (tmp_path / "cache").touch()
    with pytest.raises(TevaError, match="Set TEVA_CACHE"):
        ensure_store(Source.of(corpus), CORPUS)


def test_a_store_of_queries_is_no_store_of_documents(write):
    path = write("train.jsonl", [{"_id": "q", "text": "t"}])
    queries = QueryStore.open(path)
    assert not fits(queries.directory, Source.of(path), CORPUS)
    with pytest.raises(DataError, match="not a whole store"):
        CorpusStore(queries.directory, Source.of(path))


SCRIPT = """
import sys
from teva_data.store import CorpusStore
store = CorpusStore.open(sys.argv[1])
print(len(store), store.get(store.rows(["d4321"]))[0].document_text)
"""


def start(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)], stdout=subprocess.PIPE, text=True)


def test_kill_while_building_leaves_nothing_in_the_way(write):
    path = write("corpus.jsonl", ({"docid": f"d{n}", "text": f"text {n} " * 20} for n in range(100_000)))
    process = start(path)
    place = path.parent / ".teva"
    deadline = time.monotonic() + 60
    # Rows are on the disk, but not all of them yet.
    while not any(file.stat().st_size for file in place.glob(".corpus.jsonl-store.*.tmp/rows.arrow")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    leftovers = list(place.glob(".corpus.jsonl-store.*.tmp"))
    assert leftovers
    assert not (place / "corpus.jsonl-store").exists()
    store = CorpusStore.open(path)
    assert len(store) == 100_000
    assert store.rows(["d99999", "d0", "none"]).tolist() == [99_999, 0, -1]
    assert not any(leftover.exists() for leftover in leftovers)


def test_eight_processes_that_open_at_once_are_all_served(write):
    path = write("corpus.jsonl", ({"docid": f"d{n}", "text": f"text {n}"} for n in range(20_000)))
    age(path)
    processes = [start(path) for _ in range(8)]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["20000 text 4321\n"] * 8
    assert [process.returncode for process in processes] == [0] * 8
    assert sorted(entry.name for entry in (path.parent / ".teva").iterdir()) == [
        "corpus.jsonl-store", "corpus.jsonl-store.lock",
    ]  # fmt: skip
