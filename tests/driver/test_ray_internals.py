"""What sweeper relies on in Ray and what Ray does not promise: each test fails when the library moves."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import CodeType, SimpleNamespace
from typing import Any

import psutil
import pytest
import ray
from ray._private import ray_constants, services, state, utils, worker
from ray._private.authentication_test_utils import reset_auth_token_state
from ray._private.node import Node
from ray._raylet import AuthenticationTokenLoader
from ray.air._internal import usage
from ray.air.execution import FixedResourceManager, ResourceRequest
from ray.air.execution._internal import RayActorManager
from ray.tune.execution import class_cache
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.registry import register_trainable

from sweeper.driver import ray_internals, tune_internals
from sweeper.driver.actor import TrialActor
from sweeper.driver.capacity import can_autoscale
from tests.driver.conftest import SharedRay

JOIN = """
import sys, ray
from sweeper.driver.ray_internals import listen_on_loopback_only

with listen_on_loopback_only():
    ray.init(sys.argv[1], log_to_driver=False)
print("joined", flush=True)
sys.stdin.read()
"""


MONITORED = """
import json, time, ray
from ray.cluster_utils import Cluster
from sweeper.driver.capacity import can_autoscale
from sweeper.driver.ray_internals import autoscaler_status

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
ray.init(cluster.address, log_to_driver=False)
while not (status := autoscaler_status())[0]:
    time.sleep(0.2)
(node,) = ray.nodes()
print(json.dumps([*status, node["NodeID"], can_autoscale()]))
ray.shutdown()
cluster.shutdown()
"""


def names_in(function: Callable[..., Any]) -> set[str]:
    """List the attributes and globals that the code of a function uses, within its own functions too."""

    def names(code: CodeType) -> set[str]:
        inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        return set(code.co_names).union(*map(names, inner))

    return names(function.__code__)


class Echo:
    def say(self, word: str) -> str:
        return word


@pytest.fixture
def trial() -> TuneTrial:
    register_trainable("nothing", TrialActor)
    return TuneTrial("nothing", stub=True)


def test_address_auto_means_what_ray_address_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    assert ray_internals.resolve_address("auto") == "192.0.2.1:6379"


def test_ray_takes_the_loopback_address_for_that_of_this_machine() -> None:
    assert ray_internals.resolve_address("127.0.0.1:6379") == f"{services.get_node_ip_address()}:6379"
    assert ray_internals.resolve_address("far.example:6379") == "far.example:6379"


def test_token_is_read_from_the_environment_again(monkeypatch: pytest.MonkeyPatch, shared_ray: SharedRay) -> None:
    shared_ray.close()  # it would be asked with the wrong token
    with monkeypatch.context() as patch:
        for token in ("a" * 64, "b" * 64):
            patch.setenv("RAY_AUTH_MODE", "token")
            patch.setenv("RAY_AUTH_TOKEN", token)
            ray_internals.reload_auth_token()
            assert AuthenticationTokenLoader.instance().get_raw_token() == token
    reset_auth_token_state()


def test_ray_started_in_the_block_listens_on_the_loopback_address() -> None:
    assert ray_constants.ENABLE_RAY_CLUSTER
    with ray_internals.listen_on_loopback_only():
        assert services.get_node_ip_address() == "127.0.0.1"
    assert ray_constants.ENABLE_RAY_CLUSTER and "ENABLE_RAY_CLUSTER" in names_in(services.get_node_ip_address)


def test_ray_installs_its_signal_handler_where_it_is_stopped() -> None:
    before, install = signal.getsignal(signal.SIGTERM), utils.set_sigterm_handler
    assert "set_sigterm_handler" in names_in(inspect.unwrap(ray.init))
    with ray_internals.own_signal_handlers():
        utils.set_sigterm_handler(lambda *_: None)
        assert signal.getsignal(signal.SIGTERM) is before
        signal.signal(signal.SIGTERM, lambda *_: None)  # as the C++ core does
    assert signal.getsignal(signal.SIGTERM) is before and utils.set_sigterm_handler is install


def test_ray_prints_dead_processes_where_it_is_silenced(capsys: pytest.CaptureFixture[str]) -> None:
    page = {"lines": ["a worker died"], "pid": "raylet", "is_err": False}
    assert "print_to_stdstream" in names_in(worker.listen_error_messages)
    with ray_internals.silence_worker_logs():
        worker.print_to_stdstream(page, ignore_prefix=False)
    assert capsys.readouterr().out == ""
    worker.print_to_stdstream(page, ignore_prefix=False)
    assert "a worker died" in capsys.readouterr().out


def test_resources_are_detected_without_starting_ray() -> None:
    found = ray_internals.detect_local_resources(3)
    assert found["CPU"] == 3 and found["memory"] > 1e8
    assert ray_internals.detect_local_resources(None)["CPU"] >= 1


def test_ray_of_our_own_has_no_autoscaler(any_ray: None) -> None:
    assert ray_internals.autoscaler_status() == ({}, False) and not can_autoscale()


def test_autoscaler_that_only_monitors_reports_invented_names() -> None:
    command = [sys.executable, "-W", "ignore", "-c", MONITORED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    report, is_second, node, can_grow = json.loads(done.stdout.splitlines()[-1])
    assert report["active_nodes"] == {f"node_{node}": 1} and not is_second and not can_grow


def test_node_of_a_dead_actor_is_known_and_not_draining(any_ray: None, trial: TuneTrial) -> None:
    @ray.remote(num_cpus=0)
    class Idle:
        def get_auto_filled_metrics(self, **_: Any) -> dict[str, Any]:
            return {}

    actor = Idle.remote()
    trial.set_ray_actor(actor)
    assert tune_internals.actor_of(trial) is actor
    ray.get(actor.get_auto_filled_metrics.remote())
    ray.kill(actor)
    (node,) = ray.nodes()
    assert ray_internals.node_of_actor(str(tune_internals.actor_id_of(trial))) == node["NodeID"]
    assert ray_internals.draining_nodes() == set()


def test_trial_has_no_actor_before_it_starts(trial: TuneTrial) -> None:
    assert tune_internals.actor_of(trial) is None and tune_internals.actor_id_of(trial) is None


def test_driver_of_a_submitted_job_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not ray_internals.job_brought_its_code()
    monkeypatch.setenv(worker.RAY_JOB_CONFIG_JSON_ENV_VAR, "{}")
    assert ray_internals.job_brought_its_code()


def test_tune_gives_no_environment_and_counts_no_callbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= class_cache.ENV_VARS_TO_PROPAGATE
    for name in class_cache.ENV_VARS_TO_PROPAGATE:
        monkeypatch.setenv(name, "canary")
    before, count = (dict(class_cache.DEFAULT_ENV_VARS), set(class_cache.ENV_VARS_TO_PROPAGATE)), usage.tag_callbacks
    with tune_internals.skip_runtime_env_and_telemetry():
        worker_class = class_cache._ActorClassCache().get(TrialActor)
        assert not worker_class._default_options["runtime_env"].get("env_vars")
        assert usage.tag_callbacks([]) is False
    assert (class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE) == before and usage.tag_callbacks is count
    assert "tag_callbacks" in names_in(ray.tune.run)


def test_tune_reports_errors_and_does_not_retry(trial: TuneTrial) -> None:
    before, errors = TuneTrial.handle_error, []
    assert "handle_error" in names_in(TuneController._process_trial_failure)
    with tune_internals.report_errors_to(lambda failed, text: errors.append((failed, text))):
        trial.handle_error(RuntimeError("its worker died"))
    assert errors == [(trial, "its worker died")] and not trial.should_recover()
    assert TuneTrial.handle_error is before


def test_tune_keeps_staged_trials_where_they_are_unstaged() -> None:
    assert "_staged_trials" in names_in(TuneController.__init__)
    unstaged: list[str] = []
    controller = SimpleNamespace(_staged_trials={"staged"}, _unstage_trial_with_resources=unstaged.append)
    tune_internals.unstage(controller, "staged")
    tune_internals.unstage(controller, "other")
    assert unstaged == ["staged"] and callable(TuneController._unstage_trial_with_resources)


def test_tune_keeps_ended_trials_where_they_are_forgotten(trial: TuneTrial) -> None:
    lists = {"_trials": [trial], "_stopped_trials": {trial}, "_failed_trials": {trial}, "_trials_to_cache": {trial}}
    assert {*lists, "_trial_metadata"} <= names_in(TuneController.__init__)
    controller = SimpleNamespace(**lists, _trial_metadata={trial.trial_id: "{}"})
    tune_internals.forget_trial(controller, trial)
    assert not any(vars(controller).values())


def test_workers_get_the_folders_that_are_given_and_no_others() -> None:
    config = ray_internals.job_config(["/here"])
    config._py_driver_sys_path.extend(["/there"])  # what `ray.init` does
    assert list(config._get_proto_job_config().py_driver_sys_path) == ["/here"]
    assert "_py_driver_sys_path" in names_in(inspect.unwrap(worker.connect))


@pytest.mark.usefixtures("any_ray")
def test_answers_that_tune_has_not_handled_yet_are_known() -> None:
    assert {"_actor_manager"} <= names_in(TuneController.__init__)
    manager = RayActorManager(FixedResourceManager())
    worker = manager.add_actor(ray.remote(Echo), {}, ResourceRequest([{"CPU": 0.1}]))
    handled: list[Any] = []
    for word in ("first", "second", "third"):
        manager.schedule_actor_task(
            worker,
            "say",
            (word,),
            on_result=lambda _, answer: handled.append(answer),
            on_error=lambda _, error: handled.append(error),
        )
    while not handled:
        manager.next(timeout=1.0)
    controller = SimpleNamespace(_actor_manager=manager)
    while len(answers := tune_internals.arrived_answers(controller)) < 2:
        time.sleep(0.05)
    assert sorted([*handled, *answers]) == ["first", "second", "third"]
    while manager.next(timeout=0.5):
        pass
    assert sorted(handled) == ["first", "second", "third"]
    assert tune_internals.arrived_answers(controller) == []
    manager.cleanup()


def test_tune_reuses_no_worker_that_it_does_not_count_as_started() -> None:
    assert {"_started_actors", "_reuse_actors"} <= names_in(TuneController._maybe_cache_trial_actor)
    assert "_maybe_cache_trial_actor" in names_in(TuneController._schedule_trial_stop)


def test_ray_starts_its_processes_where_they_get_sessions_of_their_own() -> None:
    assert "ConsolePopen" in names_in(services.start_ray_process)
    assert {"terminate", "wait"} <= names_in(Node._kill_process_impl)
    assert utils.detect_fate_sharing_support()
    before = services.ConsolePopen
    ended: list[int] = []
    with ray_internals.processes_in_own_sessions(lambda process: ended.append(process.pid)):
        process = services.start_ray_process(["sleep", "60"], "sleep", fate_share=True).process
    try:
        assert os.getsid(process.pid) == process.pid != os.getsid(0)
        process.terminate()
        assert ended == [process.pid] and process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert services.ConsolePopen is before


def test_ray_starts_three_processes_less_where_they_are_left_out(any_ray: None) -> None:
    starts = {name: getattr(Node, name) for name in ("start_api_server", "start_log_monitor", "start_monitor")}
    assert starts.keys() <= names_in(Node.start_head_processes) | names_in(Node.start_ray_processes)
    with ray_internals.without_helpers():
        assert all(getattr(Node, name)(None, include_dashboard=False) is None for name in starts)
    assert {name: getattr(Node, name) for name in starts} == starts
    children = [one for one in psutil.Process().children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]
    running = [part for child in children for part in child.cmdline()]
    assert any(part.endswith("raylet") for part in running)
    assert not any(part.endswith(("dashboard/dashboard.py", "log_monitor.py", "/monitor.py")) for part in running)


def test_node_that_starts_is_noticed_within_a_fraction_of_a_second(any_ray: None) -> None:
    assert "get_node" in names_in(Node.__init__)
    own = ray.get_runtime_context()
    before = services.get_node
    with ray_internals.wait_for_node(lambda: True):
        found = services.get_node(own.gcs_address, own.get_node_id())
        began = time.monotonic()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(state.GlobalState, "node_table", comes_at_the_third_question(own.get_node_id()))
            assert services.get_node(own.gcs_address, own.get_node_id()) == found
        assert time.monotonic() - began < 0.9  # Ray asks again after a second
    assert services.get_node is before and found["node_id"] == own.get_node_id()


def test_node_that_takes_long_is_waited_for_unless_its_raylet_has_ended(any_ray: None) -> None:
    address, other = ray.get_runtime_context().gcs_address, "f" * 56
    asked: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, "get_node", lambda address, node: asked.append(node))  # Ray's own, which waits for 30 s
        with ray_internals.wait_for_node(lambda: True, longest_s=2.5):
            began = time.monotonic()
            services.get_node(address, other)
            assert asked == [other] and 2.5 <= time.monotonic() - began < 10
        with ray_internals.wait_for_node(lambda: False), pytest.raises(OSError, match="its raylet ended"):
            services.get_node(address, other)


def comes_at_the_third_question(node: str) -> Callable[[Any], list[dict[str, Any]]]:
    answers = iter([[], [{"NodeID": node, "Alive": False}], [{"NodeID": node, "Alive": True}]])
    return lambda self: next(answers)


def test_other_drivers_on_the_cluster_are_seen(shared_ray: SharedRay) -> None:
    shared_ray.start()
    assert not ray_internals.has_other_jobs()
    command = [sys.executable, "-W", "ignore", "-c", JOIN, ray.get_runtime_context().gcs_address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and "joined\n" in iter(other.stdout.readline, "")
        assert ray_internals.has_other_jobs()
        other.communicate("")
    while ray_internals.has_other_jobs():
        time.sleep(0.1)
