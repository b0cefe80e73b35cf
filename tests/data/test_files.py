from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from teva_data.errors import DataError, TevaError
from teva_data.files import (
    atomic_directory,
    atomic_file,
    lock_directory,
    naming,
    read_sealed,
    read_whole,
    recover,
    remove_leftovers,
    write_sealed,
)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a/file"
    with atomic_file(path, "w") as file:
        file.write("one")
        assert not path.exists()
    assert path.read_text() == "one"
    with pytest.raises(RuntimeError), atomic_file(path) as file:  # noqa: PT012 - the block is what fails
        file.write(b"two")
        raise RuntimeError
    assert path.read_text() == "one"
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_a_directory_in_the_files_place_is_told_before_anything_is_written(tmp_path):
    (tmp_path / "run.tsv").mkdir()
    reached = False
    with pytest.raises(IsADirectoryError) as told, atomic_file(tmp_path / "run.tsv"):
        reached = True
    assert not reached
    assert told.value.filename == str(tmp_path / "run.tsv")


def test_a_directory_is_replaced_whole(tmp_path):
    path = tmp_path / "d"
    for text in ("one", "two"):
        with atomic_directory(path) as temporary:
            (temporary / "x").write_text(text)
        assert (path / "x").read_text() == text
    with pytest.raises(RuntimeError), atomic_directory(path) as temporary:  # noqa: PT012
        (temporary / "x").write_text("three")
        raise RuntimeError
    assert (path / "x").read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_between_the_two_renames_is_mended(tmp_path):
    path = tmp_path / "d"
    path.mkdir()
    (path / "x").write_text("old")
    code = (
        "import os, pathlib, signal, sys\nfrom teva_data.files import atomic_directory\n"
        "original, calls = pathlib.Path.replace, []\n"
        "def replace(self, target):\n"
        "    calls.append(self)\n"
        "    if len(calls) == 2:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return original(self, target)\n"
        "pathlib.Path.replace = replace\n"
        "with atomic_directory(sys.argv[1]) as t:\n    (t / 'x').write_text('new')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    recover(path)
    assert (path / "x").read_text() == "old"
    (tmp_path / ".d.other.old/was").mkdir(parents=True)
    remove_leftovers(tmp_path, "d")
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path):
    with lock_directory(tmp_path, "working"), pytest.raises(TevaError, match=f"process {os.getpid()} is working here"):
        lock_directory(tmp_path, "working")
    lock_directory(tmp_path, "working").close()


def test_an_error_keeps_its_address_across_processes():
    import pickle

    error = DataError("bad", file="f", line=3, field="x", found=1, expected="2", hint="Mend it")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes, as multiprocessing would send them
    assert str(again) == str(error) == "f:3: field 'x': bad; found 1; expected 2. Mend it"


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_what_another_process_wrote_meanwhile_is_kept(tmp_path):
    path = tmp_path / "data"
    with pytest.raises(TevaError, match="another process"), atomic_directory(path, replace=False) as ours:  # noqa: PT012 - it fails at its end
        (ours / "x").write_text("ours")
        with atomic_directory(path, replace=False) as theirs:
            (theirs / "x").write_text("theirs")
    assert [(each.name, (each / "x").read_text()) for each in tmp_path.iterdir()] == [("data", "theirs")]


def test_every_flipped_byte_of_a_sealed_file_is_seen_or_says_nothing(tmp_path):
    path, value = tmp_path / "x.json", {"a": 12, "left out": {"d1": "why", "d2": "so"}, 3: [1.5, None]}
    write_sealed(path, value)
    whole = path.read_bytes()
    expected = read_whole(path, "make it again")
    assert expected == {"a": 12, "left out": {"d1": "why", "d2": "so"}, "3": [1.5, None]}
    assert read_sealed(path) == expected
    seen = 0
    for place in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            found, told = None, ""
            try:
                found = read_whole(path, "make it again")
            except DataError as error:
                told = str(error)
            # White space is all that may change.
            assert found == expected if not told else str(path) in told
            seen += bool(told)
    assert seen > 6 * len(whole)


def test_a_file_without_a_seal_is_taken_as_it_is(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a": 1}')
    assert read_whole(path, "make it again") == {"a": 1}
    path.write_text("[1]")
    with pytest.raises(DataError, match=r"not a JSON object.*make it again"):
        read_whole(path, "make it again")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_told_with_the_files_name(tmp_path):
    path = tmp_path / "a.bin"
    with pytest.raises(OSError, match="No space left") as caught, naming(path), open("/dev/full", "wb", 0) as full:  # noqa: PTH123
        full.write(b"x")
    assert caught.value.filename == str(path)
    safetensors = pytest.importorskip("safetensors")
    told = "Error while serializing: I/O error: No space left on device (os error 28)"  # what it says on a full disk
    with pytest.raises(OSError, match="No space left") as caught, naming(path):
        raise safetensors.SafetensorError(told)
    assert (caught.value.filename, caught.value.errno) == (str(path), 28)
    with pytest.raises(KeyError), naming(path):  # what is not of the system stays what it is
        raise KeyError
