"""Studies for the tests of the report: made in one transaction, with times of their own, and without Ray."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import optuna
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from sweeper.core.predictions import Mistake, Predictions
from sweeper.core.trials import Attempt, Report
from sweeper.search.space import draw, suggest
from sweeper.spec import Sweep
from sweeper.study.database import open_database
from sweeper.study.open import open_study, read_study
from sweeper.study.storage.adding import add_ended_trials
from sweeper.study.storage.tables import Attempts, Reports
from sweeper.study.view import StudyView

START = datetime(2026, 1, 1, 8, tzinfo=UTC)
HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
SECRET = "hunter2hunter2"

SPACE: dict[str, Any] = {
    "cell": {"type": "categorical", "choices": ["lstm", "gru", "<b>&amp;simple</b>"]},
    "units": {"type": "int", "low": 16, "high": 256, "log": True},
    "learning_rate": {"type": "float", "low": 1e-4, "high": 0.1, "log": True},
    "optimizer": {"type": "categorical", "choices": ["sgd", "adam", "rmsprop"]},
    "momentum": {"type": "float", "low": 0.0, "high": 0.99, "when": {"optimizer": "sgd"}},
    "nesterov": {"type": "categorical", "choices": [True, False]},
    "layers": 2,
}

DECLARED: dict[str, Any] = {
    "name": "lstm",
    "description": f"A search over cells. {HOSTILE}",
    "objective": {"metric": "val_accuracy", "direction": "maximize"},
    "budget": {"trials": 40, "epochs": 4, "reports_per_epoch": 2, "parallel": 4},
    "pruner": {"type": "successive_halving", "min_epochs": 0.5, "reduction_factor": 3},
    "space": SPACE,
    "tracking": {"model": "mnist-rnn"},
    "seed": 7,
}

FACTS: dict[str, Any] = {
    "versions": {"python": "3.11.7", "sweeper": "0.2.0", "optuna": "5.0.0"},
    "dataset": {"name": "mnist", "digest": "ab" * 32, "source": "mnist.npz", "train": 55000},
    "files": {"train.py": "cd" * 32},
}


@dataclass
class Made:
    """One trial that has ended: as Optuna stores it, its reports, and its failed attempts."""

    frozen: FrozenTrial
    reports: list[Report]
    failed: list[Attempt]


def make_study(sweep: Sweep, trials: int | None = None, *, only_failures: bool = False) -> StudyView:
    """Create the study of a sweep with so many trials that have ended, and read it."""
    with open_study(sweep) as study:
        study.record_facts(FACTS)
    url = sweep.storage_url()
    with open_database(url) as database, database.lease(sweep.name) as lease, database.transaction(lease) as connection:
        made = list(_trials(sweep, sweep.budget.trials if trials is None else trials, only_failures))
        loaded = optuna.load_study(study_name=sweep.name, storage=database.optuna)
        add_ended_trials(loaded, [each.frozen for each in made], connection)
        reports, attempts = Reports(database.engine, sweep.name), Attempts(database.engine, sweep.name)
        for number, each in enumerate(made):
            for report in each.reports:
                reports.add(number, report, connection)
            for attempt in each.failed:
                attempts.add(number, attempt, connection)
    return read_study(sweep.name, url)


def _trials(sweep: Sweep, count: int, only_failures: bool) -> Iterator[Made]:
    dice = random.Random(3)
    free = [START + timedelta(seconds=2 * worker) for worker in range(4)]
    seen: dict[int, list[float]] = {}
    for _ in range(count):
        worker = min(range(4), key=lambda place: free[place])
        begin = free[worker] + timedelta(seconds=dice.choice([0.5, 0.5, 0.5, 40]))
        made = _trial(sweep, dice, begin, f"node-{worker // 2}", seen, only_failures)
        free[worker] = datetime.fromtimestamp(made.frozen.user_attrs["ended"], UTC)
        yield made


def _trial(
    sweep: Sweep, dice: random.Random, begin: datetime, node: str, seen: dict[int, list[float]], only_failures: bool
) -> Made:
    params = draw(sweep.space, dice)
    full, pace = sweep.budget.reports, timedelta(seconds=2 + 6 * dice.random())
    rate = math.log10(float(params.get("learning_rate", 0.01)))  # type: ignore[arg-type]
    top = 0.99 - 0.12 * abs(rate + 2.3) - (0.1 if params.get("optimizer") == "sgd" else 0) + 0.01 * dice.random()
    state, reason, reports, failed = TrialState.COMPLETE, None, [], []
    if dice.random() < 0.08:
        end = begin + pace
        failed.append(Attempt(1, "crash", "the worker died (exit code 137)", 0, node, end))
        begin = end + timedelta(seconds=1)
    breaks = only_failures or dice.random() < 0.08
    for step in range(1, full + 1):
        if breaks and step == (1 if only_failures else 2):
            state, reason = TrialState.FAIL, f"ValueError: {HOSTILE} password={SECRET} (train.py:4)"
            failed.append(Attempt(len(failed) + 1, "error", reason, step - 1, node, begin + pace * step))
            break
        value = top * (1 - math.exp(-step / 1.7)) + 0.004 * dice.random()
        metrics = {sweep.objective.metric: value, "loss": 1 - value}
        reports.append(Report(step, (begin + pace * step).timestamp(), metrics))
        others = seen.setdefault(step, [])
        others.append(value)
        is_rung = sweep.pruner.type != "none" and step in (1, 3) and len(others) > 4
        if is_rung and value < sorted(others)[-max(1, len(others) // 3)]:
            state, reason = TrialState.PRUNED, f"pruned after epoch {sweep.budget.epoch_of(step):g}"
            break
    drawn = FixedTrial(params)
    suggest(drawn, sweep.space)
    attempt = 1 + sum(each.kind == "crash" for each in failed)
    own = {"started": begin.timestamp(), "ended": (begin + pace * max(1, len(reports))).timestamp(), "node": node}
    own |= {"reason": reason} if reason else {}
    own |= {"attempt": attempt, "resumed": begin.timestamp(), "spent": pace.total_seconds()} if attempt > 1 else {}
    frozen = create_trial(
        state=state,
        value=reports[-1].metrics[sweep.objective.metric] if state == TrialState.COMPLETE else None,
        params=drawn.params,
        distributions=drawn.distributions,
        user_attrs=own,
        intermediate_values={report.step: report.metrics[sweep.objective.metric] for report in reports},
    )
    return Made(frozen, reports, failed)


PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAGElEQVR42mNgwA8EEQxBRgRDkAnBEGRGMAAQGgB5ZrE1UAAAAABJRU5ErkJggg=="
)
PREDICTIONS = Predictions(
    tuple("0123456789"),
    tuple(tuple(980 if row == column else (row * 3 + column) % 5 for column in range(10)) for row in range(10)),
    tuple(Mistake(4, 9, 0.999 - 0.01 * place, PICTURE) for place in range(12)),
)
