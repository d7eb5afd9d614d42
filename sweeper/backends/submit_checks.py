"""What is checked before anything is created on Kubernetes: rights, the namespace, KubeRay, and the RayJob itself."""

from __future__ import annotations

from typing import Any

from sweeper.backends.kubernetes_api import ROLE, KubernetesApi, reason_of
from sweeper.backends.rayjob import QUEUE_LABEL, Object
from sweeper.core.errors import BackendError, InputError
from sweeper.core.text import format_list

REQUEST_OPTIONS = {"_request_timeout": (5.0, 10.0)}
"""Options of the checks: seconds to connect, and between two pieces of an answer. Somebody waits for them."""

RAYJOBS = {"group": "ray.io", "version": "v1", "plural": "rayjobs"}

KUBERAY = "1.7"
"""Version of KubeRay whose RayJob sweeper fills in."""

_RIGHTS = (
    ("ray.io", "rayjobs", ("get", "create", "patch", "delete")),
    ("ray.io", "rayjobs/finalizers", ("update",)),
    ("", "configmaps", ("create", "patch", "delete")),
    ("", "pods", ("list",)),
    ("", "pods/log", ("get",)),
    ("", "events", ("list",)),
)
"""API group, resource and verbs of all requests for a sweep, from its submission to its end."""

_RIGHTS_WITH_QUEUE = (("kueue.x-k8s.io", "workloads", ("list", "patch")),)


def check_submission(api: KubernetesApi, namespace: str, job: Object, *, is_own: bool) -> None:
    """Check that a RayJob can be created, without creating it. Errors of the client are raised as they are.

    Args:
        is_own: the RayJob is not the one of sweeper, but of a person.

    Raises:
        InputError: the namespace does not exist, or the RayJob of a person is wrong.
        BackendError: rights are missing, or KubeRay is of another version.
    """
    _check_rights(api, namespace, has_queue=QUEUE_LABEL in job["metadata"].get("labels", {}))
    try:
        api.jobs.create_namespaced_custom_object(
            **RAYJOBS, namespace=namespace, body=job, dry_run="All", field_validation="Strict", **REQUEST_OPTIONS
        )
    except api.errors.ConflictException:  # the sweep was submitted before
        return
    except api.errors.NotFoundException as error:
        if not reason_of(error)[0]:
            raise
        raise InputError(
            f"the cluster has no namespace {namespace}. Create it, as k8s/README.md describes, or name another one "
            "with --namespace"
        ) from error
    except api.errors.BadRequestException as error:
        message = reason_of(error)[1]
        if "strict decoding error" not in message:
            raise
        fields = message.partition("strict decoding error: ")[2]
        if is_own:
            raise InputError(
                f"--rayjob: the cluster's KubeRay does not take the RayJob: {fields}. Correct it; sweeper needs "
                f"KubeRay {KUBERAY}"
            ) from error
        raise BackendError(
            f"the cluster's KubeRay is of another version than {KUBERAY}, which sweeper needs: {fields}"
        ) from error


def _check_rights(api: KubernetesApi, namespace: str, *, has_queue: bool) -> None:
    missing = [
        f"{verb} {resource}"
        for group, resource, verbs in (*_RIGHTS, *(_RIGHTS_WITH_QUEUE if has_queue else ()))
        for verb in verbs
        if not _is_allowed(api, namespace, group, resource, verb)
    ]
    if missing:
        raise BackendError(
            f"the Kubernetes API at {api.host} does not allow you to {format_list(missing)} in namespace {namespace}, "
            f"if that exists. {ROLE}"
        )


def _is_allowed(api: KubernetesApi, *right: str) -> bool:
    namespace, group, path, verb = right
    resource, _, subresource = path.partition("/")
    asked = {"namespace": namespace, "group": group, "resource": resource, "subresource": subresource, "verb": verb}
    review: Any = {"spec": {"resourceAttributes": asked}}
    return bool(api.authorization.create_self_subject_access_review(review, **REQUEST_OPTIONS).status.allowed)
