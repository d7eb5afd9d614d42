from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeper.cli.main import main
from tests.k8s.fake_kubernetes import FakeKubernetes

FAR = ["--dashboard", "http://127.0.0.1:1"]
SPACE = {
    "name": "far",
    "trainable": "tests.samples:climb",
    "objective": {"metric": "score"},
    "budget": {"trials": 2, "epochs": 3},
    "space": {"height": {"type": "float", "low": 0.0, "high": 1.0}},
}
SAFE = ["--storage", "postgresql+psycopg://db/studies", "--dir", "/mnt/far"]


@pytest.fixture(autouse=True)
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    (tmp_path / "far.yaml").write_text(json.dumps(SPACE))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([*FAR, "--dir", "/mnt/far"], "storage: sqlite:///sweeper.db would be a file of the job and be lost with it"),
        (
            [*FAR, "--storage", "${env:SWEEPER_STORAGE}"],
            "--dir: name the absolute path of a folder that all nodes share",
        ),
        ([*FAR, *SAFE[:2], "--dir", "far"], "--dir: name the absolute path"),
        (SAFE, "--dashboard: name the dashboard of a Ray cluster"),
        ([*SAFE, "--dashboard", "head:8265"], "--dashboard: has an unknown scheme 'head'"),
        ([*FAR, *SAFE, "--tracking-uri", "ftp://mlflow"], "--tracking-uri: has an unknown scheme 'ftp'"),
        ([*FAR, *SAFE, "--trials", "0"], "--trials: 0 must be >= 1"),
    ],
)
def test_submission_that_cannot_work_is_refused_before_it_is_sent(
    capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["submit", "far.yaml", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("verb", [["submit", "far.yaml", *SAFE], ["status", "far"], ["logs", "far"], ["stop", "far"]])
def test_unreachable_cluster_is_one_line(capsys: pytest.CaptureFixture[str], verb: list[str]) -> None:
    assert main([*verb, *FAR]) == 69
    (line,) = capsys.readouterr().err.splitlines()
    assert "the Ray cluster at http://127.0.0.1:1 cannot be reached" in line


def test_dry_run_prints_the_kubernetes_objects(capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "submit",
        "far.yaml",
        "--backend",
        "kuberay",
        "--dry-run",
        "--namespace",
        "lab",
        "--image",
        "lab/sweeper:1",
    ]
    assert main([*command, "--worker-gpus", "2", "--workers", "8"]) == 0
    printed = capsys.readouterr()
    config, job = yaml.safe_load_all(printed.out)
    assert json.loads(config["data"]["sweep.yaml"])["name"] == "far"
    assert {config["metadata"]["namespace"], job["metadata"]["namespace"]} == {"lab"}
    cluster = job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["maxReplicas"] == 8
    (container,) = workers["template"]["spec"]["containers"]
    assert container["image"] == "lab/sweeper:1-gpu" and container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert "The code of tests.samples:climb" in printed.err and "must be in the image" in printed.err


def test_sweep_on_kubernetes_is_submitted_shown_and_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def operator(job: dict[str, Any]) -> None:
        phase = "Suspended" if job["spec"].get("suspend") else "Running"
        job["status"] = {"jobDeploymentStatus": phase}

    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    there = ["--backend", "kuberay"]
    with FakeKubernetes(on_change=operator) as server:
        server.write_kubeconfig(tmp_path / "kubeconfig")
        assert main(["submit", "far.yaml", *there]) == 0
        assert main(["status", "far", *there]) == 0
        assert capsys.readouterr().out.startswith("far running (attempt 1, RayJob Running")
        assert main(["submit", "far.yaml", *there]) == 0
        assert "far is running already: RayJob far in namespace sweeper" in capsys.readouterr().err
        assert main(["stop", "far", *there]) == 0
        assert main(["status", "far", *there, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["state"] == "stopped"
