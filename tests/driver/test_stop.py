from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweeper.core.errors import StorageError
from sweeper.core.files import PinnedPath
from sweeper.core.trials import Failure
from sweeper.driver import stop
from sweeper.driver.stop import RunControl, StopSignal
from sweeper.spec import Sweep
from sweeper.study.open import list_sweeps, open_study, send_command
from sweeper.study.retry import MAX_SAME_FAILURES
from sweeper.study.study import SweepStudy

MakeSweep = Callable[..., Sweep]


@pytest.fixture
def study(make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> Iterator[SweepStudy]:
    monkeypatch.setattr(stop, "POLL_INTERVAL_S", 0.05)
    with open_study(make_sweep()) as study:
        yield study


def here() -> PinnedPath:
    return PinnedPath(Path.cwd(), "the folder of the sweep")


def order_later(study: SweepStudy, order: str | None, seconds: float = 0.5) -> None:
    storage = study.sweep.storage_url()
    threading.Timer(seconds, send_command, (study.name, storage, order), {"timeout": 5.0}).start()


def wait_or_stop_soon(asked: RunControl) -> bool:
    deadline = time.monotonic() + 20
    while not asked.wait_or_stop():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_nothing_wanted_is_nothing_done(study: SweepStudy) -> None:
    stop = StopSignal(None)
    assert not RunControl(study, stop, here()).wait_or_stop() and stop.reason is None


def test_a_sweep_is_stopped_from_another_terminal(study: SweepStudy) -> None:
    stop = StopSignal(None)
    order_later(study, "stop")
    assert wait_or_stop_soon(RunControl(study, stop, here())) and stop.reason == "stopped"


def test_a_paused_sweep_answers_when_it_goes_on(study: SweepStudy) -> None:
    storage, stop = study.sweep.storage_url(), StopSignal(None)
    asked = RunControl(study, stop, here())
    study.commands.send("pause")
    order_later(study, None, 1.0)
    started = time.monotonic()
    assert not asked.wait_or_stop()
    assert time.monotonic() - started > 0.9
    assert not list_sweeps(storage)[0].paused


def test_who_pauses_a_sweep_waits_until_it_has_paused(study: SweepStudy) -> None:
    storage, asked = (
        study.sweep.storage_url(),
        RunControl(study, StopSignal(None), here()),
    )
    assert not send_command(study.name, storage, "pause", timeout=0.1)
    driver = threading.Thread(target=asked.wait_or_stop)
    driver.start()
    assert send_command(study.name, storage, "pause", timeout=20)
    assert list_sweeps(storage)[0].paused
    assert send_command(study.name, storage, None)
    driver.join(20)
    assert not driver.is_alive()


def test_a_paused_sweep_can_be_stopped_and_its_time_does_not_run(study: SweepStudy) -> None:
    stop = StopSignal(0.5)
    study.commands.send("pause")
    order_later(study, "stop", 1.5)
    asked = RunControl(study, stop, here())
    assert wait_or_stop_soon(asked) and stop.reason == "stopped"


def test_a_hopeless_sweep_is_over(study: SweepStudy) -> None:
    stop = StopSignal(None)
    for _ in range(MAX_SAME_FAILURES):
        study.retries.note_end(Failure("error", "ValueError: too high"))
    assert (
        RunControl(study, stop, here()).wait_or_stop()
        and stop.reason == "5 trials in a row failed: ValueError: too high"
    )


def test_a_sweep_whose_folder_is_moved_away_ends_even_if_another_is_made_in_its_place(
    study: SweepStudy, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    asked = RunControl(study, StopSignal(None), PinnedPath(folder, "the folder of the sweep"))
    assert not asked.wait_or_stop()
    folder.rename(tmp_path / "elsewhere")
    folder.mkdir()
    with pytest.raises(StorageError, match="the folder of the sweep .*/results was removed or replaced"):
        asked.wait_or_stop()


def test_orders_of_an_earlier_run_are_forgotten(make_sweep: MakeSweep) -> None:
    with open_study(make_sweep()) as study:
        study.commands.send("stop")
    with open_study(make_sweep()) as study:
        assert study.commands.current() is None
