"""The monitor of the workers: notices lost ones and their nodes, kills hanging ones, and waits for nodes."""

from __future__ import annotations

import builtins
import math
import re
import threading
import time
from typing import Any

import ray
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.progress_reporter import TrialProgressCallback

from sweeper.core.trials import Failure
from sweeper.driver.actor import task_from
from sweeper.driver.bridge import TuneBridge, capture_errors
from sweeper.driver.nodes import MAX_LOOP_TURN_S, Nodes
from sweeper.driver.tune_internals import actor_id_of, actor_of
from sweeper.worker.runner import classify_exception
from sweeper.worker.task import Task

STOP_GRACE_S = 3.0
"""Time that a trial has to reach its next report when the run stops."""


NODE_LOSS_DETECTION_S = 30.0
"""Longest time that Ray needs to notice that the node of an unreachable worker is lost."""


NODE_LOST = Failure("node", "its node was lost")


WORKER_UNREACHABLE = Failure("crash", "its worker could not be reached")
"""The worker did not answer. Its node may be lost; Ray needs up to `NODE_LOSS_DETECTION_S` to notice."""


class WorkerMonitor(TrialProgressCallback):
    """Notices lost workers, and kills those that hang.

    As a TrialProgressCallback, it replaces Tune's own, which prints nothing here and remembers every trial.
    """

    def __init__(self, bridge: TuneBridge, nodes: Nodes, stall_timeout: float | None) -> None:
        super().__init__()
        self.bridge = bridge
        self._nodes = nodes
        self._stall_timeout = math.inf if stall_timeout is None else stall_timeout
        self._last_report: dict[TuneTrial, float] = {}
        self._stalled: set[TuneTrial] = set()
        self._over_budget: set[int] = set()
        self._errors: dict[TuneTrial, str] = {}
        self._unreachable: list[tuple[float, Task, str | None]] = []
        self._last_turn = time.monotonic()
        self._timer: threading.Timer | None = None

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Pickle as None: Tune pickles its callbacks into snapshots, and no sweep is ever restored from one."""
        return type(None), ()

    def kill_after_grace(self) -> None:
        """Kill the workers that reach no report within `STOP_GRACE_S`; Tune alone would wait 10 s for them."""
        if self._timer is None:
            actors = [actor_of(trial) for trial in self._last_report]
            self._timer = threading.Timer(
                STOP_GRACE_S, lambda: [ray.kill(actor) for actor in actors if actor is not None]
            )
            self._timer.start()

    def close(self) -> None:
        """Cancel the killing: Tune has ended its workers."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
            self._timer = None

    def log_result(self, trial: TuneTrial, result: dict[str, Any], error: bool = False) -> None:
        """Print nothing: the listeners of the study show what happens."""

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._last_report[trial] = time.monotonic()

    @capture_errors(None)
    def on_trial_result(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, *_: Any, **info: Any) -> None:
        self._last_report[trial] = time.monotonic()
        self._nodes.mark_healthy(self._nodes.node_of_actor(actor_id_of(trial)))

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._last_report.pop(trial, None)

    def record_error(self, trial: TuneTrial, error: str) -> None:
        """Keep Ray's message about a lost worker until `on_trial_error` is called for its trial."""
        self._errors[trial] = error

    @capture_errors(None)
    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._last_report.pop(trial, None)
        text = self._errors.pop(trial, "")
        if task_from(trial.config).number in self._over_budget:
            return
        task, node = task_from(trial.config), self._nodes.node_of_actor(actor_in(text))
        failure = self._classify(trial, text, node)
        if failure == WORKER_UNREACHABLE:
            self._unreachable.append((time.monotonic() + NODE_LOSS_DETECTION_S, task, node))
            return
        if node is not None and not trial.has_reported_at_least_once:
            failure = self._blame_node(trial, node, failure)
        self.bridge.handle_lost_worker(task, failure, self._nodes.hostname(node))

    def _classify(self, trial: TuneTrial, text: str, node: str | None) -> Failure:
        """Classify the loss of a worker by Ray's message, and by what is known of the worker and its node."""
        if trial in self._stalled:
            self._stalled.remove(trial)
            return Failure("stall", f"no report for {self._stall_timeout:g} s: its worker hung and was ended")
        failure = classify_lost_worker(text)
        if failure != WORKER_UNREACHABLE and failure.kind == "crash" and self._nodes.is_lost(node):
            return NODE_LOST
        return failure

    def _blame_node(self, trial: TuneTrial, node: str, failure: Failure) -> Failure:
        """Count a death before the first report against its node; return the failure that remains for the trial."""
        task = task_from(trial.config)
        blamed = self._nodes.record_death(node, (task.number, task.attempt), failure.kind, trial.config["request"])
        if not blamed:
            return failure
        self.bridge.blame_node(blamed)
        return Failure("node", f"{failure.reason}, on a node that gets no more trials")

    def resolve_unreachable(self) -> None:
        """Report the workers that could not be reached, as soon as Ray knows whether their nodes are lost."""
        waiting, self._unreachable = self._unreachable, []
        for until, task, node in waiting:
            if self._nodes.is_lost(node):
                self.bridge.handle_lost_worker(task, NODE_LOST, self._nodes.hostname(node))
            elif time.monotonic() > until:
                self.bridge.handle_lost_worker(task, WORKER_UNREACHABLE, self._nodes.hostname(node))
            else:
                self._unreachable.append((until, task, node))

    @capture_errors(None)
    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Call trials failed in Ray that are FAIL in the study, and kill the workers that hang.

        For Tune, a trial that reports its own failure has ended well, which keeps its worker. By now the worker is
        free, so only the status of the trial is left to change.
        """
        while self.bridge.failed:
            self.bridge.failed.pop().set_status(TuneTrial.ERROR)
        self.resolve_unreachable()
        self._nodes.wait_for_room([trial.config["request"] for trial in trials if trial.status == TuneTrial.PENDING])
        self._kill_stalled()
        self._kill_over_budget()

    def _kill_stalled(self) -> None:
        now = time.monotonic()
        turn = now - self._last_turn
        if turn > MAX_LOOP_TURN_S:  # the driver itself was blocked, as by a pause, and received no reports
            self._last_report = {trial: since + turn for trial, since in self._last_report.items()}
        self._last_turn = now
        for trial, since in self._last_report.items():
            if now - since > self._stall_timeout and trial not in self._stalled:
                self._stalled.add(trial)
                ray.kill(actor_of(trial))

    def _kill_over_budget(self) -> None:
        """Kill the workers of trials that are stopped between two reports: the next one may come much later."""
        self._over_budget.update(self.bridge.stop_over_budget())
        for trial in [trial for trial in self._last_report if task_from(trial.config).number in self._over_budget]:
            del self._last_report[trial]
            ray.kill(actor_of(trial))


def actor_in(text: str) -> str | None:
    """Return the hex id of the actor that an error of Ray names, None if it names none."""
    found = re.search(r"actor_id[:=]\s*([0-9a-f]{32})|The actor ([0-9a-f]{32}) is unavailable", text)
    return (found[1] or found[2]) if found else None


def classify_lost_worker(text: str) -> Failure:
    """Classify Ray's message about a lost worker: it died, its node did, or it could not start."""
    _, started, tail = text.rpartition("in its creation task")
    if started:
        return _classify_failed_start(tail)
    if re.search(r"node has died|node was (preempted|terminated)|node preemption|by preemption", text):
        return NODE_LOST
    # Ray suspects the out-of-memory killer of the system whenever a worker dies; this is its own.
    if re.search(r"memory pressure|running low on memory", text):
        return Failure("memory", "its worker was killed: the node ran out of memory")
    return WORKER_UNREACHABLE if "is unavailable:" in text else Failure("crash", "its worker died")


def _classify_failed_start(text: str) -> Failure:
    """Classify why a worker could not start: an exception of the code that it runs, which would recur, or a crash."""
    after = text.rpartition('  File "')[2].splitlines()[1:]
    said = next((line for line in after if line and not line.startswith(" ")), "")
    name = said.partition(":")[0]
    if not re.fullmatch(r"[A-Za-z_][\w.]*", name) or name.startswith("ray."):
        return Failure("crash", f"its worker died while it started ({said or 'no reason given'})")
    error = getattr(builtins, name, None)
    kind = (
        classify_exception(error())
        if isinstance(error, type) and issubclass(error, (OSError, MemoryError))
        else "error"
    )
    return Failure(kind, f"its worker could not start ({said})")
