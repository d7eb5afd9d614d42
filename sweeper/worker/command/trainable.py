"""The trainable that runs a command for each trial: its words, its environment, its checkpoints and its end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sweeper.core.errors import TrialDivergedError, TrialStopped
from sweeper.core.files import disk_full_message, is_disk_full, make_folder, remove
from sweeper.core.schema import integral
from sweeper.core.secrets import redact
from sweeper.core.sweep_folder import output_name
from sweeper.core.trials import FailureKind
from sweeper.spec.trainable import Command, as_text, module_files, module_of, path_in, search_path, values_of
from sweeper.worker.command.process import CommandProcess, inherited_environment
from sweeper.worker.task import WorkerContext
from sweeper.worker.trial import Trial

END_GRACE_S = 2.0
"""Seconds that a script has to end by itself after `sweeper.report` has returned False."""

_WORK = "work-"
"""Start of the name of an attempt's own folder within its trial's, which the attempt removes when it ends."""

_SNAPSHOT_ATTEMPTS, _SNAPSHOT_INTERVAL_S, _DISK_POLL_INTERVAL_S = 3, 0.2, 1.0

_GPU_MEMORY = re.compile(r"CUDA out of memory|OutOfMemoryError|ResourceExhaustedError|RESOURCE_EXHAUSTED")
_TRANSIENT = re.compile(r"(Connection\w*|BrokenPipe|Timeout|OS)Error")
_CRASHES = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)


class CommandError(Exception):
    """A command has failed: the kind of failure, the reason in one line, and the end of what it wrote to stderr."""

    def __init__(self, kind: FailureKind, reason: str, details: str = "") -> None:
        super().__init__(reason)
        self.kind, self.reason, self.details = kind, reason, details


class CommandTrainable:
    """Trainable that runs a command for each trial, to be called as any function that trains.

    Args:
        notify: called with a sentence for the user.
    """

    def __init__(self, command: Command, context: WorkerContext, notify: Callable[[str], None]) -> None:
        self._command = command
        self._context = context
        self._notify = notify

    def __call__(self, params: Mapping[str, Any], trial: Trial) -> None:
        """Run the command until it ends, and pass its reports on.

        Raises:
            CommandError: it failed, or ended without a report.
            TrialStopped: the trial ends before the command does.
        """
        place = self._context.folder.trial(trial.number)
        make_folder(place)
        for left in place.glob(f"{_WORK}*"):
            remove(left)
        with _own_folder(place / f"{_WORK}{trial.attempt:03d}") as work:
            checkpoint = Checkpoint(work, trial, self._notify)
            folder = self._working_folder()
            built_in = self._built_in(trial, work)
            values = values_of(params, **built_in)
            words = [self._placed(word, folder) for word in self._command.arguments(values)]
            environment = self._environment(params, trial, built_in) | self._command.environment(values)
            output = place / output_name(trial.attempt)
            objective = trial.objective
            with CommandProcess(words, folder, environment, output, objective=objective, work=work) as process:
                try:
                    end = process.follow(checkpoint.report, self._notify)
                except (TrialStopped, TrialDivergedError):
                    if process.uses_calls:
                        process.wait(END_GRACE_S)
                    raise
            _check(end, gpus=trial.resources.gpus)
            if not trial.step:
                raise CommandError("error", f"ended without a report of {objective!r}; {process.missed_report()}")
            if any((work / "model").iterdir()):
                trial.save_model(work / "model")

    def _working_folder(self) -> Path:
        folder = (self._context.started_in / (self._command.folder or "")).resolve()
        if folder.is_dir():
            return folder
        if self._command.folder is None:  # another node
            return Path.cwd()
        raise CommandError("error", f"its working folder {folder} does not exist on {socket.gethostname()}")

    def _built_in(self, trial: Trial, work: Path) -> dict[str, str]:
        length = {"epochs": trial.budget.epochs, "steps": trial.budget.steps}
        numbers = {"seed": trial.seed, "trial": trial.number, "reports": trial.reports, **length}
        texts = {name: as_text(integral(value)) for name, value in numbers.items() if value is not None}
        return texts | {name: str(work / name) for name in ("checkpoint", "model")}

    def _environment(self, params: Mapping[str, Any], trial: Trial, built_in: dict[str, str]) -> dict[str, str]:
        own = {"params": json.dumps(dict(params)), "attempt": str(trial.attempt), "step": str(trial.step), **built_in}
        found = {**inherited_environment(), "PATH": search_path(), "PYTHONUNBUFFERED": "1"}
        module, code = module_of(self._command.words), self._context.code
        if module is not None and code is not None and module_files(code, module):
            # Otherwise Python would look into the working folder first, where the files may have changed.
            path = [str(code), *filter(None, [os.environ.get("PYTHONPATH")])]
            found |= {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(path)}
        return found | {f"SWEEPER_{name.upper()}": value for name, value in own.items()}

    def _placed(self, word: str, folder: Path) -> str:
        """Return a word with the path of a script replaced by that of the copy which the sweep began with."""
        path = path_in(word)
        if path is None:
            return word
        file, code = Path(os.path.normpath(folder / path)), self._context.code
        places: Iterator[Path] = iter(())
        if code is not None and file.is_relative_to(folder):
            copy = code / file.relative_to(folder)
            places = iter([] if copy.is_symlink() else [copy])
        elif code is None and not file.exists():  # it was sent to another node, as modules are
            places = (Path(place, path) for place in sys.path)
        found = next((place for place in places if place.is_file()), None)
        return word if found is None else f"{word.removesuffix(path)}{found}"


@contextmanager
def _own_folder(work: Path) -> Iterator[Path]:
    work.mkdir()
    try:
        for name in ("checkpoint", "model"):
            (work / name).mkdir()
        yield work
    finally:
        remove(work)


Snapshot = dict[str, tuple[int, int, int]]


class Checkpoint:
    """The checkpoint folder of a running command: filled when it resumes, saved at its calls of `sweeper.report`."""

    def __init__(self, work: Path, trial: Trial, notify: Callable[[str], None]) -> None:
        self._folder, self._staged = work / "checkpoint", work / "staged"
        self._trial = trial
        self._notify = notify
        self._is_warned = False
        if trial.checkpoint is not None:
            shutil.copytree(trial.checkpoint, self._folder, dirs_exist_ok=True)
        self._saved = self._snapshot()

    def report(self, metrics: Mapping[str, float], *, is_waiting: bool) -> bool:
        """Make a report of the trial, with a checkpoint if the folder has changed; return whether more may follow.

        Args:
            is_waiting: whether the script waits. One that has printed a line may be epochs further by now, so that its
                files do not belong to the report.
        """
        if self._trial.step >= self._trial.reports:
            raise TrialStopped
        before, has_changed = self._trial.step, self._stage() if is_waiting else self._warn()
        try:
            self._trial.report(metrics, checkpoint=self._write if has_changed else None)
        except (TypeError, ValueError) as error:
            self._saved = {}
            if self._trial.step == before:  # the report was refused, and the script may correct it
                raise
            raise CommandError("error", f"its checkpoint cannot be saved: {error}") from error
        remove(self._staged)
        return self._trial.step < self._trial.reports

    def _snapshot(self) -> Snapshot:
        found: Snapshot = {}
        for folder, _, names in os.walk(self._folder):
            for file in (Path(folder, name) for name in names):
                try:
                    status = file.stat()
                except OSError:  # it was removed, or is a link to nowhere
                    continue
                found[str(file)] = (status.st_ino, status.st_size, status.st_mtime_ns)
        return found

    def _stage(self) -> bool:
        """Copy the folder if it has changed since the last copy; return whether there is a new copy.

        A process of the script may write to it in the background; it is copied again then.
        """
        attempts = 0
        while attempts < _SNAPSHOT_ATTEMPTS:
            before = self._snapshot()
            if not before or before == self._saved:
                return False
            remove(self._staged)
            try:
                shutil.copytree(self._folder, self._staged, ignore_dangling_symlinks=True)
            except OSError as error:
                if is_disk_full(error, self._folder):
                    text = f"({disk_full_message(self._folder)}) and waits. Free some space, or stop the sweep."
                    self._notify(f"The trial cannot copy its checkpoint {text}")
                    time.sleep(_DISK_POLL_INTERVAL_S)
                    continue
                if self._snapshot() == before:
                    raise
            else:
                if self._snapshot() == before:
                    self._saved = before
                    return True
            attempts += 1
            time.sleep(_SNAPSHOT_INTERVAL_S)
        self._notify(
            "The trial makes a report without a checkpoint, because its files changed while they were copied. Finish "
            "writing them before the report."
        )
        return False

    def _warn(self) -> bool:
        if not self._is_warned and self._snapshot() != self._saved:
            self._is_warned = True
            self._notify(
                "The checkpoint of the trial is not saved, because its script does not wait after a line with metrics. "
                "Call sweeper.report() instead."
            )
        return False

    def _write(self, folder: Path) -> None:
        shutil.copytree(self._staged, folder, dirs_exist_ok=True, copy_function=_link_or_copy)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # the file system has no hard links
        shutil.copy2(source, target)


def _check(end: str, *, gpus: float) -> None:
    """Raise CommandError unless a command has exited with 0.

    Args:
        end: `exit CODE`, `signal NUMBER` or `start REASON`; then a line break, and the end of what it wrote to stderr.
    """
    head, _, details = redact(end).partition("\n")
    how, _, value = head.partition(" ")
    if (how, value) == ("exit", "0"):
        return
    last = next((line.strip() for line in reversed(details.splitlines()) if line.strip()), "")[:300]
    if how == "exit":
        number = int(value) - 128  # as a shell tells of a signal
        is_crash = number in list(_CRASHES)
        name = f" ({signal.Signals(number).name})" if is_crash else ""
        kind: FailureKind = "crash" if is_crash else _kind_of(last, gpus)
        raise CommandError(kind, f"exited with {value}{name}{last and f': {last}'}", details)
    if how == "signal":
        hint = ", perhaps because memory was short" if int(value) == signal.SIGKILL else ""
        raise CommandError(
            "crash", f"was killed by {signal.Signals(int(value)).name}{hint}{last and f': {last}'}", details
        )
    if how == "start":
        raise CommandError("error", f"could not be started: {value}", details)
    raise CommandError("crash", "was ended: the process that watches it was killed", details)


def _kind_of(last_line: str, gpus: float) -> FailureKind:
    """Return the kind of failure by the last line of a traceback."""
    if _GPU_MEMORY.search(last_line):
        return "gpu" if gpus else "memory"
    name = last_line.partition(":")[0].rpartition(".")[2]
    if name.endswith("MemoryError"):
        return "memory"
    return "io" if _TRANSIENT.fullmatch(name) else "error"
