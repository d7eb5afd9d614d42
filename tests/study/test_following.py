"""A study that is read again and again beside the process that owns it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from sweeper.core.errors import InputError, StorageError
from sweeper.core.trials import Report
from sweeper.spec import Sweep
from sweeper.study.open import open_study, send_command
from sweeper.study.storage import follow
from sweeper.study.storage.follow import follow_study
from sweeper.study.study import SweepStudy

MakeSweep = Callable[..., Sweep]


def complete(study: SweepStudy, trials: int) -> None:
    for _ in range(trials):
        study.report(study.ask().number, Report(study.sweep.budget.reports, 1.0, {"score": 0.5}))


def test_only_what_has_changed_is_read_again(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(budget={"trials": 60, "epochs": 2})
    with open_study(sweep) as study:
        complete(study, 50)
        study.ask()
        followed = follow_study("climbing", sweep.storage_url())
        before = followed.rows()
        statements: list[str] = []
        engine = followed._database.engine
        sa.event.listen(engine, "before_cursor_execute", lambda *event: statements.append(event[2]))
        followed.refresh()
        assert all(row is same for row, same in zip(followed.rows(), before, strict=True))
        assert len(statements) < 15
        study.report(50, Report(1, 1.0, {"score": 0.5}))
        complete(study, 2)
        followed.refresh()
        assert [row is same for row, same in zip(followed.rows(), before, strict=False)] == [True] * 50 + [False]
        assert (followed.row(50).step, followed.row(52).state) == (1, "COMPLETE")
        assert followed.is_running and followed.holder is not None
    followed.refresh()
    assert not followed.is_running and followed.holder is None


def test_paused_sweep_is_seen_as_paused(make_sweep: MakeSweep) -> None:
    sweep = make_sweep()
    with open_study(sweep) as study:
        followed = follow_study("climbing", sweep.storage_url())
        assert not followed.is_paused
        send_command("climbing", sweep.storage_url(), "pause", timeout=0)
        followed.refresh()
        assert followed.is_paused
        study.commands.clear()
        followed.refresh()
        assert not followed.is_paused


def test_owner_that_is_never_heard_of_again_counts_as_dead(
    make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_sweep()
    with open_study(sweep):
        with sa.create_engine(sweep.storage_url()).begin() as connection:  # it runs on another machine
            connection.execute(sa.text("UPDATE sweeper_leases SET host = 'elsewhere', owner = 'x'"))
        followed = follow_study("climbing", sweep.storage_url())
        followed.refresh()
        assert followed.is_running
        monkeypatch.setattr(follow, "MAX_SILENCE_S", 0.2)
        time.sleep(0.3)
        followed.refresh()
        assert not followed.is_running


def test_database_that_is_away_or_study_that_is_deleted_is_an_error(make_sweep: MakeSweep) -> None:
    import optuna

    sweep = make_sweep()
    with open_study(sweep) as study:
        complete(study, 1)
    followed = follow_study("climbing", sweep.storage_url())
    path = Path("sweeper.db")
    path.rename("away.db")
    with pytest.raises(StorageError, match="cannot be used"):
        followed.refresh()
    Path("away.db").rename(path)
    followed.refresh()
    optuna.delete_study(study_name="climbing", storage=sweep.storage_url())
    with pytest.raises(InputError, match="was deleted"):
        followed.refresh()


def test_sweep_in_postgres_is_followed_to_its_end(make_sweep: MakeSweep, postgres: str) -> None:
    sweep = make_sweep(storage=postgres, budget={"trials": 2, "epochs": 3})
    with open_study(sweep) as study:
        followed = follow_study("climbing", postgres)
        assert followed.is_running
        study.report(study.ask().number, Report(1, 1.0, {"score": 0.5}))
        followed.refresh()
        assert (followed.row(0).step, followed.reports(0)[0].metrics) == (1, {"score": 0.5})
        study.report(0, Report(3, 1.0, {"score": 0.75}))
        complete(study, 1)
    followed.refresh()
    assert not followed.is_running
    assert [(row.state, row.value) for row in followed.rows()] == [("COMPLETE", 0.75), ("COMPLETE", 0.5)]
