"""Fast paths on a CPU, with one switch: PERSONASCOPE_CPU_FAST_PATHS=0 in the environment computes everything as torch and transformers do.

Linear layers by oneDNN (`packed_linear`), prompts kept once in decoding (`shared_prompt`), common beginnings of chats read once
(`prefix_trees`). All are exact to rounding, so the switch changes last digits, and with them now and then a sampled token.
"""

import ctypes
import os
import sys

CACHED_ROWS = 8
"""Rows of a vocabulary's width worked on together, so that they stay in the cache from one pass over them to the next."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def use_fast_paths() -> bool:
    """Whether the fast paths may be taken, as the environment says at this moment."""
    return os.environ.get("PERSONASCOPE_CPU_FAST_PATHS", "1") != "0"


def keep_freed_memory() -> None:
    """Let glibc reuse the memory of large tensors: handed back, it is zeroed again page by page, up to a tenth of a large forward pass."""
    if use_fast_paths() and sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # not in musl
            libc.mallopt(M_MMAP_THRESHOLD, 1 << 28)
            libc.mallopt(M_TRIM_THRESHOLD, 1 << 29)
