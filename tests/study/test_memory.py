from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator

import pytest

from sweeper.spec import Sweep
from sweeper.study.open import open_study
from sweeper.study.storage.memory import short_collections

MakeSweep = Callable[..., Sweep]


class Node:
    """An object in a cycle with itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def in_block() -> Iterator[None]:
    with short_collections():
        gc.collect()
        yield


def walked() -> int:
    """Return how many objects a full collection walks through."""
    return len(gc.get_objects())


def test_full_collection_passes_over_what_an_earlier_one_has_kept(in_block: None) -> None:
    before = walked()
    kept = [[number] for number in range(10_000)]
    gc.collect()
    assert walked() < before + 1000
    assert gc.get_freeze_count() > len(kept)


def test_cycle_that_is_dropped_before_a_full_collection_is_freed(in_block: None) -> None:
    node = Node()
    found = weakref.ref(node)
    del node
    gc.collect()
    assert found() is None


def test_block_ends_with_the_collector_as_it_was() -> None:
    before = [*gc.callbacks]
    with short_collections():
        node = Node()
        found = weakref.ref(node)
        gc.collect()
        del node
        gc.collect()
        assert found() is not None
    gc.collect()
    assert found() is None
    assert (gc.callbacks, gc.get_freeze_count()) == (before, 0)


def test_owner_of_a_study_has_short_collections(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep()):
        gc.collect()
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
