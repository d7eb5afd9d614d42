"""The bridge between the study and Ray Tune, the muscle: only this module and its actor import ray.tune."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.air._internal import usage
from ray.tune.execution import class_cache
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sweeper.actor import Worker
from sweeper.bridge import FINISHED, Bridge, guarded
from sweeper.failures import Failure, lost_worker
from sweeper.rows import TrialRow
from sweeper.spec import Resources
from sweeper.study import SweepStudy, Verdict
from sweeper.worker import Job, Task, as_config, task_from

_TUNE_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0: not a line of Tune's own
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files: the study records
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune would answer Ctrl-C with exit code 0; run.py owns the signals
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # snapshots of Tune's state: a sweep is never restored from one
    "TUNE_WARN_SLOW_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "1e9",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


_LOOK = 5.0
"""Seconds that one turn of Tune's loop takes at most, unless something holds the driver up."""

_GRACE = 3.0
"""Seconds that a trial has to come to its next report when the run stops."""

_KEPT = 100
"""Ended trials that Tune may remember, for whoever looks into Ray."""


def tune_trials(
    study: SweepStudy,
    job: Job,
    *,
    parallel: int,
    must_evaluate: Callable[[TrialRow], bool],
    should_stop: Callable[[], bool],
    search: bool = True,
) -> dict[str, float] | None:
    """Run the study's trials to their end on Ray, then evaluate the best one on the test set.

    Args:
        parallel: how many trials run at once.
        must_evaluate: whether the best trial is to be evaluated at the end, on a worker that is warm already.
        should_stop: asked about ten times a second; True ends the run with unfinished trials left as they are, for a
            later run to take up.
        search: whether trials are run at all; if not, the best of those there are is evaluated.

    Returns:
        The metrics of the evaluation, None where there was none.
    """
    os.environ.update(_TUNE_ENVIRONMENT, TUNE_MAX_PENDING_TRIALS_PG=str(parallel))
    bridge = Bridge(study, parallel=parallel, must_evaluate=must_evaluate, should_stop=should_stop, search=search)
    watch = _Watch(bridge, job.sweep.budget.stall_timeout)
    with _quick_start(), closing(watch):
        tune.run(
            tune.with_resources(tune.with_parameters(Worker, job=job), _request(job.sweep.resources)),
            name="ray",
            storage_path=str(job.folder.absolute()),
            num_samples=-1,  # the searcher says when it is over
            search_alg=_Search(bridge),
            scheduler=_Schedule(bridge),
            callbacks=[watch],
            stop=_Stop(watch),
            reuse_actors=True,
            max_failures=0,  # the study says what is tried again, and when: it comes back as another of Tune's trials
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


class _Search(Searcher):
    """Tune's searcher: asks the study for the next trial."""

    def __init__(self, bridge: Bridge) -> None:
        super().__init__()
        self.bridge = bridge

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    @guarded(FINISHED)
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

    def __init__(self, bridge: Bridge) -> None:
        super().__init__()
        self.bridge = bridge
        self._ended: deque[TuneTrial] = deque()

    @guarded(TrialScheduler.STOP)
    def on_trial_result(self, controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        task = task_from(trial.config)
        verdict = self.bridge.take(task, result["event"])
        if self.bridge.has_failed(task):
            self.bridge.failed.append(trial)
        return str(TrialScheduler.CONTINUE if verdict is Verdict.CONTINUE else TrialScheduler.STOP)

    def choose_trial_to_run(self, controller: Any) -> TuneTrial | None:
        """The newest trial that waits for a worker.

        One that has waited longer has a worker on its way. Tune's choice, the oldest of all, would give it a worker
        that is free, and kill the one that starts: with short trials no second worker ever came to be.
        """
        waiting = [trial for trial in controller.get_live_trials() if trial.status == TuneTrial.PENDING]
        return max(waiting, key=lambda trial: trial.config["number"], default=None)

    @guarded(None)
    def on_trial_complete(self, controller: Any, trial: TuneTrial, result: dict[str, Any]) -> None:
        self._ended.append(trial)
        if len(self._ended) > _KEPT:
            _forget(controller, self._ended.popleft())


class _Watch(TrialProgressCallback):
    """Notices workers that are gone, and ends those that hang.

    It stands in the place of Tune's own progress callback, which prints nothing and remembers every trial.
    """

    def __init__(self, bridge: Bridge, stall_timeout: float | None) -> None:
        super().__init__()
        self.bridge = bridge
        self._stall_timeout = math.inf if stall_timeout is None else stall_timeout
        self._heard: dict[TuneTrial, float] = {}
        self._stalled: set[TuneTrial] = set()
        self._looked = time.monotonic()
        self._timer: threading.Timer | None = None

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """As the bridge: it is in none of Tune's snapshots."""
        return type(None), ()

    def end_soon(self) -> None:
        """The run stops: workers that do not come to a report within a moment are ended; Tune would wait 10 seconds."""
        if self._timer is None:
            actors = [trial.temporary_state.ray_actor for trial in self._heard]
            self._timer = threading.Timer(_GRACE, lambda: [ray.kill(actor) for actor in actors if actor is not None])
            self._timer.start()

    def close(self) -> None:
        """Let go of the workers, if Tune has ended them."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
            self._timer = None

    def log_result(self, trial: TuneTrial, result: dict[str, Any], error: bool = False) -> None:
        """Nothing: the listeners of the study show what happens."""

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._heard[trial] = time.monotonic()

    def on_trial_result(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, *_: Any, **info: Any) -> None:
        self._heard[trial] = time.monotonic()

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._heard.pop(trial, None)

    @guarded(None)
    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._heard.pop(trial, None)
        failure = lost_worker(Path(trial.error_file).read_text() if trial.error_file else "")
        if trial in self._stalled:
            self._stalled.remove(trial)
            failure = Failure("stall", f"no report for {self._stall_timeout:g} s: its worker hung and was ended")
        self.bridge.lose(task_from(trial.config), failure)

    @guarded(None)
    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Let Ray call failed what the study calls FAIL, and end the workers that hang.

        To Tune a trial that reports its own failure has ended well, which is what keeps its worker; by now the worker
        is free, and only the name is left to change.
        """
        while self.bridge.failed:
            self.bridge.failed.pop().set_status(TuneTrial.ERROR)
        now = time.monotonic()
        stood_still = now - self._looked
        if stood_still > _LOOK:  # the driver itself was held up, and nobody could be heard
            self._heard = {trial: since + stood_still for trial, since in self._heard.items()}
        self._looked = now
        for trial, since in self._heard.items():
            if now - since > self._stall_timeout and trial not in self._stalled:
                self._stalled.add(trial)
                ray.kill(trial.temporary_state.ray_actor)


class _Stop(tune.Stopper):
    """Ends the run from outside: signals, timeouts, a lost lease, an error of ours."""

    def __init__(self, watch: _Watch) -> None:
        self._watch = watch

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if not self._watch.bridge.should_stop():
            return False
        self._watch.end_soon()
        return True


def _forget(controller: Any, trial: TuneTrial) -> None:
    """Let go of a trial that ended: Tune holds each for ever, and writes them all down when it ends.

    There is no public way. Where these attributes are not what they are now, trials stay, and cost memory only.
    """
    for name in ("_trials", "_stopped_trials", "_failed_trials", "_trials_to_cache"):
        holder: Any = getattr(controller, name, ())
        if trial in holder:
            holder.remove(trial)
    getattr(controller, "_trial_metadata", {}).pop(trial.trial_id, None)


def _request(resources: Resources) -> PlacementGroupFactory:
    return PlacementGroupFactory([{"CPU": resources.cpus, "GPU": resources.gpus}])
