from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
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


ROOT = Path(__file__).parents[2]
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make containers")
HIDE = "mount -t tmpfs none /proc/sys/kernel/random"
CONTAINERS = {
    "another container": ["unshare", "--pid", "--fork", "--mount-proc"],
    "another container that sees our processes": ["unshare", "--pid", "--fork"],
    "a container that hides the boot": ["unshare", "--mount", "sh", "-c", f'{HIDE} && exec "$0" "$@"'],
}
TAKER = """
import sys
from sweeper.core.errors import SweepBusyError
from sweeper.study.database import open_database
from sweeper.study.lease import Lease
Lease.RENEWAL_INTERVAL_S, Lease.EXPIRY_S = 0.5, float(sys.argv[2])
with open_database(sys.argv[1]) as database:
    print(database.is_owned("climbing"), end=" ")
    try:
        with database.lease("climbing"):
            print("owner")
    except SweepBusyError as error:
        print(error)
"""


def take(url: str, container: list[str], *, expiry_s: float = 20.0) -> str:
    """Try to take the lease in a container with our host name; return whether it was owned, and the outcome."""
    command = [*container, sys.executable, "-c", TAKER, url, str(expiry_s)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@NEEDS_ROOT
@pytest.mark.parametrize("container", CONTAINERS)
def test_lease_of_a_live_owner_in_another_container_is_respected(
    url: str, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lease, "RENEWAL_INTERVAL_S", 0.2)
    with open_database(url) as database, database.lease("climbing"):
        assert f"True sweep 'climbing' is running (pid {os.getpid()} on " in take(url, CONTAINERS[container])


@NEEDS_ROOT
def test_lease_of_an_ended_container_expires(url: str) -> None:
    leave = "import os; Lease(database.engine, 'climbing').acquire(); os._exit(0)"
    code = TAKER.partition("    print")[0] + f"    {leave}"
    container = CONTAINERS["another container"]
    subprocess.run([*container, sys.executable, "-c", code, url, "1"], env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert take(url, [], expiry_s=1) == "False owner\n"


def test_lease_is_kept_when_the_clock_was_changed(url: str, fast_lease: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lease, "EXPIRY_S", 20.0)
    create_time = psutil.Process.create_time
    with open_database(url) as database, database.lease("climbing"):
        monkeypatch.setattr(psutil.Process, "create_time", lambda process: create_time(process) + 3600)
        assert database.is_owned("climbing")
        with pytest.raises(SweepBusyError), database.lease("climbing"):
            pass


def test_process_id_that_was_given_away_again_owns_nothing(url: str, fast_lease: None) -> None:
    with open_database(url) as database:
        owner = Lease(database.engine, "climbing")
        owner.acquire()
        owner._ended.set()
        owner._thread.join()
        with database.engine.begin() as connection:  # its process id is ours, its process started long ago
            connection.execute(lease._leases.update().values(process_started=1.0))
        assert not database.is_owned("climbing")
        with database.lease("climbing"):
            assert database.is_owned("climbing")


def test_sweeps_of_ended_containers_are_waited_for_together(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lease, "EXPIRY_S", 1.0)
    names = [f"s{number}" for number in range(30)]
    with open_database(url) as database:
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(lease, "_process_space", lambda: "0" * lease.SPACE_CHARS)
            for name in names:
                assert Lease(database.engine, name)._take(None)
        sleeps, sleep = [], time.sleep
        monkeypatch.setattr(time, "sleep", lambda seconds: sleeps.append(sleep(seconds)))
        with database.lease("climbing"):
            assert lease.find_held(database.engine, [*names, "climbing", "unknown"]) == {"climbing"}
        assert 0 < len(sleeps) < len(names)


def test_owner_that_nobody_reaped_is_dead(url: str) -> None:
    code = TAKER.partition("    print")[0] + "    Lease(database.engine, 'climbing').acquire(); import os; os._exit(0)"
    command = [sys.executable, "-c", code, url, "1"]
    owner = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    os.waitid(os.P_PID, owner.pid, os.WEXITED | os.WNOWAIT)
    with open_database(url) as database:
        assert not database.is_owned("climbing")
        with database.lease("climbing") as taken:
            assert not taken.has_displaced
    owner.wait()
