"""Large blocks of memory go back to the system when they are freed."""

from __future__ import annotations

import contextlib
import ctypes
import os

LARGE = 4 << 20
_MMAP_THRESHOLD = -3  # of glibc's malloc.h


def return_large_blocks() -> bool:
    """Have glibc keep blocks of 4 MiB and more outside its heap, from where they return to the system at once.

    By itself glibc puts blocks of up to 32 MiB into its heap once such have been freed. Batches of ever other sizes
    then leave ever other holes between what is in use, and the memory of a process that encodes on a CPU grows with the
    corpus although it holds no more (the claim ``encoding_memory`` measures it). It is so for the whole process from
    then on. What the environment says (``MALLOC_MMAP_THRESHOLD_``, or ``glibc.malloc.mmap_threshold`` among
    ``GLIBC_TUNABLES``) stays; other C libraries are left alone.

    Returns:
        Whether this call has set it.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if "MALLOC_MMAP_THRESHOLD_" in os.environ or "glibc.malloc.mmap_threshold=" in tunables:
        return False
    with contextlib.suppress(OSError, TypeError, AttributeError):  # no library of the process itself; no mallopt in it
        return bool(ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, LARGE))
    return False
