"""The verbs that act on a sweep from another terminal: stop, pause and unpause one that runs, delete another."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.cli import options, report
from sweeper.cli.cluster import reach, target
from sweeper.core.errors import InputError, SweepBusyError, SweeperError, TrackingError
from sweeper.core.secrets import redact
from sweeper.core.text import clean

if TYPE_CHECKING:
    from sweeper.study.deletion import Deletion
    from sweeper.study.storage.commands import Command
    from sweeper.study.view import StudyView


def stop(
    name: options.Name,
    storage: options.Storage = options.DEFAULT_STORAGE,
    backend: options.BackendName = "ray",
    dashboard: options.Dashboard = None,
    insecure: options.Insecure = False,
    namespace: options.Namespace = "sweeper",
    context: options.Context = None,
) -> None:
    """Stop a running sweep and wait until it has stopped.

    With --dashboard or --backend, stop a submitted sweep, otherwise one on this machine.
    """
    if target.is_submitted(backend, dashboard):
        from sweeper.cli import console

        chosen = target.backend_from(backend, dashboard, insecure=insecure, context=context, namespace=namespace)
        chosen.stop(name)
        console.print_note(f"{name} has stopped. Submit it again to resume it.")
    else:
        again = "Submit it again to resume it." if reach.asked() else f"Resume with: {_command('resume', name)}"
        _send(name, storage, "stop", f"{name} has stopped. {again}")


def pause(name: options.Name, storage: options.Storage = options.DEFAULT_STORAGE) -> None:
    """Pause a running sweep: its workers wait at their next report."""
    _send(name, storage, "pause", f"{name} is paused. Continue with: {_command('unpause', name)}")


def unpause(name: options.Name, storage: options.Storage = options.DEFAULT_STORAGE) -> None:
    """Continue a paused sweep."""
    _send(name, storage, None, f"{name} continues.")


def _send(name: str, storage: str, command: Command | None, done: str) -> None:
    from sweeper.analysis.trials import is_done
    from sweeper.cli import console
    from sweeper.study.open import read_study, send_command

    if not send_command(name, storage, command):
        raise SweeperError(
            f"sweep {name!r} did not react within 60 s. Its process may be suspended; see `sweeper list`"
        )
    is_over = command == "stop" and is_done(read_study(name, storage))
    console.print_note(f"{name} is done: all its trials have ended." if is_over else done)


def _command(verb: str, name: str) -> str:
    """Return the command to run next, with `--storage` as it was typed: it may hold references."""
    typed = sys.argv[1:]
    storage = [part for at, part in enumerate(typed) if "--storage" in (part.partition("=")[0], *typed[at - 1 : at])]
    return shlex.join(["sweeper", verb, name, *storage])


def delete(
    name: options.Name,
    with_tracking: options.WithTracking = False,
    yes: options.Yes = False,
    storage: options.Storage = options.DEFAULT_STORAGE,
    tracking_uri: options.TrackingUri = None,
    json: options.Json = False,
) -> int:
    """Delete a sweep: its study and its folder, and with --tracking its MLflow runs."""
    from sweeper.cli import console
    from sweeper.study.deletion import open_to_delete

    try:
        with open_to_delete(name, storage) as deletion:
            uri = _store_of(deletion.study, tracking_uri) if with_tracking else None
            if not yes and not _is_confirmed(deletion.study, uri):
                console.print_note("Nothing was deleted.")
                return 1
            _delete(deletion, uri, json=json)
    except SweepBusyError as error:
        who = str(error).partition(". Choose")[0]
        raise SweepBusyError(f"{who}. Nothing was deleted; stop it first: {_command('stop', name)}") from error
    return 0


def _store_of(study: StudyView, tracking_uri: str | None) -> str:
    """Return the MLflow store of a sweep.

    Raises:
        InputError: there is none at its address.
        TrackingError: it does not answer.
    """
    from sweeper import tracking
    from sweeper.cli.look.ui import store_of

    uri = store_of(study, tracking_uri)
    if reason := tracking.check_store(uri, must_exist=True):
        raise TrackingError(f"MLflow at {redact(uri)} does not answer ({reason}). Nothing was deleted")
    return uri


def _is_confirmed(study: StudyView, uri: str | None) -> bool:
    """Ask on the terminal whether a sweep is to be deleted.

    Raises:
        InputError: there is no terminal to ask on.
    """
    from sweeper.cli import console

    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InputError(f"sweeper delete {study.name} asks before it deletes, and there is no terminal; pass --yes")
    runs = f", and its runs in MLflow at {redact(uri)}" if uri else ""
    counted = f"{len(study.rows())} trials"
    console.err.print(f"Delete sweep {study.name} ({counted}) with its folder {study.folder}{runs}? [y/N] ", end="")
    try:
        return sys.stdin.readline().strip().lower() in ("y", "yes")
    except KeyboardInterrupt:
        console.err.print()
        return False


def _delete(deletion: Deletion, uri: str | None, *, json: bool) -> None:
    """Delete a sweep, and report what was deleted and what stays."""
    from sweeper import tracking
    from sweeper.cli import console

    study = deletion.study
    deletion.begin()
    runs, versions = (None, []) if uri is None else tracking.delete_runs(study, uri)
    link = isinstance(study.folder, Path) and study.folder.is_symlink() and study.folder.resolve()
    folder = deletion.delete_folder()
    deletion.finish()
    if link and folder is not None:
        console.print_note(f"{folder} was a link, and only the link was deleted. Its files are still in {link}.")
    if folder is None and (cluster := reach.asked()) is not None:
        console.print_note(f"{study.folder} was not deleted: it is in the cluster, and {cluster} leads to databases.")
    elif folder is None:
        console.print_note(f"{study.folder} was not deleted: it does not exist, or does not belong to this sweep.")
    if versions:
        console.print_note(f"These versions of the model stay in MLflow: {', '.join(versions)}.")
    if json:
        document = {"name": study.name, "trials": len(study.rows()), "folder": folder, "runs": runs, "stays": versions}
        report.emit(report.to_json(document))
    else:
        in_mlflow = "" if runs is None else f", {runs} MLflow runs"
        with_folder = "" if folder is None else f", {folder}"
        report.emit(clean(f"{study.name} deleted: {len(study.rows())} trials{with_folder}{in_mlflow}"))
