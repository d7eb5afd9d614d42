"""The watch over the workers: notices which are gone and where, ends those that hang, and waits for nodes."""

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
from sweeper.driver.nodes import Nodes, actor_in
from sweeper.worker.runner import classify_exception
from sweeper.worker.task import Task

MAX_LOOP_TURN_S = 5.0
"""Seconds that one turn of Tune's loop takes at most, unless something holds the driver up."""


STOP_GRACE_S = 3.0
"""Seconds that a trial has to come to its next report when the run stops."""


NODE_LOSS_DETECTION_S = 30.0
"""Seconds in which Ray has found out whether a node is lost, when a worker cannot be reached."""


class WorkerMonitor(TrialProgressCallback):
    """Notices workers that are gone, and ends those that hang.

    It stands in the place of Tune's own progress callback, which prints nothing and remembers every trial.
    """

    def __init__(self, bridge: TuneBridge, nodes: Nodes, stall_timeout: float | None) -> None:
        super().__init__()
        self.bridge = bridge
        self._nodes = nodes
        self._stall_timeout = math.inf if stall_timeout is None else stall_timeout
        self._last_report: dict[TuneTrial, float] = {}
        self._stalled: set[TuneTrial] = set()
        self._errors: dict[TuneTrial, str] = {}
        self._out_of_touch: list[tuple[float, Task, str | None, Failure]] = []
        self._last_turn = time.monotonic()
        self._timer: threading.Timer | None = None

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """As the bridge: it is in none of Tune's snapshots."""
        return type(None), ()

    def kill_after_grace(self) -> None:
        """The run stops: workers that do not come to a report within a moment are ended; Tune would wait 10 seconds."""
        if self._timer is None:
            actors = [trial.temporary_state.ray_actor for trial in self._last_report]
            self._timer = threading.Timer(
                STOP_GRACE_S, lambda: [ray.kill(actor) for actor in actors if actor is not None]
            )
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
        self._last_report[trial] = time.monotonic()

    @capture_errors(None)
    def on_trial_result(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, *_: Any, **info: Any) -> None:
        self._last_report[trial] = time.monotonic()
        actor = trial.temporary_state.ray_actor
        if actor is not None:
            self._nodes.mark_healthy(self._nodes.node_of_actor(actor._actor_id.hex()))

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._last_report.pop(trial, None)

    def record_error(self, trial: TuneTrial, error: str) -> None:
        """What Ray says of a worker that is gone."""
        self._errors[trial] = error

    @capture_errors(None)
    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._last_report.pop(trial, None)
        text = self._errors.pop(trial, "")
        task, node, failure = (
            task_from(trial.config),
            self._nodes.node_of_actor(actor_in(text)),
            classify_lost_worker(text),
        )
        if trial in self._stalled:
            self._stalled.remove(trial)
            failure = Failure("stall", f"no report for {self._stall_timeout:g} s: its worker hung and was ended")
        elif failure == WORKER_UNREACHABLE:
            self._out_of_touch.append((time.monotonic() + NODE_LOSS_DETECTION_S, task, node, failure))
            return
        elif failure.kind == "crash" and self._nodes.is_lost(node):
            failure = NODE_LOST
        if node is not None and not trial.has_reported_at_least_once:
            blamed = self._nodes.record_death(node, (task.number, task.attempt), failure.kind, trial.config["request"])
            if blamed:
                self.bridge.blame_node(blamed)
                failure = Failure("node", f"{failure.reason}, on a node that is set aside")
        self.bridge.handle_lost_worker(task, failure, self._nodes.hostname(node))

    def resolve_unreachable(self) -> None:
        """See what became of the workers that could not be reached: Ray needs a while to know that a node is lost."""
        waiting, self._out_of_touch = self._out_of_touch, []
        for until, task, node, failure in waiting:
            if self._nodes.is_lost(node):
                self.bridge.handle_lost_worker(task, NODE_LOST, self._nodes.hostname(node))
            elif time.monotonic() > until:
                self.bridge.handle_lost_worker(task, failure, self._nodes.hostname(node))
            else:
                self._out_of_touch.append((until, task, node, failure))

    @capture_errors(None)
    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Let Ray call failed what the study calls FAIL, and end the workers that hang.

        To Tune a trial that reports its own failure has ended well, which is what keeps its worker; by now the worker
        is free, and only the name is left to change.
        """
        while self.bridge.failed:
            self.bridge.failed.pop().set_status(TuneTrial.ERROR)
        self.resolve_unreachable()
        self._nodes.wait_for_room([trial.config["request"] for trial in trials if trial.status == TuneTrial.PENDING])
        now = time.monotonic()
        stood_still = now - self._last_turn
        if stood_still > MAX_LOOP_TURN_S:  # the driver itself was held up, and nobody could be heard
            self._last_report = {trial: since + stood_still for trial, since in self._last_report.items()}
        self._last_turn = now
        for trial, since in self._last_report.items():
            if now - since > self._stall_timeout and trial not in self._stalled:
                self._stalled.add(trial)
                ray.kill(trial.temporary_state.ray_actor)


NODE_LOST = Failure("node", "its node was lost")


WORKER_UNREACHABLE = Failure("crash", "its worker could not be reached")
"""Perhaps its node is lost, which Ray does not know at once."""


def classify_lost_worker(text: str) -> Failure:
    """The failure that Ray describes when a worker is gone: it died, its node did, or it could not even start."""
    _, started, tail = text.rpartition("in its creation task")
    if started:
        return _classify_failed_start(tail)
    if re.search(r"node has died|node was (preempted|terminated)|node preemption|by preemption", text):
        return NODE_LOST
    # Ray guesses at the out-of-memory killer of the system whenever a worker dies; this is its own.
    if re.search(r"memory pressure|running low on memory", text):
        return Failure("memory", "its worker was killed: the node ran out of memory")
    return WORKER_UNREACHABLE if "is unavailable:" in text else Failure("crash", "its worker died")


def _classify_failed_start(text: str) -> Failure:
    """What ended the start of a worker: an exception of the code that it runs, which comes again, or something else."""
    after = text.rpartition('  File "')[2].splitlines()[1:]
    said = next((line for line in after if line and not line.startswith(" ")), "")
    name = said.partition(":")[0]
    if not re.fullmatch(r"[A-Za-z_][\w.]*", name) or name.startswith("ray."):
        return Failure("crash", f"its worker died while it started ({said or 'no word why'})")
    error = getattr(builtins, name, None)
    kind = (
        classify_exception(error())
        if isinstance(error, type) and issubclass(error, (OSError, MemoryError))
        else "error"
    )
    return Failure(kind, f"its worker could not start ({said})")
