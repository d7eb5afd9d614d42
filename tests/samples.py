"""Trainables for tests: a few lines each, no TensorFlow."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from sweeper.worker.trial import Trial


def climb(params: dict[str, Any], trial: Trial) -> None:
    while trial.step < trial.reports:
        trial.report({"score": params["height"] * (trial.step + 1) / trial.reports})


def descend(params: dict[str, Any], trial: Trial) -> None:
    while trial.step < trial.reports:
        trial.report({"cost": params["height"] + 1 / (trial.step + 1)})


def fail_above_half(params: dict[str, Any], trial: Trial) -> None:
    while trial.step < trial.reports:
        if params["height"] > 0.5 and trial.step == 1:
            raise ValueError("too high")
        trial.report({"score": params["height"]})


def diverge_above_half(params: dict[str, Any], trial: Trial) -> None:
    while trial.step < trial.reports:
        trial.report({"score": float("nan") if params["height"] > 0.5 and trial.step == 2 else params["height"]})


def misname(params: dict[str, Any], trial: Trial) -> None:
    trial.report({"scores": 1.0})


def say_nothing(params: dict[str, Any], trial: Trial) -> None:
    pass


def leave(params: dict[str, Any], trial: Trial) -> None:
    raise SystemExit(0)


def crash_once(params: dict[str, Any], trial: Trial) -> None:
    """Counts in a checkpoint; the worker dies at the third report of the first attempt."""
    count = int((trial.checkpoint / "count").read_text()) if trial.checkpoint else 0
    while trial.step < trial.reports:
        if trial.attempt == 1 and trial.step == 2:
            os.kill(os.getpid(), 9)
        count += 1
        trial.report({"score": float(count)}, checkpoint=_writer(count))


def crash_always(params: dict[str, Any], trial: Trial) -> None:
    if params["height"] > 0.5:
        os.kill(os.getpid(), 9)
    climb(params, trial)


def hang_once(params: dict[str, Any], trial: Trial) -> None:
    """Counts in a checkpoint; the worker's process is stopped in the first attempt, as by a debugger or a dead disk."""
    count = int((trial.checkpoint / "count").read_text()) if trial.checkpoint else 0
    while trial.step < trial.reports:
        if trial.attempt == 1 and trial.step == 2:
            os.kill(os.getpid(), signal.SIGSTOP)
        count += 1
        trial.report({"score": float(count)}, checkpoint=_writer(count))


def lose_connection_once(params: dict[str, Any], trial: Trial) -> None:
    while trial.step < trial.reports:
        if trial.attempt == 1 and trial.step == 1:
            raise ConnectionResetError("the file server went away")
        trial.report({"score": params["height"], "pid": os.getpid()})


def slow_count(params: dict[str, Any], trial: Trial) -> None:
    """A tenth of a second per report, with a checkpoint at each."""
    count = int((trial.checkpoint / "count").read_text()) if trial.checkpoint else 0
    while trial.step < trial.reports:
        time.sleep(0.1)
        count += 1
        trial.report({"score": params["height"] * count}, checkpoint=_writer(count))


def report_process(params: dict[str, Any], trial: Trial) -> None:
    trial.report({"score": params["height"], "pid": os.getpid()})


def report_surroundings(params: dict[str, Any], trial: Trial) -> None:
    """Whether the trial's data is shared memory, and whether its process is one that Ray started along with itself."""
    import ray

    image = trial.data.x_train
    is_shared = not image.flags.owndata and not image.flags.writeable
    is_plain = ray.get_runtime_context().get_runtime_env_string() == "{}"
    trial.report({"score": params["height"], "shared": is_shared, "plain": is_plain, "samples": len(image)})


def report_process_and_fail(params: dict[str, Any], trial: Trial) -> None:
    report_process(params, trial)
    raise ValueError("after all")


def _writer(count: int) -> Any:
    def write(folder: Path) -> None:
        (folder / "count").write_text(str(count))

    return write


def count_heavily(params: dict[str, Any], trial: Trial) -> None:
    """A checkpoint of a megabyte at each report."""

    def write(folder: Path) -> None:
        (folder / "weights").write_bytes(bytes([trial.step]) * 1_000_000)

    while trial.step < trial.reports:
        trial.report({"score": params["height"]}, checkpoint=write)


def tidy(params: dict[str, Any], trial: Trial) -> None:
    try:
        climb(params, trial)
    finally:
        Path("tidied").touch()


def report_text(params: dict[str, Any], trial: Trial) -> None:
    trial.report({"score": "high"})  # type: ignore[dict-item]


def go_on_too_long(params: dict[str, Any], trial: Trial) -> None:
    for _ in range(trial.reports + 5):
        trial.report({"score": 1.0})


def take_long(params: dict[str, Any], trial: Trial) -> None:
    """Half a minute from one report to the next."""
    while trial.step < trial.reports:
        trial.report({"score": params["height"]})
        time.sleep(30)


def flood(params: dict[str, Any], trial: Trial) -> None:
    """Too much of one thing or another."""
    kind = params["kind"]
    if kind == "metrics":
        trial.report({f"metric {number}": 1.0 for number in range(100_000)})
    elif kind == "name":
        trial.report({"score": 1.0, "n" * 1_000_000: 1.0})
    elif kind == "message":
        raise ValueError("m" * 50_000_000)
    raise Silent


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def die_of_poison(params: dict[str, Any], trial: Trial) -> None:
    """Dies at once on a node that is poisoned, unless the file is there that cures it; else counts as `slow_count`."""
    if os.environ.get("SWEEPER_TEST_POISON") and not Path(params.get("cure", "/nowhere/at/all")).exists():
        os.kill(os.getpid(), 9)
    slow_count(params, trial)


def hold_gpus(params: dict[str, Any], trial: Trial) -> None:
    """Writes down which GPUs it was given, what it has to itself, and from when to when."""
    began = time.time()
    for _ in range(trial.reports):
        time.sleep(0.3)
        trial.report({"score": params["height"]})
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    line = {"number": trial.number, "gpus": trial.resources.gpus, "seen": seen, "began": began, "ended": time.time()}
    with Path(params["log"]).open("a") as log:
        log.write(json.dumps(line | {"pid": os.getpid()}) + "\n")


def exhaust_gpu(params: dict[str, Any], trial: Trial) -> None:
    """Runs out of memory on a share of a GPU that is smaller than it needs."""
    if trial.resources.gpus < params["needs"]:
        raise ResourceExhaustedError("OOM when allocating tensor with shape[4096,4096]")
    trial.report({"score": trial.resources.gpus})


class ResourceExhaustedError(Exception):
    """Has the name of TensorFlow's."""
