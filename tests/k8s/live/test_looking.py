"""A live cluster's sweeps from outside: `--storage k8s://NAMESPACE`, by a user with the Role `sweeper-viewer` alone."""

from __future__ import annotations

import json
import signal
import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.k8s.live.cluster import Cluster, Done
from tests.k8s.live.conftest import kubeconfig_of
from tests.k8s.live.sweeps import LiveSweep

pytestmark = [pytest.mark.k8s, pytest.mark.timeout(1800)]

Make = Callable[..., LiveSweep]
Record = Callable[[str, float | None, str], None]
Look = Callable[..., Done]


@pytest.fixture(scope="module")
def viewer(cluster: Cluster) -> str:
    return kubeconfig_of(cluster, "viewer", role="sweeper-viewer")


@pytest.fixture
def look(cluster: Cluster, viewer: str) -> Look:
    """Return a function that runs a verb on the namespace."""

    def run(*arguments: str, kubeconfig: str = viewer) -> Done:
        return cluster.sweeper(*arguments, "--storage", f"k8s://{cluster.namespace}", kubeconfig=kubeconfig)

    return run


@pytest.mark.parametrize(
    ("verb", "expected"),
    [
        (["list"], "8/8"),
        (["show", "quick"], "not on this machine"),
        (["show", "quick", "0"], "The folder of the sweep is not on this machine"),
        (["best", "quick"], "space:"),
        (["status", "quick"], "8 of 8 trials ended"),
        (["watch", "quick", "--once"], "sweeper ui quick --storage k8s://"),
        (["compare", "quick:0", "quick:1"], "The link works while the UI runs: sweeper ui quick --port 5000"),
        (["sync", "quick"], "records of quick written to http://mlflow:5000"),
        (["promote", "quick"], "is the champion"),
    ],
)
def test_verb_reads_a_sweep_of_the_cluster(look: Look, first_sweep: LiveSweep, verb: list[str], expected: str) -> None:
    done = look(*verb)
    assert done.code == 0 and expected in done.text, done


def test_results_are_fetched_without_the_folder(
    cluster: Cluster, look: Look, first_sweep: LiveSweep, record: Record
) -> None:
    done = look("fetch", "quick", "-o", "home")
    assert done.code == 0 and "is not here, so the report lacks" in done.text, done
    home = cluster.folder / "home"
    assert (home / "report.html").read_text().startswith("<!doctype html>")
    assert (home / "best.yaml").is_file() and (home / "model" / "data" / "model.keras").stat().st_size > 1000
    record("sweeper fetch quick", done.seconds, done.text.splitlines()[-1])


def test_mlflow_ui_is_forwarded_until_it_is_ended(cluster: Cluster, viewer: str, first_sweep: LiveSweep) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    where = ("--storage", f"k8s://{cluster.namespace}")
    process = cluster.start_sweeper("ui", "quick", "--port", str(port), *where, kubeconfig=viewer)
    try:

        def page() -> str:
            try:
                return str(urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).read())
            except OSError:
                return ""

        assert "<title>MLflow</title>" in cluster.wait_for("the MLflow UI", page, 90)
    finally:
        process.send_signal(signal.SIGTERM)
        text, _ = process.communicate(timeout=60)
    assert process.returncode == 143, text
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)


def test_what_only_the_folder_holds_is_said_to_be_in_the_cluster(look: Look, first_sweep: LiveSweep) -> None:
    done = look("logs", "quick", "0")
    assert done.code == 2 and "in the cluster, and cannot be read through its database" in done.text, done
    assert "sweeper logs quick --backend kuberay --namespace" in done.text


def test_no_sweep_runs_through_a_forwarded_port(cluster: Cluster, look: Look) -> None:
    (Path(cluster.folder) / "here.yaml").write_text(json.dumps({"name": "here", "budget": {"trials": 1}, "space": {}}))
    for verb in (["run", "here.yaml"], ["resume", "quick"]):
        done = look(*verb)
        assert done.code == 2 and "names a cluster to look at" in done.text and done.seconds < 15, done


def test_look_without_the_role_names_the_missing_right(cluster: Cluster, look: Look) -> None:
    done = look("list", kubeconfig=kubeconfig_of(cluster, "stranger"))
    assert done.code == 69 and done.seconds < 15, done
    assert 'cannot get resource "secrets"' in done.text and "The Role sweeper-viewer" in done.text, done
    assert len(done.text.splitlines()) == 1, done


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("k8s://", "names no namespace of Kubernetes"),
        ("k8s://nowhere@sweeper", "nowhere"),
        ("k8s://kube-system", "The Role sweeper-viewer"),
    ],
)
def test_cluster_that_cannot_be_looked_at_is_one_message(cluster: Cluster, viewer: str, url: str, message: str) -> None:
    done = cluster.sweeper("list", "--storage", url, kubeconfig=viewer)
    assert done.code in (2, 69) and message in done.text and done.seconds < 15, done


def test_watch_and_stop_survive_the_database_pod(
    cluster: Cluster, viewer: str, look: Look, make_live_sweep: Make, record: Record
) -> None:
    sweep = make_live_sweep("watched", budget={"trials": 40, "epochs": 30, "parallel": 1})
    sweep.submit()
    sweep.wait_for_trial()
    where = ("--storage", f"k8s://{cluster.namespace}")
    process = cluster.start_sweeper("watch", "watched", *where, kubeconfig=viewer)
    assert process.stdout is not None and "watched runs" in process.stdout.readline()
    cluster.kubectl("delete", "pod", "postgres-0", "--force", "--grace-period=0", timeout_s=120)
    began = time.monotonic()
    cluster.kubectl("rollout", "status", "statefulset/postgres", "--timeout=300s", timeout_s=320)
    sweep.wait_for_report(time.time())
    time.sleep(10)
    done = look("stop", "watched")
    assert done.code == 0 and "Submit it again to resume it" in done.text, done
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0, text
    assert "Trying again" in text and "can be read again" in text and "watched has stopped" in text, text
    record("the database's pod deleted while `watch` runs", time.monotonic() - began, "watch goes on, stop works")
