"""A trainable that records its surroundings and prints, raises and reports harmful texts; and the sweep around it."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from sweeper.worker.trial import Trial

CANARIES = {
    "STORE_PASSWORD": "canary-of-mlflow",
    "AWS_SECRET_ACCESS_KEY": "canary-of-the-cloud",
    "PGPASSWORD": "canary-of-the-database",
    "DB_PASS": "canary7",
    "GITHUB_PAT": "canary-of-the-code",
}
TEXTS = [
    "[red]x[/red]",
    "\x1b]0;owned\x07",
    "=cmd()",
    "@SUM(A1)",
    "<script>alert(1)</script>",
    "'; drop table trials; --",
    "../../escaped",
]
RAISED = f"\x1b[2J[red] at postgresql://ada:canary-in-a-url@db/x: {' '.join(CANARIES.values())} \ud800\0"
METRIC = "<script>\x1b[2J=[red]"


def train(params: dict[str, Any], trial: Trial) -> None:
    print("\x1b]0;owned\x07", flush=True)
    if trial.number == 0:
        Path("seen.json").write_text(json.dumps(_surroundings()))
    if trial.number == len(TEXTS) - 1:
        raise ValueError(RAISED)
    while trial.step < trial.reports:
        trial.report({"score": float(trial.number), METRIC: 1.0}, checkpoint=lambda folder: _write(folder))


def _write(folder: Path) -> None:
    (folder / "state").write_text("1")


def _surroundings() -> dict[str, Any]:
    """Return what a trial can see: its environment, and the addresses and command lines of the sweep's processes."""
    driver = [parent for parent in psutil.Process().parents() if "sweeper" in parent.cmdline()][-1]
    listening, commands = set(), []
    for process in [driver, *driver.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # a process may end meanwhile
            sockets = process.net_connections("inet")
            listening |= {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}
            commands.append(" ".join(process.cmdline()))
    return {
        "names": sorted(os.environ),
        "listening": sorted(listening),
        "commands": commands,
        "token": os.environ["RAY_AUTH_TOKEN"],
        "pickle": os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"],
    }


def space_file(storage: str = "sqlite:///sweeper.db", tracking: str = "") -> str:
    """Return the text of the sweep file: JSON, which is YAML."""
    declared = {
        "name": "hostile",
        "trainable": "tests.faults.hostile:train",
        "description": "[red] <script>",
        "objective": {"metric": "score"},
        "budget": {"trials": len(TEXTS), "epochs": 2},
        "sampler": {"type": "random"},
        "pruner": {"type": "none"},
        "space": {"text": {"type": "categorical", "choices": TEXTS}},
        "enqueue": [{"text": text} for text in TEXTS],
        "storage": storage,
        "tracking": {"experiment": "=cmd() [red]"} | ({"uri": tracking} if tracking else {}),
    }
    return json.dumps(declared)
