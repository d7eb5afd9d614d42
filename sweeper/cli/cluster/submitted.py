"""A submitted sweep as its terminal shows it: why it waits, then its output or its live view, then its end."""

from __future__ import annotations

import shlex
import sys
import time
from typing import TYPE_CHECKING

from sweeper.cli import report
from sweeper.core.text import clean

if TYPE_CHECKING:
    from sweeper.backends import Backend, JobStatus
    from sweeper.backends.kuberay import KubeRay

SETTLE_S = 5.0
"""How long a sweep has to run until it counts as running, in seconds: a wrong image ends within this time."""

_EXIT_CODES = {"succeeded": 0, "stopped": 0, "failed": 1}


def follow_submission(chosen: Backend, name: str, *, waits: bool, follow: bool) -> int:
    """Show a sweep after its submission: on Kubernetes until it runs, with `follow` until it ends.

    Returns:
        The exit code: 0 while the sweep runs, that of the sweep if it is over, 130 after Ctrl-C.
    """
    from sweeper.backends.kuberay import KubeRay

    if isinstance(chosen, KubeRay) and (waits or follow):
        if (code := _wait_until_running(chosen, name)) is not None:
            return code
        if follow and sys.stdout.isatty() and (code := _follow_live(chosen, name)) is not None:
            return code
    return follow_output(chosen, name) if follow else 0


def _wait_until_running(chosen: KubeRay, name: str) -> int | None:
    """Wait until a sweep runs, and print each reason why it does not, once.

    Returns:
        None once it runs; the exit code if it is over already, or after Ctrl-C.
    """
    from sweeper.cli import console

    printed, began = set[str](), None
    try:
        for job in chosen.states(name):
            if job.is_over:
                return _print_end(job)
            lines = [f"{name} waits: {reason.removeprefix('it waits ').rstrip('.?')}." for reason in job.reasons]
            for line in lines:
                if line not in printed:
                    console.print_note(clean(line))
                    printed.add(line)
            runs = job.state == "running" and not job.is_ending
            began = (began or time.monotonic()) if runs else None
            if began is not None and time.monotonic() - began >= SETTLE_S:
                console.print_note(f"{name} runs.")
                return None
    except KeyboardInterrupt:
        console.print_note(
            f"{name} stays on the cluster, and begins once it can. Look at it: {_command('status', chosen, name)}, "
            f"or remove it: {_command('stop', chosen, name)}"
        )
    return 130


def _follow_live(chosen: KubeRay, name: str) -> int | None:
    """Show a sweep live, as `sweeper watch` does; None if that is not possible."""
    from sweeper.cli import console
    from sweeper.cli.cluster.follow import follow_on_kubernetes

    code = follow_on_kubernetes(name, chosen.template.namespace, chosen.context)
    if code != 0:
        return code
    if (job := chosen.status(name)).is_over:
        return _print_end(job)
    console.print_note(f"See how {name} ends: {_command('status', chosen, name)}")
    return 0


def follow_output(chosen: Backend, name: str) -> int:
    """Print the output of a submitted sweep until it ends; return its exit code."""
    from sweeper.cli import console

    try:
        for text in chosen.logs(name, follow=True):
            report.emit_text(text)
    except KeyboardInterrupt:
        console.print_note(
            f"{name} keeps running on the cluster. Follow it again: sweeper logs {name} --follow, with the same options"
        )
        return 130
    return _print_end(chosen.status(name))


def print_failure(chosen: Backend, name: str) -> None:
    """Print the end of a sweep that has failed, after its output: its last line does not always say what to do."""
    from sweeper.cli import console

    if (job := chosen.status(name)).state == "failed":
        console.print_note(job_line(job))


def _print_end(job: JobStatus) -> int:
    from sweeper.cli import console

    console.print_note(job_line(job))
    code = job.details.get("exit code")
    return int(code) if code is not None and job.state == "failed" else _EXIT_CODES[job.state]


def job_line(job: JobStatus) -> str:
    """Return the state of a submitted sweep in one line."""
    details = ", ".join(f"{key} {value}" for key, value in job.details.items())
    because = "; ".join(filter(None, (job.message, *job.reasons)))
    return clean(f"{job.name} {job.state} (attempt {job.attempt}, {details}){f': {because}' if because else ''}")


def _command(verb: str, chosen: KubeRay, name: str) -> str:
    context = ["--context", chosen.context] if chosen.context else []
    return shlex.join(
        ["sweeper", verb, name, "--backend", "kuberay", "--namespace", chosen.template.namespace, *context]
    )
