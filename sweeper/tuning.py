"""The bridge between the study and Ray Tune, the muscle: only this module and its actor import ray.tune."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from ray import tune
from ray.air._internal import usage
from ray.tune.execution import class_cache
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sweeper.actor import Worker
from sweeper.spec import Resources
from sweeper.study import SweepStudy, TrialRow, Verdict
from sweeper.worker import Event, Job, Task, as_config, task_from

logger = logging.getLogger(__name__)

_TUNE_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0: not a line of Tune's own
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files: the study records
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune would answer Ctrl-C with exit code 0; run.py owns the signals
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # snapshots of Tune's state: a sweep is never restored from one
    "TUNE_WARN_SLOW_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "1e9",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


_FINISHED: str = Searcher.FINISHED


def tune_trials(
    study: SweepStudy,
    job: Job,
    *,
    parallel: int,
    must_evaluate: Callable[[TrialRow], bool],
    should_stop: Callable[[], bool],
) -> dict[str, float] | None:
    """Run the study's trials to their end on Ray, then evaluate the best one on the test set.

    Args:
        parallel: how many trials run at once.
        must_evaluate: whether the best trial is to be evaluated at the end, on a worker that is warm already.
        should_stop: asked about ten times a second; True ends the run with unfinished trials left as they are, for a
            later run to take up.

    Returns:
        The metrics of the evaluation, None where there was none.
    """
    os.environ.update(_TUNE_ENVIRONMENT, TUNE_MAX_PENDING_TRIALS_PG=str(parallel))
    bridge = _Bridge(study, parallel=parallel, must_evaluate=must_evaluate, should_stop=should_stop)
    with _quick_start():
        tune.run(
            tune.with_resources(tune.with_parameters(Worker, job=job), _request(job.sweep.resources)),
            name="ray",
            storage_path=str(job.folder.absolute()),
            num_samples=-1,  # the searcher says when it is over
            search_alg=_Search(bridge),
            scheduler=_Schedule(bridge),
            callbacks=[_Recovery(bridge)],
            stop=_Stop(bridge),
            reuse_actors=True,
            max_failures=job.sweep.budget.max_failures,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            trial_dirname_creator=lambda trial: str(trial.trial_id),
            raise_on_failed_trial=False,
            verbose=0,
        )
    if bridge.error is not None:
        raise bridge.error
    return bridge.evaluation


@contextmanager
def _quick_start() -> Iterator[None]:
    """Spare Tune two things that would cost the start seconds.

    It gives its workers an environment, which `Worker` does itself. Ray starts a worker without one along with itself,
    to be ready when it is. One with an environment it starts when it is asked for, and twice: the first process is
    replaced by another, and both import Ray.

    And it counts callbacks for Ray's telemetry, for which it imports MLflow and every other logger it knows.
    """
    environment, count = dict(class_cache.DEFAULT_ENV_VARS), usage.tag_callbacks
    class_cache.DEFAULT_ENV_VARS.clear()
    usage.tag_callbacks = lambda callbacks: False
    try:
        yield
    finally:
        class_cache.DEFAULT_ENV_VARS.update(environment)
        usage.tag_callbacks = count


class _Bridge:
    """What the hooks of Tune share: the study that decides, and the first error of a hook.

    An exception in a hook would abort Tune in the middle of things; it is kept, the run stops, and it is raised then.
    """

    def __init__(
        self,
        study: SweepStudy,
        *,
        parallel: int,
        must_evaluate: Callable[[TrialRow], bool],
        should_stop: Callable[[], bool],
    ) -> None:
        self.error: BaseException | None = None
        self.evaluation: dict[str, float] | None = None
        self.failed: list[TuneTrial] = []
        self._study = study
        self._parallel = parallel
        self._must_evaluate: Callable[[TrialRow], bool] | None = must_evaluate
        self._should_stop = should_stop

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Nothing of it goes into Tune's snapshots of itself: no sweep is ever restored from one."""
        return type(None), ()

    def next_task(self) -> Task | str | None:
        """The next task, None for "none now", `_FINISHED` when all is done."""
        if self.should_stop():
            return _FINISHED
        if self._study.running() >= self._parallel:
            return None
        if not self._study.is_exhausted():
            row = self._study.ask()
            return Task(row.number, row.params, row.attempt)
        if self._study.running():
            return None
        best = self._study.best()
        if best is None or self._must_evaluate is None or not self._must_evaluate(best):
            return _FINISHED
        self._must_evaluate = None
        self._study.announce(f"evaluating trial {best.number}, the best, on the test set")
        return Task(best.number, best.params, best.attempt, evaluate=True)

    def take(self, task: Task, event: Event) -> Verdict:
        """Hand a worker's event to the study."""
        if task.evaluate:
            if event.failure is not None:
                logger.warning("the best trial could not be evaluated: %s", event.failure)
            self.evaluation = event.evaluation
            return Verdict.STOP
        if event.failure is not None:
            return self._study.fail(task.number, event.failure)
        if event.report is not None:
            return self._study.report(task.number, event.report, node=event.node)
        return self._study.finish(task.number)

    def has_failed(self, task: Task) -> bool:
        return not task.evaluate and self._study.row(task.number).state == "FAIL"

    def retry(self, task: Task, cause: str) -> int:
        """The worker of a task died and Tune starts the task again: the number of the new attempt."""
        return task.attempt if task.evaluate else self._study.retry(task.number, cause).attempt

    def lose(self, task: Task, cause: str) -> None:
        """The worker of a task died once too often."""
        if task.evaluate:
            logger.warning("the best trial could not be evaluated: %s", cause)
        else:
            self._study.fail(task.number, f"{cause} in each of {self._study.row(task.number).attempt} attempts")

    def should_stop(self) -> bool:
        return self.error is not None or self._should_stop()


_T = TypeVar("_T")


def _guarded(fallback: Any) -> Callable[[Callable[..., _T]], Callable[..., _T]]:
    """Keep what a hook raises in its bridge and answer `fallback` instead."""

    def decorate(hook: Callable[..., _T]) -> Callable[..., _T]:
        @wraps(hook)
        def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return hook(self, *args, **kwargs)
            except Exception as error:
                self.bridge.error = self.bridge.error or error
                return fallback

        return guarded

    return decorate


class _Search(Searcher):
    """Tune's searcher: asks the study for the next trial."""

    def __init__(self, bridge: _Bridge) -> None:
        super().__init__()
        self.bridge = bridge

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    @_guarded(_FINISHED)
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        task = self.bridge.next_task()
        return as_config(task) if isinstance(task, Task) else task

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the schedule has told the study, with the state that Tune does not know."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the study is the record."""


class _Schedule(FIFOScheduler):
    """Tune's scheduler: hands each event to the study and obeys its verdict.

    It is here and not in the searcher that reports are taken, because Tune does not show a searcher the result at
    which a scheduler stops a trial.
    """

    def __init__(self, bridge: _Bridge) -> None:
        super().__init__()
        self.bridge = bridge

    @_guarded(TrialScheduler.STOP)
    def on_trial_result(self, controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        task = task_from(trial.config)
        verdict = self.bridge.take(task, result["event"])
        if self.bridge.has_failed(task):
            self.bridge.failed.append(trial)
        return str(TrialScheduler.CONTINUE if verdict is Verdict.CONTINUE else TrialScheduler.STOP)


class _Recovery(tune.Callback):
    """Counts attempts: Tune starts a trial again whose worker died, until it has died too often."""

    def __init__(self, bridge: _Bridge) -> None:
        self.bridge = bridge

    @_guarded(None)
    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Let Ray call failed what the study calls FAIL.

        To Tune a trial that reports its own failure has ended well, which is what keeps its worker; by now the worker
        is free, and only the name is left to change.
        """
        while self.bridge.failed:
            self.bridge.failed.pop().set_status(TuneTrial.ERROR)

    @_guarded(None)
    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Let go of what Tune has made of the trial's reports: it keeps a dozen averages of each number in them."""
        trial.run_metadata.metric_n_steps.clear()
        trial.run_metadata.metric_analysis.clear()

    @_guarded(None)
    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        trial.config["attempt"] = self.bridge.retry(task_from(trial.config), _cause(trial))

    @_guarded(None)
    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self.bridge.lose(task_from(trial.config), _cause(trial))


class _Stop(tune.Stopper):
    """Ends the run from outside: signals, timeouts, a lost lease, an error of ours."""

    def __init__(self, bridge: _Bridge) -> None:
        self.bridge = bridge

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.bridge.should_stop()


def _cause(trial: TuneTrial) -> str:
    """Why a worker is gone, as far as Ray knows: it died, or it could not even start."""
    text = Path(trial.error_file).read_text() if trial.error_file else ""
    _, started, tail = text.rpartition("in its creation task")
    return f"its worker could not start ({tail.strip().splitlines()[-1]})" if started else "its worker died"


def _request(resources: Resources) -> PlacementGroupFactory:
    return PlacementGroupFactory([{"CPU": resources.cpus, "GPU": resources.gpus}])
