"""What `sweeper submit` checks before anything is created, and the verbs for a sweep on Kubernetes."""

from __future__ import annotations

import copy
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeper.cli.main import main
from tests.k8s.network import Proxy
from tests.k8s.parts import RAYJOBS, RIGHTS, Namespace, Right, rules_without

SPACE = {
    "name": "far",
    "trainable": "tests.samples:climb",
    "objective": {"metric": "score"},
    "budget": {"trials": 2, "epochs": 3},
    "space": {"height": {"type": "float", "low": 0.0, "high": 1.0}},
}
CHECKED_RIGHTS = [right for right in RIGHTS if right[1] != "workloads"]

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def space(tmp_path: Path) -> None:
    (tmp_path / "far.yaml").write_text(json.dumps(SPACE))


def there(namespace: Namespace | str) -> list[str]:
    return ["--backend", "kuberay", "--namespace", namespace if isinstance(namespace, str) else namespace.name]


def submit(namespace: Namespace | str, *options: str) -> int:
    return main(["submit", "far.yaml", *there(namespace), "--no-wait", *options])


def problem_of(capsys: Capture) -> str:
    """Return the only message, apart from the note about the code of the sweep."""
    lines = [line for line in capsys.readouterr().err.splitlines() if "must be in the image" not in line]
    assert len(lines) == 1, lines
    return lines[0]


def running(job: dict[str, Any]) -> str:
    return "Suspended" if job["spec"].get("suspend") else "Running"


def test_sweep_is_submitted_shown_and_stopped(namespace: Namespace, capsys: Capture) -> None:
    assert submit(namespace) == 0
    assert f"far is submitted: RayJob far in namespace {namespace.name}" in capsys.readouterr().err
    namespace.set_phase("Running", "far", jobStatus="RUNNING")
    assert main(["status", "far", *there(namespace)]) == 0
    assert capsys.readouterr().out.startswith("far running (attempt 1, RayJob Running")
    assert submit(namespace) == 0
    assert f"far is running already: RayJob far in namespace {namespace.name}" in capsys.readouterr().err
    with namespace.operator(running, "far"):
        assert main(["stop", "far", *there(namespace)]) == 0
    capsys.readouterr()
    assert main(["status", "far", *there(namespace), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "stopped"


def test_rayjob_of_the_manifest_has_only_fields_that_kuberay_knows(namespace: Namespace, capsys: Capture) -> None:
    assert main(["submit", "far.yaml", *there(namespace), "--dry-run"]) == 0
    _, job = yaml.safe_load_all(capsys.readouterr().out)
    where = {**RAYJOBS, "namespace": namespace.name}
    namespace.objects.create_namespaced_custom_object(**where, body=job, field_validation="Strict")


@pytest.mark.parametrize("right", CHECKED_RIGHTS, ids=" ".join)
def test_each_missing_right_is_named_before_anything_is_created(
    make_namespace: Callable[..., Namespace], capsys: Capture, right: Right
) -> None:
    namespace = make_namespace(rules_without(right))
    assert submit(namespace) == 69
    assert f"does not allow you to {' '.join(right)} in namespace {namespace.name}" in problem_of(capsys)
    assert namespace.names() == []


def test_all_missing_rights_are_named_at_once(make_namespace: Callable[..., Namespace], capsys: Capture) -> None:
    namespace = make_namespace([])
    assert submit(namespace) == 69
    problem = problem_of(capsys)
    assert all(" ".join(right) in problem for right in CHECKED_RIGHTS) and "workloads" not in problem
    assert "The Role sweeper-submitter in k8s/base/access.yaml" in problem


def test_rights_for_a_queue_are_needed_with_a_queue_only(
    make_namespace: Callable[..., Namespace], capsys: Capture
) -> None:
    namespace = make_namespace(rules_without(("list", "workloads")))
    assert submit(namespace, "--queue", "team") == 69
    assert "does not allow you to list workloads" in problem_of(capsys)
    assert submit(namespace) == 0


def test_missing_namespace_is_reported_to_who_may_see_that(
    namespace: Namespace, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert submit("nowhere") == 69
    assert "in namespace nowhere, if that exists" in problem_of(capsys)
    monkeypatch.setenv("KUBECONFIG", str(namespace.plane.kubeconfig("admin")))
    assert submit("nowhere") == 2
    assert "the cluster has no namespace nowhere. Create it" in problem_of(capsys)


def test_namespace_that_is_being_deleted_is_told_from_missing_rights(namespace: Namespace, capsys: Capture) -> None:
    namespace.core.delete_namespace(namespace.name)  # the finalizer of Kubernetes keeps it: nothing empties it here
    assert submit(namespace) == 69
    assert "is deleting the namespace; wait until it is gone" in problem_of(capsys)


def test_invalid_namespace_and_names_are_refused(namespace: Namespace, capsys: Capture) -> None:
    assert submit("My_Team") == 2
    assert "--namespace: 'My_Team' is no name of a namespace" in problem_of(capsys)
    long = "a-name-of-a-sweep-that-is-longer-than-kuberay-takes"
    assert submit(namespace, "--name", long) == 0
    (job,) = [name for name in namespace.names() if name.startswith("RayJob")]
    assert len(job.removeprefix("RayJob ")) <= 47
    assert main(["status", long, *there(namespace)]) == 0
    assert capsys.readouterr().out.startswith(f"{long} waiting")


def test_cluster_without_kuberay_or_with_an_older_one_is_refused(
    namespace: Namespace, rayjobs: dict[str, Any], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane = namespace.plane
    port = plane.add_empty_api_server()
    monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig("admin", port=port)))
    assert submit("default") == 69
    assert "knows no RayJobs (404): install KubeRay" in problem_of(capsys)
    assert main(["status", "far", *there("default")]) == 69
    assert "knows no RayJobs (404): install KubeRay" in problem_of(capsys)
    crd = copy.deepcopy(rayjobs)
    (version,) = crd["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    del spec["rayClusterSpec"]["properties"]["authOptions"]
    plane.define(crd, port=port)
    assert submit("default") == 69
    problem = problem_of(capsys)
    assert "of another version than 1.7" in problem and 'unknown field "spec.rayClusterSpec.authOptions"' in problem
    assert main(["status", "far", *there("default")]) == 2
    assert "no sweep 'far' was submitted to namespace default" in problem_of(capsys)


def rayjob_with(capsys: Capture, change: Callable[[dict[str, Any]], None]) -> str:
    """Return the path of a file with the RayJob of the manifest, changed."""
    main(["submit", "far.yaml", "--backend", "kuberay", "--dry-run"])
    _, job = yaml.safe_load_all(capsys.readouterr().out)
    change(job["spec"])
    Path("rayjob.yaml").write_text(yaml.safe_dump(job))
    return "rayjob.yaml"


def test_field_that_kuberay_does_not_know_is_named(namespace: Namespace, capsys: Capture) -> None:
    file = rayjob_with(capsys, lambda spec: spec["rayClusterSpec"].update(workers=3))
    assert submit(namespace, "--rayjob", file) == 2
    assert 'does not take the RayJob: unknown field "spec.rayClusterSpec.workers"' in problem_of(capsys)
    assert namespace.names() == []


def test_value_that_the_cluster_rejects_is_bad_input(namespace: Namespace, capsys: Capture) -> None:
    def ask_for_much(spec: dict[str, Any]) -> None:
        pod = spec["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
        pod["containers"][0]["resources"]["limits"]["memory"] = "much"

    assert submit(namespace, "--rayjob", rayjob_with(capsys, ask_for_much)) == 2
    problem = problem_of(capsys)
    assert '(422): RayJob.ray.io "far" is invalid' in problem and "memory" in problem
    assert namespace.names() == []


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, [], "no Kubernetes cluster is configured here: KUBECONFIG is {file}, and there is no such file"),
        ("", [], "the kubeconfig {file} cannot be used"),
        ("{", [], "the kubeconfig {file} cannot be used"),
        ("{apiVersion: v1, kind: Config}", [], "the kubeconfig {file} cannot be used"),
        ("{apiVersion: v1, kind: Config, current-context: lab, contexts: []}", [], "cannot be used"),
        ("{apiVersion: v1, kind: Config, current-context: lab}", ["--context", "staging"], "cannot be used"),
    ],
)
def test_kubeconfig_that_leads_nowhere_is_reported(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, content: str | None, options: list[str], message: str
) -> None:
    pytest.importorskip("kubernetes")
    file = Path("kubeconfig").absolute()
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(file))
    for verb in (["submit", "far.yaml"], ["status", "far"], ["stop", "far"], ["logs", "far"]):
        assert main([*verb, *there("lab"), *options]) == 2
        assert message.format(file=file) in problem_of(capsys)


def test_credentials_that_have_expired_are_reported(
    namespace: Namespace, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(namespace.plane.kubeconfig("someone", token="an-old-one")))
    assert submit(namespace) == 69
    problem = problem_of(capsys)
    assert "does not accept your credentials (401): log in again" in problem and "an-old-one" not in problem


def test_certificate_that_is_not_trusted_is_reported(
    namespace: Namespace, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads(namespace.plane.kubeconfig("someone").read_text())
    del config["clusters"][0]["cluster"]["certificate-authority"]
    Path("kubeconfig").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(Path("kubeconfig").absolute()))
    assert submit(namespace) == 69
    problem = problem_of(capsys)
    assert "cannot be reached: " in problem and "certificate verify failed" in problem


def test_api_server_that_is_away_or_silent_is_reported_in_time(
    namespace: Namespace, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(namespace.plane.port) as proxy:
        monkeypatch.setenv("KUBECONFIG", str(namespace.plane.kubeconfig("someone", port=proxy.port)))
        proxy.is_refusing = True
        assert submit(namespace) == 69
        assert f"the Kubernetes API at https://127.0.0.1:{proxy.port} cannot be reached" in problem_of(capsys)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv("KUBECONFIG", str(namespace.plane.kubeconfig("someone", port=port)))
        began = time.monotonic()
        assert submit(namespace) == 69
        assert time.monotonic() - began < 15
        assert f"the Kubernetes API at https://127.0.0.1:{port} cannot be reached" in problem_of(capsys)


def test_submission_waits_with_each_reason_once_until_the_sweep_runs(
    namespace: Namespace, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.cli.cluster.submitted.SETTLE_S", 0.1)
    steps = iter([*["Initializing"] * 40, *["Running"] * 10_000])
    unschedulable = {
        "phase": "Pending",
        "conditions": [
            {"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available: 2 Insufficient cpu."}
        ],
    }

    def act(job: dict[str, Any]) -> str:
        phase = next(steps)
        if phase == "Initializing" and not job.get("status", {}).get("rayClusterName"):
            namespace.set_phase(phase, "far", rayClusterName="far-abcde")
            labels = {"ray.io/cluster": "far-abcde", "ray.io/node-type": "worker"}
            namespace.add_pod("worker", spec={"nodeName": None}, status=unschedulable, labels=labels)
        elif phase == "Running":
            namespace.set_phase(phase, "far", jobStatus="RUNNING")
        return phase

    with namespace.operator(act, "far"):
        assert main(["submit", "far.yaml", *there(namespace)]) == 0
    _, *lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"note: far is submitted: RayJob far in namespace {namespace.name}",
        "note: far waits: a worker cannot be scheduled: 0/2 nodes are available: 2 Insufficient cpu.",
        "note: far runs.",
    ]


def test_submission_of_an_image_without_sweeper_says_so(namespace: Namespace, capsys: Capture) -> None:
    def act(job: dict[str, Any]) -> str:
        message = "Job entrypoint command failed with exit code 127, last available logs:\nsh: sweeper: not found"
        namespace.set_phase("Failed", "far", jobStatus="FAILED", reason="AppFailed", message=message)
        return "Failed"

    with namespace.operator(act, "far"):
        assert main(["submit", "far.yaml", *there(namespace)]) == 1
    assert "The image does not contain sweeper" in capsys.readouterr().err
    assert main(["status", "far", *there(namespace)]) == 0
    assert "The image does not contain sweeper" in capsys.readouterr().out


def test_interrupted_wait_leaves_the_sweep_and_says_how_to_look(namespace: Namespace, capsys: Capture) -> None:
    threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert main(["submit", "far.yaml", *there(namespace)]) == 130
    assert f"sweeper status far --backend kuberay --namespace {namespace.name}" in capsys.readouterr().err
    assert namespace.names() == ["RayJob far", "ConfigMap far"]
