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
from sweeper.study.lease import Lease, find_holder

spawn = multiprocessing.get_context("spawn")


def own(url: str, start: Any, outcome: Any) -> None:
    """Try to take the lease in a new process, report the outcome, and keep the lease."""
    with open_database(url) as database:
        start.wait()
        try:
            Lease(database.engine, "climbing").acquire()
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
    monkeypatch.setattr(Lease, "RENEWAL_INTERVAL_S", 0.1)
    monkeypatch.setattr(Lease, "EXPIRY_S", 0.5)


def start_owners(url: str, count: int) -> tuple[list[Any], list[str]]:
    start, outcome = spawn.Event(), spawn.Queue()
    owners = [spawn.Process(target=own, args=(url, start, outcome), daemon=True) for _ in range(count)]
    for process in owners:
        process.start()
    start.set()
    return owners, sorted(outcome.get(timeout=60) for _ in owners)


def test_sweep_started_by_three_processes_at_once_has_one_owner(url: str) -> None:
    owners, outcomes = start_owners(url, 3)
    for process in owners:
        process.kill()
    assert outcomes == ["busy", "busy", "owner"]


def test_lease_of_a_killed_process_is_free_at_once(url: str) -> None:
    (owner,), outcomes = start_owners(url, 1)
    assert outcomes == ["owner"]
    os.kill(owner.pid, signal.SIGKILL)
    owner.join()
    with open_database(url) as database:
        began = time.monotonic()
        with database.lease("climbing"):
            assert time.monotonic() - began < 2


def test_second_owner_is_refused_with_the_process_of_the_first(url: str) -> None:
    with open_database(url) as database, database.lease("climbing"):
        with pytest.raises(SweepBusyError, match=f"pid {os.getpid()}"), database.lease("climbing"):
            pass


def test_lease_of_a_silent_owner_on_another_host_expires(
    url: str, fast_lease: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_database(url) as database:
        with monkeypatch.context() as another_host:
            another_host.setattr(lease, "_host", lambda: "another-host")
            silent = Lease(database.engine, "climbing")
            silent.acquire()
        silent._ended.set()
        silent._thread.join()
        with database.lease("climbing"):
            now = find_holder(database.engine, "climbing")
            assert now is not None and now.pid == os.getpid() and now.host != "another-host"


def test_lease_of_a_live_owner_on_another_host_is_respected(
    url: str, fast_lease: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_database(url) as database:
        with monkeypatch.context() as another_host:
            another_host.setattr(lease, "_host", lambda: "another-host")
            living = Lease(database.engine, "climbing")
            living.acquire()
        with pytest.raises(SweepBusyError, match="another-host"), database.lease("climbing"):
            pass
        living.release()


def test_owner_notices_that_its_lease_was_taken(url: str, fast_lease: None) -> None:
    with open_database(url) as database, database.lease("climbing") as lease:
        seen = find_holder(database.engine, "climbing")
        assert Lease(database.engine, "climbing")._take(seen)
        assert lease.lost.wait(5)


def test_lease_is_free_after_its_owner_is_done(url: str, make_sweep: Callable[..., Any]) -> None:
    with open_database(url) as database:
        for _ in range(2):
            with database.lease("climbing"):
                assert database.is_owned("climbing")
        assert not database.is_owned("climbing")
