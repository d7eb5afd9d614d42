"""Backend that runs sweeps through the Jobs API of Ray (https://docs.ray.io/en/latest/cluster/running-applications)."""

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
from sweeper.core.code.copies import copy_user_code
from sweeper.core.errors import BackendError, InputError, OpenClusterError
from sweeper.core.text import first_line
from sweeper.core.urls import is_loopback

REQUEST_TIMEOUT_S = 30.0
POLL_INTERVAL_S = 1.0
QUIET_POLL_INTERVAL_S = 5.0
"""Seconds until a followed log is fetched again if nothing new came: each answer is the whole log."""
MAX_OUTAGE_S = 300.0
"""Longest time without an answer while a log is followed, in seconds."""
STOP_GRACE_S = 60
"""Seconds between SIGTERM and SIGKILL when a job is stopped; Ray's default is 3."""

for _module in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
    logging.getLogger(_module).setLevel(logging.WARNING)  # they log each package that is uploaded

_STATES = {"PENDING": "waiting", "RUNNING": "running", "STOPPED": "stopped", "SUCCEEDED": "succeeded"}
_SWEEP, _ATTEMPT = "sweeper.sweep", "sweeper.attempt"


class _Client(JobSubmissionClient):  # type: ignore[misc]
    """Ray's client with a timeout for every request."""

    # Ray 2.60 waits for ever, and its public methods take no timeout; hence this private one, which all requests use.
    def _do_request(self, *args: Any, **options: Any) -> Any:
        return super()._do_request(*args, **{"timeout": REQUEST_TIMEOUT_S, **options})


class RayJobs:
    """Jobs API of one cluster. Each submission of a sweep is a job, `sweeper-NAME-1`, `-2`, ..."""

    def __init__(self, address: str, *, insecure: bool = False) -> None:
        """Connect to the head's dashboard, `http://HEAD:8265`.

        Raises:
            BackendError: it cannot be reached, or rejects the token.
            InputError: it accepts requests without a token.
        """
        self._address = address.rstrip("/")
        token = _token()
        with self._translated_errors():
            mode = requests.get(f"{self._address}/api/authentication_mode", timeout=REQUEST_TIMEOUT_S)
            is_open = mode.status_code != 200 or mode.json().get("authentication_mode") == "disabled"
            if is_open and not insecure and not is_loopback(urlsplit(address).netloc):
                raise OpenClusterError(address)
            if not is_open and token is None:
                raise BackendError(
                    f"the Ray cluster at {address} requires a token; set RAY_AUTH_TOKEN to it, or RAY_AUTH_TOKEN_PATH "
                    "to the path of its file"
                )
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            self._client = _Client(self._address, headers=headers)

    def submit(self, submission: Submission) -> str:
        with self._translated_errors():
            jobs = self._jobs(submission.name)
            if jobs and not jobs[-1].status.is_terminal():
                return f"{submission.name} is running already, as job {jobs[-1].submission_id}"
            attempt = len(jobs) + 1
            job = f"sweeper-{submission.name}-{attempt}"
            with tempfile.TemporaryDirectory() as folder:
                declared = json.loads(submission.text)
                copy_user_code(submission.code or declared.get("trainable"), Path(folder))
                Path(folder, "sweep.yaml").write_text(submission.text)
                self._start(job, submission, attempt, folder)
        resumes = "" if attempt == 1 else f"; it resumes where attempt {attempt - 1} ended"
        return f"{submission.name} was submitted as job {job}{resumes}"

    def _start(self, job: str, submission: Submission, attempt: int, folder: str) -> None:
        try:
            self._client.submit_job(
                entrypoint=f"exec {shlex.join(['sweeper', 'run', 'sweep.yaml', *submission.options])}",
                submission_id=job,
                runtime_env={"working_dir": folder, "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_GRACE_S)}},
                metadata={_SWEEP: submission.name, _ATTEMPT: str(attempt)},
            )
        except (RuntimeError, requests.RequestException):
            # The job may exist all the same: its answer was lost, or another terminal was first.
            time.sleep(POLL_INTERVAL_S)
            if not any(found.submission_id == job for found in self._jobs(submission.name)):
                raise

    def status(self, name: str) -> JobStatus:
        with self._translated_errors():
            job = self._latest(name)
        state: Any = _STATES.get(str(job.status), "failed")
        details = {"job": str(job.submission_id)}
        if job.driver_exit_code is not None:
            details["exit code"] = str(job.driver_exit_code)
        message = (job.message or "").strip().splitlines()
        return JobStatus(name, state, message[-1] if message else "", int(job.metadata[_ATTEMPT]), details)

    def logs(self, name: str, *, follow: bool) -> Iterator[str]:
        with self._translated_errors():
            job = str(self._latest(name).submission_id)
        shown, answered = 0, time.monotonic()
        while True:
            interval = POLL_INTERVAL_S
            try:
                with self._translated_errors():
                    # The state is read before the log: then the log holds everything until the end.
                    is_over = not follow or self._client.get_job_status(job).is_terminal()
                    text = self._client.get_job_logs(job)
            except BackendError:
                if not follow or time.monotonic() - answered > MAX_OUTAGE_S:
                    raise
            else:
                answered = time.monotonic()
                if len(text) > shown:
                    yield text[shown:]
                    shown = len(text)
                else:
                    interval = QUIET_POLL_INTERVAL_S
                if is_over:
                    return
            time.sleep(interval)

    def stop(self, name: str) -> None:
        with self._translated_errors():
            job = self._latest(name)
            if job.status.is_terminal():
                raise InputError(
                    f"sweep {name!r} is not running on the cluster: job {job.submission_id} is {job.status}"
                )
            self._client.stop_job(job.submission_id)
            deadline = time.monotonic() + STOP_GRACE_S + REQUEST_TIMEOUT_S
            while not self._client.get_job_status(job.submission_id).is_terminal():
                if time.monotonic() > deadline:
                    raise BackendError(f"job {job.submission_id} has not stopped in time; see its logs")
                time.sleep(POLL_INTERVAL_S)

    def _latest(self, name: str) -> JobDetails:
        jobs = self._jobs(name)
        if not jobs:
            raise InputError(f"no sweep {name!r} was submitted to {self._address}")
        return jobs[-1]

    def _jobs(self, name: str) -> list[JobDetails]:
        """Return the jobs of a sweep, the first submission first."""
        jobs = self._client.list_jobs()
        found = [job for job in jobs if job.submission_id and (job.metadata or {}).get(_SWEEP) == name]
        return sorted(found, key=lambda job: int(job.metadata[_ATTEMPT]))

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except AuthenticationError as error:
            raise BackendError(f"the Ray cluster at {self._address} rejects the token in RAY_AUTH_TOKEN") from error
        except (ConnectionError, requests.RequestException) as error:
            problem = "does not answer" if isinstance(error, requests.Timeout) else "cannot be reached"
            raise BackendError(
                f"the Ray cluster at {self._address} {problem}; is it the dashboard's address?"
            ) from error
        except (RuntimeError, ValueError) as error:
            raise BackendError(f"the Ray cluster at {self._address}: {first_line(error)[:300]}") from error


def _token() -> str | None:
    """Return the token from the places where Ray looks for it."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token"
    with suppress(OSError):
        return Path(path).expanduser().read_text().strip() or None
    return None
