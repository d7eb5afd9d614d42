from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeper.backends import Submission
from sweeper.backends.rayjob import SUBMITTED_BY, Template
from sweeper.backends.rayjob_file import read_rayjob
from sweeper.backends.rayjob_status import STOP_ANNOTATION, status_of
from sweeper.backends.waiting import _of_one_pod
from sweeper.core.errors import InputError
from tests.k8s.conftest import ROOT

client = pytest.importorskip("kubernetes").client

SWEEP = Submission("lstm", "name: lstm\n")
PACKAGED = (ROOT / "k8s" / "base" / "rayjob.yaml").read_text()
Object = dict[str, Any]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes the RayJob of the manifests with a change, among other objects."""

    def write(change: Callable[[Object], object] = lambda job: None, *more: Object) -> Path:
        job = yaml.safe_load(PACKAGED)
        change(job)
        file = tmp_path / "mine.yaml"
        file.write_text(yaml.safe_dump_all([{"kind": "Role"}, job, *more]))
        return file

    return write


def cluster_of(template: Template) -> Object:
    found: Object = template.render(SWEEP)[1]["spec"]["rayClusterSpec"]
    return found


def test_rayjob_says_which_version_submitted_it() -> None:
    runtime = yaml.safe_load(Template().render(SWEEP)[1]["spec"]["runtimeEnvYAML"])
    assert runtime["env_vars"].keys() == {"RAY_JOB_STOP_WAIT_TIME_S", SUBMITTED_BY}


def test_own_rayjob_keeps_its_values_and_options_override_them(write: Callable[..., Path]) -> None:
    def change(job: Object) -> None:
        job["metadata"] |= {"namespace": "lab", "labels": {"team": "vision"}, "uid": "1", "resourceVersion": "7"}
        job["status"] = {"jobDeploymentStatus": "Complete"}
        (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        group["template"]["spec"] |= {"nodeSelector": {"disk": "fast"}, "tolerations": [{"key": "spot"}]}
        group["minReplicas"] = group["replicas"] = 3

    manifest = read_rayjob(write(change))
    assert manifest["metadata"]["namespace"] == "lab"
    _, job = Template("lab", image="lab/sweeper:2", gpus=1, workers=2, manifest=manifest).render(SWEEP)
    assert job["metadata"]["name"] == "lstm" and job["metadata"]["labels"] == {"team": "vision"}
    assert "status" not in job and not {"uid", "resourceVersion"} & job["metadata"].keys()
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert [group[key] for key in ("minReplicas", "replicas", "maxReplicas")] == [2, 2, 2]
    pod = group["template"]["spec"]
    assert pod["nodeSelector"] == {"disk": "fast"} and len(pod["tolerations"]) == 2
    assert pod["containers"][0]["image"] == "lab/sweeper:2-gpu"
    assert job["spec"]["submitterPodTemplate"]["spec"]["containers"][0]["image"] == "lab/sweeper:2"
    assert manifest["metadata"]["name"] == "quick", "the RayJob that was read has changed"


def test_images_of_an_own_rayjob_stay_without_an_option(write: Callable[..., Path]) -> None:
    def change(job: Object) -> None:
        (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        group["template"]["spec"]["containers"][0]["image"] = "lab/all-in-one:1"

    (group,) = cluster_of(Template(gpus=1, manifest=read_rayjob(write(change))))["workerGroupSpecs"]
    assert group["template"]["spec"]["containers"][0]["image"] == "lab/all-in-one:1"


def test_options_do_not_choose_among_worker_groups(write: Callable[..., Path]) -> None:
    def change(job: Object) -> None:
        job["spec"]["rayClusterSpec"]["workerGroupSpecs"] *= 2

    manifest = read_rayjob(write(change))
    assert len(cluster_of(Template(manifest=manifest))["workerGroupSpecs"]) == 2
    with pytest.raises(InputError, match="--workers changes the worker group of a RayJob, but this one has 2"):
        Template(workers=3, manifest=manifest).render(SWEEP)


def test_rayjob_in_a_queue_is_suspended_and_of_a_fixed_size() -> None:
    _, job = Template(queue="gpus", workers=3).render(SWEEP)
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus" and job["spec"]["suspend"] is True
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is False and "autoscalerOptions" not in cluster
    (group,) = cluster["workerGroupSpecs"]
    assert {group[key] for key in ("minReplicas", "replicas", "maxReplicas")} == {3}


def test_rayjob_is_read_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(PACKAGED.encode())))
    assert read_rayjob(Path("-"))["metadata"]["name"] == "quick"


def without(path: str) -> Callable[[Object], object]:
    *parents, last = path.split(".")

    def change(job: Object) -> None:
        for key in parents:
            job = job[key]
        del job[last]

    return change


WRONG: dict[str, tuple[Callable[[Object], object], str]] = {
    "no head": (without("spec.rayClusterSpec.headGroupSpec.template"), "has no spec.rayClusterSpec.headGroupSpec.temp"),
    "no workers": (lambda job: job["spec"]["rayClusterSpec"].update(workerGroupSpecs=[]), "no spec.*workerGroupSpecs"),
    "odd workers": (lambda job: job["spec"]["rayClusterSpec"].update(workerGroupSpecs=["x"]), "no template.spec"),
    "no spec": (without("spec"), "the RayJob has no spec"),
    "old version": (lambda job: job.update(apiVersion="ray.io/v1alpha1"), "'ray.io/v1alpha1', but must be ray.io/v1"),
    "mode": (lambda job: job["spec"].update(submissionMode="HTTPMode"), "submissionMode must be K8sJobMode"),
    "stays": (lambda job: job["spec"].update(shutdownAfterJobFinishes=False), "shutdownAfterJobFinishes must be true"),
    "no sweep file": (without("spec.rayClusterSpec.headGroupSpec.template.spec.volumes"), "no ConfigMap at /etc/swee"),
    "runtime list": (lambda job: job["spec"].update(runtimeEnvYAML="[1]"), "runtimeEnvYAML must hold a mapping"),
    "runtime text": (lambda job: job["spec"].update(runtimeEnvYAML="a: ["), "spec.runtimeEnvYAML.* is not YAML"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_rayjob_that_cannot_run_a_sweep_is_refused(write: Callable[..., Path], mistake: str) -> None:
    change, message = WRONG[mistake]
    with pytest.raises(InputError, match=message) as error:
        read_rayjob(write(change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "mine.yaml holds no RayJob. Begin with k8s/base/rayjob.yaml"),
        (b"kind: [", "mine.yaml, line 1 is not YAML"),
        (b"\xff\xfe", "mine.yaml is not text in UTF-8"),
        (b"#" * 2_000_001, "mine.yaml is larger than 2 MB"),
        (f"{PACKAGED}\n---\n{PACKAGED}".encode(), "mine.yaml holds 2 RayJobs"),
        (b"kind: RayJob\nmetadata: &a {b: *a}\n", "mine.yaml"),
    ],
)
def test_file_without_one_rayjob_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "mine.yaml").write_bytes(data)
    with pytest.raises(InputError, match=message.replace("mine.yaml", "--rayjob: .*mine.yaml", 1)):
        read_rayjob(tmp_path / "mine.yaml")


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no.yaml cannot be read .No such file or directory"):
        read_rayjob(tmp_path / "no.yaml")
    with pytest.raises(InputError, match="cannot be read .Is a directory"):
        read_rayjob(tmp_path)


def job_with(status: Object, *, queue: str = "", **annotations: str) -> Object:
    labels = {"kueue.x-k8s.io/queue-name": queue} if queue else {}
    meta = {"name": "lstm", "labels": labels, "annotations": annotations}
    return {"metadata": meta, "spec": {"suspend": True}, "status": status}


def test_sweep_runs_only_once_its_ray_job_does() -> None:
    known = [
        status_of(job_with({"jobDeploymentStatus": "Running", "jobStatus": job}))
        for job in ("", "PENDING", "RUNNING", "FAILED")
    ]
    assert [status.state for status in known] == ["waiting", "waiting", "running", "running"]
    assert [status.is_ending for status in known] == [False, False, False, True]


def test_suspended_sweep_waits_in_its_queue_unless_it_was_stopped() -> None:
    suspended = {"jobDeploymentStatus": "Suspended"}
    assert status_of(job_with(suspended)).state == "stopped"
    assert status_of(job_with(suspended, queue="gpus")).state == "waiting"
    assert status_of(job_with(suspended, queue="gpus", **{STOP_ANNOTATION: "true"})).state == "stopped"


@pytest.mark.parametrize(
    ("code", "last", "advice"),
    [
        (127, "sh: 1: sweeper: not found", "The image does not contain sweeper; build it from k8s/Dockerfile"),
        (2, "error: no.", "Each attempt ends in this way; correct the cause"),
        (20, "x", ""),
    ],
)
def test_end_with_a_known_exit_code_has_advice(code: int, last: str, advice: str) -> None:
    said = f"Job entrypoint command failed with exit code {code}, last available logs (truncated):\n{last}\n"
    message = status_of(job_with({"jobDeploymentStatus": "Failed", "message": said})).message
    assert message.startswith(last) and advice in message and (advice or message == last)


def pod(status: Object, node_type: str = "head") -> Any:
    claim = {"name": "sweeps", "persistentVolumeClaim": {"claimName": "sweeps"}}
    spec = {"containers": [{"name": "ray", "image": "lab/sweeper:1"}], "volumes": [claim]}
    data = {"metadata": {"name": "p", "labels": {"ray.io/node-type": node_type}}, "spec": spec, "status": status}
    response = type("Response", (), {"data": json.dumps(data)})()
    return client.ApiClient().deserialize(response.data, "V1Pod", "application/json")


def container(state: Object) -> Object:
    one = {"name": "ray", "image": "", "imageID": "", "ready": False, "restartCount": 0, "state": state}
    return {"phase": "Pending", "containerStatuses": [one]}


def unschedulable(message: str) -> Object:
    return {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "message": message}]}


PULLING = (
    'Back-off pulling image "lab/sweeper:1": ErrImagePull: rpc error: code = NotFound desc = failed to pull: not found'
)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (
            unschedulable("0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: none."),
            "the head cannot be scheduled: 0/2 nodes are available: 2 Insufficient cpu",
        ),
        (
            unschedulable("0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims."),
            "the head cannot be scheduled: 0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims "
            "(its claims: sweeps)",
        ),
        (
            container({"waiting": {"reason": "ImagePullBackOff", "message": PULLING}}),
            "the head cannot pull the image lab/sweeper:1 (not found); name another with --image, and submit the sweep "
            "again",
        ),
        (
            container({"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "database" not found'}}),
            'the head cannot start (CreateContainerConfigError): secret "database" not found',
        ),
        (
            container({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}),
            "the head's container ray has ended with exit code 137 (OOMKilled)",
        ),
        (container({"waiting": {"reason": "ContainerCreating"}}), None),
        ({"phase": "Running"}, None),
    ],
)
def test_reason_of_a_pod_that_does_not_run(status: Object, reason: str | None) -> None:
    assert list(_of_one_pod(pod(status))) == ([reason] if reason else [])
