"""What a trial requests of a node, whether nodes can ever give it, and who gets the CPUs that are left over."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

import ray

from sweeper.core.errors import ResourceError
from sweeper.core.trials import Report
from sweeper.driver.ray_internals import autoscaler_status
from sweeper.spec import Sweep, TrialResources
from sweeper.spec.resources import format_params

ResourceRequest = Mapping[str, float]
"""Amounts that one trial needs of a node, by Ray's resource names: CPU, GPU, memory (bytes), ..."""


MIN_SECONDS_LEFT = 10.0
"""Least time that a trial still needs, for it to get more CPUs: its graph is traced again, which takes 1 or 2 s."""


class SpareCpus:
    """Divides the CPUs of a node that no trial waits for among the trials that run on it.

    A trial gets more only if they are free at two reports in a row: paused trials come back at any time, and each
    change costs its worker a second or two.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.is_elastic = sweep.resources.elastic
        self._parallel = None if sweep.budget.parallel == "auto" else int(sweep.budget.parallel)
        self._reports = sweep.budget.reports
        self._last: dict[tuple[int, int], tuple[float, int, int]] = {}

    def change(
        self,
        attempt: tuple[int, int],
        report: Report,
        cpus_of: Mapping[int, float],
        free: float,
        running: int | None = None,
    ) -> int | None:
        """Return how many CPUs an attempt may use after a report; None if as many as before.

        Args:
            attempt: the numbers of the trial and of its attempt.
            cpus_of: the CPUs that each trial on its node declares, by the number of the trial.
            free: the CPUs of the node that nothing waits for.
            running: the trials that run on all nodes, if there are more of them. A sweep that runs two trials at a time
                never uses more CPUs than two of its trials declare.
        """
        own = max(1, int(cpus_of[attempt[0]]))
        if self._parallel is not None:
            free = min(free, (self._parallel - (running or len(cpus_of))) * own)
        since, before, offered_before = self._last.get(attempt, (report.time, own, own))
        seconds_left = (report.time - since) * (self._reports - report.step)
        each, more = divmod(max(0, int(free)), len(cpus_of))
        offered = own + each + (sorted(cpus_of).index(attempt[0]) < more)
        cpus = min(offered, max(before, offered_before))
        if cpus > before and seconds_left < MIN_SECONDS_LEFT:
            cpus = before
        self._last[attempt] = report.time, cpus, offered
        return None if cpus == before else cpus

    def forget(self, attempt: tuple[int, int]) -> None:
        """Forget an attempt that has ended."""
        self._last.pop(attempt, None)


def request_for(share: TrialResources) -> dict[str, float]:
    """Convert the resources of a trial to a request to Ray."""
    request = {"CPU": share.cpus, "GPU": share.gpus, **share.custom}
    if share.memory is not None:
        request["memory"] = share.memory * 1e9
    if share.accelerator_type is not None:
        request[f"accelerator_type:{share.accelerator_type}"] = 0.001
    return request


def possible_requests(sweep: Sweep) -> list[dict[str, float]]:
    """List the requests that the trials of a sweep may make, at the corners of its space."""
    return [request_for(share) for share, _ in sweep.resources.corner_requests(sweep.space)]


def trials_that_fit(request: ResourceRequest, node: ResourceRequest) -> int:
    """Count the trials that fit on a node with these free resources."""
    # 0.3 / 0.1 is a little less than 3
    return min((int(node.get(kind, 0) / n + 1e-6) for kind, n in request.items() if n > 0), default=0)


def refuse_infeasible(sweep: Sweep, nodes: Iterable[ResourceRequest], where: str) -> None:
    """Refuse a sweep if none of these nodes could ever run some of its trials.

    Args:
        where: what the nodes are called in the message, such as "this machine".

    Raises:
        ResourceError: with what a trial needs, and the most that a node has.
    """
    nodes = list(nodes)
    for share, point in sweep.resources.corner_requests(sweep.space):
        request = request_for(share)
        if any(trials_that_fit(request, node) for node in nodes):
            continue
        largest = {kind: max((node.get(kind, 0) for node in nodes), default=0) for kind in request}
        who = f"a trial with {format_params(point)}" if point else "each trial"
        remedy = "Ask for less in `resources`" if point else "Lower --cpus or --gpus"
        raise ResourceError(f"{who} needs {_format_amounts(request)}; {where} has {_format_amounts(largest)}. {remedy}")


def describe_shortage(demands: Iterable[ResourceRequest], nodes: Iterable[ResourceRequest]) -> str:
    """Say what the smallest of the trials asks for, and what the largest of the present nodes has."""
    smallest, present = min(demands, key=lambda request: (request["GPU"], request["CPU"])), list(nodes)
    largest = {kind: max((node.get(kind, 0) for node in present), default=0) for kind in smallest}
    has = f"the largest node has {_format_amounts(largest)}" if present else "there is no node"
    return f"No node can run a trial: each needs {_format_amounts(smallest)}; {has}. The sweep waits for a node."


def _format_amounts(amounts: ResourceRequest) -> str:
    """Write amounts as "1 CPU, 2 GPU and 8 GB memory"; an accelerator as its name, or "no NAME"."""
    *others, last = [
        f"{n / 1e9:.3g} GB memory"
        if kind == "memory"
        else f"{'no ' * (n == 0)}{kind.partition(':')[2]}"
        if kind.startswith("accelerator_type:")
        else f"{n:g} {kind}"
        for kind, n in amounts.items()
    ]
    return f"{', '.join(others)} and {last}" if others else last


def refuse_infeasible_on_cluster(sweep: Sweep) -> None:
    """Refuse a sweep if the connected cluster could never run some of its trials, unless it can autoscale.

    Raises:
        ResourceError: with what a trial needs, and the most that a node has.
    """
    if not can_autoscale():
        refuse_infeasible(sweep, [node["Resources"] for node in ray.nodes() if node["Alive"]], "the largest node")


def can_autoscale() -> bool:
    """Return whether an autoscaler adds nodes when trials wait for them.

    Ray runs an autoscaler in nearly every cluster, often only to monitor it, and no API tells which of the two it is.
    The first autoscaler invents names such as node_1f2e for nodes that it only monitors. The second one adds nodes only
    where they carry the names of their groups, as on Kubernetes; there, the head of a cluster that can grow is started
    without the monitoring one.
    """
    status, is_v2 = autoscaler_status()
    kinds = [*status.get("active_nodes", {}), *(pending[1] for pending in status.get("pending_nodes", []))]
    if any(not re.fullmatch(r"node_[0-9a-f]+", kind) for kind in kinds):
        return True
    if not is_v2 or not any(node["Labels"].get("ray.io/node-group") for node in ray.nodes() if node["Alive"]):
        return False
    started = os.environ.get("KUBERAY_GEN_RAY_START_CMD", "")
    return "--head" not in started or "--no-monitor" in started


def allowed_cpus() -> int | None:
    """Return how many CPUs `taskset` and similar tools leave to this process; None if all of them.

    Ray respects the limits of containers, but not these.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return allowed if allowed is not None and allowed < (os.cpu_count() or 0) else None
