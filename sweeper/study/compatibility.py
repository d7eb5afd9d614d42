"""Checks of what may change when a sweep is resumed: its file, the trainable's code, versions, data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sweeper.core.environment import versions
from sweeper.core.errors import InputError
from sweeper.core.files import write_json
from sweeper.core.secrets import has_secret, redact
from sweeper.core.sweep_folder import DECLARED, SweepFolder
from sweeper.core.text import format_list
from sweeper.core.user_code import digest_user_code, find_trainable
from sweeper.spec import Sweep
from sweeper.study.study import SweepStudy

_FREE_SECTIONS = ("budget", "resources", "tracking", "storage", "description")


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
            f"Undo them, or start another sweep: --name NEW, or --fork NEW to try the best points of this one first"
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
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in {**before, **now}:
            yield from _differences(before.get(key), now.get(key), f"{path}.{key}" if path else str(key))
    elif path in ("storage", "tracking.uri"):
        yield path, f"{path}: another URL"
    else:
        yield path, f"{path}: {_format(before)} -> {_format(now)}"


def _format(value: Any) -> str:
    text = "nothing" if value is None else redact(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_PACKAGES = ("sweeper", "keras", "tensorflow", "numpy", "optuna", "ray")


def check_environment(study: SweepStudy, *, allow_code_change: bool) -> dict[str, Any]:
    """Compare the trainable's code and the package versions with those that the trials ran with.

    Other versions are announced. A study without any report may change freely.

    Returns:
        The facts "code" (the digest of the trainable's module), "files" (the digests of all files of the user that it
        consists of) and "versions", for the caller to record.

    Raises:
        InputError: the code differs, and `allow_code_change` is False.
    """
    code, now = _code_digest(study.sweep), versions(_PACKAGES)
    files = digest_user_code(study.sweep.trainable)
    if any(row.step for row in study.rows()):
        before = {**now, **study.facts.get("versions", {})}
        changes = [f"{name} {number} (was {before[name]})" for name, number in now.items() if number != before[name]]
        if changed := _changed_code(study, code, files):
            if not allow_code_change:
                raise InputError(_code_change_message(study.sweep, changed))
            changes.append(f"changed code of {study.sweep.trainable} ({changed})")
        if changes:
            study.announce(f"Resuming with {', '.join(changes)}.")
    return {"code": code, "files": files, "versions": now}


def _code_digest(sweep: Sweep) -> str:
    """Return a digest of the trainable's code; for sweeper's own trainables the version of sweeper stands for it."""
    if not isinstance(sweep.trainable, str):
        return "command"  # the digests of its files say more
    info = find_trainable(sweep.trainable)
    return "sweeper" if info.module.partition(".")[0] == "sweeper" else info.digest


def _changed_code(study: SweepStudy, code: str, files: Mapping[str, str]) -> str:
    """Return what has changed since the sweep began; "" if nothing has. Old studies recorded one module only."""
    before = study.facts.get("files")
    if before is None or not files:
        return "" if code == study.facts.get("code", code) else "its module"
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
) -> tuple[str, ...]:
    """Record what a sweep runs with; return notes for the user.

    Args:
        used: the sweep with the dataset that is really used.
        facts: what `check_environment` returned.
        forked: the sweep whose best points this one tries first.
    """
    write_json(folder.path / DECLARED, study.sweep.model_dump(mode="json"))
    # Never store a URI that contains a password.
    store = {} if has_secret(tracking_uri) else {"tracking_uri": tracking_uri}
    origin = {"forked": forked} if forked else {}
    study.record_facts({"folder": str(folder.location), **facts, **store, **origin})
    return announce_fallback(study, used)
