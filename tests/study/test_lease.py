from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.core.errors import SweepBusyError
from sweeper.study import lease
from sweeper.study.database import open_database
from sweeper.study.lease import Lease, holder

spawn = multiprocessing.get_context("spawn")


def own(url: str, start: Any, outcome: Any) -> None:
    """Run in a process of its own: try to take the lease, say how it went, keep it."""
    with open_database(url) as store:
        start.wait()
        try:
            Lease(store.engine, "climbing").acquire()
        except SweepBusyError:
            outcome.put("busy")
            return
        outcome.put("owner")
        time.sleep(60)


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'sweeper.db'}"
    with open_database(url):
        return url


@pytest.fixture
def fast_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lease, "BEAT", 0.1)
    monkeypatch.setattr(Lease, "EXPIRY", 0.5)


def start_owners(url: str, count: int) -> tuple[list[Any], list[str]]:
    start, outcome = spawn.Event(), spawn.Queue()
    owners = [spawn.Process(target=own, args=(url, start, outcome), daemon=True) for _ in range(count)]
    for process in owners:
        process.start()
    start.set()
    return owners, sorted(outcome.get(timeout=60) for _ in owners)


def test_of_processes_that_start_together_exactly_one_owns_the_sweep(url: str) -> None:
    owners, outcomes = start_owners(url, 3)
    for process in owners:
        process.kill()
    assert outcomes == ["busy", "busy", "owner"]


def test_the_lease_of_a_killed_process_is_free_at_once(url: str) -> None:
    (owner,), outcomes = start_owners(url, 1)
    assert outcomes == ["owner"]
    os.kill(owner.pid, signal.SIGKILL)
    owner.join()
    with open_database(url) as store:
        began = time.monotonic()
        with store.lease("climbing"):
            assert time.monotonic() - began < 2


def test_a_second_owner_is_told_who_the_first_is(url: str) -> None:
    with open_database(url) as store, store.lease("climbing"):
        with pytest.raises(SweepBusyError, match=f"pid {os.getpid()}"), store.lease("climbing"):
            pass


def test_the_lease_of_a_silent_owner_elsewhere_expires(
    url: str, fast_lease: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_database(url) as store:
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(lease, "_host", lambda: "elsewhere")
            silent = Lease(store.engine, "climbing")
            silent.acquire()
        silent._ended.set()
        silent._thread.join()
        with store.lease("climbing"):
            now = holder(store.engine, "climbing")
            assert now is not None and now.pid == os.getpid() and now.host != "elsewhere"


def test_the_lease_of_a_living_owner_elsewhere_is_respected(
    url: str, fast_lease: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_database(url) as store:
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(lease, "_host", lambda: "elsewhere")
            living = Lease(store.engine, "climbing")
            living.acquire()
        with pytest.raises(SweepBusyError, match="elsewhere"), store.lease("climbing"):
            pass
        living.release()


def test_an_owner_whose_lease_was_taken_notices(url: str, fast_lease: None) -> None:
    with open_database(url) as store, store.lease("climbing") as lease:
        seen = holder(store.engine, "climbing")
        assert Lease(store.engine, "climbing")._take(seen)
        assert lease.lost.wait(5)


def test_the_lease_is_free_after_its_owner_is_done(url: str, make_sweep: Callable[..., Any]) -> None:
    with open_database(url) as store:
        for _ in range(2):
            with store.lease("climbing"):
                assert store.is_owned("climbing")
        assert not store.is_owned("climbing")
