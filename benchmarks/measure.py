"""Runs one measurement in a process and a folder of its own, and saves the results."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(os.environ.get("SWEEPER_BENCHMARK_RESULTS", Path(__file__).parent / "results"))


def run(module: str, *arguments: object, timeout: float) -> tuple[Any, float] | str:
    """Run `python -m module arguments`; return its last line as JSON and its start time, or why there is no result."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-W", "ignore", "-m", module, *map(str, arguments)]
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as folder,
        (Path(folder) / "stderr").open("w+") as errors,
    ):
        started = time.time()
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, timeout=timeout
            )
            return json.loads(done.stdout.strip().splitlines()[-1]), started
        except subprocess.TimeoutExpired:
            return f"not done within {timeout:g} s"
        except (ValueError, IndexError):
            errors.seek(0)
            return (errors.read().strip().splitlines() or ["no result"])[-1][:120]


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the version of each package, "not installed" for a missing one; also Python's, and the number of cores."""
    found = {"python": platform.python_version(), "cores": str(len(os.sched_getaffinity(0)))}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def keep(name: str, record: dict[str, Any]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path
