from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from sweeper.cli.main import main
from tests.k8s.conftest import ROOT

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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rayjob", "no.yaml"], "--rayjob: no.yaml cannot be read (No such file or directory)"),
        (["--namespace", "My_Lab"], "--namespace: 'My_Lab' is no name of a namespace"),
    ],
)
def test_option_for_kubernetes_that_is_wrong_is_refused(
    capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["submit", "far.yaml", "--backend", "kuberay", "--dry-run", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--rayjob", "--queue"])
def test_option_for_kubernetes_is_refused_elsewhere(capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert main(["submit", "far.yaml", *FAR, *SAFE, option, "x"]) == 2
    assert f"{option}: is for Kubernetes only; add --backend kuberay" in capsys.readouterr().err


def test_rayjob_of_a_file_is_filled_in_and_its_namespace_is_the_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = yaml.safe_load((ROOT / "k8s" / "base" / "rayjob.yaml").read_text())
    job["metadata"]["namespace"] = "lab"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump_all([{"kind": "ConfigMap"}, job]))
    command = ["submit", "far.yaml", "--backend", "kuberay", "--dry-run", "--rayjob", "mine.yaml"]
    for options, namespace in (([], "lab"), (["--namespace", "other", "--queue", "gpus"], "other")):
        assert main([*command, *options]) == 0
        config, job = yaml.safe_load_all(capsys.readouterr().out)
        assert config["metadata"]["namespace"] == job["metadata"]["namespace"] == namespace
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"


def test_run_refuses_a_sweep_that_another_version_submitted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWEEPER_SUBMITTED_BY", "0.0.1")
    assert main(["run", "far.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "but sweeper 0.0.1 submitted the sweep" in line and "--image" in line
