"""Fast paths on a CPU, with one switch: PERSONASCOPE_CPU_FAST_PATHS=0 in the environment computes everything as torch and transformers do.

Linear layers by oneDNN (`packed_linear`), prompts kept once in decoding (`shared_prompt`), common beginnings of chats read once
(`prefix_trees`). All are exact to rounding, so the switch changes last digits, and with them now and then a sampled token.
"""

import os

CACHED_ROWS = 8
"""Rows of a vocabulary's width worked on together, so that they stay in the cache from one pass over them to the next."""


def use_fast_paths() -> bool:
    """Whether the fast paths may be taken, as the environment says at this moment."""
    return os.environ.get("PERSONASCOPE_CPU_FAST_PATHS", "1") != "0"
