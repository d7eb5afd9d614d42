from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator

import pytest

from sweeper.spec import Sweep
from sweeper.study.open import open_study
from sweeper.study.storage.memory import NEVER, no_full_collections

MakeSweep = Callable[..., Sweep]


class Node:
    """An object in a cycle with itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def small_heap() -> Iterator[None]:
    """Hide the objects of the other tests from the collector, which would wait for a quarter as many new ones."""
    gc.collect()
    gc.freeze()
    gc.collect()
    yield
    gc.unfreeze()


def full_collections_of_a_growing_heap() -> int:
    before = gc.get_stats()[2]["collections"]
    kept = [[number] for number in range(gc.get_threshold()[0] * 250)]
    return int(gc.get_stats()[2]["collections"] - before) if kept else 0


def test_growing_heap_is_not_walked_through_again_and_again(small_heap: None) -> None:
    assert full_collections_of_a_growing_heap() > 0
    with no_full_collections():
        assert full_collections_of_a_growing_heap() == 0


def test_young_cycle_that_is_dropped_is_freed() -> None:
    with no_full_collections():
        node = Node()
        found = weakref.ref(node)
        del node
        gc.collect(0)
        assert found() is None


def test_owner_of_a_study_has_no_full_collections(make_sweep: MakeSweep) -> None:
    before = gc.get_threshold()
    with open_study(make_sweep()):
        assert gc.get_threshold() == (*before[:2], NEVER)
    assert gc.get_threshold() == before
