"""Memory that is free goes back to the system, where malloc can be told."""

import gc

from weighbridge.adapters.system import libc

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h; other libraries have no such call
_M_ARENA_MAX = -8
_LARGE_BLOCK = 128 * 1024


def tune_memory() -> None:
    """Have malloc give back what it can: bodies that grow side by side, and threads that read files, leave no holes.

    Large blocks are mapped each by itself; glibc begins so, but moves the threshold up with every one that is freed.
    One arena serves all threads: those that read files would each keep their own.
    """
    libc.call("mallopt", _M_MMAP_THRESHOLD, _LARGE_BLOCK)
    libc.call("mallopt", _M_ARENA_MAX, 1)


def settle_memory() -> None:
    """Give back what start-up needed only for itself; what it has built, the collector need not look at again."""
    gc.collect()
    gc.freeze()
    libc.call("malloc_trim", 0)
