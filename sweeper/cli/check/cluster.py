"""Checks of a Ray cluster for `sweeper doctor`: its dashboard, and what each of its nodes has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from sweeper.cli.check.doctor import Check
from sweeper.core.errors import SweeperError


def check_dashboard(url: str, *, insecure: bool) -> Iterator[Check]:
    """Check that the dashboard at http://HEAD:8265 accepts submissions from here."""
    from sweeper.backends.ray_jobs import RayJobs

    try:
        RayJobs(url, insecure=insecure)
    except SweeperError as error:
        yield Check("dashboard", "fail", str(error))
    else:
        advice = "to check its nodes, run on one of them: sweeper doctor --address auto"
        yield Check("dashboard", "ok", f"{url} accepts submissions", advice)


def check_nodes(address: str, folder: Path | str | None, *, insecure: bool) -> Iterator[Check]:
    """Join the cluster at HOST:PORT and check the versions, the GPUs and the folder of each node."""
    try:
        yield from _nodes(address, folder, insecure=insecure)
    except SweeperError as error:
        yield Check("cluster", "fail", str(error))


def _nodes(address: str, folder: Path | str | None, *, insecure: bool) -> Iterator[Check]:
    from sweeper.driver.connection.auth import check_cluster
    from sweeper.driver.connection.cluster import ray_cluster
    from sweeper.driver.connection.node_check import inspect_nodes
    from sweeper.driver.stop import StopSignal

    check_cluster(address, insecure=insecure)
    with StopSignal(None) as stop, stop.exiting(0, "Stopped."), ray_cluster(address):
        for node in inspect_nodes(folder):
            gpus = f"{node.gpus:g} GPUs" if node.gpus else "no GPU"
            found = "; ".join([*node.faults, *node.notes]) or f"{gpus}, the same versions as here"
            shared = f", shares {folder}" if folder and not node.faults else ""
            state: Literal["ok", "warn", "fail"] = "fail" if node.faults else "warn" if node.notes else "ok"
            advice = "install the same versions everywhere, and mount the folder on every node" if state != "ok" else ""
            yield Check(f"node {node.node}", state, f"{found}{shared}", advice)
