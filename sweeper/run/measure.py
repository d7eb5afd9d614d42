"""A short measurement of what trials cost on this machine: some are begun, side by side, in processes of their own."""

from __future__ import annotations

import json
import os
import pickle
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sweeper.analysis.forecast.past import Timed
from sweeper.core.code.copies import freeze_user_code
from sweeper.core.code.user_code import digest_user_code
from sweeper.core.errors import InputError
from sweeper.core.sweep_folder import SweepFolder
from sweeper.worker.probe import Probe, part_of
from sweeper.worker.task import Task, WorkerContext

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sweeper.analysis.forecast.curves import Work
    from sweeper.spec import Sweep

MAX_PROCESSES = 16
"""Processes that measure side by side; more trials at a time are taken to be as slow as so many."""

MAX_POINTS = 64
"""Trials that a measurement begins at most."""

END_S = 1.0
"""Seconds before the end of a measurement from which on no trial begins."""

POLL_INTERVAL_S = 0.05

MIN_OWN_SHARE, BUSY_SHARE = 0.25, 0.15
"""Least share of the time that counts as a trial's own, and share of it spent waiting for a CPU that is reported."""

REPORT_S, MIN_SAMPLES = 0.3, 1000
"""Seconds that a report is to take if it may be measured on a part of the data, and the fewest samples of that part."""


def measure(
    sweep: Sweep, points: Sequence[Mapping[str, Any]], *, work: Work | None, seconds: float, processes: int, gpus: int
) -> tuple[list[Timed], list[str]]:
    """Begin trials with these parameters one after the other in each process, for some seconds in all.

    As many processes train side by side as trials will: they share the memory and the caches of the machine, so that
    each is slower than one alone. Time in which another program held the CPU is subtracted, if the trainable computes
    with as many threads as it has CPUs. Nothing is left behind.

    Args:
        work: what a sample costs; a trial is measured on a part of the data then. None: that is not known.
        gpus: GPUs of this machine.

    Returns:
        The times of the trials, and notes about what they cannot tell.

    Raises:
        InputError: no trial made a report.
    """
    deadline = time.time() + seconds
    until = deadline - END_S
    with TemporaryDirectory(prefix="sweeper-") as folder:
        code = freeze_user_code(sweep.trainable, Path(folder, "code"), digest_user_code(sweep.trainable))
        context = WorkerContext(sweep, SweepFolder.of(folder, sweep.name), study="plan", code=code)
        context = replace(context, data=context.load_data())
        tasks = [Task(number, dict(point)) for number, point in enumerate(points[:MAX_POINTS])]
        parts = [_part(context, task, work) for task in tasks]
        most = max(parts) if sweep.budget.steps is None else 1.0
        context, shares = part_of(context, most), [part / most for part in parts]
        count = max(1, min(processes, MAX_PROCESSES, len(tasks)))
        probes = [
            Probe(context, tuple(tasks[i::count]), tuple(shares[i::count]), until, Path(folder, f"{i}.jsonl"))
            for i in range(count)
        ]
        with _running(probes, gpus) as running:
            while time.time() < deadline and any(process.poll() is None for process in running):
                time.sleep(POLL_INTERVAL_S)
        begun = [trial for i, probe in enumerate(probes) for trial in _begun(i, probe.output)]
    is_corrected = work is not None and tasks[0].trial_resources(sweep.resources).cpus >= 1
    return _timed(begun, tasks, parts, seconds=seconds, is_corrected=is_corrected)


def _part(context: WorkerContext, task: Task, work: Work | None) -> float:
    """Return the part of the data on which a trial is measured, so that a report takes a short while."""
    budget, data = context.sweep.budget, context.data
    if work is None or data is None or task.trial_resources(context.sweep.resources).gpus:
        return 1.0
    samples = budget.epoch_of(1) * (len(data.y_train) if budget.steps is None else task.params.get("batch_size", 128))
    return min(1.0, max(1e6 * REPORT_S / (work(task.params) * samples), MIN_SAMPLES / samples))


@contextmanager
def _running(probes: Sequence[Probe], gpus: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run each probe in a process for the block; then kill those that still run, with all that they have started."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for i, probe in enumerate(probes):
            file = probe.output.with_suffix(".pickle")
            file.write_bytes(pickle.dumps(probe))
            share = probe.tasks[0].trial_resources(probe.context.sweep.resources)
            # As Ray sets them for its workers.
            environment = {"OMP_NUM_THREADS": str(max(1, int(share.cpus)))} | dict(os.environ)
            environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
            if gpus:
                first = int(i * share.gpus)
                devices = range(first, first + max(1, int(share.gpus))) if share.gpus else ()
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(str(device % gpus) for device in devices)
            command = [sys.executable, "-m", "sweeper.worker.probe", str(file)]
            with open(os.devnull, "r+b") as null:
                process = subprocess.Popen(
                    command, env=environment, stdin=null, stdout=null, stderr=null, start_new_session=True
                )
            running.append(process)
        yield running
    finally:
        for process in running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@dataclass
class _Begun:
    """A trial that a process has begun, and what it wrote of it.

    `begun` and `reports` are moments: Unix time, and the seconds that the process had waited for a CPU by then.
    """

    number: int
    process: int
    is_first: bool
    begun: tuple[float, float]
    reports: list[tuple[float, float]] = field(default_factory=list)
    failure: str | None = None
    bytes: int | None = None


def _begun(process: int, output: Path) -> list[_Begun]:
    """Read what a process has measured; its last line may be cut off."""
    found: list[_Begun] = []
    for line in output.read_text().splitlines() if output.exists() else ():
        with suppress(ValueError):
            event = json.loads(line)
            moment = event["time"], event["waited"]
            if event["event"] == "begin":
                found.append(_Begun(event["trial"], process, not found, moment))
            elif event["event"] == "report":
                found[-1].reports.append(moment)
            elif event["event"] == "failure":
                found[-1].failure = event["reason"]
            else:
                found[-1].bytes = event["bytes"] or None
    return found


def _timed(
    begun: Sequence[_Begun], tasks: Sequence[Task], parts: Sequence[float], *, seconds: float, is_corrected: bool
) -> tuple[list[Timed], list[str]]:
    """Return the times of trials, and notes.

    Args:
        is_corrected: whether the time is subtracted in which they waited for a CPU that another program used.
    """
    failures = [one.failure for one in begun if one.failure is not None]
    notes = (
        [f"{len(failures)} of {len(begun)} trials failed when they were measured: {failures[0]}"] if failures else []
    )
    found, waited = [], list[float]()

    def passed(before: tuple[float, float], after: tuple[float, float]) -> float:
        wall, wait = after[0] - before[0], after[1] - before[1]
        waited.append(wait / max(wall, 1e-6))
        return max(wall - wait, MIN_OWN_SHARE * wall) if is_corrected else wall

    for one in (one for one in begun if len(one.reports) > 1):
        interval = statistics.median(passed(before, after) for before, after in pairwise(one.reports))
        delay = max(0.0, passed(one.begun, one.reports[0]) - interval)
        pace = max(interval, 1e-6) / parts[one.number]
        found.append(Timed(tasks[one.number].params, pace, delay, one.is_first, one.bytes, one.process))
    if not found:  # the first report of a whole trial is better than nothing
        for one in (one for one in begun if one.reports and parts[one.number] == 1):
            pace = passed(one.begun, one.reports[0])
            found.append(Timed(tasks[one.number].params, pace, 0.0, True, one.bytes, one.process))
        if found:
            notes.append(f"no trial made two reports within {seconds:g} s, so that start and pace cannot be told apart")
    if not found and failures:
        raise InputError(f"no trial could be measured: {failures[0]}")
    if not found:
        remedy = f"Measure for longer, as with --measure {max(60, 4 * round(seconds))}, or not at all: --measure 0"
        raise InputError(f"no trial has shown its pace within {seconds:g} s, by a second report. {remedy}")
    if (share := statistics.median(waited)) > BUSY_SHARE:
        meaning = "which is subtracted" if is_corrected else "which makes the forecast too long"
        notes.append(f"other programs use this machine: trials waited for a CPU {share:.0%} of the time, {meaning}")
    return found, notes
