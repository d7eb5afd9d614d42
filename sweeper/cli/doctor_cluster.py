"""What `sweeper doctor --address` finds on a Ray cluster: reached, let in, and what its nodes have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from sweeper.cli.doctor import Check
from sweeper.core.errors import SweeperError


def check_cluster(address: str, folder: Path | str | None, *, insecure: bool) -> Iterator[Check]:
    """The cluster at the address of its dashboard (http://...), or at the one its nodes have (HOST:PORT, auto)."""
    try:
        if address.startswith(("http://", "https://")):
            yield _dashboard(address, insecure=insecure)
        else:
            yield from _nodes(address, folder, insecure=insecure)
    except SweeperError as error:
        yield Check("cluster", "fail", str(error))


def _dashboard(address: str, *, insecure: bool) -> Check:
    from sweeper.backends.ray_jobs import RayJobs

    RayJobs(address, insecure=insecure)
    return Check("cluster", "ok", f"{address} takes submissions; on one of its nodes --address auto looks at them all")


def _nodes(address: str, folder: Path | str | None, *, insecure: bool) -> Iterator[Check]:
    from sweeper.driver.auth import refuse_open_cluster
    from sweeper.driver.cluster import ray_cluster
    from sweeper.driver.node_check import inspect_nodes
    from sweeper.driver.stop import StopSignal

    if not insecure:
        refuse_open_cluster(address)
    with StopSignal(None), ray_cluster(address):
        for node in inspect_nodes(folder):
            gpus = f"{node.gpus:g} GPUs" if node.gpus else "no GPU"
            found = "; ".join([*node.faults, *node.notes]) or f"{gpus}, the same versions as here"
            shared = f", sees {folder}" if folder and not node.faults else ""
            state: Literal["ok", "warn", "fail"] = "fail" if node.faults else "warn" if node.notes else "ok"
            advice = "install the same versions everywhere, and mount the folder on every node" if state != "ok" else ""
            yield Check(f"node {node.node}", state, f"{found}{shared}", advice)
