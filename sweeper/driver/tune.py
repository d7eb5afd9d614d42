"""The bridge between the study and Ray Tune, the muscle: only this module, its watch and its actor import ray.tune."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

from ray import tune
from ray.air._internal import usage
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sweeper.core.trials import Failure, TrialRecord
from sweeper.driver.actor import TrialActor, as_config, task_from
from sweeper.driver.bridge import FINISHED, TuneBridge, capture_errors
from sweeper.driver.capacity import possible_requests, request_for
from sweeper.driver.nodes import Nodes
from sweeper.driver.stop import Control
from sweeper.driver.workers import WorkerMonitor
from sweeper.spec import Resources
from sweeper.study.study import SweepStudy, Verdict
from sweeper.worker.task import Task, WorkerContext

_TUNE_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0: not a line of Tune's own
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files: the study records
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune would answer Ctrl-C with exit code 0; run.py owns the signals
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # snapshots of Tune's state: a sweep is never restored from one
    "TUNE_WARN_SLOW_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "1e9",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",  # the study hands out no more than there is use for
}


MAX_ENDED_TRIALS = 100
"""Ended trials that Tune may remember, for whoever looks into Ray."""


def tune_trials(
    study: SweepStudy,
    context: WorkerContext,
    *,
    control: Control,
    must_evaluate: Callable[[TrialRecord], bool],
    search: bool = True,
) -> dict[str, float] | None:
    """Run the study's trials to their end on Ray, then evaluate the best one on the test set.

    Args:
        must_evaluate: whether the best trial is to be evaluated at the end, on a worker that is warm already.
        control: asked about ten times a second whether to stop; unfinished trials are left for a later run to resume.
        search: whether trials are run at all; if not, the best of those there are is evaluated.

    Returns:
        The metrics of the evaluation, None where there was none.
    """
    os.environ.update(_TUNE_ENVIRONMENT)
    nodes = Nodes(possible_requests(context.sweep), study.announce)
    request_of = partial(_request, context.sweep.resources)
    wanted = context.sweep.budget.parallel
    parallel = None if wanted == "auto" else int(wanted)

    def has_room(handed_out: list[Task]) -> bool:
        return nodes.has_room([request_of(task) for task in handed_out], parallel)

    if search:
        room = nodes.room()
        study.announce(f"running {room if parallel is None else min(parallel, room)} trials at a time")
    bridge = TuneBridge(study, has_room=has_room, must_evaluate=must_evaluate, control=control, search=search)
    watch = WorkerMonitor(bridge, nodes, context.sweep.budget.stall_timeout)
    with skip_runtime_env_and_telemetry(), report_errors_to(watch), closing(watch):
        tune.run(
            tune.with_parameters(TrialActor, context=context),
            name="ray",
            storage_path=str(context.folder.path),
            num_samples=-1,  # the searcher says when it is over
            search_alg=_StudySearcher(bridge, nodes, watch, request_of),
            scheduler=_StudyScheduler(bridge, nodes),
            callbacks=[watch],
            stop=_RunStopper(watch),
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
def skip_runtime_env_and_telemetry() -> Iterator[None]:
    """Spare Tune two things that would cost the start seconds.

    It gives its workers an environment, which `TrialActor` does itself. Ray starts a worker without one along with itself,
    to be ready when it is. One with an environment it starts when it is request_of for, and twice: the first process is
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


@contextmanager
def report_errors_to(watch: WorkerMonitor) -> Iterator[None]:
    """Have Tune tell the watch why a trial lost its worker, and leave it at that.

    It would write that into files for the watch to read, and where their disk is full the sweep would end with it. And
    a trial whose node was preempted it would start again by itself.
    """
    before = TuneTrial.handle_error

    def tell(trial: TuneTrial, error: Exception | None = None) -> None:
        trial.run_metadata.num_failures += 1  # more than `max_failures`
        watch.record_error(trial, str(error))

    TuneTrial.handle_error = tell
    try:
        yield
    finally:
        TuneTrial.handle_error = before


class _StudySearcher(Searcher):
    """Tune's searcher: asks the study for the next trial."""

    def __init__(
        self, bridge: TuneBridge, nodes: Nodes, watch: WorkerMonitor, request_of: Callable[[Task], dict[str, float]]
    ) -> None:
        super().__init__()
        self.bridge = bridge
        self._nodes = nodes
        self._watch = watch
        self._request = request_of

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    @capture_errors(FINISHED)
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        self._watch.resolve_unreachable()  # without a trial Tune does nothing but ask for one
        task = self.bridge.next_task()
        if not isinstance(task, Task):
            return task
        request_of = self._request(task)
        return as_config(task) | {"request": request_of, "excluded": self._nodes.excluded_for(request_of)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the schedule has told the study, with the state that Tune does not know."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the study is the record."""


class _StudyScheduler(FIFOScheduler):
    """Tune's scheduler: hands each event to the study and obeys its verdict.

    It is here and not in the searcher that reports are taken, because Tune does not show a searcher the result at
    which a scheduler stops a trial.
    """

    def __init__(self, bridge: TuneBridge, nodes: Nodes) -> None:
        super().__init__()
        self.bridge = bridge
        self._nodes = nodes
        self._ended: deque[TuneTrial] = deque()

    @capture_errors(TrialScheduler.STOP)
    def on_trial_result(self, controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        task = task_from(trial.config)
        verdict = self.bridge.handle_event(task, result["event"])
        if self.bridge.has_failed(task):
            self.bridge.failed.append(trial)
        return str(TrialScheduler.CONTINUE if verdict is Verdict.CONTINUE else TrialScheduler.STOP)

    @capture_errors(None)
    def choose_trial_to_run(self, controller: Any) -> TuneTrial | None:
        """The newest trial that waits for a worker.

        One that has waited longer has a worker on its way. Tune's choice, the oldest of all, would give it a worker
        that is free, and kill the one that starts: with short trials no second worker ever came to be.
        """
        waiting = []
        for trial in [trial for trial in controller.get_live_trials() if trial.status == TuneTrial.PENDING]:
            if trial.config["excluded"] == self._nodes.excluded_for(trial.config["request"]):
                waiting.append(trial)
            else:
                controller.stop_trial(trial)
        return max(waiting, key=lambda trial: trial.config["number"], default=None)

    @capture_errors(None)
    def on_trial_remove(self, controller: Any, trial: TuneTrial) -> None:
        """A trial that waits for a worker is stopped, to be handed out again: it may not go where it was to go.

        Tune forgets that it is no longer to be counted among those that a worker is kept for.
        """
        if trial in getattr(controller, "_staged_trials", ()):
            controller._unstage_trial_with_resources(trial)
        self.bridge.handle_lost_worker(
            task_from(trial.config), Failure("node", "the nodes that trials may go to changed")
        )

    @capture_errors(None)
    def on_trial_complete(self, controller: Any, trial: TuneTrial, result: dict[str, Any]) -> None:
        self._ended.append(trial)
        if len(self._ended) > MAX_ENDED_TRIALS:
            forget_trial(controller, self._ended.popleft())


class _RunStopper(tune.Stopper):
    """Ends the run from outside: signals, timeouts, a lost lease, an error of ours."""

    def __init__(self, watch: WorkerMonitor) -> None:
        self._watch = watch

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if not self._watch.bridge.wait_or_stop():
            return False
        self._watch.kill_after_grace()
        return True


def forget_trial(controller: Any, trial: TuneTrial) -> None:
    """Let go of a trial that ended: Tune holds each for ever, and writes them all down when it ends.

    There is no public way. Where these attributes are not what they are now, trials stay, and cost memory only.
    """
    for name in ("_trials", "_stopped_trials", "_failed_trials", "_trials_to_cache"):
        holder: Any = getattr(controller, name, ())
        if trial in holder:
            holder.remove(trial)
    getattr(controller, "_trial_metadata", {}).pop(trial.trial_id, None)


def _request(resources: Resources, task: Task) -> dict[str, float]:
    return request_for(task.trial_resources(resources))
