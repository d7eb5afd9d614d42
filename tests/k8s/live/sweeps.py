"""Sweeps on a live cluster: submitted by the real command, watched through their study from a pod of the namespace."""

from __future__ import annotations

import json
import select
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.faults import checker
from tests.k8s.live.cluster import SELDOM_FAILS, Cluster, Done, Object

RESUMES_WITHIN_S = 420.0
"""Longest wait until a sweep reports again after a fault, in seconds: a new cluster on two busy cores needs minutes."""

SMALL: Object = {
    "dataset": {"type": "digits"},
    "objective": {"metric": "val_accuracy"},
    "budget": {"trials": 3, "epochs": 20, "parallel": 1},
    "resources": {"cpus": 1},
    "sampler": {"type": "random"},
    "pruner": {"type": "none"},
    "space": {"cell": "gru", "units": {"type": "int", "low": 8, "high": 24}, "batch_size": 1, "learning_rate": 0.003},
    "tracking": {"experiment": "live"},
}
"""A sweep of small networks on scikit-learn's digits; an epoch takes about a second, for its batches have one image."""


class Inspector:
    """A pod of the image that reads the study, MLflow and the shared folder. It is made again when a fault takes it."""

    def __init__(self, cluster: Cluster, image: str) -> None:
        self._cluster = cluster
        self._image = image
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""

    def ask(self, what: str, name: str, timeout_s: float = 240.0) -> Any:
        """Return the answer of a function of `inside`.

        Raises:
            LookupError: it failed, as when the database or MLflow is away.
            TimeoutExpired: the pod does not answer in time.
        """
        process = self._connected()
        question = (json.dumps({"what": what, "name": name}) + "\n").encode()
        try:
            process.stdin.write(question)  # type: ignore[union-attr]
            while not (line := self._line(process, time.monotonic() + timeout_s)).startswith(b"answer "):
                pass  # a warning of a library
        except (OSError, subprocess.TimeoutExpired) as error:
            self.close()
            raise subprocess.TimeoutExpired(f"{what} {name}", timeout_s) from error
        answer = json.loads(line.removeprefix(b"answer "))
        if "error" in answer:
            raise LookupError(answer["error"])
        return answer["answer"]

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _line(self, process: subprocess.Popen[bytes], deadline: float) -> bytes:
        while b"\n" not in self._unread:
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise subprocess.TimeoutExpired("the inspector", 0)
            if not (data := process.stdout.read(65536)):  # type: ignore[union-attr]
                raise BrokenPipeError("the inspector has ended")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _connected(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._unread = b""
            self._create()
            files = (Path(checker.__file__), Path(__file__).with_name("inside.py"))
            program = "".join(file.read_text() for file in files)
            read = f"import sys; exec(compile(sys.stdin.read({len(program)}), 'inside', 'exec'), globals())"
            command = ["kubectl", "--namespace", self._cluster.namespace, "exec", "-i", "inspector", "--"]
            pipe, errors = subprocess.PIPE, subprocess.STDOUT
            self._process = subprocess.Popen(
                [*command, "python", "-c", read], stdin=pipe, stdout=pipe, stderr=errors, bufsize=0
            )
            self._process.stdin.write(program.encode())  # type: ignore[union-attr]
        return self._process

    def _create(self) -> None:
        """Create the pod, unless it runs."""

        def is_ready() -> bool:
            found = self._cluster.find("pod", "inspector")
            if found is None:
                self._cluster.apply(inspector_pod(self._image))
            elif found["status"].get("phase") in ("Failed", "Succeeded"):
                self._cluster.kubectl("delete", "pod", "inspector", "--force", "--grace-period=0")
            return found is not None and found["status"].get("phase") == "Running" and not is_going(found)

        self._cluster.wait_for("the inspector's pod", is_ready, 180)


def inspector_pod(image: str) -> Object:
    """Return a pod that waits, with the study's address and the shared folder, and that keeps to "restricted"."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        # The label of heads: the network policies let it reach the database and the MLflow server.
        "metadata": {"name": "inspector", "labels": {"ray.io/node-type": "head"}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "securityContext": {
                **{"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "inspector",
                    "image": image,
                    "command": ["sleep", "infinity"],
                    "env": [
                        {
                            "name": "SWEEPER_STORAGE",
                            "valueFrom": {"secretKeyRef": {"name": "database", "key": "study"}},
                        },
                        {"name": "MLFLOW_TRACKING_URI", "value": "http://mlflow:5000"},
                    ],
                    "resources": {
                        "requests": {"cpu": "300m", "memory": "1Gi"},
                        "limits": {"cpu": "1", "memory": "1Gi"},
                    },
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "sweeps", "mountPath": "/mnt/sweeps"}],
                }
            ],
            "volumes": [{"name": "sweeps", "persistentVolumeClaim": {"claimName": "sweeps"}}],
        },
    }


def is_going(pod: Object) -> bool:
    """Return whether a pod is being deleted."""
    return "deletionTimestamp" in pod["metadata"]


class LiveSweep:
    """A sweep by its name: what a person does with it, and what its study says."""

    def __init__(self, cluster: Cluster, inspector: Inspector, name: str, **changes: Any) -> None:
        self.cluster, self.inspector, self.name = cluster, inspector, name
        self.file = cluster.folder / f"{name}.yaml"
        self.file.write_text(json.dumps(SMALL | {"name": name} | changes))  # JSON is YAML
        self.where = ("--backend", "kuberay", "--namespace", cluster.namespace)

    def submit_command(self, *options: str) -> list[str]:
        chosen = () if "--rayjob" in options else ("--rayjob", str(self.cluster.rayjob))
        workers = () if "--workers" in options else ("--workers", "1")
        return ["submit", str(self.file), *self.where, *chosen, *workers, *options]

    def submit(self, *options: str, timeout_s: float = 600.0) -> Done:
        done = self.cluster.sweeper(*self.submit_command(*options), timeout_s=timeout_s)
        assert done.code == 0, f"{done}\n{self.cluster.explain()}"
        return done

    def status(self) -> Object:
        """Return what `sweeper status --json` prints."""
        done = self.cluster.sweeper("status", self.name, *self.where, "--json", timeout_s=60)
        assert done.code == 0, done
        state: Object = json.loads(done.text)
        return state

    def wait_for_state(self, *states: str, timeout_s: float = 600.0) -> Object:
        """Wait until KubeRay's operator says that the RayJob is in a state, and return its status."""

        def reached() -> Object | None:
            job = self.cluster.find("rayjob", self.name) or {}
            status: Object = job.get("status", {})
            return status if status.get("jobDeploymentStatus") in states else None

        return self.cluster.wait_for(f"RayJob {self.name} to be {' or '.join(states)}", reached, timeout_s)

    def pods(self, node_type: str) -> list[Object]:
        """Return the pods of the RayJob's present cluster that are not being deleted."""
        job = self.cluster.find("rayjob", self.name) or {}
        cluster = job.get("status", {}).get("rayClusterName")
        if not cluster:
            return []
        found = self.cluster.items("pods", f"ray.io/node-type={node_type},ray.io/cluster={cluster}")
        return [pod for pod in found if not is_going(pod)]

    def pod(self, node_type: str) -> Object:
        """Return the running head or worker; the newest one, while an older one ends."""

        def running() -> Object | None:
            found = [pod for pod in self.pods(node_type) if pod["status"].get("phase") == "Running"]
            return max(found, key=lambda pod: pod["metadata"]["creationTimestamp"], default=None)

        return self.cluster.wait_for(f"the {node_type} of {self.name}", running)

    def progress(self) -> Object:
        found: Object = self.inspector.ask("progress", self.name)
        return found

    def wait_for_trial(self, reports: int = 2) -> Object:
        """Wait until a trial runs and has reported a few times, so that a fault hits it; return the progress."""

        def training() -> Object | None:
            found = self.progress()
            running = [row for row in found["rows"] if row["state"] == "RUNNING" and row["step"] >= reports]
            return found if running else None

        return self._wait_for_study(f"a trial of {self.name} with {reports} reports", training)

    def wait_for_resumed(self, moment: float) -> float:
        """Wait until a trial that was interrupted after a moment has reported again; return when, in Unix seconds."""

        def resumed() -> float | None:
            found = self.progress()
            begun = [row["resumed"] for row in found["rows"] if row["resumed"] > moment]
            return next((time for time in found["times"] if begun and time > min(begun)), None)

        return self._wait_for_study(f"an interrupted trial of {self.name} to report again", resumed)

    def wait_for_report(self, moment: float) -> float:
        """Wait until a trial has reported after a moment; return when, in Unix seconds."""

        def reported() -> float | None:
            return next((time for time in self.progress()["times"] if time > moment), None)

        return self._wait_for_study(f"a report of {self.name}", reported)

    def wait_for_study_after(self, moment: float) -> Object:
        """Wait until a trial has reported after a moment, and return the progress."""
        self.wait_for_report(moment)
        return self.progress()

    def check_ended(self, before: Object) -> None:
        """Fail if an ended trial differs between study and MLflow, or from what it was before the fault."""
        seconds = 90.0
        deadline = time.monotonic() + seconds
        while faults := self._ask_again("faults_of_ended", deadline):
            assert time.monotonic() < deadline, "\n".join([f"still after {seconds:.0f} s:", *faults])
            time.sleep(2)
        now = {row["number"]: row for row in self._ask_again("progress", deadline)["rows"]}
        assert sorted(now) == list(range(len(now))), f"trials are missing: {sorted(now)}"
        for row in before["rows"]:
            if row["state"] != "RUNNING":
                assert now[row["number"]] == row, f"a trial that had ended has changed: {row} to {now[row['number']]}"

    def check_whole(self) -> None:
        """Fail if the sweep that is over has lost or doubled anything, or left anything behind."""
        faults = self._ask_again("faults_of_whole", time.monotonic() + 90)
        assert not faults, "\n".join([*faults, self.cluster.explain()])

    def remove(self) -> None:
        """Delete the RayJob and wait until its pods are gone."""
        self.cluster.kubectl("delete", "rayjob", self.name, "--ignore-not-found", "--cascade=foreground", timeout_s=240)

    def _ask_again(self, what: str, deadline: float) -> Any:
        while True:
            try:
                return self.inspector.ask(what, self.name)
            except (LookupError, *SELDOM_FAILS):
                if time.monotonic() > deadline:
                    raise
                time.sleep(2)

    def _wait_for_study(self, what: str, claim: Any) -> Any:
        def answered() -> Any:
            try:
                return claim()
            except LookupError:  # the database is away, or the sweep has not begun
                return None

        return self.cluster.wait_for(what, answered, RESUMES_WITHIN_S)
