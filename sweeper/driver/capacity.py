"""What a trial requests of a node, and whether nodes can ever give it."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping

import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.experimental.internal_kv import _internal_kv_get

from sweeper.core.errors import ResourceError
from sweeper.spec import Sweep, TrialResources
from sweeper.spec.resources import format_params

ResourceRequest = Mapping[str, float]
"""What one trial needs of a node, by Ray's names: CPU, GPU, ..."""


def request_for(share: TrialResources) -> dict[str, float]:
    """What a trial needs, by Ray's names."""
    request = {"CPU": share.cpus, "GPU": share.gpus, **share.custom}
    if share.memory is not None:
        request["memory"] = share.memory * 1e9
    if share.accelerator_type is not None:
        request[f"accelerator_type:{share.accelerator_type}"] = 0.001
    return request


def possible_requests(sweep: Sweep) -> list[dict[str, float]]:
    """What the trials of a sweep may ask for."""
    return [request_for(share) for share, _ in sweep.resources.corner_requests(sweep.space)]


def trials_that_fit(request: ResourceRequest, node: ResourceRequest) -> int:
    """How many trials fit on a node that has nothing else to do."""
    # 0.3 / 0.1 is a little less than 3
    return min((int(node.get(kind, 0) / n + 1e-6) for kind, n in request.items() if n > 0), default=0)


def refuse_infeasible(sweep: Sweep, nodes: Iterable[ResourceRequest], where: str) -> None:
    """Refuse a sweep some of whose trials none of these nodes could ever run.

    Raises:
        ResourceError: it says what there is.
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


def _format_amounts(amounts: ResourceRequest) -> str:
    """1 CPU, 2 GPU and 8 GB memory; whether there is an accelerator is a yes or no."""
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
    """Refuse what the cluster will not be able to run, as it is and as far as it may grow.

    Raises:
        ResourceError: it says what there is.
    """
    if not can_autoscale():
        refuse_infeasible(sweep, [node["Resources"] for node in ray.nodes() if node["Alive"]], "the largest node")


def can_autoscale() -> bool:
    """Whether an autoscaler brings nodes when trials wait for them.

    Ray runs its autoscaler in nearly every cluster, if only to watch, and says nowhere which it is. The old one invents
    names for the nodes that it just watches. The new one works where nodes have the names of their groups, as on
    Kubernetes; there the head of a cluster that grows is started without the one that watches.
    """
    status = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or "{}").get("autoscaler_report") or {}
    kinds = [*status.get("active_nodes", {}), *(pending[1] for pending in status.get("pending_nodes", []))]
    if any(not re.fullmatch(r"node_[0-9a-f]+", kind) for kind in kinds):
        return True
    is_new = _internal_kv_get("__autoscaler_v2_enabled", namespace=b"__autoscaler")
    if is_new != b"1" or not any(node["Labels"].get("ray.io/node-group") for node in ray.nodes() if node["Alive"]):
        return False
    started = os.environ.get("KUBERAY_GEN_RAY_START_CMD", "")
    return "--head" not in started or "--no-monitor" in started


def _allowed_cpus() -> int | None:
    """The CPUs that `taskset` and the like leave us, if not all: Ray knows the limits of containers, but not these."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return allowed if allowed is not None and allowed < (os.cpu_count() or 0) else None


def local_resources() -> dict[str, float]:
    """What a Ray of our own would have on this machine, found out without starting it."""
    from ray._private.resource_and_label_spec import ResourceAndLabelSpec

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    spec = ResourceAndLabelSpec(num_cpus=_allowed_cpus())
    found: dict[str, float] = spec.resolve(is_head=True, node_ip_address="127.0.0.1").to_resource_dict()
    return found
