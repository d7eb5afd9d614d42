"""What may change when a sweep is resumed, and what a fork takes over: file, code, versions, data, trials."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeper.core.code.user_code import digest_user_code, find_trainable, user_code_root
from sweeper.core.environment import commit, processor, versions
from sweeper.core.errors import InputError
from sweeper.core.files import write_json
from sweeper.core.secrets import has_secret, redact
from sweeper.core.sweep_folder import DECLARED, SweepFolder
from sweeper.core.text import format_list
from sweeper.core.trials import leaderboard
from sweeper.search.history import Era, as_history, is_history, is_tried, marks_of, point_in, with_era
from sweeper.search.space import Point, check_point, normalized
from sweeper.spec import Sweep
from sweeper.study.retry import failed_trials
from sweeper.study.storage.records import record_of
from sweeper.study.study import SweepStudy
from sweeper.study.view import ERAS, HISTORY

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_FREE_SECTIONS = ("budget", "resources", "sampler", "pruner", "tracking", "storage", "description", "confirm")
_FIXED_KEYS = ("budget.epochs", "budget.steps", "budget.reports_per_epoch", "budget.report_every")

MAX_LISTED_CHANGES = 20
"""Number of changes that a message lists."""


def check_resumable(before: Sweep, now: Sweep) -> list[str]:
    """Check that a sweep may be resumed with its changes, and return a line for each.

    Raises:
        InputError: something changed that may not; the message lists every such key with both values.
    """
    changed = {key: line for key, line in _differences(_plain(before), _plain(now))}
    refused = [line for key, line in changed.items() if not _may_key_change(key)]
    if refused:
        more = [f"and {len(refused) - MAX_LISTED_CHANGES} more"] if len(refused) > MAX_LISTED_CHANGES else []
        lines = "\n".join(f"  {line}" for line in refused[:MAX_LISTED_CHANGES] + more)
        raise InputError(
            f"sweep {now.name!r} exists, and its trials would not compare with new ones after these changes:\n{lines}\n"
            "Undo them, or start another sweep: --name NEW, or --fork NEW, which learns from it where they compare"
        )
    return list(changed.values())


def _plain(sweep: Sweep) -> dict[str, Any]:
    return sweep.model_dump(mode="json")


def _may_key_change(key: str) -> bool:
    return key.split(".")[0] in _FREE_SECTIONS and not key.startswith(_FIXED_KEYS)


def _differences(before: Any, now: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield every key whose value differs, with a line for people. URLs may hold passwords and are not shown."""
    if before == now:
        return
    if path in ("sampler", "pruner") and before["type"] != now["type"]:
        yield path, f"{path}: {before['type']} -> {now['type']}"
    elif isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in {**before, **now}:
            yield from _differences(before.get(key), now.get(key), f"{path}.{key}" if path else str(key))
    elif path in ("storage", "tracking.uri"):
        yield path, f"{path}: another URL"
    else:
        yield path, f"{path}: {_format(before)} -> {_format(now)}"


def _format(value: Any) -> str:
    text = "nothing" if value is None else redact(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


MAX_START_POINTS = 3
"""Number of best points that a fork tries first, of trials whose values do not compare with those of its own."""


@dataclass(frozen=True)
class Origin:
    """What a fork takes over from another sweep: trials as its history, points to try first, facts, and a note."""

    trials: list[FrozenTrial]
    points: list[Point]
    facts: dict[str, Any]
    note: str


def take_over(parent: Sweep, facts: Mapping[str, Any], trials: Iterable[FrozenTrial], fork: Sweep) -> Origin:
    """Return what a fork takes over from the trials of another sweep.

    A trial that completed or was pruned becomes history of the fork if its parameters are exactly a point of the fork's
    space and its values mean the same there. Of the others only the best points are of use.
    """
    difference = _incomparable(parent, facts, fork)
    same_reports = parent.budget.reports == fork.budget.reports
    history, others = [], []
    for trial in trials:
        row = record_of(trial, parent)
        point = None if difference else point_in(row.params, fork.space)
        if point is not None and (row.state == "COMPLETE" or (row.state == "PRUNED" and same_reports)):
            reports = trial.intermediate_values if same_reports else {}
            marks = marks_of(fork.pruner, fork.budget, reports)
            source = f"{parent.name}:{row.number}"
            history.append(as_history(trial, point, fork.space, source=source, reports=reports, marks=marks))
        elif row.state == "COMPLETE" and not is_history(trial):
            others.append(row)
    ranked = [row.params for row in leaderboard(others, parent.objective.direction)]
    partial = [{name: value for name, value in params.items() if name in fork.space} for params in ranked]
    points = [normalized(point, fork.space) for point in partial if not any(check_point(point, fork.space))]
    known = {key: facts[key] for key in ("code", "files", "versions", "dataset") if history and key in facts}
    origin = {HISTORY: {"sweep": parent.name, "trials": len(history)}}
    points = [*fork.enqueue, *points[:MAX_START_POINTS]]
    return Origin(
        history,
        [point for point in points if not is_tried(point, history)],
        known | origin,
        _origin_note(parent.name, len(history), difference),
    )


def _incomparable(parent: Sweep, facts: Mapping[str, Any], fork: Sweep) -> str:
    """Return why the values of another sweep's trials do not compare with those of a fork; "" if they do."""
    for key, name in (("trainable", "trainable"), ("dataset", "dataset"), ("goals", "objective")):
        if getattr(parent, key) != getattr(fork, key):
            return f"another {name}"
    if (parent.budget.epochs, parent.budget.steps) != (fork.budget.epochs, fork.budget.steps):
        return "another length of a trial"
    changed = _changed_code(facts, _code_digest(fork), digest_user_code(fork.trainable))
    return f"another code of {fork.trainable} ({changed})" if changed else ""


def _origin_note(parent: str, trials: int, difference: str) -> str:
    if difference:
        return f"Trials of {parent} do not compare with new ones ({difference}); only its best points are tried first."
    if not trials:
        return f"No trial of {parent} has ended with a point of this space; its best points that fit are tried first."
    return f"Learning from {trials} trials of {parent}, which are not counted, shown or run again here."


def with_reached_total(sweep: Sweep, begun: int) -> tuple[Sweep, list[str]]:
    """Return the sweep with a total of trials that is not below those that have started, and a note if it was."""
    if sweep.budget.trials >= begun:
        return sweep, []
    note = f"budget.trials is {sweep.budget.trials}, and {begun} trials have started already; no other one will."
    return sweep.model_copy(update={"budget": sweep.budget.model_copy(update={"trials": begun})}), [note]


def next_eras(before: Sweep, now: Sweep, facts: Mapping[str, Any], first: int) -> list[Era]:
    """Return which trials ran under which sampler and pruner, for a sweep that continues at trial `first`."""
    known = facts.get(ERAS) or with_era([], facts.get(HISTORY, {}).get("trials", 0), *_methods(before))
    return with_era(known, first, *_methods(now))


def _methods(sweep: Sweep) -> tuple[dict[str, Any], dict[str, Any]]:
    return sweep.sampler.model_dump(mode="json"), sweep.pruner.model_dump(mode="json")


_PACKAGES = ("sweeper", "keras", "tensorflow", "numpy", "optuna", "ray")


def check_environment(study: SweepStudy, *, allow_code_change: bool) -> dict[str, Any]:
    """Compare the trainable's code and the package versions with those that the trials ran with.

    What differs is announced. The code may change as long as no result would mix with others: before a trial has ended
    well, has reported and is to go on, or was taken over from another sweep. Failed trials do not count.

    Returns:
        The facts "code" (the digest of the trainable's module), "files" (the digests of all files of the user that it
        consists of), "versions", "processor" and "commit" (that of git), for the caller to record.

    Raises:
        InputError: the code differs, and `allow_code_change` is False.
    """
    code, now = _code_digest(study.sweep), versions(_PACKAGES)
    files, root = digest_user_code(study.sweep.trainable), user_code_root(study.sweep.trainable)
    changed = _changed_code(study.facts, code, files)
    rows = [row for row in study.rows() if row.reused or not row.is_added]
    has_results = any(row.state in ("COMPLETE", "PRUNED") or (row.state == "RUNNING" and row.step) for row in rows)
    has_history = bool(study.facts.get(HISTORY, {}).get("trials"))
    if changed and (has_results or has_history) and not allow_code_change:
        raise InputError(_code_change_message(study.sweep, changed))
    if rows or has_history:
        before = {**now, **study.facts.get("versions", {})}
        changes = [f"{name} {number} (was {before[name]})" for name, number in now.items() if number != before[name]]
        changes += [f"changed code of {study.sweep.trainable} ({changed})"] if changed else []
        if changes:
            study.announce(f"Resuming with {', '.join(changes)}.")
    return {"code": code, "files": files, "versions": now, "processor": processor(), "commit": commit(root)}


def _code_digest(sweep: Sweep) -> str:
    """Return a digest of the trainable's code; for sweeper's own trainables the version of sweeper stands for it."""
    if not isinstance(sweep.trainable, str):
        return "command"  # the digests of its files say more
    info = find_trainable(sweep.trainable)
    return "sweeper" if info.module.partition(".")[0] == "sweeper" else info.digest


def _changed_code(facts: Mapping[str, Any], code: str, files: Mapping[str, str]) -> str:
    """Return what has changed since the sweep began; "" if nothing has. Old studies recorded one module only."""
    before = facts.get("files")
    if before is None or not files:
        return "" if code == facts.get("code", code) else "its module"
    return format_list(sorted(file for file in {**before, **files} if before.get(file) != files.get(file)), nothing="")


def _code_change_message(sweep: Sweep, changed: str) -> str:
    return (
        f"the code of {sweep.trainable} has changed since sweep {sweep.name!r} began ({changed}), so new trials may "
        "not compare with old ones. If they do, pass --allow-code-change; if not, start another sweep: --name NEW, or "
        "--fork NEW"
    )


def record_dataset(study: SweepStudy, data: Mapping[str, Any] | None) -> None:
    """Record which data the sweep uses, and check that it is the data that it began with.

    Args:
        data: what `Arrays.facts` returns; None if the sweep names no dataset.

    Raises:
        InputError: the sweep began with other data.
    """
    if data is None:
        return
    before = study.facts.get("dataset", data)
    if before["digest"] != data["digest"]:
        raise InputError(
            f"sweep {study.name!r} began with {before['name']} from {before['source']}, and the data differs now: "
            f"{data['name']} from {data['source']}. Restore the first data, or choose another name with --name"
        )
    study.record_facts({"dataset": dict(data)})


def announce_fallback(study: SweepStudy, used: Sweep) -> tuple[str, ...]:
    """Announce that the sweep uses another dataset than its file names, if it does; return the note."""
    declared = study.sweep.dataset
    if declared is None or used.dataset is None or used.dataset == declared:
        return ()
    note = (
        f"Dataset {declared.type} is not available here; using {used.dataset.type} instead. `sweeper doctor` shows why."
    )
    study.announce(note)
    return (note,)


def record_start(
    study: SweepStudy,
    used: Sweep,
    folder: SweepFolder,
    facts: Mapping[str, Any],
    *,
    tracking_uri: str,
    forked: str | None,
    retry: Collection[int] | None = None,
) -> tuple[str, ...]:
    """Record what a sweep runs with; return notes for the user.

    Args:
        used: the sweep with the dataset that is really used.
        facts: what `check_environment` returned.
        forked: the sweep that this one was forked from.
        retry: failed trials to run again; empty: all of them.
    """
    write_json(folder.path / DECLARED, study.sweep.model_dump(mode="json"))
    # Never store a URI that contains a password.
    store = {} if has_secret(tracking_uri) else {"tracking_uri": tracking_uri}
    origin = {"forked": forked} if forked else {}
    if retry is not None and (numbers := failed_trials(study.name, study.rows(with_fresh=True), retry)):
        study.put_back(numbers)
        study.announce(f"Running failed trials again: {format_list([str(number) for number in numbers])}.")
    study.record_facts({"folder": str(folder.location), **facts, **store, **origin})
    return announce_fallback(study, used)
