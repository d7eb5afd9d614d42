"""Runs sweeps on a Ray cluster through its Jobs API (https://docs.ray.io/en/latest/cluster/running-applications)."""

from __future__ import annotations

import json
import logging
import os
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from sweeper.backends import JobStatus, Submission
from sweeper.core.errors import BackendError, InputError, OpenClusterError
from sweeper.core.urls import is_loopback
from sweeper.core.user_code import copy_user_code

_PATIENCE = 30.0
"""Seconds that the cluster has to answer a request."""
_LOOK = 1.0
"""Seconds between two looks at a job that is followed."""
_OUTAGE = 300.0
"""Seconds that a followed job may be out of sight."""
_GRACE = 60
"""Seconds between SIGTERM and SIGKILL when a job is stopped; Ray would give it three."""

for _module in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
    logging.getLogger(_module).setLevel(logging.WARNING)  # they tell of each package that is uploaded

_STATES = {"PENDING": "waiting", "RUNNING": "running", "STOPPED": "stopped", "SUCCEEDED": "succeeded"}
_SWEEP, _ATTEMPT = "sweeper.sweep", "sweeper.attempt"


class _Client(JobSubmissionClient):  # type: ignore[misc]
    """Ray's client, which by itself waits for ever."""

    def _do_request(self, *args: Any, **options: Any) -> Any:
        return super()._do_request(*args, **{"timeout": _PATIENCE, **options})


class RayJobs:
    """The Jobs API of one cluster. Each submission of a sweep is a job, `sweeper-NAME-1`, `-2`, ..."""

    def __init__(self, address: str, *, insecure: bool = False) -> None:
        """Connect to the head's dashboard, `http://HEAD:8265`.

        Raises:
            BackendError: it cannot be reached, or refuses the token.
            InputError: it asks for no token.
        """
        self._address = address.rstrip("/")
        token = _token()
        with self._explained():
            mode = requests.get(f"{self._address}/api/authentication_mode", timeout=_PATIENCE)
            is_open = mode.status_code != 200 or mode.json().get("authentication_mode") == "disabled"
            if is_open and not insecure and not is_loopback(urlsplit(address).netloc):
                raise OpenClusterError(address)
            if not is_open and token is None:
                raise BackendError(
                    f"the Ray cluster at {address} asks for a token; put it into RAY_AUTH_TOKEN, or its file's path "
                    "into RAY_AUTH_TOKEN_PATH"
                )
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            self._client = _Client(self._address, headers=headers)

    def submit(self, submission: Submission) -> str:
        with self._explained():
            jobs = self._jobs(submission.name)
            if jobs and not jobs[-1].status.is_terminal():
                return f"{submission.name} is running already, as job {jobs[-1].submission_id}"
            attempt = len(jobs) + 1
            job = f"sweeper-{submission.name}-{attempt}"
            with tempfile.TemporaryDirectory() as folder:
                declared = json.loads(submission.text)
                copy_user_code(declared.get("trainable"), Path(folder))
                Path(folder, "sweep.yaml").write_text(submission.text)
                self._start(job, submission, attempt, folder)
        should_continue = "" if attempt == 1 else f"; it goes on where attempt {attempt - 1} ended"
        return f"{submission.name} was submitted as job {job}{should_continue}"

    def _start(self, job: str, submission: Submission, attempt: int, folder: str) -> None:
        try:
            self._client.submit_job(
                entrypoint=f"exec {shlex.join(['sweeper', 'run', 'sweep.yaml', *submission.options])}",
                submission_id=job,
                runtime_env={"working_dir": folder, "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(_GRACE)}},
                metadata={_SWEEP: submission.name, _ATTEMPT: str(attempt)},
            )
        except (RuntimeError, requests.RequestException):
            # It may be there all the same: the answer was lost, or another terminal was first.
            time.sleep(_LOOK)
            if not any(found.submission_id == job for found in self._jobs(submission.name)):
                raise

    def status(self, name: str) -> JobStatus:
        with self._explained():
            job = self._latest(name)
        state: Any = _STATES.get(str(job.status), "failed")
        details = {"job": str(job.submission_id)}
        if job.driver_exit_code is not None:
            details["exit code"] = str(job.driver_exit_code)
        message = (job.message or "").strip().splitlines()
        return JobStatus(name, state, message[-1] if message else "", int(job.metadata[_ATTEMPT]), details)

    def logs(self, name: str, *, follow: bool) -> Iterator[str]:
        with self._explained():
            job = str(self._latest(name).submission_id)
        shown, seen = 0, time.monotonic()
        while True:
            try:
                with self._explained():
                    # Asked in this order, so that nothing is missed of what it says last.
                    is_over = not follow or self._client.get_job_status(job).is_terminal()
                    text = self._client.get_job_logs(job)
            except BackendError:
                if not follow or time.monotonic() - seen > _OUTAGE:
                    raise
            else:
                seen = time.monotonic()
                if len(text) > shown:
                    yield text[shown:]
                    shown = len(text)
                if is_over:
                    return
            time.sleep(_LOOK)

    def stop(self, name: str) -> None:
        with self._explained():
            job = self._latest(name)
            if job.status.is_terminal():
                raise InputError(f"sweep {name!r} is not running there: job {job.submission_id} is {job.status}")
            self._client.stop_job(job.submission_id)
            deadline = time.monotonic() + _GRACE + _PATIENCE
            while not self._client.get_job_status(job.submission_id).is_terminal():
                if time.monotonic() > deadline:
                    raise BackendError(f"job {job.submission_id} does not end; see its logs")
                time.sleep(_LOOK)

    def _latest(self, name: str) -> JobDetails:
        jobs = self._jobs(name)
        if not jobs:
            raise InputError(f"no sweep {name!r} was submitted to {self._address}")
        return jobs[-1]

    def _jobs(self, name: str) -> list[JobDetails]:
        """The submissions of a sweep, in order."""
        jobs = self._client.list_jobs()
        found = [job for job in jobs if job.submission_id and (job.metadata or {}).get(_SWEEP) == name]
        return sorted(found, key=lambda job: int(job.metadata[_ATTEMPT]))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except AuthenticationError as error:
            raise BackendError(f"the Ray cluster at {self._address} refuses the token in RAY_AUTH_TOKEN") from error
        except (ConnectionError, requests.RequestException) as error:
            what = "does not answer" if isinstance(error, requests.Timeout) else "cannot be reached"
            raise BackendError(f"the Ray cluster at {self._address} {what}; is it the dashboard's address?") from error
        except (RuntimeError, ValueError) as error:
            raise BackendError(f"the Ray cluster at {self._address}: {str(error).splitlines()[0][:300]}") from error


def _token() -> str | None:
    """The token as Ray finds it."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token"
    with suppress(OSError):
        return Path(path).expanduser().read_text().strip() or None
    return None
