"""Ask every node of a cluster for its versions and the shared folder."""

from __future__ import annotations

import time
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
from sweeper.core.secrets import redact

NODE_TIMEOUT_S = 60.0
"""Time that a node has to answer; it may first have to start a process."""


MAX_FINDINGS = 20
"""Findings that are listed in a message."""


_MUST_BE_EQUAL = ("python", "ray", "sweeper")


_PACKAGES = ("ray", "sweeper", "tensorflow", "keras", "numpy")


Answer = tuple[dict[str, str], Path | str | None]
"""Versions on a node; then the file that it wrote beside the probe, the problem with a remote folder, or None."""


@dataclass(frozen=True)
class NodeReport:
    """Findings on one node: its GPUs, the faults that prevent a sweep there, and notes that do not."""

    node: str
    gpus: float
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def inspect_nodes(folder: Path | str | None) -> list[NodeReport]:
    """Inspect every live node of the connected cluster.

    Args:
        folder: an existing folder that all nodes must share, or the URL of one that all must reach; None: no check.
    """
    if folder is None or isinstance(folder, str):
        return _collect(folder)
    probe = folder / f".probe-{uuid4().hex}"
    probe.write_text("here")
    try:
        return _collect(probe)
    finally:
        for left in folder.glob(f"{probe.name}*"):
            left.unlink(missing_ok=True)


def wake_nodes() -> None:
    """Start a process on every node of the connected cluster, so that `inspect_nodes` need not wait for it."""
    _ask_all(_live_nodes(), None)


def _live_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _collect(probe: Path | str | None) -> list[NodeReport]:
    nodes = _live_nodes()
    answers = _ask_all(nodes, probe)
    deadline = time.monotonic() + NODE_TIMEOUT_S
    return [_report(node, answer, probe, deadline=deadline) for node, answer in zip(nodes, answers, strict=True)]


def _ask_all(nodes: list[dict[str, Any]], probe: Path | str | None) -> list[Any]:
    """Start `_inspect_this_node` on every node; return Ray's references to their answers."""
    task: Any = ray.remote(num_cpus=0, max_retries=0)(_inspect_this_node)
    return [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(probe)
        for node in nodes
    ]


def _report(node: dict[str, Any], answer: Any, probe: Path | str | None, *, deadline: float) -> NodeReport:
    """Wait for the answer of a node until the deadline, and judge it."""
    name, gpus = node["NodeManagerAddress"], node["Resources"].get("GPU", 0.0)
    try:
        found, written = ray.get(answer, timeout=max(0.1, deadline - time.monotonic()))
    except GetTimeoutError:
        return NodeReport(name, gpus, (f"did not answer within {NODE_TIMEOUT_S:g} s",))
    except RayError as error:  # as where sweeper is not installed
        return NodeReport(name, gpus, (f"could not be inspected ({redact(error).strip().splitlines()[-1]})",))
    faults, notes = _differences(found)
    if fault := _folder_fault(probe, written):
        faults.append(fault)
    return NodeReport(name, gpus, tuple(faults), tuple(notes))


def _folder_fault(probe: Path | str | None, written: Path | str | None) -> str | None:
    """Return what is wrong with the folder on a node, by what the node wrote or found; None if nothing is."""
    if isinstance(probe, str):
        return None if written is None else str(written)
    if probe is None or isinstance(written, Path) and written.exists():
        return None
    return f"does not share {probe.parent}"


def _differences(there: dict[str, str]) -> tuple[list[str], list[str]]:
    """Compare the versions on a node with those here; return the faults, and the notes about harmless differences."""
    faults: list[str] = []
    notes: list[str] = []
    for package, number in versions(_PACKAGES).items():
        if there.get(package) != number:
            found = f"has {package} {there[package]}" if package in there else f"has no {package}"
            (faults if package in _MUST_BE_EQUAL else notes).append(f"{found}; this machine has {number}")
    return faults, notes


def _inspect_this_node(probe: Path | str | None) -> Answer:
    """Return the versions on this node, and what it can do with the folder of the sweep. Runs as a Ray task.

    Args:
        probe: a file that the driver wrote into the folder, or the URL of a remote folder, or None.
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


def check_nodes(folder: Path | str) -> list[str]:
    """Inspect the nodes of the connected cluster; return harmless differences between them and this machine.

    Raises:
        InputError: a node has a fault that prevents the sweep.
    """
    found = inspect_nodes(folder)
    if faults := [f"  node {node.node} {fault}" for node in found for fault in node.faults]:
        lines = "\n".join(faults[:MAX_FINDINGS])
        raise InputError(f"the cluster cannot run this sweep:\n{lines}\nSee: sweeper doctor --address")
    return [f"node {node.node} {note}" for node in found for note in node.notes][:MAX_FINDINGS]
