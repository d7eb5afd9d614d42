"""Rules for every manifest; each rule yields what breaks it, with the place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Any
from urllib.parse import urlsplit

import yaml

from tests.k8s.crd import Crd
from tests.k8s.manifests import K8S, Object, clusters, containers, environment, templates

Faults = Iterator[str]


def kubernetes_schema(objects: list[Object]) -> Faults:
    """Yield objects of Kubernetes's own kinds with keys that the official client's models drop."""
    from kubernetes import client

    api = client.ApiClient()
    for item in objects:
        if item["apiVersion"].startswith("ray.io/"):
            continue
        model = getattr(client, item["apiVersion"].rpartition("/")[2].capitalize() + item["kind"])
        name = f"{item['kind']} {item['metadata']['name']}"
        try:
            read = api.sanitize_for_serialization(model.from_dict(item))
        except (ValueError, TypeError) as error:
            yield f"{name}: {error}"
            continue
        if _filled(read) != _filled(item):
            yield f"{name}: has keys that Kubernetes does not know"


def ray_schema(objects: list[Object], crds: dict[str, Crd]) -> Faults:
    """Yield what KubeRay's definitions reject in Ray's kinds and in every template of a pod."""
    for item in objects:
        if item["kind"] in crds:
            yield from (f"{item['kind']}: {fault}" for fault in crds[item["kind"]].faults(item))
        if item["kind"] in ("Deployment", "StatefulSet"):  # the definition of a RayJob contains that of a pod
            job = {"metadata": {"name": "job"}, "spec": {"submitterPodTemplate": item["spec"]["template"]}}
            yield from (f"{item['kind']}: {fault}" for fault in crds["RayJob"].faults(job))


def pod_security(objects: list[Object]) -> Faults:
    """Yield what breaks the Pod Security Standard "restricted", field by field."""
    for name, template in templates(objects):
        pod = template["spec"]
        security = pod.get("securityContext", {})
        if security.get("runAsNonRoot") is not True or not security.get("runAsUser"):
            yield f"{name}: may run as root"
        if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{name}: has no seccomp profile"
        if any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC", "hostUsers")):
            yield f"{name}: shares the host's namespaces"
        if any(security.get(key) for key in ("sysctls", "windowsOptions", "seLinuxOptions", "appArmorProfile")):
            yield f"{name}: changes the kernel's settings"
        allowed = {"name", "configMap", "emptyDir", "persistentVolumeClaim", "secret", "projected", "downwardAPI"}
        for volume in pod.get("volumes", []):
            if not set(volume) <= allowed:
                yield f"{name}: volume {volume['name']} is of a kind that is not allowed"
    for name, container in containers(objects):
        security = container.get("securityContext", {})
        if security.get("allowPrivilegeEscalation") is not False:
            yield f"{name}: may gain privileges"
        if security.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{name}: keeps capabilities"
        if any(security.get(key) for key in ("privileged", "procMount")) or security.get("runAsUser") == 0:
            yield f"{name}: is privileged"
        if any("hostPort" in port for port in container.get("ports", [])):
            yield f"{name}: takes a port of the host"


def service_accounts(objects: list[Object]) -> Faults:
    """Yield pods other than heads with a token of the API server, and heads without one."""
    for name, template in templates(objects):
        if template["spec"].get("automountServiceAccountToken") is not name.endswith(" head"):
            yield f"{name}: has a token of the API server, or has none and needs one"


def resources(objects: list[Object]) -> Faults:
    """Yield containers whose requests and limits differ: another container could take what they were promised.

    For GPUs Kubernetes demands that they are equal.
    """
    for name, container in containers(objects):
        amounts = container.get("resources", {})
        requests, limits = amounts.get("requests", {}), amounts.get("limits", {})
        if not requests.get("memory") or not requests.get("cpu") or not limits.get("cpu"):
            yield f"{name}: has no requests or limits"
        for kind in ({*requests, *limits} - {"cpu"}) | {"memory"}:
            if requests.get(kind) != limits.get(kind):
                yield f"{name}: requests other {kind} than its limit"


def images(objects: list[Object], ray: str) -> Faults:
    """Yield images without a version, and our images and clusters of another version of Ray."""
    for name, container in containers(objects):
        if name.endswith("autoscaler"):  # the operator uses the head's image
            continue
        _, colon, tag = container.get("image", "").rpartition(":")
        if not colon or tag.startswith("latest"):
            yield f"{name}: its image {container.get('image')} has no version"
        elif "sweeper:" in container["image"] and not re.fullmatch(rf"[\d.]+-ray{re.escape(ray)}(-gpu)?", tag):
            yield f"{name}: its image {container['image']} is not of Ray {ray}"
    for name, cluster in clusters(objects):
        if cluster.get("rayVersion") != ray:
            yield f"{name}: its rayVersion is not {ray}"


_CLAIMS = "volumeClaimTemplates"
_SECRET = re.compile(r"PASSW|TOKEN|SECRET|CREDENTIAL|_KEY(_ID)?$|_USER$", re.IGNORECASE)


def secrets(objects: list[Object]) -> Faults:
    """Yield secrets that are written in a manifest, and references to secrets that README.md does not create."""
    described = (K8S / "README.md").read_text()
    known = {
        name: set(re.findall(r"--from-literal=([\w.-]+)=", arguments))
        for name, arguments in re.findall(r"create secret generic (\S+)((?:.*\\\n)*.*)", described)
    }
    for item in objects:
        if item["kind"] == "Secret":
            yield f"Secret {item['metadata']['name']}: is in clear text"
    for name, container in containers(objects):
        for variable, value in environment(container):
            if _SECRET.search(variable) and variable != "POSTGRES_USER":
                yield f"{name}: {variable} is in clear text"
            if urlsplit(value).password:
                yield f"{name}: {variable} has a password in it"
        wanted = [variable.get("valueFrom", {}).get("secretKeyRef") for variable in container.get("env", [])]
        wanted += [source["secretRef"] for source in container.get("envFrom", []) if "secretRef" in source]
        for reference in filter(None, wanted):
            if reference["name"] not in known or not {reference.get("key")} <= known[reference["name"]] | {None}:
                yield f"{name}: README.md creates no secret {reference}"
    for name, cluster in clusters(objects):
        if "auth_token" not in known.get(cluster.get("authOptions", {}).get("secretName", ""), ()):
            yield f"{name}: README.md creates no such token"


def references(objects: list[Object]) -> Faults:
    """Yield references to objects that do not exist."""
    names = {(item["kind"], item["metadata"]["name"]) for item in objects}
    claimed = {
        f"StatefulSet {item['metadata']['name']}": [claim["metadata"]["name"] for claim in item["spec"][_CLAIMS]]
        for item in objects
        if item["kind"] == "StatefulSet"
    }
    for name, template in templates(objects):
        pod = template["spec"]
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        mounts = [mount["name"] for container in pod["containers"] for mount in container.get("volumeMounts", [])]
        known = {*volumes, *claimed.get(name, ())}
        yield from (f"{name}: mounts {mount}, which is no volume" for mount in mounts if mount not in known)
        for volume in volumes.values():
            for kind, wanted in (
                ("ConfigMap", volume.get("configMap", {}).get("name")),
                ("PersistentVolumeClaim", volume.get("persistentVolumeClaim", {}).get("claimName")),
            ):
                if wanted and (kind, wanted) not in names:
                    yield f"{name}: there is no {kind} {wanted}"
        account = pod.get("serviceAccountName")
        if account and ("ServiceAccount", account) not in names:
            yield f"{name}: there is no ServiceAccount {account}"
        for toleration in pod.get("tolerations", []):
            if toleration.get("effect") not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
                yield f"{name}: tolerates {toleration}"
    for item in objects:
        if "namespace" in item["metadata"] and item["metadata"]["namespace"] != "sweeper":
            yield f"{item['kind']} {item['metadata']['name']}: is in another namespace"


def operator_rules(objects: list[Object]) -> Faults:
    """Yield what KubeRay's operator refuses although its schemas allow it, for the fields that are used here."""
    for item in objects:
        if item["kind"] == "RayJob":
            yield from _job_rules(item)
    for name, cluster in clusters(objects):
        version = tuple(int(part) for part in str(cluster.get("rayVersion", "0")).split("."))
        if cluster.get("authOptions", {}).get("mode") != "token" or version < (2, 52):
            yield f"{name}: accepts requests without a token"
        if any(cluster.get(key) for key in ("networkPolicy", "tlsOptions", "historyServerOptions", "upgradeStrategy")):
            yield f"{name}: uses a feature that is switched off in the operator"
        if cluster["authOptions"].get("enableK8sTokenAuth"):
            yield f"{name}: tokens of Kubernetes do not work for RayJobs"
        scaling = cluster.get("autoscalerOptions", {})
        if cluster.get("enableInTreeAutoscaling") is not True or scaling.get("version") != "v2":
            yield f"{name}: does not autoscale, in version 2"
        head = cluster["headGroupSpec"]
        if head["rayStartParams"].get("num-cpus") != "0":
            yield f"{name}: trials could run on its head"
        for group in [head, *cluster["workerGroupSpecs"]]:
            yield from _group_rules(f"{name} {group.get('groupName', 'head')}", group)


def _job_rules(job: Object) -> Faults:
    name, spec = job["metadata"]["name"], job["spec"]
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(name) > 47:
        yield f"RayJob {name}: its name is not one that the operator accepts"
    if spec.get("submissionMode", "K8sJobMode") not in ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"):
        yield f"RayJob {name}: has no such submissionMode"
    if not spec.get("shutdownAfterJobFinishes") and (spec.get("ttlSecondsAfterFinished") or spec.get("suspend")):
        yield f"RayJob {name}: only a cluster that is shut down can have a time to live or be suspended"
    if not spec.get("shutdownAfterJobFinishes"):
        yield f"RayJob {name}: leaves its cluster behind"
    if spec.get("clusterSelector") or spec.get("deletionStrategy"):
        yield f"RayJob {name}: uses a cluster that is not its own"
    if not 0 < spec.get("backoffLimit", 0) < 10:
        yield f"RayJob {name}: is not retried"
    if min(spec.get(key, 1) for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds")) < 1:
        yield f"RayJob {name}: has a deadline in the past"
    settings: Any = yaml.safe_load(spec.get("runtimeEnvYAML", ""))
    patience = int((settings or {}).get("env_vars", {}).get("RAY_JOB_STOP_WAIT_TIME_S", 3))
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    if not 30 <= patience < head.get("terminationGracePeriodSeconds", 30):
        yield f"RayJob {name}: leaves a sweep no time to stop"
    if spec["submitterPodTemplate"]["spec"].get("restartPolicy") not in ("Never", "OnFailure"):
        yield f"RayJob {name}: its submitter would be restarted for ever"


def _group_rules(name: str, group: Object) -> Faults:
    parameters = group["rayStartParams"]
    if not all(isinstance(value, str) for value in parameters.values()) or "labels" in parameters:
        yield f"{name}: has parameters of ray start that the operator rejects"
    if group.get("resources") and any(key.startswith("num-") or key == "resources" for key in parameters):
        yield f"{name}: declares its resources twice"
    least, most = group.get("minReplicas", 0), group.get("maxReplicas", 1)
    if not 0 <= least <= group.get("replicas", least) <= most or most < 1:
        yield f"{name}: its numbers of pods contradict each other"
    pod = group["template"]["spec"]
    if pod.get("restartPolicy", "Never") != "Never":
        yield f"{name}: the autoscaler needs pods that are not restarted"
    if not pod["containers"][0]["name"].startswith("ray-"):
        yield f"{name}: its first container must be Ray's"
    names = {variable["name"] for container in pod["containers"] for variable in container.get("env", [])}
    if names & {"RAY_enable_autoscaler_v2", "REDIS_PASSWORD", "RAY_REDIS_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}:
        yield f"{name}: sets a variable that the operator sets"


def allowed_hosts(objects: list[Object]) -> Faults:
    """Yield names of MLflow that it does not answer to, and patterns that match the name of any host."""
    servers = {item["metadata"]["name"] for item in objects if item["kind"] == "Service"}
    (name, container), *_ = [found for found in containers(objects) if found[0].endswith(" mlflow")]
    variables = dict(environment(container))
    patterns = variables.get("MLFLOW_SERVER_ALLOWED_HOSTS", "*").split(",")
    if any(fnmatch("evil.example", pattern) or fnmatch("10.1.2.3:5000", pattern) for pattern in patterns):
        yield f"{name}: answers to any name"
    if variables.get("MLFLOW_SERVER_ENABLE_JOB_EXECUTION") != "false":
        yield f"{name}: runs jobs"
    if "--disable-security-middleware" in container["command"]:
        yield f"{name}: does not check hosts"
    headers = container["readinessProbe"]["httpGet"].get("httpHeaders", [])
    called = [header["value"] for header in headers if header["name"] == "Host"]
    for _, other in containers(objects):
        uris = [urlsplit(value) for key, value in environment(other) if key == "MLFLOW_TRACKING_URI"]
        called += [uri.netloc for uri in uris]
        yield from (f"there is no service {uri.hostname}" for uri in uris if uri.hostname not in servers)
    if len(called) < 2:
        yield f"{name}: is not used by any container, or its probe sends no name"
    for host in called:
        if not any(fnmatch(host, pattern) for pattern in patterns):
            yield f"{name}: does not answer to {host}"


def rbac(objects: list[Object]) -> Faults:
    """Yield rights beyond the namespace, with wildcards, and to secrets but the one that viewers have to read."""
    known = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["database"], "verbs": ["get"]}
    for item in objects:
        if item["kind"] in ("ClusterRole", "ClusterRoleBinding"):
            yield f"{item['kind']} {item['metadata']['name']}: reaches beyond the namespace"
        for rule in item.get("rules", []):
            if item["metadata"]["name"] == "sweeper-viewer" and rule == known:
                continue
            if "*" in rule["verbs"] + rule["resources"] + rule["apiGroups"] or "secrets" in rule["resources"]:
                yield f"{item['kind']} {item['metadata']['name']}: allows too much"


def network(objects: list[Object]) -> Faults:
    """Yield what is reachable without a policy, and services whose policy opens other ports than theirs."""
    policies = [item["spec"] for item in objects if item["kind"] == "NetworkPolicy"]
    closed = [
        spec for spec in policies if spec["podSelector"] == {} and not spec.get("ingress") and not spec.get("egress")
    ]
    if not any(set(spec["policyTypes"]) == {"Ingress", "Egress"} for spec in closed):
        yield "pods that no policy selects are open"
    for spec in policies:
        for way in [*spec.get("ingress", []), *spec.get("egress", [])]:
            if not way.get("from") and not way.get("to"):
                yield f"a policy for {spec['podSelector']} opens to everybody"
    for item in objects:
        if item["kind"] == "Service":
            selector, ports = item["spec"]["selector"], {port["port"] for port in item["spec"]["ports"]}
            mine = [spec for spec in policies if spec["podSelector"].get("matchLabels") == selector]
            opened = {port["port"] for spec in mine for way in spec.get("ingress", []) for port in way["ports"]}
            if opened != ports:
                yield f"Service {item['metadata']['name']}: has ports that no policy opens, or others"


def namespace(objects: list[Object]) -> Faults:
    """Yield a fault if the namespace accepts pods that are not restricted."""
    for item in objects:
        if item["kind"] == "Namespace":
            if item["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") == "restricted":
                return
    yield "the namespace accepts pods that are not restricted"


def _filled(value: Any) -> Any:
    """Return a value without its empty parts, which Kubernetes omits."""
    if isinstance(value, dict):
        return {key: filled for key, inner in value.items() if (filled := _filled(inner)) not in ({}, [], None)}
    return [_filled(inner) for inner in value] if isinstance(value, list) else value
