"""Memory that one step gives back is kept for the next, instead of going back to the system and coming anew in pages.

glibc's allocator returns freed blocks to the kernel beyond thresholds that fit small programs; a step frees and asks
for the same megabytes again and again, and every page of 4 kB that comes back costs two microseconds in the kernel:
up to a tenth of a compiled step, a quarter of an eager one (docs/design/007-capture.md).
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["kept_memory"]

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Numbers of malloc.h: what may lie free before it is returned, and from where on a block is mapped by itself."""

LARGE_BLOCK, KEPT = 2**25, 2**30

_lock = threading.Lock()
_depth = 0


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep up to 1 GB of freed memory while many equal steps run, and return it to the system afterwards.

    Never more than was in use at one time. Afterwards the thresholds are those that glibc comes to by itself once a
    block of 32 MB was freed. Nothing is done where the user has set them (MALLOC_TRIM_THRESHOLD_, GLIBC_TUNABLES), or
    under another C library.

    Example:
        >>> with kept_memory():
        ...     pass
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    _enter(libc)
    try:
        yield
    finally:
        _leave(libc)


def _glibc() -> Any:
    """glibc, if this process runs on it and nobody else sets its thresholds."""
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return None
    try:
        libc = ctypes.CDLL(None)
        return libc if all(hasattr(libc, n) for n in ("gnu_get_libc_version", "mallopt", "malloc_trim")) else None
    except (OSError, TypeError):  # no such thing on this system
        return None


def _enter(libc: Any) -> None:
    global _depth
    with _lock:
        _depth += 1
        if _depth == 1:
            libc.mallopt(MMAP_THRESHOLD, LARGE_BLOCK)
            libc.mallopt(TRIM_THRESHOLD, KEPT)


def _leave(libc: Any) -> None:
    global _depth
    with _lock:
        _depth -= 1
        if _depth == 0:
            libc.mallopt(TRIM_THRESHOLD, 2 * LARGE_BLOCK)
            libc.malloc_trim(0)
