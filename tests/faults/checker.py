"""Checks that a sweep kept its promises, against a history that its trials and its driver wrote outside its storage.

Trials and driver append to one file, `history.jsonl`: the order of its lines is the order of the events. Each line is a
`start` (a trial begins an attempt, at a step), an `epoch` (it has trained a step and is about to report it), a `done`
(its function has returned) or an `ack` (the study has acknowledged a report, or the end of a trial).
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HISTORY = "history.jsonl"

STATUS = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED", "RUNNING": "RUNNING"}


@dataclass(frozen=True)
class Line:
    """One event of a trial."""

    what: str
    number: int
    step: int = 0
    attempt: int = 1
    pid: int = 0
    state: str = "RUNNING"
    value: float | None = None


@dataclass(frozen=True)
class Result:
    """A trial in the study: its state and value, and the objective's value by step."""

    number: int
    state: str
    value: float | None = None
    values: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Copy:
    """A trial's run in MLflow."""

    number: int
    status: str
    values: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a sweep leaves: the history, and the content of the study and of MLflow.

    Attributes:
        planned: trials that the sweep should have.
        first: the number of the first of them; a fork numbers its own trials after those that it took over.
        optuna: trials by state, as Optuna counts them.
        best, best_copy: the best trial according to the study, and to MLflow.
        interval: reports from one checkpoint to the next.
    """

    history: Sequence[Line]
    results: Sequence[Result]
    copies: Sequence[Copy]
    planned: int
    optuna: Counter[str]
    best: int | None = None
    best_copy: int | None = None
    direction: str = "maximize"
    interval: int = 1
    first: int = 0


def write_line(folder: Path, line: Line) -> None:
    """Append one line to the history and sync it to disk, so that no kill can lose it."""
    handle = os.open(folder / HISTORY, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, (json.dumps(line.__dict__) + "\n").encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def read_history(folder: Path) -> list[Line]:
    try:
        return [Line(**json.loads(text)) for text in (folder / HISTORY).read_text().splitlines()]
    except FileNotFoundError:
        return []


PAUSED = "PAUSED"
"""State of a trial in the history that has stopped at a rung: it may start again."""


def violations(outcome: Outcome) -> list[str]:
    """Return a sentence for each promise that was broken; none if the sweep survived."""
    return [
        *_missing_or_duplicated(outcome),
        *_started_after_the_end(outcome.history),
        *_trained_again(outcome.history, outcome.interval),
        *differing_copies(outcome),
        *_wrong_best(outcome),
    ]


def _missing_or_duplicated(outcome: Outcome) -> Iterator[str]:
    """Check that each planned trial ended once, and that all acknowledged reports and ends are on record unchanged."""
    count = Counter(result.number for result in outcome.results)
    yield from (f"trial {number} is in the study {n} times" for number, n in count.items() if n > 1)
    planned = range(outcome.first, outcome.first + outcome.planned)
    yield from (f"trial {number} is missing" for number in planned if number not in count)
    yield from (f"trial {number} was never planned" for number in count if number not in planned)
    results = {result.number: result for result in outcome.results}
    ends: dict[int, Line] = {}
    for line in outcome.history:
        result = results.get(line.number)
        if line.what != "ack" or result is None:
            continue
        if line.state in ("RUNNING", PAUSED):
            if line.step and result.values.get(line.step) != line.value:
                kept = result.values.get(line.step)
                yield f"trial {line.number} was acknowledged {line.value} at step {line.step}; the study has {kept}"
        elif (line.state, line.step) != (result.state, max(result.values, default=0)):
            yield f"trial {line.number} was acknowledged as {line.state} at step {line.step}; the study has {result}"
        elif (first := ends.setdefault(line.number, line)).state != line.state:
            yield f"trial {line.number} ended as {first.state}, then as {line.state}"
    yield from (f"trial {result.number} has not ended" for result in outcome.results if result.state == "RUNNING")
    for result in outcome.results:
        if sorted(result.values) != list(range(1, len(result.values) + 1)):
            yield f"trial {result.number} has a gap in its reports: {sorted(result.values)}"
    if (states := Counter(result.state for result in outcome.results)) != outcome.optuna:
        yield f"Optuna counts {dict(outcome.optuna)}, the study {dict(states)}"


def _started_after_the_end(history: Iterable[Line]) -> Iterator[str]:
    """Check that no trial is started after its end was acknowledged."""
    ended: set[int] = set()
    for line in history:
        if line.what == "ack" and line.state not in ("RUNNING", PAUSED):
            ended.add(line.number)
        elif line.what == "start" and line.number in ended:
            yield f"trial {line.number} was started again (attempt {line.attempt}) after its end was acknowledged"


def _trained_again(history: Iterable[Line], interval: int) -> Iterator[str]:
    """Check that an attempt trains step by step and begins at most `interval` steps before the last step reached."""
    reached: dict[int, int] = defaultdict(int)
    at: dict[tuple[int, int, int], int] = {}
    for line in history:
        key = (line.number, line.attempt, line.pid)
        if line.what == "start":
            if reached[line.number] - line.step > interval:
                behind = f"step {line.step}, though step {reached[line.number]} had been reached"
                yield f"attempt {line.attempt} of trial {line.number} began at {behind}"
            at[key] = line.step
        elif line.what == "epoch":
            if line.step != at.get(key, -1) + 1:
                yield f"attempt {line.attempt} of trial {line.number} went from step {at.get(key)} to {line.step}"
            at[key] = line.step
            reached[line.number] = max(reached[line.number], line.step)


def differing_copies(outcome: Outcome) -> Iterator[str]:
    """Check that MLflow has one run for each trial, with its state, and with each of its reports once."""
    count = Counter(copy.number for copy in outcome.copies)
    yield from (f"MLflow has {n} runs of trial {number}" for number, n in count.items() if n > 1)
    copies = {copy.number: copy for copy in outcome.copies}
    results = {result.number: result for result in outcome.results}
    yield from (f"MLflow has a run of trial {number}, which is not in the study" for number in copies.keys() - results)
    for number, result in results.items():
        copy = copies.get(number)
        if copy is None:
            yield f"MLflow has no run of trial {number}"
        elif (copy.status, copy.values) != (STATUS[result.state], tuple(sorted(result.values.items()))):
            yield f"MLflow has {copy}; the study has {result}"


def _wrong_best(outcome: Outcome) -> Iterator[str]:
    """Check that the study and MLflow name the best trial, the first among equals."""
    complete = [result for result in outcome.results if result.state == "COMPLETE" and result.value is not None]
    sign = -1 if outcome.direction == "maximize" else 1
    best = min(complete, key=lambda result: (sign * (result.value or 0), result.number), default=None)
    number = None if best is None else best.number
    if outcome.best != number:
        yield f"the study calls trial {outcome.best} the best; it is {number}"
    if outcome.best_copy != number:
        yield f"MLflow calls trial {outcome.best_copy} the best; it is {number}"


def read_outcome(folder: Path, name: str, storage: str, tracking_uri: str, *, interval: int = 1) -> Outcome:
    """Read the outcome of the sweep in a folder, with the public readers of sweeper, Optuna and MLflow."""
    import optuna

    from sweeper.study.open import read_study

    study = read_study(name, storage)
    metric = study.sweep.objective.metric
    results = [
        Result(row.number, row.state, row.value, {r.step: r.metrics[metric] for r in study.reports(row.number)})
        for row in study.rows()
    ]
    known = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    trials = [trial for trial in known if "forked_from" not in trial.user_attrs]
    best, (copies, best_copy) = study.best(), _read_copies(tracking_uri, study.facts["id"], metric)
    return Outcome(
        history=read_history(folder),
        results=results,
        copies=copies,
        planned=study.trial_limit,
        optuna=Counter(trial.state.name for trial in trials),
        best=None if best is None else best.number,
        best_copy=best_copy,
        direction=study.sweep.objective.direction,
        interval=interval,
        first=len(known) - len(trials),
    )


def _read_copies(uri: str, sweep_id: str, metric: str) -> tuple[list[Copy], int | None]:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs: list[Any] = client.search_runs(experiments, f"tags.`sweeper.id` = '{sweep_id}'", max_results=5000)
    copies, best = [], None
    for run in runs:
        if "sweeper.trial" in run.data.tags:
            points = sorted((p.step, p.value) for p in client.get_metric_history(run.info.run_id, metric))
            copies.append(Copy(int(run.data.tags["sweeper.trial"]), run.info.status, tuple(points)))
        elif "sweeper.best_trial" in run.data.tags:
            best = int(run.data.tags["sweeper.best_trial"])
    return copies, best


def leftovers(folder: Path, name: str, storage: str) -> list[str]:
    """Return a sentence for each temporary file of a sweep that has ended, and for a lease that it still holds."""
    import sqlalchemy as sa

    files = [path for pattern in ("**/.writing-*", "**/*.tmp", "**/.writable") for path in folder.glob(pattern)]
    engine = sa.create_engine(storage, poolclass=sa.NullPool)
    with engine.connect() as connection:
        leases = connection.execute(sa.text("SELECT pid FROM sweeper_leases WHERE sweep = :name"), {"name": name}).all()
    return [f"{path} was left behind" for path in files] + [f"the lease is still held by {pid}" for (pid,) in leases]
