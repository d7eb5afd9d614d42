"""Runner of one task on a worker: the trainable runs in a thread, one event at a time. It does not import Ray."""

from __future__ import annotations

import shutil
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from sweeper.core.code.user_code import find_trainable, is_own_code, load_trainable
from sweeper.core.errors import TrialDivergedError, TrialStopped
from sweeper.core.files import make_folder, written_whole
from sweeper.core.secrets import redact
from sweeper.core.trials import Failure, FailureKind, Report
from sweeper.spec import Command
from sweeper.worker.command.trainable import CommandError, CommandTrainable
from sweeper.worker.metrics import compare, evaluation_of
from sweeper.worker.output import kept_output, shorten
from sweeper.worker.process import has_own_threads, restored_process
from sweeper.worker.task import Event, Task, WorkerContext, trial_seed
from sweeper.worker.trial import Trial

_PERMANENT_OS_ERRORS = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
"""Errors of the operating system that a retry would meet again."""

_OUT_OF_MEMORY_ERRORS = ("OutOfMemoryError", "ResourceExhaustedError")
_JAX_ERRORS = ("JaxRuntimeError", "XlaRuntimeError")


class TaskRunner:
    """Runner of one task in a thread, which waits after each event until `next_event` or `stop` is called.

    A thread is needed because `trial.report()` may be called deep inside the training loop of a framework.

    Args:
        owns_process: whether this process only runs tasks, so that all that it prints is the trial's.
    """

    def __init__(self, context: WorkerContext, task: Task, *, owns_process: bool = False) -> None:
        self._context = context
        self._task = task
        self._owns_process = owns_process
        context.folder.trial(task.number).parent.mkdir(parents=True, exist_ok=True)
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._continue: SimpleQueue[bool] = SimpleQueue()
        self._last_report: Report | None = None
        self._cpus: int | None = None
        self._thread = threading.Thread(target=self._run, name=f"trial-{task.number}", daemon=True)

    def next_event(self) -> Event:
        """Let the task run until its next event, and return that."""
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._continue.put(True)
        return self._events.get()

    def allow(self, cpus: int) -> None:
        """Let the trial use so many CPUs from its next event on. Call it while the task waits for the answer to one."""
        self._cpus = cpus

    def stop(self) -> None:
        """Stop the task at the event where it waits, and wait for its thread to end."""
        self._continue.put(False)
        if self._thread.ident is not None:
            self._thread.join()

    def delete_local_files(self) -> None:
        """Delete this node's copy of the trial's files; the remote folder has them."""
        shutil.rmtree(self._context.folder.trial(self._task.number), ignore_errors=True)

    def _run(self) -> None:
        event = self._last_event()
        if self._last_report is not None:  # it ends the trial as COMPLETE, so its model must be saved by now
            if event is not None and event.failure is not None and not self._notify_failure(event.failure):
                return
            self._events.put(Event(report=self._last_report, has_threads=has_own_threads()))
            event = Event()  # for a driver that asks once more
        if event is not None:
            self._events.put(replace(event, has_threads=has_own_threads()))

    def _notify_failure(self, failure: Failure) -> bool:
        """Tell the user what failed after the last report; return whether the task continues."""
        self._events.put(Event(notice=f"Its code failed after the last report ({failure.reason}). The trial counts."))
        return self._continue.get()

    def _last_event(self) -> Event | None:
        """Run the task to its end; return its last event, None if it was stopped."""
        try:
            with self._kept_output():
                return self._evaluate() if self._task.is_final else self._train()
        except TrialStopped:
            return None
        except CommandError as error:
            self._save_error(error.details or error.reason)
            return Event(failure=Failure(error.kind, error.reason))
        except BaseException as error:  # a trainable may also call sys.exit(): a failed trial is data
            if self._last_report is not None and isinstance(error, SystemExit) and not error.code:
                return Event()
            if _is_pruned(error) and not self._task.is_final:
                return Event(is_pruned=True)
            reason = str(error) if isinstance(error, TrialDivergedError) else self._save_and_summarise(error)
            failure = Failure(classify_exception(error), reason)
            return Event(failure=self._memory_failure(error) if failure.kind == "memory" else failure)

    def _kept_output(self) -> AbstractContextManager[None]:
        """Return a context that keeps what the trial prints; a command keeps its output itself."""
        if not self._owns_process or isinstance(self._context.sweep.trainable, Command):
            return nullcontext()
        return kept_output(self._context.folder.trial(self._task.number), self._task.attempt, self._notify)

    def _train(self) -> Event:
        train, params, trial = self._prepare()
        if self._task.retrain:
            train, trial.reports = train.retrain, self._task.recorded or trial.reports
        trial.resume(self._task.recorded)
        if trial.step < trial.reports or self._lacks_only_its_model(train):
            with restored_process():
                trial.end(train(params, trial))
        return Event()

    def _lacks_only_its_model(self, train: Any) -> bool:
        """Return whether a trial that has made all reports has to be called again: its worker died before it saved."""
        if hasattr(train, "evaluate") or not self._context.sweep.leaves_model(self._context.code):
            return False
        return self._context.checkpoints(self._task.number, self._task.params).models.latest() is None

    def _evaluate(self) -> Event:
        """Test the best trial, and compare its model with another one, as the task asks for."""
        task, found = self._task, None
        if task.evaluate:
            train, params, trial = self._restored(task)
            with restored_process():
                found = evaluation_of(train.evaluate(params, trial))

        def predictions(number: int, params: dict[str, Any], recorded: int) -> Iterator[tuple[Any, Any]]:
            for each in (task, replace(task, number=number, params=params, recorded=recorded)):
                train, own, trial = self._restored(each)
                with restored_process():
                    predicted = train.predict(own, trial)
                yield predicted, trial.data.y_val

        return Event(evaluation=found, compared=None if task.rival is None else compare(predictions(*task.rival)))

    def _restored(self, task: Task) -> tuple[Any, Any, Trial]:
        """Return what `_prepare` does, with the trial as its last attempt has left it."""
        train, params, trial = self._prepare(task)
        store = self._context.checkpoints(task.number, task.params)
        latest, saved = store.latest(task.recorded), store.models.latest(task.recorded)
        if latest is None and saved is None:
            raise FileNotFoundError(f"trial {trial.number} has no usable checkpoint or model in {store.folder}")
        if findings := store.findings():
            consequence = f"uses the checkpoint of report {latest.step}" if latest else "has no other checkpoint"
            self._notify(f"{findings} The evaluation {consequence}.")
        trial.checkpoint, trial.step = (latest.path, latest.step) if latest else (None, task.recorded or 0)
        trial.model = None if saved is None else saved.path
        return train, params, trial

    def _prepare(self, task: Task | None = None) -> tuple[Any, Any, Trial]:
        sweep, task = self._context.sweep, task or self._task
        train, params = self._load(sweep.trainable, task.params)
        trial = Trial(
            number=task.number,
            seed=trial_seed(sweep.seed, task.number) if task.seed is None else task.seed,
            budget=sweep.budget,
            objective=sweep.objective.metric,
            goals=[goal.metric for goal in sweep.goals],
            dataset=sweep.dataset,
            data=self._context.data,
            resources=task.trial_resources(sweep.resources),
            checkpoints=self._context.checkpoints(task.number, task.params),
            send=self._send,
            notify=self._notify,
            attempt=task.attempt,
            pauses=sweep.chosen_pruner.pauses(sweep.budget),
            cpus_at=lambda step: task.cpus_at(step) or self._cpus,
        )
        return train, params, trial

    def _load(self, trainable: str | Command, params: dict[str, Any]) -> tuple[Any, Any]:
        """Return the function that trains, and its parameters."""
        code = self._context.code
        if isinstance(trainable, Command):
            return CommandTrainable(trainable, self._context, self._notify), params
        model = find_trainable(trainable, code).params_model
        return load_trainable(trainable, code), params if model is None else model(**params)

    def _send(self, report: Report, meanwhile: Callable[[], bool] | None = None) -> None:
        if self._task.is_final:
            raise RuntimeError("evaluate makes no reports; it returns its metrics")
        last = self._context.sweep.budget.reports
        if report.step > last:
            raise TrialStopped
        if report.step == last:  # sent when the trainable has returned, see `_run`
            self._last_report = report
            return
        self._events.put(Event(report=report, has_threads=has_own_threads()))
        while meanwhile is not None and self._continue.empty() and meanwhile():
            pass
        if not self._continue.get():
            raise TrialStopped

    def _notify(self, text: str) -> None:
        self._events.put(Event(notice=text))
        if not self._continue.get():
            raise TrialStopped

    def _memory_failure(self, error: BaseException) -> Failure:
        """Classify an out-of-memory error: MemoryError is the host's memory; a framework's is the GPU's, if any."""
        if isinstance(error, MemoryError) or self._task.trial_resources(self._context.sweep.resources).gpus == 0:
            return Failure("memory", self._save_and_summarise(error))
        batch = self._task.params.get("batch_size")
        return Failure("gpu", "GPU out of memory" + (f" (batch_size={batch})" if batch is not None else ""))

    def _save_and_summarise(self, error: BaseException) -> str:
        """Save the traceback in the trial's folder, and return the error in one line with its place in the code."""
        self._save_error("".join(traceback.format_exception(error)))
        first = (redact(_message_of(error)).strip().splitlines() or [""])[0][:300]
        return f"{type(error).__name__}: {first}{_place_of(error)}"

    def _save_error(self, text: str) -> None:
        """Save it in the trial's folder; not if the trial is tested and its files are gone: another one leads."""
        with suppress(Exception):  # a remote folder that cannot be read has deleted nothing
            if self._task.is_final and not self._context.checkpoints(self._task.number).has_any():
                return
        folder = self._context.folder.trial(self._task.number)
        with suppress(OSError):  # the error may be that the disk is full or the folder is gone
            make_folder(folder)
            with written_whole(folder / "error.txt") as beside:  # and not through a link of that name
                beside.write_text(shorten(redact(text)), errors="backslashreplace")


def _is_pruned(error: BaseException) -> bool:
    """Return whether this is `optuna.TrialPruned`, which Optuna's callbacks raise too; a worker has no Optuna."""
    return any(
        (kind.__module__.partition(".")[0], kind.__name__) == ("optuna", "TrialPruned") for kind in type(error).__mro__
    )


def _place_of(error: BaseException) -> str:
    """Return the place of an error: the last line of the user's own code, else the last line of all."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if is_own_code(frame.filename)]
    place = next(reversed(own or frames), None)
    return f" ({Path(place.filename).name}:{place.lineno})" if place else ""


def _message_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # the class is the trainable's own, and its __str__ may fail
        return "its message cannot be read"


def classify_exception(error: BaseException) -> FailureKind:
    """Return the kind of failure for an exception that a trainable raised."""
    if isinstance(error, TrialDivergedError):
        return "diverged"
    name, message = type(error).__name__, str(error.args[:1])  # not `str(error)`, which may fail
    is_exhausted = name in _OUT_OF_MEMORY_ERRORS or (name in _JAX_ERRORS and "RESOURCE_EXHAUSTED" in message)
    if is_exhausted or isinstance(error, MemoryError):
        return "memory"
    return "io" if isinstance(error, OSError) and not isinstance(error, _PERMANENT_OS_ERRORS) else "error"
