"""A live cluster as these tests use it: `kubectl`, `sweeper`, and waits that explain their failures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tests.k8s.conftest import ROOT

Object = dict[str, Any]
T = TypeVar("T")

SELDOM_FAILS = (subprocess.TimeoutExpired, subprocess.CalledProcessError)
"""What a command raises while the API server or the network is away; a wait repeats it."""


class Cluster:
    """One namespace of a live cluster.

    Attributes:
        folder: a folder for files of the tests.
        kubeconfig: that of a user with the role `sweeper-submitter`, for sweeper; kubectl uses that of the tests.
        rayjob: the RayJob of the overlay with the image under test, for `sweeper submit --rayjob`.
    """

    def __init__(self, namespace: str, folder: Path) -> None:
        self.namespace = namespace
        self.folder = folder
        self.kubeconfig: str | None = None
        self.rayjob = folder / "rayjob.yaml"

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout_s: float = 60.0) -> str:
        """Run kubectl in the namespace and return what it prints.

        Raises:
            CalledProcessError: it fails; the error's text has its message.
            TimeoutExpired: it has not ended in time.
        """
        command = ["kubectl", "--namespace", self.namespace, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout_s)
        if done.returncode:
            raise KubectlError(done.returncode, command, done.stdout, done.stderr)
        return done.stdout

    def apply(self, *objects: Object) -> None:
        self.kubectl("apply", "-f", "-", stdin="\n---\n".join(json.dumps(item) for item in objects))

    def items(self, kind: str, selector: str = "") -> list[Object]:
        """Return the objects of a kind, as `kubectl get` does."""
        chosen = ["--selector", selector] if selector else []
        found: list[Object] = json.loads(self.kubectl("get", kind, *chosen, "-o", "json"))["items"]
        return found

    def find(self, kind: str, name: str) -> Object | None:
        text = self.kubectl("get", kind, name, "--ignore-not-found", "-o", "json")
        return json.loads(text) if text.strip() else None

    def wait_for(self, what: str, claim: Callable[[], T], timeout_s: float = 180.0, poll_s: float = 0.5) -> T:
        """Poll until a claim is true, and return it; fail with what the cluster says if it does not become true."""
        deadline, last = time.monotonic() + timeout_s, None
        while True:
            try:
                if result := claim():
                    return result
            except SELDOM_FAILS as error:
                last = error
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {timeout_s:.0f} s in vain for {what} ({last})\n{self.explain()}")
            time.sleep(poll_s)

    def explain(self) -> str:
        """Return what explains a failure: pods, events, the states of the sweeps, and the ends of the logs."""
        commands = [
            ["get", "nodes"],
            ["get", "rayjobs,rayclusters,pods", "-o", "wide"],
            ["get", "events", "--sort-by=.lastTimestamp"],
            ["get", "rayjobs", "-o", "jsonpath={range .items[*]}{.metadata.name}: {.status}{'\\n'}{end}"],
        ]
        said = [self._said(command) for command in commands]
        for pod in self._said(["get", "pods", "-o", "name"]).split():
            if pod.startswith("pod/"):
                said.append(f"--- {pod}\n" + self._said(["logs", pod, "--all-containers", "--tail=25"]))
        return "\n".join(said)

    def _said(self, command: list[str]) -> str:
        try:
            return "\n".join(self.kubectl(*command, timeout_s=30).splitlines()[-60:])
        except SELDOM_FAILS as error:
            return str(error)

    def start_sweeper(self, *arguments: str, kubeconfig: str | None = None) -> subprocess.Popen[str]:
        """Start the real command of sweeper, in the folder of the tests."""
        hidden = ("MLFLOW_TRACKING_URI", "SWEEPER_STORAGE", "RAY_ADDRESS")
        env = {key: value for key, value in os.environ.items() if key not in hidden}
        env |= {"PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT)), "COLUMNS": "200"}
        chosen = kubeconfig or self.kubeconfig
        env |= {"KUBECONFIG": chosen} if chosen else {}
        command = [sys.executable, "-m", "sweeper", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, env=env, stdout=pipe, stderr=subprocess.STDOUT, text=True)

    def sweeper(self, *arguments: str, timeout_s: float = 300.0, kubeconfig: str | None = None) -> Done:
        """Run the real command of sweeper to its end."""
        began = time.monotonic()
        process = self.start_sweeper(*arguments, kubeconfig=kubeconfig)
        try:
            text, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            text, _ = process.communicate()
            raise AssertionError(
                f"{arguments} has not ended after {timeout_s:.0f} s:\n{text}\n{self.explain()}"
            ) from None
        return Done(process.returncode, text, time.monotonic() - began)


class Done:
    """What a command of sweeper left: its exit code, what it printed on both streams, and how long it took."""

    def __init__(self, code: int, text: str, seconds: float) -> None:
        self.code, self.text, self.seconds = code, text, seconds

    def __repr__(self) -> str:
        return f"exit code {self.code} after {self.seconds:.1f} s:\n{self.text}"


class KubectlError(subprocess.CalledProcessError):
    """Failure of kubectl; its text is the message."""

    def __str__(self) -> str:
        return f"{' '.join(self.cmd)}: {self.stderr.strip()}"
