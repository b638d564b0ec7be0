"""How a process that serves keeps its memory: what pictures take, and the objects that stay for as long as it runs.

`keep_memory` has the C library keep the memory that pictures take, in place of giving it back and asking for it again.

By default glibc returns large blocks to the system at once, and gives every thread a heap of its own that returns its top. With
one heap that keeps its top, coding a 768 x 512 picture took 245 ms of processor time in place of 305 (page faults), and
the process 60 MiB more memory: one run each, on a busy machine.
"""

from __future__ import annotations

import ctypes
import gc
import platform

__all__ = ["keep_memory", "keep_objects"]

# mallopt(3): parameter and value
ONE_ARENA = (-8, 1)
TRIM_THRESHOLD = (-1, 2**29)  # free bytes at the heap's top that are kept
MMAP_THRESHOLD = (-3, 2**25)  # smaller blocks come from the heap; the largest value that glibc takes


def keep_memory() -> bool:
    """Set the allocator for this process, before it has threads; returns whether it could (glibc only)."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(*option) == 1 for option in (ONE_ARENA, TRIM_THRESHOLD, MMAP_THRESHOLD)])


def keep_objects() -> None:
    """Collect garbage, then have Python's collector pass over all that is left: libraries, codecs, routes.

    For the end of a start. Python looks at old objects only when those that have grown old since are a quarter of them. Of the
    450,000 that a service loads that is so many that half an hour of load did not get there, while garbage in cycles piled up;
    and to look at all of them stops every thread for a quarter of a second.
    """
    gc.collect()
    gc.freeze()
    gc.collect()  # of nothing: now it counts none as old, so that what grows old is looked at again soon
