"""Ask every node of a cluster for its versions and the shared folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeper.core.environment import versions
from sweeper.core.errors import InputError
from sweeper.core.remote_folder import RemoteFolder

NODE_TIMEOUT_S = 60.0
"""Seconds that a node has to answer; it may have to start a process for that."""


_SAME_VERSION = ("python", "ray", "sweeper")


_PACKAGES = ("ray", "sweeper", "tensorflow", "keras", "numpy")


@dataclass(frozen=True)
class NodeReport:
    """What was found on one node: its GPUs, what keeps a sweep from running there, what is only worth a word."""

    node: str
    gpus: float
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def inspect_nodes(folder: Path | str | None) -> list[NodeReport]:
    """Ask every node that is alive; to be called where Ray is connected.

    Args:
        folder: there already, and to be shared by all of them, or the URL of one that all reach; None: that is not
            asked.
    """
    if folder is None or isinstance(folder, str):
        return list(_collect(folder))
    probe = folder / f".probe-{uuid4().hex}"
    probe.write_text("here")
    try:
        return list(_collect(probe))
    finally:
        for left in folder.glob(f"{probe.name}*"):
            left.unlink(missing_ok=True)


def _collect(probe: Path | str | None) -> Iterator[NodeReport]:
    task: Any = ray.remote(num_cpus=0, max_retries=0)(_inspect_this_node)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(probe)
        for node in nodes
    ]
    deadline = time.monotonic() + NODE_TIMEOUT_S
    for node, answer in zip(nodes, asked, strict=True):
        name, gpus = node["NodeManagerAddress"], node["Resources"].get("GPU", 0.0)
        try:
            found, written = ray.get(answer, timeout=max(0.1, deadline - time.monotonic()))
        except GetTimeoutError:
            yield NodeReport(name, gpus, ("does not answer",))
        except RayError as error:  # as where sweeper is not installed
            yield NodeReport(name, gpus, (f"cannot be asked ({str(error).strip().splitlines()[-1]})",))
        else:
            faults, notes = _differences(found)
            if isinstance(probe, str) and written is not None:
                faults.append(str(written))
            elif isinstance(probe, Path) and (written is None or not written.exists()):
                faults.append(f"does not share {probe.parent}")
            yield NodeReport(name, gpus, tuple(faults), tuple(notes))


def _differences(there: dict[str, str]) -> tuple[list[str], list[str]]:
    """What of the versions on a node keeps a sweep from running, and what is only another."""
    faults: list[str] = []
    notes: list[str] = []
    for package, number in versions(_PACKAGES).items():
        if there.get(package) != number:
            text = f"has {package} {there.get(package, 'not at all')}, and here it is {number}"
            (faults if package in _SAME_VERSION else notes).append(text)
    return faults, notes


def _inspect_this_node(probe: Path | str | None) -> tuple[dict[str, str], Path | str | None]:
    """What a node has: its versions, and the file it wrote beside the one that the driver did; None if it sees none.

    Of a folder that is given by a URL, what is wrong with it.
    """
    if probe is None:
        return versions(_PACKAGES), None
    if isinstance(probe, str):
        try:
            RemoteFolder(probe).check()
        except InputError as error:
            return versions(_PACKAGES), str(error)
        return versions(_PACKAGES), None
    try:
        probe.read_text()
        answer = probe.with_name(f"{probe.name}-{uuid4().hex}")
        answer.write_text("there")
    except OSError:
        return versions(_PACKAGES), None
    return versions(_PACKAGES), answer


MAX_FINDINGS = 20
"""Findings that are told."""


def check_nodes(folder: Path | str) -> list[str]:
    """What is only worth a word about the nodes of a cluster.

    Raises:
        InputError: what keeps a sweep from running there.
    """
    found = inspect_nodes(folder)
    if faults := [f"  node {node.node} {fault}" for node in found for fault in node.faults]:
        lines = "\n".join(faults[:MAX_FINDINGS])
        raise InputError(f"the cluster cannot run this sweep:\n{lines}\nSee: sweeper doctor --address")
    return [f"node {node.node} {note}" for node in found for note in node.notes][:MAX_FINDINGS]
