"""The Ray cluster that a sweep runs on: joined, or started for the sweep and shut down after it."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
import socket
import subprocess
import threading
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import ray

from sweeper.core.code.copies import copy_user_code
from sweeper.core.code.user_code import SWEEPER, TrainableCode, is_installed
from sweeper.core.errors import BackendError, StopReason, SweeperError
from sweeper.core.files import private_folder
from sweeper.driver.capacity import allowed_cpus
from sweeper.driver.connection.auth import cluster_address, enable_token_auth, private_ray_auth
from sweeper.driver.ray_internals import (
    job_brought_its_code,
    job_config,
    own_signal_handlers,
    processes_in_own_sessions,
    silence_worker_logs,
    wait_for_node,
    without_helpers,
)
from sweeper.driver.stop import StopSignal, exit_now, how_to_resume

KEPT_SESSIONS = 20
"""Runs whose Ray logs are kept."""


JOIN_TIMEOUT_S = 120.0
"""Longest time to join a cluster that answers. Ray has no limit of its own: it tries again for many minutes."""


WORKER_EXIT_GRACE_S = 0.5
"""Time that workers have to exit at the end of a Ray of our own; then they are killed."""


_CLOSING_THREAD = "sweeper-ray-closing"


_RAY_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # What trials print goes into files. Ray keeps this much of them; by default 3 GB for each of its processes.
    "RAY_ROTATION_MAX_BYTES": str(16 << 20),
    "RAY_ROTATION_BACKUP_COUNT": "1",
}


@contextmanager
def ray_cluster(
    address: str | None, trainable: TrainableCode | None = None, stop: StopSignal | None = None
) -> Iterator[bool]:
    """Connect the block to a Ray cluster; yield whether it was started for the block.

    Args:
        address: the cluster to join; None: the one in RAY_ADDRESS, else a new one on this machine, shut down after the
            block.
        trainable: its code is uploaded to a cluster that is joined.
        stop: if Ray dies after it was set, the sweep has been stopped, and did not fail.
    """
    _wait_for_threads()
    found = cluster_address(address)
    is_ours = found is None
    _set_ray_defaults()
    with silence_worker_logs():
        with _local_options() if is_ours else _join_options(trainable) as options:
            _connect(found or "local", options)
        try:
            with _exit_when_ray_dies(stop) if is_ours else nullcontext():
                yield is_ours
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)
            raise
        finally:
            _shut_down(Path(options["_temp_dir"]) if is_ours else None)


def close_in_background(cluster: ExitStack) -> None:
    """Close a connection to a cluster, which takes a second, in a thread; the process ends only after it."""
    threading.Thread(target=cluster.close, name=_CLOSING_THREAD).start()


def _wait_for_threads() -> None:
    for thread in threading.enumerate():
        if thread.name == _CLOSING_THREAD:
            thread.join()


def _set_ray_defaults() -> None:
    for name, value in _RAY_DEFAULTS.items():
        os.environ.setdefault(name, value)


def _connect(address: str, options: dict[str, Any]) -> None:
    """Call `ray.init`, quietly.

    Raises:
        BackendError: the cluster cannot be joined.
        SweeperError: Ray did not start on this machine.
    """
    if not address.startswith("ray://"):  # a client's job is configured on the cluster
        options = options | {"job_config": job_config([] if is_installed(SWEEPER) else [str(SWEEPER.parent)])}
    timer = threading.Timer(JOIN_TIMEOUT_S, _give_up, [address])
    timer.daemon = True
    if address != "local":
        timer.start()
    try:
        with own_signal_handlers(), processes_in_own_sessions(end_process):
            ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **options)
    except Exception as error:  # Ray raises many kinds, and at a timeout nothing but Exception
        if address == "local":
            logs = Path(options["_temp_dir"], "session_latest", "logs")
            raise SweeperError(f"Ray did not start on this machine: {str(error).rstrip('.')}. See {logs}") from error
        raise BackendError(f"The Ray cluster at {address} cannot be joined: {error}") from error
    finally:
        timer.cancel()


def _give_up(address: str) -> None:
    """Exit at once: nothing else ends a call that waits for Ray."""
    os.write(2, f"\nerror: The Ray cluster at {address} could not be joined within {JOIN_TIMEOUT_S:g} s.\n".encode())
    os._exit(BackendError.exit_code)


def _shut_down(sessions: Path | None) -> None:
    """Disconnect from Ray.

    Args:
        sessions: the folder with the sessions of a Ray of our own, which ends now.
    """
    # A handle of Ray's that is freed after the shutdown ends the process at once, with exit code 1.
    if gc.get_freeze_count():  # a command: it ends soon, and to collect garbage would take a third of a second
        gc.freeze()
    else:
        gc.collect()
    ray.shutdown()
    if sessions is not None:
        _delete_old_sessions(sessions)


def end_process(process: subprocess.Popen[bytes]) -> None:
    """End a process of Ray and all that it has started, when no trial runs any more.

    Workers get `WORKER_EXIT_GRACE_S`: what a trainable has registered with `atexit` may still write. Nothing else has
    anything to save.
    """
    below: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        below = psutil.Process(process.pid).children(recursive=True)
    if below:
        process.send_signal(signal.SIGTERM)
        psutil.wait_procs(below, timeout=WORKER_EXIT_GRACE_S)
    process.kill()
    for child in below:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    with suppress(ProcessLookupError, PermissionError):  # what was started meanwhile, or has lost its parent
        os.killpg(process.pid, signal.SIGKILL)
    psutil.wait_procs(below, timeout=WORKER_EXIT_GRACE_S)


def _delete_old_sessions(folder: Path) -> None:
    """Delete Ray's session folders, except the newest 20. Ray never deletes them (0.5 MB each)."""
    sessions = sorted(folder.glob("session_2*"), reverse=True)
    for session in sessions[KEPT_SESSIONS:]:
        if not _is_alive(session / "sockets" / "raylet"):
            shutil.rmtree(session, ignore_errors=True)


def _is_alive(path: Path) -> bool:
    """Return whether a process listens at a socket, even one in another container."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


@contextmanager
def _exit_when_ray_dies(stop: StopSignal | None) -> Iterator[None]:
    """Exit this process as soon as the raylet or the GCS dies in the block. Ray itself would wait a minute to do so."""
    ended = threading.Event()
    threading.Thread(target=_watch_ray, args=(ended, stop), name="sweeper-ray", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _name_of(process: psutil.Process) -> str:
    """Return the name of a process; "" if it is dead, also if its parent has not noticed or just did."""
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else str(process.name())
    except psutil.NoSuchProcess:
        return ""


def _has_raylet() -> bool:
    return any(_name_of(child) == "raylet" for child in psutil.Process().children())


def _watch_ray(ended: threading.Event, stop: StopSignal | None) -> None:
    """Exit at once, without any cleanup: a call that waits for Ray never returns. The study has every report."""
    names = {child: _name_of(child) for child in psutil.Process().children()}
    own = {child: name for child, name in names.items() if name in ("gcs_server", "raylet")}
    while not ended.wait(0.5):
        dead = [child for child in own if not child.is_running() or not _name_of(child)]
        if dead and not ended.is_set():
            reason = None if stop is None else stop.reason
            if reason in (StopReason.INTERRUPTED, StopReason.TERMINATED, StopReason.COMMAND):
                exit_now(reason.exit_code, f"Stopped. {how_to_resume()}")
            what = f"Ray's process {own[dead[0]]} died, so the sweep stops."
            exit_now(os.EX_TEMPFAIL, f"{what} {how_to_resume()}")  # 75


@contextmanager
def _local_options() -> Iterator[dict[str, Any]]:
    """Yield the options of a new Ray. It has no dashboard, which is a port that runs the code it receives."""
    options: dict[str, Any] = {"include_dashboard": False, "_temp_dir": str(private_folder() / "ray")}
    with private_ray_auth(), without_helpers(), wait_for_node(_has_raylet):
        yield options if (cpus := allowed_cpus()) is None else options | {"num_cpus": cpus}


@contextmanager
def _join_options(trainable: TrainableCode | None) -> Iterator[dict[str, Any]]:
    """Yield the options to join a cluster, with a token and the code of the trainable."""
    enable_token_auth()
    with upload_options(trainable) as options:
        yield options


@contextmanager
def upload_options(trainable: TrainableCode | None) -> Iterator[dict[str, Any]]:
    """Yield the options of `ray.init` that upload the user's own code to all nodes; it is read when `ray.init` runs."""
    with TemporaryDirectory() as folder:
        if trainable and not job_brought_its_code():
            copy_user_code(trainable, Path(folder))
        modules = sorted(str(path) for path in Path(folder).iterdir() if path.is_dir() or path.suffix == ".py")
        yield {"runtime_env": {"py_modules": modules}} if modules else {}
