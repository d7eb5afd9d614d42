"""Where the time goes between `sweeper submit --backend kuberay` and the first report: the stages, and whose each is.

Usage: python -m benchmarks.submit --rayjob FILE [--namespace sweeper] [--rounds 3]; kubectl and a cluster whose nodes
have the image. FILE is a RayJob of that cluster, as `kubectl kustomize` of its overlay prints it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import sqlalchemy as sa

from benchmarks.measure import keep, versions
from sweeper.backends.tunnel import Place, Tunnel
from sweeper.study.lease import find_holder
from sweeper.study.open import list_sweeps, read_study

SPACE = """
name: {name}
dataset: {{type: digits}}
budget: {{trials: 4, epochs: 2, reports_per_epoch: 4}}
pruner: {{type: none}}
space: {{cell: lstm, units: 64, batch_size: 64, learning_rate: {{type: float, low: 1e-4, high: 1e-2, log: true}}}}
"""

STAGES = {
    "RayJob created": "sweeper submit",
    "head scheduled": "KubeRay, scheduler",
    "head's container runs": "kubelet",
    "head ready": "Ray",
    "submitter's container runs": "KubeRay, kubelet",
    "driver's process begins": "Ray's Jobs API",
    "first trial begins": "sweeper run",
    "first report": "sweeper's worker, TensorFlow",
}
"""The moments in their order, and who needs the time before each."""

LIMIT_S = 600.0
T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.submit", description=__doc__)
    parser.add_argument("--rayjob", type=Path, required=True)
    parser.add_argument("--namespace", default="sweeper")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rounds = []
    for _ in range(arguments.rounds):
        rounds.append(measure(arguments.rayjob.absolute(), arguments.namespace))
        print("  ".join(f"{name} {value:.1f}" for name, value in rounds[-1].items()), flush=True)
    print(f"\n{'seconds after the command':28} {'median':>7} {'of it':>7}  needed by")
    before = 0.0
    for name, owner in STAGES.items():
        middle = statistics.median(one[name] for one in rounds)
        print(f"{name:28} {middle:7.1f} {middle - before:7.1f}  {owner}")
        before = middle
    record = {"rounds": rounds, "versions": versions(["sweeper", "ray", "optuna", "mlflow"])}
    print(f"saved in {keep('submit', record)}")


def measure(rayjob: Path, namespace: str) -> dict[str, float]:
    """Submit a sweep; return the moments of its start, in seconds after the command's."""
    name = f"submit-{time.time_ns() // 10**9}"
    with TemporaryDirectory() as folder:
        space = Path(folder, "space.yaml")
        space.write_text(SPACE.format(name=name))
        command = ["submit", str(space), "--backend", "kuberay", "--rayjob", str(rayjob), "--namespace", namespace]
        began = time.time()
        submitting = subprocess.Popen([sys.executable, "-m", "sweeper", *command], stdout=subprocess.DEVNULL)
        try:
            moments = moments_of(name, namespace)
        finally:
            submitting.wait(LIMIT_S)
    subprocess.run(["kubectl", "-n", namespace, "delete", "rayjob", name, "--wait=false"], stdout=subprocess.DEVNULL)
    return {stage: moments[stage] - began for stage in STAGES}


def moments_of(name: str, namespace: str) -> dict[str, float]:
    """Wait for the first report of a sweep; return when each stage of its start was reached."""
    job = until(lambda: found(namespace, "rayjob", name), "the RayJob")
    with Tunnel(Place(namespace)) as tunnel:
        storage = tunnel.database()
        until(lambda: any(sweep.name == name for sweep in list_sweeps(storage)), "the study")
        holder: Any = until(lambda: find_holder(sa.create_engine(storage), name), "the driver")
        first = until(lambda: reports_of(name, storage), "a report")
        study = read_study(name, storage)
        started = min(row.started.timestamp() for row in study.rows() if row.started)
    cluster = found(namespace, "rayjob", name)["status"]["rayClusterName"]
    (head,) = listed(namespace, f"ray.io/cluster={cluster},ray.io/node-type=head")
    (submitter,) = listed(namespace, f"batch.kubernetes.io/job-name={name}")
    return {
        "RayJob created": moment(job["metadata"]["creationTimestamp"]),
        "head scheduled": condition(head, "PodScheduled"),
        "head's container runs": container_start(head, "ray-head"),
        "head ready": condition(head, "Ready"),
        "submitter's container runs": container_start(submitter, "ray-job-submitter"),
        "driver's process begins": holder.process_started,
        "first trial begins": started,
        "first report": min(first),
    }


def reports_of(name: str, storage: str) -> list[float]:
    """Return the times of the reports so far; a view is of one moment."""
    study = read_study(name, storage)
    return [one.time for row in study.rows() for one in study.reports(row.number)]


def until(claim: Callable[[], T], what: str) -> T:
    deadline = time.monotonic() + LIMIT_S
    while not (result := claim()):
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {LIMIT_S:.0f} s in vain for {what}")
        time.sleep(0.5)
    return result


def found(namespace: str, kind: str, name: str) -> Any:
    text = kubectl(namespace, "get", kind, name, "--ignore-not-found")
    return json.loads(text) if text.strip() else None


def listed(namespace: str, selector: str) -> Any:
    return json.loads(kubectl(namespace, "get", "pods", "--selector", selector))["items"]


def kubectl(namespace: str, *arguments: str) -> str:
    command = ["kubectl", "--namespace", namespace, *arguments, "--output", "json"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def condition(pod: Any, kind: str) -> float:
    return next(moment(one["lastTransitionTime"]) for one in pod["status"]["conditions"] if one["type"] == kind)


def container_start(pod: Any, name: str) -> float:
    (state,) = (one["state"] for one in pod["status"]["containerStatuses"] if one["name"] == name)
    return moment((state.get("running") or state["terminated"])["startedAt"])


if __name__ == "__main__":
    main()
