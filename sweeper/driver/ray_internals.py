"""Every private name of Ray that sweeper uses, as of Ray 2.60: one function each, with its reason.

Those of Ray Tune are in `tune_internals`. `test_ray_internals.py` fails when a name moves. Functions import Ray:
commands that need none load this module too.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.job_config import JobConfig


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give an attribute another value while the block runs."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def resolve_address(address: str) -> str | None:
    """Return HOST:PORT that Ray connects to for an address; None if there is no cluster that `auto` could mean.

    Ray 2.60. The public way, `ray.init`, joins the cluster; it must first be known to answer and to require a token.
    """
    from ray._private.services import canonicalize_bootstrap_address

    with suppress(ConnectionError):
        return canonicalize_bootstrap_address(address)  # type: ignore[no-any-return]
    return None


def reload_auth_token() -> None:
    """Make Ray read RAY_AUTH_MODE and the token again. Ray 2.60 reads them once, when it is imported."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")  # first: a thread that reloads the token in between must find the new mode
    AuthenticationTokenLoader.instance().reset_cache()


def auth_token(*, is_optional: bool = False) -> str:
    """Return the token that Ray authenticates with; "" if there is none, or its file cannot be read.

    Ray 2.60 has no public way to ask which of its variables and files holds it. With `is_optional`, also return a token
    that RAY_AUTH_MODE does not demand.
    """
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError

    reload_auth_token()
    with suppress(AuthenticationError):
        return str(AuthenticationTokenLoader.instance().get_raw_token(ignore_auth_mode=is_optional))
    return ""


def listen_on_loopback_only() -> AbstractContextManager[None]:
    """Make a Ray that is started in the block listen on the loopback address only, as on macOS and Windows.

    Ray 2.60. The public variable, RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0, is read only when Ray is imported, and child
    processes would inherit it.
    """
    from ray._private import ray_constants

    return replaced(ray_constants, "ENABLE_RAY_CLUSTER", False)


def job_config(folders: list[str]) -> JobConfig:
    """Return the configuration of a job whose workers get these folders on Python's path, and no others.

    Ray 2.60 would put the working folder and that of the driver's script before everything that is installed.
    """
    from ray.job_config import JobConfig

    fixed = type("Fixed", (list,), {"extend": lambda self, others: None})
    config = JobConfig()
    config._py_driver_sys_path = fixed(folders)
    return config


@contextmanager
def own_signal_handlers() -> Iterator[None]:
    """Keep this process's signal handlers while `ray.init` runs in the block.

    Ray 2.60 has no option against its own. That in Python would end the process with code 15 while Ray starts. Those of
    its C++ core, which are installed last, take over Ctrl-C and print a page at SIGTERM.
    """
    from ray._private import utils

    ours = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with replaced(utils, "set_sigterm_handler", lambda handler: None):
            yield
    finally:
        if threading.current_thread() is threading.main_thread():  # no other thread may set signal handlers
            for number, handler in ours.items():
                signal.signal(number, handler)


def processes_in_own_sessions(end: Callable[[Any], None]) -> AbstractContextManager[None]:
    """Start Ray's processes, within the block, in sessions of their own: no signal of the terminal reaches them.

    Ray 2.60. A terminal that closes would end Ray while the driver stops its trials. The kernel ends them with the
    driver all the same; where it cannot, Ray does by the process group, which they must stay in. `ray.shutdown` calls
    `end` with each process: alone, it gives each a second to end by itself, one after the other.
    """
    from ray._private import services, utils

    kind = type("Process", (services.ConsolePopen,), {"terminate": end})
    popen = partial(kind, start_new_session=bool(utils.detect_fate_sharing_support()))
    return replaced(services, "ConsolePopen", popen)


@contextmanager
def without_helpers() -> Iterator[None]:
    """Start Ray, within the block, without three processes that a sweep on one machine does not need.

    Ray 2.60 has no option for them: the server of the dashboard, which starts even where there is to be no dashboard,
    the monitor that copies what workers print, and the autoscaler, which has nodes to add only in a cluster. They
    compute for 1.9 s while the first trials wait for a processor.
    """
    from ray._private.node import Node

    with ExitStack() as stack:
        for name in ("start_api_server", "start_log_monitor", "start_monitor"):
            stack.enter_context(replaced(Node, name, lambda self, **options: None))
        yield


def wait_for_node(is_starting: Callable[[], bool], longest_s: float = 180.0) -> AbstractContextManager[None]:
    """Make `ray.init`, within the block, go on as soon as the node that it starts is there, and wait for it longer.

    Ray 2.60 asks for it once a second, and gives up after 30 s, which a machine that starts from a slow disk may need.
    It has no option for either.

    Args:
        is_starting: whether there is still a node to wait for; asked once a second. If not, `ray.init` raises OSError.
    """
    from ray._private import services, state

    wait, every_s = services.get_node, 0.02

    def get_node(gcs_address: str, node_id: str) -> Any:
        found, began = state.GlobalState(), time.monotonic()
        found._initialize_global_state(services._get_gcs_client_options(gcs_address))
        deadline, due = began + longest_s, began + 1
        while not any(node["NodeID"] == node_id and node["Alive"] for node in found.node_table()):
            if (now := time.monotonic()) > deadline:
                break
            if now > due:
                due = now + 1
                if not is_starting():
                    raise OSError("its raylet ended while it started")
            time.sleep(every_s)
        return wait(gcs_address, node_id)

    return replaced(services, "get_node", get_node)


def silence_worker_logs() -> AbstractContextManager[None]:
    """Stop Ray 2.60, within the block, from printing a page about dead processes to stdout, which is for results."""
    from ray._private import worker

    return replaced(worker, "print_to_stdstream", lambda *message, **how: None)


def detect_local_resources(cpus: int | None) -> dict[str, float]:
    """Return the resources that a Ray started on this machine would have, without starting it.

    Ray 2.60. The public way, `ray.cluster_resources()`, needs a running Ray. Without `cpus` Ray uses all that it finds.
    """
    from ray._private.resource_and_label_spec import ResourceAndLabelSpec

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    spec = ResourceAndLabelSpec(num_cpus=cpus)
    return dict(spec.resolve(is_head=True, node_ip_address="127.0.0.1").to_resource_dict())


def autoscaler_status() -> tuple[dict[str, Any], bool]:
    """Return the last report of Ray's first autoscaler ({} without one), and whether the second one is enabled.

    Ray 2.60. `ray status` prints text only, `ray.autoscaler.sdk` only requests, and the REST API needs the dashboard.
    """
    from ray import _raylet
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.experimental.internal_kv import _internal_kv_get

    raylet: Any = _raylet
    status = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or "{}").get("autoscaler_report") or {}
    namespace = raylet.GCS_AUTOSCALER_STATE_NAMESPACE.encode()
    return status, _internal_kv_get(raylet.GCS_AUTOSCALER_V2_ENABLED_KEY, namespace=namespace) == b"1"


def node_of_actor(actor_id: str) -> str:
    """Return the id of an actor's node; "" if it has none. Ray 2.60: the public `get_actor` needs the dashboard."""
    from ray._private.state import actors

    return str(actors(actor_id).get("Address", {}).get("NodeID", ""))


def draining_nodes() -> set[str]:
    """Return the ids of the nodes that are being drained. Ray 2.60: the public `list_nodes` needs the dashboard."""
    from ray._private.state import state

    return set(state.get_draining_nodes())


def has_other_jobs() -> bool:
    """Return whether other programs use the connected cluster.

    Ray 2.60. The public way, `ray.util.state.list_jobs`, needs the dashboard, whose own jobs do not count.
    """
    import ray
    from ray._private.worker import global_worker

    jobs = global_worker.gcs_client.get_all_job_info(
        skip_submission_job_info_field=True, skip_is_running_tasks_field=True
    )
    own = ray.get_runtime_context().get_job_id()
    spaces = [job.config.ray_namespace for id, job in jobs.items() if not job.is_dead and id.hex() != own]
    return not all(space.startswith(("_ray_internal", "SUPERVISOR_ACTOR")) for space in spaces)


def job_brought_its_code() -> bool:
    """Return whether this process is the driver of a submitted job, whose runtime environment holds the code.

    Ray 2.60. The public way, `ray.get_runtime_context().runtime_env`, answers only after `ray.init`, which needs to
    know: two environments that both bring code are refused.
    """
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

    return RAY_JOB_CONFIG_JSON_ENV_VAR in os.environ
