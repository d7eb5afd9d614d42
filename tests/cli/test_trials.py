"""`--trials`, and what `retry` and `resume` refuse before anything starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sweeper.cli.main import main
from sweeper.cli.run import _failures
from sweeper.cli.trials import AskedTrials, started_trials
from sweeper.core.errors import InputError, SpecError
from sweeper.core.trials import Failure, Report, TrialRecord
from sweeper.run import SweepResult
from sweeper.spec import Sweep
from sweeper.study.open import open_study

MakeSweep = Callable[..., Sweep]


def begin(sweep: Sweep, trials: int, *, failed: int = 0) -> None:
    with open_study(sweep) as study:
        for number in range(trials):
            study.ask()
            if number < failed:
                study.fail(number, Failure("error", "no"))
            else:
                study.report(number, Report(sweep.budget.reports, 1.0, {"score": 0.5}))


@pytest.mark.parametrize(
    ("trials", "settings", "asked"),
    [
        (None, None, AskedTrials(None, None, [], False)),
        ("8", ["seed=1"], AskedTrials("8", None, ["seed=1"], True)),
        ("+3", ["seed=1"], AskedTrials(None, 3, ["seed=1"], True)),
        (None, ["budget.trials=+3", "seed=1"], AskedTrials(None, 3, ["seed=1"], True)),
        (None, ["budget.trials=8"], AskedTrials(None, None, ["budget.trials=8"], True)),
        ("+3", ["budget.trials=8"], AskedTrials(None, 3, [], True)),
        ("8", ["budget.trials=+3"], AskedTrials("8", None, ["budget.trials=+3"], True)),
    ],
)
def test_number_of_trials_is_a_total_or_an_addition(
    trials: str | None, settings: list[str] | None, asked: AskedTrials
) -> None:
    assert AskedTrials.of(trials, settings) == asked


@pytest.mark.parametrize("text", ["+", "+x", "+0", "+-3", "+1.5"])
def test_what_is_no_number_after_a_plus_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="write \\+3 for three more trials, or 3 for three in all"):
        AskedTrials.of(text, None)


def test_added_trials_come_after_those_that_have_started(make_sweep: MakeSweep) -> None:
    sweep = make_sweep()
    assert AskedTrials.of("+3", None).applied_to(sweep, lambda: started_trials(sweep)).budget.trials == 3
    begin(sweep, 2)
    assert AskedTrials.of("+3", None).applied_to(sweep, lambda: started_trials(sweep)).budget.trials == 5
    with pytest.raises(SpecError, match="--trials: 1000001 must be <= 1000000"):
        AskedTrials.of("+999999", None).applied_to(sweep, lambda: started_trials(sweep))


def written(sweep: Sweep, tmp_path: Path) -> str:
    (tmp_path / "own.yaml").write_text(json.dumps(sweep.model_dump(mode="json")))
    return "own.yaml"


@pytest.mark.parametrize("option", [["--trials", "3"], ["--set", "budget.trials=3"]])
def test_total_below_what_has_started_is_refused_with_both_readings(
    make_sweep: MakeSweep, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    begin(make_sweep(), 5)
    for command in (["run", written(make_sweep(), tmp_path)], ["resume", "climbing"]):
        assert main([*command, *option]) == 2
        assert capsys.readouterr().err == (
            "error: --trials 3: 5 trials of sweep 'climbing' have started. For 3 more: --trials +3. To end with those: "
            "--trials 5\n"
        )


def test_retry_is_refused_before_anything_starts(
    make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    begin(make_sweep(), 2)
    refusals: list[tuple[list[str], str]] = [
        (["climbing"], "no trial of sweep 'climbing' has failed, so there is nothing to retry: 2 complete"),
        (["climbing", "1"], "trial 1 of sweep 'climbing' is COMPLETE, and only a failed one is run again."),
        (["climbing", "7"], "sweep 'climbing' has no trial 7; its trials are 0 to 1. The failed trials are: none"),
        (["climbin"], "no sweep 'climbin'"),
        (["climbing", "x"], "Invalid value for '[TRIAL...]'"),
    ]
    for arguments, message in refusals:
        assert main(["retry", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "sweeps").exists()


def test_submit_takes_totals_only(make_sweep: MakeSweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", written(make_sweep(), tmp_path), "--trials", "+3", "--dry-run"]) == 2
    assert "--trials +3: give a total here" in capsys.readouterr().err


def test_reasons_of_failures_are_printed_in_groups_with_the_command(make_sweep: MakeSweep, tmp_path: Path) -> None:
    reasons = [None, "ValueError: 1 is high (a.py:9)", "ValueError: 2 is high (a.py:9)", *("ABCDE")]
    rows = [TrialRecord(number, "FAIL", {}, reason=reason) for number, reason in enumerate(reasons)]
    traceback = tmp_path / "trials" / "0001" / "error.txt"
    traceback.parent.mkdir(parents=True)
    traceback.touch()
    result = SweepResult(
        name="climbing",
        folder=tmp_path,
        sweep=make_sweep(storage="sqlite:///my studies.db"),
        counts={"FAIL": len(rows)},
        leaderboard=tuple(rows),
        reports_run=0,
        reports_budgeted=0,
        evaluation=None,
        champion=None,
        stopped=None,
        seconds=1.0,
        resumed=0,
        ended_now=0,
        tracking_uri="sqlite:///mlflow.db",
    )
    assert _failures(result) == [
        f"2 trials failed (1, 2): ValueError: 1 is high (a.py:9). Traceback: {traceback}",
        "1 trial failed (0): unknown reason",
        "1 trial failed (3): A",
        "1 trial failed (4): B",
        "1 trial failed (5): C",
        "2 more trials failed for 2 other reasons",
        "Once the cause is corrected, run the failed trials again with: "
        "sweeper retry climbing --storage 'sqlite:///my studies.db'",
    ]
    assert _failures(replace(result, leaderboard=())) == []
