"""The benchmark of `sweeper watch`, in short: one pair of a sweep alone and a sweep that is watched."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import watching


@pytest.mark.long
def test_watched_sweep_has_the_reports_of_one_alone_and_no_lock_errors(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sweeper.db"
    alone, watched = (
        watching.measure(tmp_path, name, url, trials=4, is_watched=name == "watched") for name in ("alone", "watched")
    )
    assert alone["problems"] == watched["problems"] == []
    assert alone["reports"] == watched["reports"] == 32
    assert watched["watch_code"] == 0 and watched["watch_cpu"] > 0
