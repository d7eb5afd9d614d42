"""The Ray cluster that a sweep runs on: joined, or started for it, and how much room it has."""

from __future__ import annotations

import gc
import logging
import os
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import psutil
import ray

from sweeper.access import ours_alone
from sweeper.errors import ResourceError, SweeperError
from sweeper.private import private_folder
from sweeper.spec import Sweep
from sweeper.stopping import StopRequest


@contextmanager
def ray_cluster(address: str | None, stop: StopRequest) -> Iterator[None]:
    """A Ray cluster: the one at `address`, else one of our own on this machine that ends with the block."""
    if address is None and "RAY_ADDRESS" not in os.environ:
        address = "local"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # What trials print goes into files, of which Ray keeps this much: by default 3 GB for each of its processes.
    os.environ.setdefault("RAY_ROTATION_MAX_BYTES", str(16 << 20))
    os.environ.setdefault("RAY_ROTATION_BACKUP_COUNT", "1")
    is_ours = address == "local"
    options = _local_options() if is_ours else {}
    try:
        with ours_alone() if is_ours else nullcontext():
            ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SweeperError(f"Ray at {address or os.environ['RAY_ADDRESS']} cannot be reached: {error}") from error
    _hush()
    stop.install()  # ray.init has put its own handler for SIGTERM in the place of ours
    ended = threading.Event()
    if address == "local":
        threading.Thread(target=_die_with_ray, args=(ended,), name="sweeper-ray", daemon=True).start()
    try:
        yield
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        ended.set()
        # A handle of Ray's that is freed after the shutdown ends the process at once, with exit code 1.
        gc.collect()
        ray.shutdown()


def _hush() -> None:
    """Have Ray keep to itself which of its processes died: it tells a page of it on stdout, whatever is asked of it.

    The study says what it means for the sweep; stdout is for results.
    """
    from ray._private import worker

    worker.print_to_stdstream = lambda *message, **how: None


def _die_with_ray(ended: threading.Event) -> None:
    """End this process when one of those that Ray consists of dies: Ray would wait a minute, and end it then.

    At once, and not in good order: whatever waits for Ray waits for ever. The study has all that was reported.
    """
    own = [child for child in psutil.Process().children() if child.name() in ("gcs_server", "raylet")]
    while not ended.wait(0.5):
        for child in own:
            if not child.is_running() or child.status() == psutil.STATUS_ZOMBIE:
                if not ended.is_set():
                    for relative in [other for part in own if part.is_running() for other in part.children(True)]:
                        with suppress(psutil.NoSuchProcess):
                            relative.kill()  # they end by themselves, but take their time
                    os.write(2, f"\nRay's {child.name()} died; nothing is lost, the same command goes on\n".encode())
                    os._exit(75)


def _local_options() -> dict[str, Any]:
    """No dashboard: it is a port that runs what it is sent. And no more CPUs than `taskset` and the like leave us."""
    options: dict[str, Any] = {"include_dashboard": False, "_temp_dir": str(private_folder() / "ray")}
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    if allowed is not None and allowed < (os.cpu_count() or 0):
        options["num_cpus"] = allowed  # Ray knows the limits of containers, but not these
    return options


def free_slots(sweep: Sweep) -> int:
    """How many trials the cluster can run at once.

    Raises:
        ResourceError: no node can run even one.
    """
    asked = {"CPU": float(sweep.resources.cpus), "GPU": float(sweep.resources.gpus)}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    # 0.3 / 0.1 is a little less than 3
    slots = sum(min(int(node.get(kind, 0) / n + 1e-6) for kind, n in asked.items() if n > 0) for node in nodes)
    if slots == 0:
        largest = {kind: max((node.get(kind, 0) for node in nodes), default=0) for kind in asked}
        raise ResourceError(
            f"each trial needs {asked['CPU']:g} CPU and {asked['GPU']:g} GPU; the largest node has "
            f"{largest['CPU']:g} CPU and {largest['GPU']:g} GPU. Lower --cpus or --gpus"
        )
    return slots
