"""Keeps Python's garbage collector from walking through a whole study again and again, while trials wait."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

NEVER = 1_000_000
"""Collections of the second generation before one of all objects."""


@contextmanager
def no_full_collections() -> Iterator[None]:
    """Collect only what is young in the block.

    A study of 5,000 trials and the libraries are 180,000 objects, and a walk through them takes 0.1 s, several times a
    minute, in which no report is judged. Nearly all of them stay for the whole sweep, or are freed when nothing refers
    to them any more; only a cycle that was dropped late is not freed before the end of the block.
    """
    before = gc.get_threshold()
    gc.set_threshold(*before[:2], NEVER)
    try:
        yield
    finally:
        gc.set_threshold(*before)
