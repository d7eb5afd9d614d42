from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from sweeper.backends import Submission
from sweeper.backends.rayjob import Template
from sweeper.spec import load_sweep
from tests.k8s import rules
from tests.k8s.conftest import ROOT
from tests.k8s.crd import Crd
from tests.k8s.manifests import K8S, OVERLAYS, Object, built, containers, described, one

pytest.importorskip("kubernetes", reason="the package kubernetes is not installed: pip install 'sweeper[k8s]'")
from kubernetes.utils.quantity import parse_quantity  # noqa: E402

RAY = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]  # type: ignore[index]

RULES: dict[str, Callable[[list[Object]], Iterator[str]]] = {
    rule.__name__: rule
    for rule in (
        rules.kubernetes_schema,
        rules.pod_security,
        rules.service_accounts,
        rules.resources,
        rules.secrets,
        rules.references,
        rules.operator_rules,
        rules.allowed_hosts,
        rules.rbac,
        rules.network,
        rules.namespace,
    )
} | {"images": lambda objects: rules.images(objects, RAY)}


@pytest.fixture(scope="session")
def overlays() -> dict[str, list[Object]]:
    return {name: built(K8S / "overlays" / name) for name in OVERLAYS}


@pytest.mark.parametrize("rule", RULES)
def test_manifests_keep_to_every_rule(rule: str) -> None:
    assert list(RULES[rule](described())) == []


def test_manifests_are_valid_for_kuberay(crds: dict[str, Crd]) -> None:
    assert list(rules.ray_schema(described(), crds)) == []


def test_objects_assembled_here_are_those_that_kustomize_builds(overlays: dict[str, list[Object]]) -> None:
    by_name = [
        {(item["kind"], item["metadata"]["name"]): item for item in objects}
        for objects in (described(), overlays["cpu"])
    ]
    assert by_name[0] == by_name[1]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_keeps_to_every_rule(overlays: dict[str, list[Object]], overlay: str, rule: str) -> None:
    assert list(RULES[rule](overlays[overlay])) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_is_valid_for_kuberay(
    overlays: dict[str, list[Object]], crds: dict[str, Crd], overlay: str
) -> None:
    assert list(rules.ray_schema(overlays[overlay], crds)) == []


CLUSTER = "RayJob/quick/spec/rayClusterSpec"
HEAD = f"{CLUSTER}/headGroupSpec/template/spec"
WORKER = f"{CLUSTER}/workerGroupSpecs/0"
POD = f"{WORKER}/template/spec"
MLFLOW = "Deployment/mlflow/spec/template/spec"
ENV = f"{MLFLOW}/containers/0/env"

BROKEN: list[tuple[str, str, Any, str]] = [
    ("kubernetes_schema", "Service/mlflow/spec/selecter", {"a": "b"}, "keys that Kubernetes does not know"),
    ("kubernetes_schema", "NetworkPolicy/dns/spec/policyTypes", "Egress", "valid list"),
    ("kubernetes_schema", "Deployment/mlflow/spec/selector", None, "selector"),
    ("pod_security", f"{POD}/securityContext/runAsNonRoot", None, "may run as root"),
    ("pod_security", f"{POD}/securityContext/runAsUser", 0, "may run as root"),
    ("pod_security", f"{MLFLOW}/securityContext/seccompProfile", None, "no seccomp profile"),
    ("pod_security", f"{HEAD}/hostNetwork", True, "host's namespaces"),
    ("pod_security", f"{HEAD}/securityContext/sysctls", [{"name": "a", "value": "b"}], "kernel's settings"),
    ("pod_security", f"{HEAD}/volumes/0/hostPath", {"path": "/"}, "is of a kind that is not allowed"),
    ("pod_security", f"{CLUSTER}/autoscalerOptions/securityContext", {}, "autoscaler: may gain privileges"),
    ("pod_security", f"{POD}/containers/0/securityContext/capabilities", {"drop": ["NET_RAW"]}, "keeps capabilities"),
    ("pod_security", f"{POD}/containers/0/securityContext/privileged", True, "is privileged"),
    ("pod_security", f"{MLFLOW}/containers/0/ports/0/hostPort", 5000, "port of the host"),
    ("service_accounts", f"{POD}/automountServiceAccountToken", None, "workers: has a token"),
    ("service_accounts", f"{HEAD}/automountServiceAccountToken", False, "needs one"),
    ("resources", f"{POD}/containers/0/resources/limits/memory", "32Gi", "other memory than its limit"),
    ("resources", f"{POD}/containers/0/resources/requests/nvidia.com~1gpu", "1", "other nvidia.com/gpu"),
    ("resources", f"{CLUSTER}/autoscalerOptions/resources", {}, "has no requests or limits"),
    ("images", f"{MLFLOW}/containers/0/image", "sweeper:latest", "has no version"),
    ("images", f"{MLFLOW}/containers/0/image", "sweeper", "has no version"),
    ("images", f"{HEAD}/containers/0/image", "sweeper:0.2.0-ray2.59.0", f"is not of Ray {RAY}"),
    ("images", f"{CLUSTER}/rayVersion", "2.59.0", "rayVersion is not"),
    ("secrets", "Service/mlflow/kind", "Secret", "is in clear text"),
    ("secrets", f"{ENV}/0", {"name": "AWS_SECRET_ACCESS_KEY", "value": "abc"}, "is in clear text"),
    ("secrets", f"{ENV}/0", {"name": "URI", "value": "postgresql://a:b@c/d"}, "has a password in it"),
    ("secrets", f"{ENV}/0/valueFrom/secretKeyRef/key", "other", "README.md creates no secret"),
    ("secrets", f"{CLUSTER}/authOptions/secretName", "other", "README.md creates no such token"),
    ("references", f"{HEAD}/volumes/1/configMap/name", "other", "there is no ConfigMap other"),
    ("references", f"{POD}/volumes/0/persistentVolumeClaim/claimName", "other", "no PersistentVolumeClaim other"),
    ("references", f"{POD}/containers/0/volumeMounts/0/name", "other", "mounts other, which is no volume"),
    ("references", f"{HEAD}/serviceAccountName", "other", "there is no ServiceAccount other"),
    ("references", f"{POD}/tolerations", [{"key": "a", "effect": "Never"}], "tolerates"),
    ("references", "Service/mlflow/metadata/namespace", "default", "is in another namespace"),
    ("operator_rules", "RayJob/quick/metadata/name", "q" * 48, "its name"),
    ("operator_rules", "RayJob/quick/spec/submissionMode", "K8SJobMode", "no such submissionMode"),
    ("operator_rules", "RayJob/quick/spec/shutdownAfterJobFinishes", None, "leaves its cluster behind"),
    ("operator_rules", "RayJob/quick/spec/backoffLimit", None, "is not retried"),
    ("operator_rules", "RayJob/quick/spec/clusterSelector", {"a": "b"}, "not its own"),
    ("operator_rules", "RayJob/quick/spec/preRunningDeadlineSeconds", 0, "deadline in the past"),
    ("operator_rules", "RayJob/quick/spec/runtimeEnvYAML", "{}", "no time to stop"),
    ("operator_rules", f"{HEAD}/terminationGracePeriodSeconds", 30, "no time to stop"),
    ("operator_rules", "RayJob/quick/spec/submitterPodTemplate/spec/restartPolicy", "Always", "restarted for ever"),
    ("operator_rules", f"{CLUSTER}/authOptions/mode", None, "without a token"),
    ("operator_rules", f"{CLUSTER}/authOptions/enableK8sTokenAuth", True, "do not work for RayJobs"),
    ("operator_rules", f"{CLUSTER}/tlsOptions", {"a": 1}, "switched off in the operator"),
    ("operator_rules", f"{CLUSTER}/autoscalerOptions/version", "v1", "in version 2"),
    ("operator_rules", f"{CLUSTER}/headGroupSpec/rayStartParams", {}, "trials could run on its head"),
    ("operator_rules", f"{WORKER}/rayStartParams", {"labels": "a=b"}, "operator rejects"),
    ("operator_rules", f"{CLUSTER}/headGroupSpec/resources", {"CPU": "0"}, "its resources twice"),
    ("operator_rules", f"{WORKER}/minReplicas", 9, "contradict each other"),
    ("operator_rules", f"{POD}/restartPolicy", "Always", "not restarted"),
    ("operator_rules", f"{POD}/containers/0/name", "main", "must be Ray's"),
    ("operator_rules", f"{POD}/containers/0/env", [{"name": "RAY_AUTH_MODE", "value": "disabled"}], "operator sets"),
    ("allowed_hosts", "Service/mlflow/metadata/name", "tracking", "there is no service mlflow"),
    ("allowed_hosts", f"{HEAD}/containers/0/env/2/value", "http://mlflow:80", "does not answer to mlflow:80"),
    ("allowed_hosts", f"{MLFLOW}/containers/0/readinessProbe/httpGet/httpHeaders/0/value", "10.0.0.1", "10.0.0.1"),
    ("allowed_hosts", f"{ENV}/2/value", "*", "answers to any name"),
    ("allowed_hosts", f"{ENV}/3/value", "true", "runs jobs"),
    ("allowed_hosts", f"{MLFLOW}/containers/0/command/2", "--disable-security-middleware", "does not check hosts"),
    ("rbac", "Role/sweeper-submitter/rules/0/verbs", ["*"], "allows too much"),
    ("rbac", "Role/sweeper-submitter/rules/2/resources", ["secrets"], "allows too much"),
    ("rbac", "Role/sweeper-submitter/kind", "ClusterRole", "beyond the namespace"),
    ("network", "NetworkPolicy/default-deny/spec/policyTypes", ["Ingress"], "are open"),
    ("network", "NetworkPolicy/mlflow/spec/ingress/0/from", None, "opens to everybody"),
    ("network", "NetworkPolicy/mlflow/spec/ingress/0/ports/0/port", 80, "Service mlflow: has ports"),
    ("namespace", "Namespace/sweeper/metadata/labels", {}, "not restricted"),
]


def broken(objects: list[Object], place: str, value: Any) -> list[Object]:
    """Return the objects with another value in one place; None removes the place."""
    objects = copy.deepcopy(objects)
    kind, name, *path, last = place.split("/")
    inner: Any = one(objects, kind, name)
    for key in path:
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    key = int(last) if isinstance(inner, list) else last.replace("~1", "/")
    if value is None:
        del inner[key]
    else:
        inner[key] = value
    return objects


@pytest.mark.parametrize(("rule", "place", "value", "fault"), BROKEN)
def test_each_rule_sees_what_breaks_it(rule: str, place: str, value: Any, fault: str) -> None:
    assert any(fault in line for line in RULES[rule](broken(described(), place, value)))


@pytest.mark.parametrize(
    ("place", "value", "fault"),
    [
        ("RayJob/quick/spec/entrypiont", "x", "'entrypiont' was unexpected"),
        (f"{CLUSTER}/headGroupSpec/rayStartParams/num-cpus", 0, "0 is not of type 'string'"),
        (f"{POD}/containers/0/resources/limits/memory", "16GB", "does not match"),
        (f"{CLUSTER}/authOptions/mode", "tokens", "is not one of"),
        (f"{WORKER}/groupName", None, "'groupName' is a required property"),
        (f"{POD}/containers/0/volumeMount", [], "'volumeMount' was unexpected"),
        (f"{MLFLOW}/containers/0/livenesProbe", {}, "'livenesProbe' was unexpected"),
        ("RayCluster/shared/spec/headGroupSpec", None, "'headGroupSpec' is a required property"),
    ],
)
def test_schemas_see_what_breaks_them(crds: dict[str, Crd], place: str, value: Any, fault: str) -> None:
    lines = list(rules.ray_schema(broken(described(), place, value), crds))
    assert any(fault in line for line in lines), lines


def test_submitted_rayjob_is_the_manifest_filled_in() -> None:
    config, job = Template().render(Submission("quick", (K8S / "base" / "sweep.yaml").read_text()))
    assert without_runtime(job) == without_runtime(one(described(), "RayJob"))
    assert config["data"] == one(described(), "ConfigMap", "quick")["data"]


def test_submitted_rayjob_with_gpus_is_that_of_the_overlay(overlays: dict[str, list[Object]]) -> None:
    job = Template(gpus=1).render(Submission("quick", ""))[1]
    assert without_runtime(job) == without_runtime(one(overlays["gpu"], "RayJob"))


def without_runtime(job: Object) -> Object:
    """Return a RayJob without its runtime environment: `submit` adds its version to that."""
    return job | {"spec": {key: value for key, value in job["spec"].items() if key != "runtimeEnvYAML"}}


def test_submitted_rayjob_keeps_to_every_rule_with_every_value_filled_in(crds: dict[str, Crd]) -> None:
    template = Template(image="example.org/sweeper:0.2.0-ray" + RAY, gpus=2, workers=9)
    rendered = template.render(Submission("My_Sweep", "name: My_Sweep"))
    objects = [item for item in described() if item["kind"] != "RayJob"] + rendered
    assert [fault for rule in RULES.values() for fault in rule(objects)] == []
    assert list(rules.ray_schema(objects, crds)) == []
    (worker,) = rendered[1]["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert worker["maxReplicas"] == 9
    (container,) = worker["template"]["spec"]["containers"]
    assert container["image"] == f"example.org/sweeper:0.2.0-ray{RAY}-gpu"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"


@pytest.mark.parametrize("overlay", [overlay for overlay in OVERLAYS if overlay != "small"])
def test_permanent_cluster_is_the_one_of_the_rayjob(overlays: dict[str, list[Object]], overlay: str) -> None:
    objects = overlays[overlay]
    assert one(objects, "RayCluster")["spec"] == one(objects, "RayJob")["spec"]["rayClusterSpec"]


def test_spot_workers_are_preferred_and_others_replace_them(
    overlays: dict[str, list[Object]],
) -> None:
    spot, others = one(overlays["spot"], "RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert spot["priority"] > others.get("priority", 0)
    assert spot["template"]["spec"]["nodeSelector"] and "nodeSelector" not in others["template"]["spec"]
    assert others["minReplicas"] == 0 and others["maxReplicas"] == spot["maxReplicas"]
    for group in (spot, others):
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_small_overlay_fits_into_two_cores(overlays: dict[str, list[Object]]) -> None:
    amounts = {name: container["resources"]["requests"] for name, container in containers(overlays["small"])}
    amounts["a second worker"] = amounts["RayJob quick workers ray-worker"]
    assert one(overlays["small"], "RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"] == 2
    assert sum(float(parse_quantity(amount["cpu"])) for amount in amounts.values()) < 2
    assert sum(float(parse_quantity(amount["memory"])) for amount in amounts.values()) <= 12 * 2**30


def test_secrets_reach_only_the_containers_that_need_them() -> None:
    holders: dict[str, set[str]] = {"database": set()}
    for name, container in containers(described()):
        keys = [variable.get("valueFrom", {}).get("secretKeyRef", {}) for variable in container.get("env", [])]
        for reference in [*keys, *(source["secretRef"] for source in container.get("envFrom", []))]:
            if reference:
                holders[reference["name"]].add(name.rpartition(" ")[2])
    assert holders == {"database": {"ray-head", "mlflow", "postgres"}}


def test_sweep_of_the_manifests_is_valid() -> None:
    assert load_sweep(K8S / "base" / "sweep.yaml").name == "quick"


def test_image_is_pinned_and_does_not_run_as_root() -> None:
    dockerfile = (K8S / "Dockerfile").read_text()
    base, *_ = re.findall(r"^ARG BASE=(\S+)$", dockerfile, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base)
    assert re.findall(r"^USER (.+)$", dockerfile, re.MULTILINE)[-1] == "1000:1000"
    installs = re.findall(r"^RUN pip install (.+)$", dockerfile, re.MULTILINE)
    assert len(installs) == 1 and "--constraint constraints.txt" in installs[0]
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {"ray", "boto3", "psycopg", "tensorflow", "mlflow", "aiohttp-cors", "opencensus"} <= pinned
    head = yaml.safe_load((K8S / "base" / "rayjob.yaml").read_text())["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert f"-t {head['template']['spec']['containers'][0]['image']} ." in dockerfile
