from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweeper.core.errors import StopReason, StorageError
from sweeper.core.files import PinnedPath
from sweeper.core.trials import Failure
from sweeper.driver import stop
from sweeper.driver.stop import RunControl, StopSignal
from sweeper.spec import Sweep
from sweeper.study.open import list_sweeps, open_study, send_command
from sweeper.study.retry import MAX_SAME_FAILURES
from sweeper.study.storage.commands import Command
from sweeper.study.study import SweepStudy

MakeSweep = Callable[..., Sweep]


@pytest.fixture
def study(make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> Iterator[SweepStudy]:
    monkeypatch.setattr(stop, "POLL_INTERVAL_S", 0.05)
    with open_study(make_sweep()) as study:
        yield study


def here() -> PinnedPath:
    return PinnedPath(Path.cwd(), "the folder of the sweep")


def send_later(study: SweepStudy, command: Command | None, seconds: float = 0.5) -> None:
    storage = study.sweep.storage_url()
    threading.Timer(seconds, send_command, (study.name, storage, command), {"timeout": 5.0}).start()


def wait_or_stop_soon(control: RunControl) -> bool:
    deadline = time.monotonic() + 20
    while not control.wait_or_stop():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_run_without_a_command_continues(study: SweepStudy) -> None:
    stop = StopSignal(None)
    assert not RunControl(study, stop, here()).wait_or_stop() and stop.reason is None


def test_sweep_stops_on_a_command_of_another_process(study: SweepStudy) -> None:
    stop = StopSignal(None)
    send_later(study, "stop")
    assert wait_or_stop_soon(RunControl(study, stop, here())) and stop.reason is StopReason.COMMAND


def test_paused_sweep_blocks_until_it_is_unpaused(study: SweepStudy) -> None:
    storage, stop = study.sweep.storage_url(), StopSignal(None)
    control = RunControl(study, stop, here())
    study.commands.send("pause")
    send_later(study, None, 1.0)
    started = time.monotonic()
    assert not control.wait_or_stop()
    assert time.monotonic() - started > 0.9
    assert not list_sweeps(storage)[0].paused


def test_pause_command_returns_when_the_sweep_has_paused(study: SweepStudy) -> None:
    storage, control = study.sweep.storage_url(), RunControl(study, StopSignal(None), here())
    assert not send_command(study.name, storage, "pause", timeout=0.1)
    driver = threading.Thread(target=control.wait_or_stop)
    driver.start()
    assert send_command(study.name, storage, "pause", timeout=20)
    assert list_sweeps(storage)[0].paused
    assert send_command(study.name, storage, None)
    driver.join(20)
    assert not driver.is_alive()


def test_paused_sweep_can_be_stopped_and_does_not_time_out(study: SweepStudy) -> None:
    stop = StopSignal(0.5)
    study.commands.send("pause")
    send_later(study, "stop", 1.5)
    control = RunControl(study, stop, here())
    assert wait_or_stop_soon(control) and stop.reason is StopReason.COMMAND


def test_sweep_stops_after_repeated_failures(study: SweepStudy) -> None:
    stop = StopSignal(None)
    for _ in range(MAX_SAME_FAILURES):
        study.retries.note_end(Failure("error", "ValueError: too high"))
    assert RunControl(study, stop, here()).wait_or_stop() and stop.reason is StopReason.REPEATED_FAILURE
    assert stop.detail == "5 trials in a row failed: ValueError: too high"


def test_sweep_ends_when_its_folder_is_replaced(study: SweepStudy, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    control = RunControl(study, StopSignal(None), PinnedPath(folder, "the folder of the sweep"))
    assert not control.wait_or_stop()
    folder.rename(tmp_path / "moved")
    folder.mkdir()
    with pytest.raises(StorageError, match="the folder of the sweep .*/results was removed or replaced"):
        control.wait_or_stop()


def test_commands_to_an_earlier_run_are_cleared(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep()) as study:
        study.commands.send("stop")
    with open_study(make_sweep()) as study:
        assert study.commands.current() is None
