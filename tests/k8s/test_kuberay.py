"""The backend against a real API server; the operator and the node are played by the tests."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from sweeper.backends import Submission
from sweeper.backends.kuberay import KubeRay
from sweeper.backends.rayjob import Template, job_name
from sweeper.core.errors import BackendError, InputError
from tests.k8s.conftest import ROOT
from tests.k8s.network import Proxy
from tests.k8s.parts import RAYJOBS, RIGHTS, Namespace, Right, rules_without, wait_until

SWEEP = Submission("lstm", "name: lstm\n", ("--insecure",))
MERGE = "application/merge-patch+json"
IMPLIED = [("create", "configmaps"), ("update", "rayjobs/finalizers"), ("delete", "configmaps")]
"""Rights that are asked for beside that of a request: to apply what is new, and to make an object own another."""


def backend_in(namespace: Namespace, *, timeout_s: float = 60.0) -> KubeRay:
    return KubeRay(Template(namespace.name), timeout_s=timeout_s, poll_interval_s=0.05)


def owners_of(namespace: Namespace) -> list[str]:
    """Return the owners of the ConfigMap with the sweep file that block its deletion."""
    found = namespace.core.read_namespaced_config_map("lstm", namespace.name).metadata.owner_references or []
    return [owner.uid for owner in found if owner.block_owner_deletion]


def sweep_file_of(namespace: Namespace) -> str:
    data: dict[str, str] = namespace.core.read_namespaced_config_map("lstm", namespace.name).data
    return data["sweep.yaml"]


def suspending(job: dict[str, Any]) -> str | None:
    return "Suspended" if job["spec"].get("suspend") else None


def test_submission_makes_a_rayjob_that_owns_its_sweep_file(namespace: Namespace) -> None:
    message = backend_in(namespace).submit(SWEEP)
    assert message == f"lstm is submitted: RayJob lstm in namespace {namespace.name}"
    job = namespace.job()
    assert sweep_file_of(namespace) == "name: lstm\n" and owners_of(namespace) == [job["metadata"]["uid"]]
    assert "--dir /mnt/sweeps/lstm --insecure" in job["spec"]["entrypoint"]


def test_sweep_file_is_deleted_with_its_rayjob(namespace: Namespace) -> None:
    backend_in(namespace).submit(SWEEP)
    namespace.delete_job()
    wait_until(lambda: not namespace.names())


def test_submission_repeated_after_a_lost_answer_does_not_run_twice(namespace: Namespace) -> None:
    backend = backend_in(namespace)
    backend.submit(SWEEP)
    uid = namespace.job()["metadata"]["uid"]
    disowned = {"metadata": {"ownerReferences": None}}
    namespace.core.patch_namespaced_config_map("lstm", namespace.name, disowned, _content_type=MERGE)
    assert "is running already" in backend.submit(SWEEP)
    assert namespace.job()["metadata"]["uid"] == uid
    assert owners_of(namespace) == [uid]


def test_one_of_several_simultaneous_submissions_starts_the_sweep(namespace: Namespace) -> None:
    messages: list[str] = []
    threads = [threading.Thread(target=lambda: messages.append(backend_in(namespace).submit(SWEEP))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted("is submitted" in line for line in messages) == [False, False, False, True]
    assert namespace.names() == ["RayJob lstm", "ConfigMap lstm"]
    assert owners_of(namespace) == [namespace.job()["metadata"]["uid"]]


@pytest.mark.parametrize("phase", ["Complete", "Failed", "Suspended"])
def test_sweep_that_has_ended_resumes_when_it_is_submitted_again(namespace: Namespace, phase: str) -> None:
    backend = backend_in(namespace)
    backend.submit(SWEEP)
    first = namespace.job()
    namespace.set_phase(phase)
    longer = Submission("lstm", "name: lstm\nbudget: {trials: 9}\n")
    assert backend.submit(longer) == f"lstm resumes: RayJob lstm in namespace {namespace.name}"
    second = namespace.job()
    assert second["metadata"]["uid"] != first["metadata"]["uid"] and "status" not in second
    assert sweep_file_of(namespace) == longer.text


def test_two_attempts_at_a_sweep_never_run_side_by_side(namespace: Namespace) -> None:
    backend = backend_in(namespace)
    backend.submit(SWEEP)
    first = namespace.job()
    owner = {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": "lstm", "uid": first["metadata"]["uid"]}
    namespace.add_pod("head", ownerReferences=[{**owner, "blockOwnerDeletion": True, "controller": True}])
    namespace.set_phase("Failed")
    submission = threading.Thread(target=backend.submit, args=(SWEEP,))
    submission.start()
    wait_until(
        lambda: namespace.core.read_namespaced_pod("head", namespace.name).metadata.deletion_timestamp is not None
    )
    time.sleep(0.5)
    assert namespace.job()["metadata"]["uid"] == first["metadata"]["uid"]
    namespace.remove_pod("head")  # its containers have ended
    submission.join()
    assert namespace.job()["metadata"]["uid"] != first["metadata"]["uid"]


def test_rayjob_that_is_being_deleted_does_not_count_as_running(namespace: Namespace) -> None:
    backend = backend_in(namespace)
    backend.submit(SWEEP)
    first = namespace.job()
    namespace.set_phase("Running", jobStatus="RUNNING")
    namespace.patch_job({"metadata": {"finalizers": ["ray.io/rayjob-finalizer"]}})
    namespace.delete_job()
    cleaning_up = threading.Timer(0.5, namespace.patch_job, ({"metadata": {"finalizers": None}},))
    cleaning_up.start()
    assert "resumes" in backend.submit(SWEEP)
    cleaning_up.join()
    assert namespace.job()["metadata"]["uid"] != first["metadata"]["uid"]


def test_old_attempt_that_is_not_deleted_in_time_is_reported(namespace: Namespace) -> None:
    backend = backend_in(namespace, timeout_s=0.2)
    backend.submit(SWEEP)
    namespace.set_phase("Failed")
    namespace.patch_job({"metadata": {"finalizers": ["ray.io/rayjob-finalizer"]}})
    with pytest.raises(BackendError, match="RayJob lstm of the last attempt is still being deleted after 0 s"):
        backend.submit(SWEEP)


def test_status_has_state_attempt_and_reason(namespace: Namespace) -> None:
    backend = backend_in(namespace)
    backend.submit(SWEEP)
    assert backend.status("lstm").state == "waiting" and backend.status("lstm").attempt == 1
    assert backend.status("lstm").details == {"RayJob": "not seen by KubeRay's operator yet"}
    namespace.set_phase("Running", jobStatus="RUNNING", failed=2, rayClusterName="lstm-abcde")
    status = backend.status("lstm")
    assert (status.name, status.state, status.attempt) == ("lstm", "running", 3)
    assert status.details == {"RayJob": "Running", "cluster": "lstm-abcde"}
    namespace.set_phase("Failed", reason="AppFailed", message="...\nexit code 74")
    assert (backend.status("lstm").state, backend.status("lstm").message) == ("failed", "AppFailed; exit code 74")
    assert backend.status("lstm").attempt == 2
    namespace.set_phase("Complete", jobStatus="SUCCEEDED")
    assert backend.status("lstm").state == "succeeded"
    namespace.set_phase("Complete", jobStatus="STOPPED")
    assert backend.status("lstm").state == "stopped"


def test_stop_suspends_the_rayjob_and_waits_for_it(namespace: Namespace) -> None:
    backend = backend_in(namespace)
    backend.submit(SWEEP)
    namespace.set_phase("Running", jobStatus="RUNNING")
    with namespace.operator(suspending):
        backend.stop("lstm")
    assert backend.status("lstm").state == "stopped"
    assert namespace.job()["spec"]["suspend"] is True
    with pytest.raises(InputError, match="is not running: it has stopped"):
        backend.stop("lstm")


def test_sweep_that_does_not_stop_is_reported_after_the_timeout(namespace: Namespace) -> None:
    backend = backend_in(namespace, timeout_s=0.1)
    backend.submit(SWEEP)
    with pytest.raises(BackendError, match="sweep 'lstm' is still stopping after 0 s"):
        backend.stop("lstm")


def test_log_survives_lost_connections_and_the_replacement_of_its_pod(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(namespace.plane.port) as proxy:
        monkeypatch.setenv("KUBECONFIG", str(namespace.plane.kubeconfig("someone", port=proxy.port)))
        backend = backend_in(namespace)
        backend.submit(SWEEP)
        namespace.set_phase("Running", jobStatus="RUNNING")
        namespace.add_pod("lstm-1")
        namespace.write_log("lstm-1", "starting", "trial 0: 0.5")
        namespace.kubelet.drops += [20, 50, 95]  # each time within a line, the first time before any line was shown

        def run_on_two_pods() -> None:
            wait_until(lambda: not namespace.kubelet.drops)
            namespace.write_log("lstm-1", "trial 1: 0.6")
            time.sleep(0.3)
            proxy.drop()
            namespace.write_log("lstm-1", "größer")
            namespace.end_pod("lstm-1", "Failed")
            time.sleep(1.1)  # the times of pods are in whole seconds
            namespace.add_pod("lstm-2")
            namespace.write_log("lstm-2", "trial 2: 0.7")
            time.sleep(0.3)
            proxy.drop()
            namespace.end_pod("lstm-2")
            namespace.set_phase("Complete", jobStatus="SUCCEEDED")

        running = threading.Thread(target=run_on_two_pods)
        running.start()
        assert list(backend.logs("lstm", follow=True)) == [
            "starting\n",
            "trial 0: 0.5\n",
            "trial 1: 0.6\n",
            "größer\n",
            "--- pod lstm-2 submits the sweep now; its log follows from the beginning\n",
            "trial 2: 0.7\n",
        ]
        running.join()


def test_log_retries_an_unavailable_node_but_not_for_ever(namespace: Namespace) -> None:
    backend = KubeRay(Template(namespace.name), timeout_s=1, poll_interval_s=0.02)
    backend.submit(SWEEP)
    namespace.set_phase("Running", jobStatus="RUNNING")
    namespace.add_pod("lstm-1")
    namespace.write_log("lstm-1", "starting")
    namespace.kubelet.refusals += [503, 500, 503]
    log = backend.logs("lstm", follow=True)
    assert next(log) == "starting\n"
    namespace.kubelet.refusals += [503] * 1000
    namespace.end_pod("lstm-1")
    with pytest.raises(BackendError, match="answers 503: "):
        next(log)


def test_log_waits_for_an_api_server_that_is_away_but_not_for_ever(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(namespace.plane.port) as proxy:
        monkeypatch.setenv("KUBECONFIG", str(namespace.plane.kubeconfig("someone", port=proxy.port)))
        backend = KubeRay(Template(namespace.name), timeout_s=2, poll_interval_s=0.05)
        backend.submit(SWEEP)
        namespace.set_phase("Running", jobStatus="RUNNING")
        namespace.add_pod("lstm-1")
        namespace.write_log("lstm-1", "starting")
        log = backend.logs("lstm", follow=True)
        assert next(log) == "starting\n"
        proxy.is_refusing = True
        proxy.drop()
        namespace.write_log("lstm-1", "trial 0: 0.5")
        returning = threading.Timer(0.5, setattr, (proxy, "is_refusing", False))
        returning.start()
        assert next(log) == "trial 0: 0.5\n"
        returning.join()
        proxy.is_refusing = True
        proxy.drop()
        with pytest.raises(BackendError, match="cannot be reached"):
            next(log)


def test_log_without_follow_ends_with_its_last_line(namespace: Namespace) -> None:
    backend = backend_in(namespace)
    backend.submit(SWEEP)
    assert list(backend.logs("lstm", follow=False)) == []
    namespace.add_pod("lstm-1")
    namespace.write_log("lstm-1", "starting")
    assert list(backend.logs("lstm", follow=False)) == ["starting\n"]


def test_log_of_a_container_that_does_not_exist_yet_is_empty(namespace: Namespace) -> None:
    backend = backend_in(namespace)
    backend.submit(SWEEP)
    namespace.add_pod("lstm-1", status={"phase": "Pending"})
    del namespace.kubelet.logs[namespace.name, "lstm-1"]
    assert list(backend.logs("lstm", follow=False)) == []


def test_rejected_credentials_are_answered_with_a_request_to_log_in(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(namespace.plane.kubeconfig("someone", token="an-old-one")))
    for request in (lambda: backend_in(namespace).submit(SWEEP), lambda: backend_in(namespace).status("lstm")):
        with pytest.raises(BackendError, match=r"does not accept your credentials \(401\): log in again") as error:
            request()
        assert error.value.exit_code == 69 and "\n" not in str(error.value) and "an-old-one" not in str(error.value)


def test_forbidden_request_names_the_role_that_allows_it(make_namespace: Callable[..., Namespace]) -> None:
    namespace = make_namespace([])
    with pytest.raises(BackendError, match=r"forbids the request \(403\): rayjobs.* cannot get.*sweeper-submitter"):
        backend_in(namespace).status("lstm")


def test_unreachable_cluster_is_reported_at_once_in_one_line(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(namespace.plane.kubeconfig("someone", port=9)))
    backend, started = KubeRay(timeout_s=60, poll_interval_s=1), time.monotonic()
    with pytest.raises(BackendError, match=r"the Kubernetes API at https://127.0.0.1:9 cannot be reached: .*refused"):
        backend.status("lstm")
    assert caplog.text == "" and time.monotonic() - started < 5


def test_role_of_the_manifests_allows_exactly_what_the_backend_requests(namespace: Namespace) -> None:
    backend = backend_in(namespace)
    backend.submit(SWEEP)
    backend.status("lstm")
    namespace.add_pod("lstm-1")
    namespace.end_pod("lstm-1")
    with namespace.operator(suspending):
        backend.stop("lstm")
    list(backend.logs("lstm", follow=False))
    backend.submit(SWEEP)
    queued = KubeRay(Template(namespace.name, queue="team"), timeout_s=60, poll_interval_s=0.05)
    queued.submit(Submission("queued", "name: queued\n"))
    namespace.set_workload(name="queued")
    with namespace.operator(suspending, "queued"):
        queued.stop("queued")
    wait_until(lambda: set(RIGHTS) == namespace.requests() | set(IMPLIED))


@pytest.mark.parametrize("right", IMPLIED)
def test_right_without_a_request_of_its_own_is_needed(make_namespace: Callable[..., Namespace], right: Right) -> None:
    namespace = make_namespace(rules_without(right))
    backend = backend_in(namespace)
    config, job = backend.render(SWEEP)
    made = namespace.objects.create_namespaced_custom_object(**RAYJOBS, namespace=namespace.name, body=job)
    with pytest.raises(BackendError, match="forbids the request"), backend._api.translated_errors():
        backend._apply(config)
        backend._set_config_owner(made)


def test_names_that_kubernetes_rejects_are_replaced_and_stay_different() -> None:
    assert job_name("lstm-2") == "lstm-2"
    names = ["My_Sweep", "my-sweep.", "9lives", "a" * 64, "x" * 47 + "1", "ends-"]
    spelled = [job_name(name) for name in names]
    assert len(set(spelled)) == len(names)
    assert all(len(name) <= 47 and name[0].isalpha() and name[-1].isalnum() for name in spelled)


def test_importing_the_backend_does_not_import_kubernetes() -> None:
    program = "import sys, sweeper.backends.kuberay; sys.exit('kubernetes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
