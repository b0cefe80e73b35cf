"""Large blocks of memory lie where they go back to the system when they are freed."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import textwrap

import pytest

from teva_infer import heap

# A large block is freed first: from then on glibc by itself puts blocks of its size into the heap.
PROGRAM = textwrap.dedent("""
    import ctypes, sys
    from teva_infer.heap import return_large_blocks

    class Info(ctypes.Structure):  # mallinfo(3)
        _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd a b c d e".split()]

    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Info
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    done = return_large_blocks() if sys.argv[1] == "yes" else None
    libc.free(libc.malloc(12 << 20))
    before = libc.mallinfo2().hblkhd
    for _ in range(10):
        libc.malloc(12 << 20)
    print(done, (libc.mallinfo2().hblkhd - before) >> 20)
""")
GLIBC = platform.libc_ver()[0] == "glibc"


def outside(argument: str, **environment: str) -> list[str]:
    """Whether it was done, and MiB of 120 that lie outside glibc's heap then."""
    return answer(PROGRAM, argument, **environment)


def answer(program: str, *arguments: str, **environment: str) -> list[str]:
    """What a process of its own prints, since the setting is one of the process."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True, env=plain | environment
    )
    return done.stdout.split()


def test_it_is_set_where_glibc_is():
    found = answer("from teva_infer.heap import return_large_blocks; print(return_large_blocks())")
    assert found == [str(GLIBC)]


@pytest.mark.skipif(not GLIBC, reason="measured by glibc's mallinfo2")
class TestGlibc:
    def test_large_blocks_stay_outside_the_heap(self):
        assert outside("no") == ["None", "0"]
        assert outside("yes") == ["True", "120"]

    @pytest.mark.parametrize(
        ("name", "value"),
        [("MALLOC_MMAP_THRESHOLD_", "33554432"), ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=33554432")],
    )
    def test_what_the_environment_says_stays(self, name, value):
        assert outside("yes", **{name: value}) == ["False", "0"]


@pytest.mark.parametrize("error", [OSError, TypeError, AttributeError])
def test_other_systems_are_left_alone(monkeypatch, error):
    def none(_):
        raise error("no such library")

    for name in ("MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(heap.ctypes, "CDLL", none)
    assert heap.return_large_blocks() is False
