"""The Ray cluster that a sweep runs on: joined, or started for it."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
import socket
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import ray
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from sweeper.core.errors import SweeperError
from sweeper.core.files import private_folder
from sweeper.core.user_code import copy_user_code
from sweeper.driver.auth import enable_token_auth, private_ray_auth
from sweeper.driver.capacity import _allowed_cpus

KEPT_SESSIONS = 20
"""Runs of which Ray's logs are kept."""


@contextmanager
def ray_cluster(address: str | None, trainable: str | None = None) -> Iterator[bool]:
    """A Ray cluster: the one at `address`, else one of our own on this machine that ends with the block.

    Whether it is our own. One that is not is brought the trainable's code.
    """
    if address is None and "RAY_ADDRESS" not in os.environ:
        address = "local"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # What trials print goes into files, of which Ray keeps this much: by default 3 GB for each of its processes.
    os.environ.setdefault("RAY_ROTATION_MAX_BYTES", str(16 << 20))
    os.environ.setdefault("RAY_ROTATION_BACKUP_COUNT", "1")
    is_ours = address == "local"
    try:
        with own_signal_handlers(), _local_options() if is_ours else _join_options(trainable) as options:
            ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SweeperError(f"Ray at {address or os.environ['RAY_ADDRESS']} cannot be reached: {error}") from error
    silence_worker_logs()
    ended = threading.Event()
    if is_ours:
        threading.Thread(target=_exit_when_ray_dies, args=(ended,), name="sweeper-ray", daemon=True).start()
    try:
        yield is_ours
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        ended.set()
        # A handle of Ray's that is freed after the shutdown ends the process at once, with exit code 1.
        gc.collect()
        ray.shutdown()
        if is_ours:
            _delete_old_sessions(Path(options["_temp_dir"]))


def _delete_old_sessions(folder: Path) -> None:
    """Remove what Ray left of all but the last runs: it never does, and each is half a megabyte of logs."""
    sessions = sorted(folder.glob("session_2*"), reverse=True)
    for session in sessions[KEPT_SESSIONS:]:
        if not _is_alive(session / "sockets" / "raylet"):
            shutil.rmtree(session, ignore_errors=True)


def _is_alive(path: Path) -> bool:
    """Whether somebody listens at a socket, also from another container."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


@contextmanager
def own_signal_handlers() -> Iterator[None]:
    """Keep Ray from putting handlers of its own in the place of ours.

    That of Python would end the process with code 15, and would stand there for seconds while Ray starts; those of its
    core, which come last, take Ctrl-C for themselves and print a page at SIGTERM.
    """
    from ray._private import utils

    ours = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    installed, utils.set_sigterm_handler = utils.set_sigterm_handler, lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = installed
        if threading.current_thread() is threading.main_thread():  # no other thread may have signal handlers
            for number, handler in ours.items():
                signal.signal(number, handler)


def silence_worker_logs() -> None:
    """Have Ray keep to itself which of its processes died: it tells a page of it on stdout, whatever is asked of it.

    The study says what it means for the sweep; stdout is for results.
    """
    from ray._private import worker

    worker.print_to_stdstream = lambda *message, **how: None


def _exit_when_ray_dies(ended: threading.Event) -> None:
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


@contextmanager
def _local_options() -> Iterator[dict[str, Any]]:
    """The options of a Ray of our own. No dashboard: it is a port that runs what it is sent."""
    options: dict[str, Any] = {"include_dashboard": False, "_temp_dir": str(private_folder() / "ray")}
    with private_ray_auth():
        yield options if (allowed := _allowed_cpus()) is None else options | {"num_cpus": allowed}


@contextmanager
def _join_options(trainable: str | None) -> Iterator[dict[str, Any]]:
    """The options to join a Ray that is there already."""
    enable_token_auth()
    with upload_options(trainable) as options:
        yield options


@contextmanager
def upload_options(trainable: str | None) -> Iterator[dict[str, Any]]:
    """The options of `ray.init`, within the block, that bring the user's own code to all nodes of a cluster."""
    with TemporaryDirectory() as folder:
        if trainable and RAY_JOB_CONFIG_JSON_ENV_VAR not in os.environ:  # a job has brought it already
            copy_user_code(trainable, Path(folder))
        modules = sorted(str(path) for path in Path(folder).iterdir())
        yield {"runtime_env": {"py_modules": modules}} if modules else {}
