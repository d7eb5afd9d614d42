"""One Ray for the tests of this folder that need no special one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from sweeper.driver.cluster import ray_cluster


class SharedRay:
    """A Ray on this machine that starts at its first use, and again after a test that needed one of its own."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._is_up = False

    def start(self) -> None:
        if not self._is_up:
            self._stack.enter_context(ray_cluster(None))
            self._is_up = True

    def close(self) -> None:
        self._stack.close()
        self._is_up = False


@pytest.fixture(scope="package")
def shared_ray() -> Iterator[SharedRay]:
    shared = SharedRay()
    yield shared
    shared.close()


@pytest.fixture(scope="module")
def any_ray(shared_ray: SharedRay) -> None:
    """Connect the tests of a module to the Ray that they share; each has its own folder and study."""
    shared_ray.start()


@pytest.fixture(scope="module")
def no_ray(shared_ray: SharedRay) -> None:
    """Close the shared Ray, for a module whose tests start their own."""
    shared_ray.close()
