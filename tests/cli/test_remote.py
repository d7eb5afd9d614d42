from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweeper.cli import main

FAR = ["--address", "http://127.0.0.1:1"]
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
        ([*FAR, "--dir", "/mnt/far"], "storage: sqlite:///sweeper.db would be a file of the job, and be lost with it"),
        (
            [*FAR, "--storage", "${env:SWEEPER_STORAGE}"],
            "--dir: name the absolute path of a folder that all nodes share",
        ),
        ([*FAR, *SAFE[:2], "--dir", "far"], "--dir: name the absolute path"),
        (SAFE, "--address: name the dashboard of a Ray cluster"),
        ([*SAFE, "--address", "head:8265"], "--address: has an unknown scheme 'head'"),
        ([*FAR, *SAFE, "--tracking-uri", "ftp://mlflow"], "--tracking-uri: has an unknown scheme 'ftp'"),
        ([*FAR, *SAFE, "--trials", "0"], "--trials: 0 must be >= 1"),
    ],
)
def test_a_submission_that_could_not_work_is_refused_before_it_is_sent(
    capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["submit", "far.yaml", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("verb", [["submit", "far.yaml", *SAFE], ["status", "far"], ["logs", "far"], ["stop", "far"]])
def test_a_cluster_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str], verb: list[str]) -> None:
    assert main([*verb, *FAR]) == 69
    (line,) = capsys.readouterr().err.splitlines()
    assert "the Ray cluster at http://127.0.0.1:1 cannot be reached" in line
