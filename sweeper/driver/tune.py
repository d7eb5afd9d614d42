"""Run the trials of a study on Ray Tune. Only this module, `workers` and `actor` import ray.tune."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sweeper.core.trials import Failure, Report, TrialRecord, Verdict
from sweeper.driver.actor import TrialActor, as_config, task_from
from sweeper.driver.bridge import FINISHED, TuneBridge, capture_errors
from sweeper.driver.capacity import SpareCpus, possible_requests, request_for
from sweeper.driver.evaluation import ModelsOf
from sweeper.driver.nodes import Nodes, Room
from sweeper.driver.ray_internals import has_other_jobs
from sweeper.driver.stop import Control
from sweeper.driver.tune_internals import (
    actor_id_of,
    actor_of,
    arrived_answers,
    forget_trial,
    keep_from_reuse,
    report_errors_to,
    skip_runtime_env_and_telemetry,
    unstage,
)
from sweeper.driver.workers import WorkerMonitor
from sweeper.spec import Resources
from sweeper.study.study import SweepStudy
from sweeper.worker.task import Event, Task, WorkerContext

_TUNE_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0: not a line of Tune's own
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files: the study records
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune would answer Ctrl-C with exit code 0; run/sweep.py owns the signals
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # snapshots of Tune's state: a sweep is never restored from one
    "TUNE_WARN_SLOW_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "1e9",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",  # the study hands out no more trials than can be used
}

MAX_ENDED_TRIALS = 100
"""Ended trials that Tune keeps, for whoever inspects Ray."""


def tune_trials(
    study: SweepStudy,
    context: WorkerContext,
    *,
    control: Control,
    must_evaluate: Callable[[TrialRecord], bool],
    models_of: ModelsOf = lambda best: (best, None),
    search: bool = True,
) -> dict[str, float] | None:
    """Run the study's trials to their end on Ray, then evaluate the best one on the test set.

    Args:
        control: asked about ten times a second whether to stop; unfinished trials are left for a later run to resume.
        must_evaluate: decides whether the best trial is evaluated at the end, on a worker that is already warm.
        models_of: see `ModelsOf`.
        search: whether to run trials at all; if not, only the best one so far is evaluated.

    Returns:
        The metrics of the evaluation; None if there was none.
    """
    nodes = Nodes(possible_requests(context.sweep), study.announce)
    parallel = None if (wanted := context.sweep.budget.parallel) == "auto" else int(wanted)
    if search:
        count = nodes.room() if parallel is None else min(parallel, nodes.room())
        study.announce(f"Running {count} trial{'s' * (count != 1)} at a time." if count else nodes.shortage())
    request_of = partial(_request, context.sweep.resources)
    room = Room(nodes, request_of, parallel)
    bridge = TuneBridge(
        study, has_room=room, must_evaluate=must_evaluate, models_of=models_of, control=control, search=search
    )
    spare = SpareCpus(context.sweep)
    hooks = make_hooks(bridge, nodes, request_of, stall_timeout=context.sweep.budget.stall_timeout, spare=spare)
    run_tune(hooks, context)
    if bridge.error is not None:
        raise bridge.error
    return bridge.evaluation


def _request(resources: Resources, task: Task) -> dict[str, float]:
    return request_for(task.trial_resources(resources))


@dataclass(frozen=True)
class Hooks:
    """The objects through which Tune calls the bridge."""

    searcher: Searcher
    scheduler: TrialScheduler
    monitor: WorkerMonitor
    stopper: tune.Stopper


def make_hooks(
    bridge: TuneBridge,
    nodes: Nodes,
    request_of: Callable[[Task], dict[str, float]],
    *,
    stall_timeout: float | None,
    spare: SpareCpus,
) -> Hooks:
    """Connect Tune's searcher, scheduler, callback and stopper with the bridge and the nodes."""
    monitor = WorkerMonitor(bridge, nodes, stall_timeout)
    return Hooks(
        _StudySearcher(bridge, nodes, monitor, request_of),
        _StudyScheduler(bridge, nodes, spare),
        monitor,
        _RunStopper(monitor),
    )


def run_tune(hooks: Hooks, context: WorkerContext) -> None:
    """Run Tune's loop until the searcher has finished or the stopper stops it."""
    os.environ.update(_TUNE_ENVIRONMENT)
    with skip_runtime_env_and_telemetry(), report_errors_to(hooks.monitor.record_error), closing(hooks.monitor):
        tune.run(
            tune.with_parameters(TrialActor, context=context),
            name="ray",
            storage_path=str(context.folder.path),
            num_samples=-1,  # until the searcher returns FINISHED
            search_alg=hooks.searcher,
            scheduler=hooks.scheduler,
            callbacks=[hooks.monitor],
            stop=hooks.stopper,
            reuse_actors=True,
            max_failures=0,  # the study decides about retries: each comes back as another of Tune's trials
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            trial_dirname_creator=lambda trial: str(trial.trial_id),
            raise_on_failed_trial=False,
            verbose=0,
        )


class _StudySearcher(Searcher):
    """Tune's searcher: asks the study for the next trial."""

    def __init__(
        self, bridge: TuneBridge, nodes: Nodes, monitor: WorkerMonitor, request_of: Callable[[Task], dict[str, float]]
    ) -> None:
        super().__init__()
        self.bridge = bridge
        self._nodes = nodes
        self._monitor = monitor
        self._request_of = request_of

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    @capture_errors(FINISHED)
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        self._monitor.resolve_unreachable()  # without any trial, Tune calls no other hook than this one
        task = self.bridge.next_task()
        if not isinstance(task, Task):
            return None if self.bridge.tests.running else task  # FINISHED is final: no task after it
        request = self._request_of(task)
        return as_config(task) | {"request": request, "excluded": self._nodes.excluded_for(request)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the scheduler has told the study, with the state, which Tune does not know."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Do nothing: the study is the record."""


class _StudyScheduler(FIFOScheduler):
    """Tune's scheduler: passes each event to the study and obeys its verdict.

    Reports are handled here and not in the searcher, because Tune does not show a searcher the result at which a
    scheduler stops a trial.
    """

    def __init__(self, bridge: TuneBridge, nodes: Nodes, spare: SpareCpus) -> None:
        super().__init__()
        self.bridge = bridge
        self._nodes = nodes
        self._spare = spare
        self._ended: deque[TuneTrial] = deque()

    def on_trial_add(self, controller: Any, trial: TuneTrial) -> None:
        self.bridge.has_arrived = lambda: bool(arrived_answers(controller))

    @capture_errors(TrialScheduler.STOP)
    def on_trial_result(self, controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        task = task_from(trial.config)
        self._record_arrived(controller, task, result["event"])
        verdict = self.bridge.handle_event(task, result["event"])
        if self.bridge.has_failed(task):
            self.bridge.failed.append(trial)
        if verdict is Verdict.STOP:
            self._spare.forget((task.number, task.attempt))
            return str(TrialScheduler.STOP)
        if result["event"].report is not None:
            self._share_cpus(controller, trial, task, result["event"].report)
        return str(TrialScheduler.CONTINUE)

    def _record_arrived(self, controller: Any, task: Task, event: Event) -> None:
        """Record a report together with all that have arrived meanwhile: one commit is enough for them."""
        if event.report is None:
            return
        answers = [answer for answer in arrived_answers(controller) if isinstance(answer, dict) and "event" in answer]
        if answers:
            others = [(task_from(answer["config"]), answer["event"]) for answer in answers]
            self.bridge.record_together([(task, event), *others])

    def _share_cpus(self, controller: Any, trial: TuneTrial, task: Task, report: Report) -> None:
        """Let a trial use the CPUs of its node that nothing waits for, or no longer, from its next report on."""
        node = self._nodes.alive().get(self._nodes.node_of_actor(actor_id_of(trial)) or "")
        if not self._spare.is_elastic or node is None or trial.config["request"]["GPU"]:
            return
        cpus_of, free = {task.number: trial.config["request"]["CPU"]}, 0.0
        live = [other for other in controller.get_live_trials() if not other.config["evaluate"]]
        is_waiting = any(other.status == TuneTrial.PENDING for other in live)
        if self.bridge.has_idle_cpus and not is_waiting and not has_other_jobs():
            here = [other for other in live if self._nodes.node_of_actor(actor_id_of(other)) == node["NodeID"]]
            cpus_of |= {other.config["number"]: other.config["request"]["CPU"] for other in here}
            free = node["Resources"].get("CPU", 0.0) - sum(cpus_of.values())
        if (cpus := self._spare.change((task.number, task.attempt), report, cpus_of, free, len(live))) is not None:
            worker: Any = actor_of(trial)
            worker.allow.remote(cpus)  # arrives before the call for the next report, which Tune makes after this one

    @capture_errors(None)
    def choose_trial_to_run(self, controller: Any) -> TuneTrial | None:
        """Return the newest trial that waits for a worker; stop those whose excluded nodes have changed.

        A trial that has waited longer already has a worker on its way. Tune would choose the oldest trial, give it a
        free worker, and kill the one that starts; with short trials, no second worker would ever start.
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
        """Return a waiting trial to the study when it was stopped because the nodes where it may run changed."""
        unstage(controller, trial)
        self.bridge.handle_lost_worker(
            task_from(trial.config), Failure("node", "the nodes that trials may go to changed")
        )

    @capture_errors(None)
    def on_trial_complete(self, controller: Any, trial: TuneTrial, result: dict[str, Any]) -> None:
        if result["event"].has_threads:
            keep_from_reuse(controller, trial)
        self._ended.append(trial)
        if len(self._ended) > MAX_ENDED_TRIALS:
            forget_trial(controller, self._ended.popleft())


class _RunStopper(tune.Stopper):
    """Tune's stopper: ends the run on signals, timeouts, a lost lease or an error of a hook."""

    def __init__(self, monitor: WorkerMonitor) -> None:
        self._monitor = monitor

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Return whether the run has to stop. Blocks while the sweep is paused."""
        if not self._monitor.bridge.wait_or_stop():
            return False
        self._monitor.kill_after_grace()
        return True
