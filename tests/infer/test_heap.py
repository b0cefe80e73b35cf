"""Large blocks of memory lie where they go back to the system when they are freed."""

from __future__ import annotations

import ctypes
import os
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
GLIBC = hasattr(ctypes.CDLL(None), "mallinfo2") if sys.platform == "linux" else False


def outside(argument: str, **environment: str) -> list[str]:
    """Whether it was done, and MiB of 120 that lie outside glibc's heap then."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, argument], capture_output=True, text=True, check=True, env=plain | environment
    )
    return done.stdout.split()


@pytest.mark.skipif(not GLIBC, reason="of glibc alone")
def test_large_blocks_stay_outside_the_heap():
    assert outside("no") == ["None", "0"]
    assert outside("yes") == ["True", "120"]


@pytest.mark.skipif(not GLIBC, reason="of glibc alone")
def test_what_the_environment_says_stays():
    assert outside("yes", MALLOC_MMAP_THRESHOLD_=str(32 << 20)) == ["False", "0"]


@pytest.mark.parametrize("error", [OSError, TypeError, AttributeError])
def test_other_systems_are_left_alone(monkeypatch, error):
    def none(_):
        raise error("no such library")

    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.setattr(heap.ctypes, "CDLL", none)
    assert heap.return_large_blocks() is False
