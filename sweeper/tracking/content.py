"""Contents of MLflow for a sweep and its trials: names, parameters and tags, within MLflow's limits."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, replace
from datetime import datetime
from posixpath import normpath
from typing import TYPE_CHECKING, Any, Protocol

from sweeper.core.environment import user
from sweeper.core.text import to_yaml
from sweeper.core.trials import pareto_front

if TYPE_CHECKING:
    from mlflow.entities import Metric

    from sweeper.core.confirmation import Confirmation
    from sweeper.core.trials import Report, TrialRecord
    from sweeper.spec import Budget, Sweep

MAX_KEY_CHARS, MAX_PARAM_CHARS, MAX_TAG_CHARS, MAX_BATCH = 250, 6000, 8000, 1000
"""MLflow's limits: of a name, of the value of a parameter and of a tag, and of all entries of one request."""

_FORBIDDEN = re.compile(r"[^/\w.\- :]")

STATUS = {"RUNNING": "RUNNING", "COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED"}
"""MLflow's status for each state of Optuna. KILLED would show a pruned trial with the red cross of a failure; the tag
`sweeper.state` tells it from a complete one."""

FRONT = "sweeper.front"
"""Tag of the runs of trials on the front of several goals; that of the sweep's run lists their numbers."""

EPOCH = "epoch"
"""Metric with the epoch of a report, for charts by it; a trainable may report one of its own."""


class Study(Protocol):
    """The part of a study that is copied into MLflow."""

    @property
    def id(self) -> str | None: ...
    @property
    def name(self) -> str: ...
    @property
    def sweep(self) -> Sweep: ...
    @property
    def trial_limit(self) -> int: ...
    @property
    def facts(self) -> dict[str, Any]: ...
    def rows(self, *, with_fresh: bool = False) -> list[TrialRecord]: ...
    def best(self) -> TrialRecord | None: ...
    def confirmation(self) -> Confirmation | None: ...
    def reports(self, number: int) -> list[Report]: ...


def trial_name(row: TrialRecord) -> str:
    """Return the name of a trial's run; that of a fresh run names the trial that it confirms."""
    fresh = row.confirms
    return f"trial-{row.number:04d}" if fresh is None else f"trial-{fresh.trial:04d}-seed-{fresh.run}"


def trial_tags(sweep: Sweep, row: TrialRecord) -> dict[str, str]:
    """Return the tags of a trial's run. A tag without a value is empty, to replace an earlier value."""
    reason, fresh = row.reason or "", row.confirms
    what = "" if fresh is None else f", which trains trial {fresh.trial} again with a fresh seed"
    return {
        "sweeper.trial": str(row.number),
        "sweeper.state": row.state,
        "sweeper.reason": reason,
        "sweeper.attempt": str(row.attempt),
        "sweeper.node": row.node or "",
        "sweeper.reused": row.reused or "",
        "sweeper.seconds": "" if row.seconds is None else f"{row.seconds:.3f}",
        "mlflow.note.content": f"Trial {row.number} of sweep {sweep.name}{what}: {row.state}{reason and f', {reason}'}",
        **({} if fresh is None else {"sweeper.confirms": str(fresh.trial), "sweeper.seed": str(fresh.seed)}),
    }


def sweep_params(sweep: Sweep) -> dict[str, Any]:
    """Return the settings of a sweep, flat: `metric`, `trials`, `sampler`, `sampler.n_startup_trials` and so on."""
    spec, objective = sweep.model_dump(mode="json"), sweep.objective.model_dump()
    if len(sweep.goals) > 1:
        goals = ", ".join(f"{goal.direction} {goal.metric}" for goal in sweep.goals)
        objective |= {"goals": goals, "prune_on": sweep.prune_on}
    sections = {"trainable": spec["trainable"], "seed": spec["seed"], **objective, **spec["budget"]}
    sections |= {name: spec[name] for name in ("dataset", "sampler", "pruner", "resources")}
    params = dict(pair for name, value in sections.items() for pair in _flat(name, value))
    return {name: value for name, value in params.items() if value is not None}


def sweep_tags(study: Study, rows: Sequence[TrialRecord], *, is_live: bool) -> dict[str, str]:
    """Return the tags of the sweep's own run: its state, its best trial, its data."""
    sweep, facts = study.sweep, study.facts
    leader, confirmation = study.best(), study.confirmation()
    state = sweep_state(rows, study.trial_limit, is_live=is_live)
    if state == "COMPLETE" and confirmation is not None and not confirmation.is_complete:
        state = "STOPPED"
    tags = {"sweeper.state": state, "sweeper.trials": str(sweep.budget.trials)}
    for state in STATUS:
        tags[f"sweeper.{state.lower()}"] = str(sum(row.state == state for row in rows))
    if leader is not None:
        tags |= {"sweeper.best_trial": str(leader.number), "sweeper.best_value": repr(leader.value)}
    if len(sweep.goals) > 1:
        tags[FRONT] = ", ".join(map(str, sorted(front_of(sweep, rows))))
    for name, value in dataset_facts(facts).items():
        tags[f"sweeper.dataset.{name}"] = str(value)
    for test in confirmation.compared if confirmation is not None else ():
        name = "runner_up" if test.against.startswith("trial ") else "champion"
        tags[f"sweeper.mcnemar.{name}"] = json.dumps(
            {**asdict(test), "p_value": None if test.missing else test.p_value}
        )
    return tags | lineage(sweep, facts)


def front_of(sweep: Sweep, rows: Iterable[TrialRecord]) -> set[int]:
    """Return the numbers of the trials on the front of several goals; none for a single goal."""
    searched = (row for row in rows if row.confirms is None)
    is_single = len(sweep.goals) == 1
    return set() if is_single else {row.number for row in pareto_front(searched, sweep.objective.direction)}


def front_changes(sweep: Sweep, rows: Iterable[TrialRecord], marked: Set[int]) -> dict[int, str]:
    """Return the new tag of each trial that is on the front and not marked, or marked and not on it any more."""
    front = front_of(sweep, rows)
    return dict.fromkeys(front - marked, "true") | dict.fromkeys(marked - front, "")


def lineage(sweep: Sweep, facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags that say what a sweep ran with: commit, space, versions. What was not recorded is left out."""
    space = json.dumps(sweep.model_dump(mode="json")["space"], sort_keys=True)
    tags = {"sweeper.commit": facts.get("commit"), "sweeper.space": hashlib.sha256(space.encode()).hexdigest()}
    tags |= {f"sweeper.versions.{name}": number for name, number in facts.get("versions", {}).items()}
    return {name: str(value) for name, value in tags.items() if value}


def confirmed_metrics(study: Study) -> dict[str, float]:
    """Return the mean and the 95 % interval of the best trial over its fresh runs; nothing before they have ended."""
    found = study.confirmation()
    if found is None or found.best is None or found.best.mean is None or found.best.half_width is None:
        return {}
    name, mean, half_width = f"confirmed_{study.sweep.objective.metric}", found.best.mean, found.best.half_width
    return {fit_key(name): mean, fit_key(f"{name}_low"): mean - half_width, fit_key(f"{name}_high"): mean + half_width}


def sweep_state(rows: Sequence[TrialRecord], limit: int, *, is_live: bool) -> str:
    """Return RUNNING; STOPPED if trials are left; else COMPLETE, or FAIL if no trial completed."""
    if is_live:
        return "RUNNING"
    ended = [row for row in rows if row.state != "RUNNING"]
    if len(ended) < max(limit, len(rows)):
        return "STOPPED"
    return "COMPLETE" if any(row.state == "COMPLETE" for row in ended) else "FAIL"


def best_so_far(
    sweep: Sweep, rows: Iterable[TrialRecord], *, first: int = 0
) -> Iterator[tuple[TrialRecord, float, float]]:
    """Yield each COMPLETE trial with the best value among it and the trials of lower number, and since when.

    Ends before the first trial that is not over. So the curve depends on the trials only, not on which was faster, and
    a later sync writes the same curve.

    Args:
        rows: fresh runs, which have numbers too, among them; they count for nothing else.
        first: the number of the first trial, if the sweep took over trials of another one.
    """
    sign = 1 if sweep.objective.direction == "maximize" else -1
    best, since = None, 0.0
    for expected, row in enumerate(sorted(rows, key=lambda row: row.number), first):
        if row.number != expected or row.state == "RUNNING":
            return
        if row.state == "COMPLETE" and row.value is not None and not row.is_added and row.confirms is None:
            ended = row.ended.timestamp() if row.ended else 0.0
            if best is None or sign * row.value > sign * best:
                best, since = row.value, ended
            yield row, best, max(since, ended)


def sweep_yaml(sweep: Sweep) -> str:
    """Return the sweep as a YAML file that can be run again; secrets are references to the environment."""
    return to_yaml(sweep.model_dump(mode="json"))


def dataset_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the name, digest, source and split sizes of the data, as far as they were recorded."""
    found = facts.get("dataset")
    return {} if not isinstance(found, Mapping) else {str(name): value for name, value in found.items()}


def run_tags(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of every run: who runs it, and from which commit."""
    commit = (facts.get("commit") or "").removesuffix("-dirty") or None
    known = {"mlflow.user": user(), "mlflow.source.git.commit": commit}
    tags = {name: value for name, value in known.items() if value is not None}
    return {"mlflow.source.name": "sweeper", "mlflow.source.type": "LOCAL", **tags}


def milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000)


def with_epoch(report: Report, budget: Budget) -> Report:
    """Return a report with its epoch as a metric, if the budget is in epochs and the trainable does not report it."""
    if budget.steps is not None or EPOCH in report.metrics:
        return report
    return replace(report, metrics={**report.metrics, EPOCH: budget.epoch_of(report.step)})


def fit_key(key: str) -> str:
    """Return a name that MLflow accepts for a parameter or a metric; a changed one ends in a checksum, to be unique."""
    clean = normpath(_FORBIDDEN.sub("_", key)) if key else "_"
    if clean.startswith((".", "/")):
        clean = "_" + clean.lstrip("./")
    return (
        key
        if clean == key and len(key) <= MAX_KEY_CHARS
        else f"{clean[: MAX_KEY_CHARS - 9]}-{zlib.crc32(key.encode()):08x}"
    )


def fit_params(params: Mapping[str, Any]) -> dict[str, str]:
    return {fit_key(key): fit_text(value)[:MAX_PARAM_CHARS] for key, value in params.items()}


def fit_tags(tags: Mapping[str, Any]) -> dict[str, str]:
    return {key: fit_text(value)[:MAX_TAG_CHARS] for key, value in tags.items()}


def fit_text(value: object) -> str:
    """Return text that a database can store: the error of a trial may contain NUL and lone surrogates."""
    return str(value).encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def altered_names(params: Mapping[str, Any], metrics: Iterable[str] = ()) -> str:
    """Return the names whose name or value is changed on its way to MLflow, for the tag `sweeper.truncated`."""
    names = [name for name, value in params.items() if fit_key(name) != name or len(str(value)) > MAX_PARAM_CHARS]
    names += [name for name in metrics if fit_key(name) != name]
    return ", ".join(name[:60] for name in names)


def batches(reports: Iterable[Report]) -> Iterator[list[Metric]]:
    """Yield the metrics of reports in batches that MLflow accepts. All metrics of a report are in the same batch."""
    from mlflow.entities import Metric

    batch: list[Metric] = []
    for report in reports:
        when = int(report.time * 1000)
        metrics = [Metric(fit_key(name), value, when, report.step) for name, value in report.metrics.items()][
            :MAX_BATCH
        ]
        if len(batch) + len(metrics) > MAX_BATCH:
            yield batch
            batch = []
        batch += metrics
    if batch:
        yield batch


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield name, int(value) if isinstance(value, float) and value.is_integer() else value
        return
    for key, inner in value.items():
        yield from _flat(name if key == "type" else f"{name}.{key}", inner)
