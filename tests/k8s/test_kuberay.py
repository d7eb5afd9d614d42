from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeper.backends import Backend, Submission
from sweeper.backends.kuberay import KubeRay
from sweeper.backends.rayjob import Template, job_name
from sweeper.core.errors import BackendError, InputError
from tests.k8s.conftest import ROOT
from tests.k8s.crd import Crd
from tests.k8s.fake_kubernetes import FakeKubernetes

pytest.importorskip("kubernetes", reason="the package kubernetes is not installed: pip install 'sweeper[k8s]'")

SWEEP = Submission("lstm", "name: lstm\n", ("--insecure",))
RULES = next(
    document["rules"]
    for document in yaml.safe_load_all((ROOT / "k8s" / "base" / "access.yaml").read_text())
    if document["kind"] == "Role"
)
Start = Callable[..., FakeKubernetes]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start servers that the kubeconfig names, for a user with the role of the manifests."""
    servers = []

    def start(**options: Any) -> FakeKubernetes:
        server = FakeKubernetes(**{"rules": RULES, **options}).__enter__()
        servers.append(server)
        server.write_kubeconfig(tmp_path / "kubeconfig")
        return server

    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    yield start
    for server in servers:
        server.__exit__()


@pytest.fixture
def backend() -> KubeRay:
    return KubeRay(timeout_s=3, poll_interval_s=0.02)


def set_phase(job: dict[str, Any], phase: str, **status: Any) -> None:
    job["status"] = {**job.get("status", {}), "jobDeploymentStatus": phase, **status}


def suspending(job: dict[str, Any]) -> None:
    """Suspend a RayJob, as the operator does."""
    if job["spec"].get("suspend"):
        set_phase(job, "Suspended")


def test_submission_makes_a_valid_rayjob_that_owns_its_sweep_file(
    start: Start, backend: Backend, crds: dict[str, Crd]
) -> None:
    server = start(crd=crds["RayJob"])
    assert backend.submit(SWEEP) == "lstm is submitted: RayJob lstm in namespace sweeper"
    job, config = server.objects["rayjobs", "lstm"], server.objects["configmaps", "lstm"]
    assert config["data"] == {"sweep.yaml": "name: lstm\n"}
    assert config["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
    assert "--dir /mnt/sweeps/lstm --insecure" in job["spec"]["entrypoint"]


def test_submission_repeated_after_a_lost_answer_does_not_run_twice(start: Start, backend: Backend) -> None:
    server = start()
    backend.submit(SWEEP)
    uid = server.objects["rayjobs", "lstm"]["metadata"]["uid"]
    del server.objects["configmaps", "lstm"]["metadata"]["ownerReferences"]
    assert "is running already" in backend.submit(SWEEP)
    assert server.objects["rayjobs", "lstm"]["metadata"]["uid"] == uid
    assert server.objects["configmaps", "lstm"]["metadata"]["ownerReferences"][0]["uid"] == uid
    assert server.asked.count(("create", "rayjobs")) == 1


def test_one_of_several_simultaneous_submissions_starts_the_sweep(start: Start, backend: KubeRay) -> None:
    server = start()
    messages: list[str] = []
    threads = [threading.Thread(target=lambda: messages.append(backend.submit(SWEEP))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted("is submitted" in line for line in messages) == [False, False, False, True]
    assert len([key for key in server.objects if key[0] == "rayjobs"]) == 1


@pytest.mark.parametrize("phase", ["Complete", "Failed", "Suspended"])
def test_sweep_that_has_ended_resumes_when_it_is_submitted_again(start: Start, backend: Backend, phase: str) -> None:
    server = start()
    backend.submit(SWEEP)
    first = server.objects["rayjobs", "lstm"]
    set_phase(first, phase)
    longer = Submission("lstm", "name: lstm\nbudget: {trials: 9}\n")
    assert backend.submit(longer) == "lstm resumes: RayJob lstm in namespace sweeper"
    second = server.objects["rayjobs", "lstm"]
    assert second["metadata"]["uid"] != first["metadata"]["uid"] and "status" not in second
    assert server.objects["configmaps", "lstm"]["data"]["sweep.yaml"] == longer.text


def test_two_attempts_at_a_sweep_never_run_side_by_side(start: Start, backend: Backend) -> None:
    seen: list[bool] = []
    server = start(on_change=lambda job: seen.append(("pods", "head-of-the-first") in server.objects))
    backend.submit(SWEEP)
    first = server.objects["rayjobs", "lstm"]
    pod = server.add_pod("head-of-the-first", "lstm")
    pod["metadata"]["ownerReferences"] = [{"uid": first["metadata"]["uid"]}]
    set_phase(first, "Failed")
    backend.submit(SWEEP)
    assert seen == [False, False]


def test_rayjob_that_is_being_deleted_does_not_count_as_running(start: Start, backend: Backend) -> None:
    server = start()
    backend.submit(SWEEP)
    first = server.objects["rayjobs", "lstm"]
    set_phase(first, "Running")
    first["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert "resumes" in backend.submit(SWEEP)
    assert server.objects["rayjobs", "lstm"]["metadata"]["uid"] != first["metadata"]["uid"]


def test_status_has_state_attempt_and_reason(start: Start, backend: Backend) -> None:
    server = start()
    backend.submit(SWEEP)
    assert backend.status("lstm").state == "waiting" and backend.status("lstm").attempt == 1
    assert backend.status("lstm").details == {"RayJob": "not seen by KubeRay's operator yet"}
    job = server.objects["rayjobs", "lstm"]
    set_phase(job, "Running", jobStatus="RUNNING", failed=2, rayClusterName="lstm-abcde")
    status = backend.status("lstm")
    assert (status.name, status.state, status.attempt) == ("lstm", "running", 3)
    assert status.details == {"RayJob": "Running", "cluster": "lstm-abcde"}
    set_phase(job, "Failed", reason="AppFailed", message="...\nexit code 74")
    assert (backend.status("lstm").state, backend.status("lstm").message) == ("failed", "AppFailed; exit code 74")
    assert backend.status("lstm").attempt == 2
    set_phase(job, "Complete", jobStatus="SUCCEEDED")
    assert backend.status("lstm").state == "succeeded"
    set_phase(job, "Complete", jobStatus="STOPPED")
    assert backend.status("lstm").state == "stopped"


def test_stop_suspends_the_rayjob_and_waits_for_it(start: Start, backend: Backend) -> None:
    server = start(on_change=suspending)
    backend.submit(SWEEP)
    set_phase(server.objects["rayjobs", "lstm"], "Running")
    backend.stop("lstm")
    assert backend.status("lstm").state == "stopped"
    assert server.objects["rayjobs", "lstm"]["spec"]["suspend"] is True
    with pytest.raises(InputError, match="is not running: it has stopped"):
        backend.stop("lstm")


def test_sweep_that_does_not_stop_is_reported_after_the_timeout(start: Start) -> None:
    start()
    backend = KubeRay(timeout_s=0.1, poll_interval_s=0.02)
    backend.submit(SWEEP)
    with pytest.raises(BackendError, match="sweep 'lstm' is still stopping after 0 s"):
        backend.stop("lstm")


def test_log_survives_lost_connections_and_the_replacement_of_its_pod(start: Start, backend: Backend) -> None:
    server = start()
    backend.submit(SWEEP)
    job = server.objects["rayjobs", "lstm"]
    set_phase(job, "Running")
    first = server.add_pod("lstm-1", "lstm")
    server.logs["lstm-1"] += ["starting", "trial 0: 0.5"]
    server.drops += [20, 50, 95]  # each time within a line, the first time before any line was shown

    def run_on_two_pods() -> None:
        time.sleep(0.3)
        server.logs["lstm-1"] += ["trial 1: 0.6", "größer"]
        first["status"]["phase"] = "Failed"
        time.sleep(0.2)
        second = server.add_pod("lstm-2", "lstm")
        server.logs["lstm-2"] += ["trial 2: 0.7"]
        time.sleep(0.2)
        second["status"]["phase"] = "Succeeded"
        set_phase(job, "Complete")

    threading.Thread(target=run_on_two_pods).start()
    assert list(backend.logs("lstm", follow=True)) == [
        "starting\n",
        "trial 0: 0.5\n",
        "trial 1: 0.6\n",
        "größer\n",
        "--- pod lstm-2 submits the sweep now; its log follows from the beginning\n",
        "trial 2: 0.7\n",
    ]
    assert server.drops == []


def test_log_retries_an_unavailable_api_server_but_not_for_ever(start: Start) -> None:
    server, backend = start(), KubeRay(timeout_s=1, poll_interval_s=0.02)
    backend.submit(SWEEP)
    set_phase(server.objects["rayjobs", "lstm"], "Running")
    server.add_pod("lstm-1", "lstm")
    server.logs["lstm-1"].append("starting")
    server.refusals += [503, 500, 503]
    log = backend.logs("lstm", follow=True)
    assert next(log) == "starting\n"
    server.refusals += [503] * 1000
    server.objects["pods", "lstm-1"]["status"]["phase"] = "Succeeded"
    with pytest.raises(BackendError, match="answers 503: try again"):
        next(log)


def test_log_without_follow_ends_with_its_last_line(start: Start, backend: Backend) -> None:
    server = start()
    backend.submit(SWEEP)
    assert list(backend.logs("lstm", follow=False)) == []
    server.add_pod("lstm-1", "lstm")
    server.logs["lstm-1"].append("starting")
    assert list(backend.logs("lstm", follow=False)) == ["starting\n"]


def test_objects_that_the_cluster_rejects_are_bad_input(start: Start, crds: dict[str, Crd]) -> None:
    server = start(crd=crds["RayJob"])
    with pytest.raises(InputError, match=r"\(422\): RayJob.ray.io \"lstm\" is invalid: .*memory"):
        KubeRay(Template(memory="much")).submit(SWEEP)
    assert ("rayjobs", "lstm") not in server.objects


def test_rejected_credentials_are_answered_with_a_request_to_log_in(
    start: Start, backend: Backend, tmp_path: Path
) -> None:
    start().write_kubeconfig(tmp_path / "kubeconfig", token="an-old-one")
    with pytest.raises(BackendError, match=r"does not accept your credentials \(401\): log in again") as error:
        backend.submit(SWEEP)
    assert error.value.exit_code == 69 and "\n" not in str(error.value) and "an-old-one" not in str(error.value)


def test_forbidden_request_names_the_role_that_allows_it(start: Start, backend: Backend) -> None:
    start(rules=[rule for rule in RULES if "configmaps" not in rule["resources"]])
    with pytest.raises(BackendError, match=r"forbids the request \(403\): configmaps .*sweeper-submitter"):
        backend.submit(SWEEP)


def test_missing_kuberay_is_told_apart_from_a_missing_sweep(start: Start, backend: Backend) -> None:
    server = start(has_kuberay=False)
    with pytest.raises(BackendError, match=r"knows no RayJobs \(404\): install KubeRay"):
        backend.submit(SWEEP)
    server.has_kuberay = True
    with pytest.raises(InputError, match="no sweep 'lstm' was submitted to namespace sweeper"):
        backend.status("lstm")


def test_unreachable_cluster_is_reported_at_once_in_one_line(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    start().__exit__()
    backend, started = KubeRay(timeout_s=60, poll_interval_s=1), time.monotonic()
    with pytest.raises(BackendError, match=r"the Kubernetes API at http://127.0.0.1:\d+ cannot be reached: .*refused"):
        backend.status("lstm")
    assert caplog.text == "" and time.monotonic() - started < 5


def test_missing_kubeconfig_means_no_cluster(monkeypatch: pytest.MonkeyPatch, backend: Backend) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    with pytest.raises(InputError, match="no Kubernetes cluster is configured here.*set KUBECONFIG"):
        backend.status("lstm")
    with pytest.raises(InputError, match="no Kubernetes cluster is configured here"):
        KubeRay(context="staging").status("lstm")


def test_role_of_the_manifests_allows_exactly_what_the_backend_requests(start: Start, backend: Backend) -> None:
    server = start(on_change=suspending)
    backend.submit(SWEEP)
    server.add_pod("lstm-1", "lstm", "Succeeded")
    backend.stop("lstm")
    list(backend.logs("lstm", follow=False))
    backend.submit(SWEEP)
    # Kubernetes asks for this right when an owner blocks the deletion of what it owns; no request is for it alone.
    unasked = {("update", "rayjobs/finalizers")}
    allowed = {(verb, kind) for rule in RULES for kind in rule["resources"] for verb in rule["verbs"]}
    assert allowed - unasked == set(server.asked)


def test_names_that_kubernetes_rejects_are_replaced_and_stay_different() -> None:
    assert job_name("lstm-2") == "lstm-2"
    names = ["My_Sweep", "my-sweep.", "9lives", "a" * 64, "x" * 47 + "1", "ends-"]
    spelled = [job_name(name) for name in names]
    assert len(set(spelled)) == len(names)
    assert all(len(name) <= 47 and name[0].isalpha() and name[-1].isalnum() for name in spelled)


def test_importing_the_backend_does_not_import_kubernetes() -> None:
    program = "import sys, sweeper.backends.kuberay; sys.exit('kubernetes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
