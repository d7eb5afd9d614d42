"""A local MLflow UI for a store: a server that only this machine can reach, stopped with all its workers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO
from urllib.error import URLError
from urllib.request import urlopen

from sweeper.core.errors import TrackingError
from sweeper.core.secrets import redact
from sweeper.core.urls import is_http, sqlite_path
from sweeper.tracking.artifact_root import ARTIFACTS


@dataclass(frozen=True)
class Ui:
    """A running MLflow UI; `process` is None for a server that is not ours."""

    url: str
    process: subprocess.Popen[bytes] | None

    def is_running(self) -> bool:
        return self.process is None or self.process.poll() is None

    def stop(self) -> None:
        """Stop the server and all its workers, which would outlive it."""
        if self.process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(5)


def start_ui(uri: str, port: int | None = None, *, start_timeout_s: float = 90.0) -> Ui:
    """Start the MLflow UI of a store and return it when it answers; for the address of a server, return that server.

    Raises:
        TrackingError: the UI does not start, or the port is not free.
    """
    if is_http(uri):
        return Ui(uri.rstrip("/"), None)
    path = sqlite_path(uri)
    settings = {
        "MLFLOW_BACKEND_STORE_URI": uri,  # not on the command line, where every user could read its password
        "MLFLOW_HOST": "127.0.0.1",
        "MLFLOW_WORKERS": "1",
        "MLFLOW_UVICORN_OPTS": "--log-level error --no-access-log",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # nine more processes, of no use for sweeps
        # By default the server accepts any private address as its own name, also that of a page in the local network.
        "MLFLOW_SERVER_ALLOWED_HOSTS": "127.0.0.1:*,localhost:*",
        "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
    }
    if path is not None:
        settings["MLFLOW_ARTIFACTS_DESTINATION"] = str(path.parent / ARTIFACTS)
    command = [sys.executable, "-m", "mlflow", "server"]
    return start_server(
        "the MLflow UI",
        lambda chosen: (command, settings | {"MLFLOW_PORT": str(chosen)}),
        port,
        health="health",
        start_timeout_s=start_timeout_s,
    )


def start_server(
    name: str,
    command: Callable[[int], tuple[list[str], dict[str, str]]],
    port: int | None,
    *,
    health: str,
    start_timeout_s: float = 90.0,
) -> Ui:
    """Start a server for this machine only, and return it when it answers.

    Args:
        name: what is started, for messages.
        command: returns a command for a port, and the environment variables that it needs beside those of this process.
        port: the port to serve at; None: any free one.
        health: path of a page that a server answers that has started.

    Raises:
        TrackingError: it does not start, or the port is not free.
    """
    port = _free_port(port)
    url = f"http://127.0.0.1:{port}"
    words, settings = command(port)
    # A file, not a pipe: nothing reads it once the server runs, and a full pipe would block the server.
    with TemporaryFile() as output:
        ui = Ui(url, _spawn(words, settings, output))
        deadline = time.monotonic() + start_timeout_s
        while not _is_healthy(f"{url}/{health}"):
            if not ui.is_running() or time.monotonic() > deadline:
                ui.stop()
                output.seek(0)
                printed = redact(output.read().decode(errors="replace").strip())[-500:]
                raise TrackingError(f"{name} did not start at {url}: {printed or 'no answer'}")
            time.sleep(0.2)
    return ui


def _spawn(command: list[str], settings: dict[str, str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env={**os.environ, **settings},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _is_healthy(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def _free_port(wanted: int | None) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # also just after a server stopped
        try:
            probe.bind(("127.0.0.1", wanted or 0))
        except OSError as error:
            raise TrackingError(f"port {wanted} is not free ({error.strerror}); choose another") from error
        return int(probe.getsockname()[1])
