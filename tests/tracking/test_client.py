from __future__ import annotations

import random
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from sweeper.core.errors import InputError, TrackingError
from sweeper.core.secrets import redact
from sweeper.spec import Sweep
from sweeper.study.database_url import check_database_url
from sweeper.tracking import client, store_uri, sync, tracking_uri
from sweeper.tracking.client import MAX_WAY_S, WAY, connect, giving_way
from tests.core.test_urls import PARTS, SECRET
from tests.tracking.tools import (
    RecordedStudy,
    four_trials,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, in SQLAlchemy


def test_tracking_uri_prefers_the_option_then_the_sweep_then_the_environment(
    make_sweep: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain, own = make_sweep(), make_sweep(tracking={"uri": "http://own:5000"})
    assert tracking_uri(plain) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert tracking_uri(plain) == f"sqlite:///{tmp_path}/other.db"
    assert tracking_uri(own) == "http://own:5000"
    assert tracking_uri(own, "http://asked:5000") == "http://asked:5000"


def test_importing_tracking_loads_nothing_heavy() -> None:
    heavy = "{'mlflow', 'optuna', 'ray', 'keras', 'tensorflow', 'numpy', 'pandas'}"
    code = f"import sys, sweeper.tracking; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_new_store_is_readable_by_its_owner_only(empty_store: Path) -> None:
    assert stat.S_IMODE(empty_store.stat().st_mode) == 0o600


def test_passwords_do_not_reach_mlflow(
    uri: str, make_sweep: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "canary")
    tracking = {"uri": "https://me:${env:SECRET}@host/"}
    study = RecordedStudy(make_sweep(storage="postgresql+psycopg://me:${env:SECRET}@host/db", tracking=tracking))
    assert tracking_uri(study.sweep) == "https://me:canary@host/"
    four_trials(study)
    sync(study, uri)
    path = Path(uri.removeprefix("sqlite:///"))
    assert b"canary" not in path.read_bytes()
    files = [file for file in (path.parent / "mlartifacts").rglob("*") if file.is_file()]
    assert files and not any(b"canary" in file.read_bytes() for file in files)


@pytest.mark.parametrize(
    "secret",
    ["https://me:canary@host/x", "https://canary@host", "http://u:can@ary@h", "http://h/?a=1&token=canary&b=2"],
)
def test_addresses_are_shown_without_secrets(secret: str) -> None:
    text = redact(f"API request to {secret} failed")
    assert "canary" not in text and "ary@" not in text
    assert text.startswith("API request to http") and text.endswith(" failed")


def test_any_address_is_accepted_or_refused_in_one_line() -> None:
    draw = random.Random(2000)
    for _ in range(2000):
        text = "".join(draw.choice(part) for part in PARTS)
        for use in (store_uri, check_database_url):
            try:
                use(text)
            except InputError as error:
                assert len(str(error).splitlines()) == 1 and SECRET not in redact(error), text
    assert not list(Path().iterdir())


def test_folder_is_refused_as_a_store(make_sweep: Callable[..., Sweep]) -> None:
    with pytest.raises(
        InputError, match="names a folder, where MLflow no longer keeps runs; use sqlite:///mlruns/mlflow.db"
    ):
        tracking_uri(make_sweep(), "./mlruns")


def test_deleted_experiment_is_named(uri: str, study: RecordedStudy) -> None:
    four_trials(study)
    sync(study, uri)
    client = connect(uri)
    client.delete_experiment(client.get_experiment_by_name(study.sweep.tracking.experiment).experiment_id)
    with pytest.raises(TrackingError, match="was deleted; restore it"):
        sync(study, uri)


def test_sync_explains_an_unreachable_server(study: RecordedStudy) -> None:
    with pytest.raises(TrackingError, match="MLflow at http://127.0.0.1:9: connection refused"):
        sync(study, "http://127.0.0.1:9")


def test_tables_are_created_without_waiting_for_the_disk(tmp_path: Path) -> None:
    found = []

    def look(connection: sa.Connection) -> None:
        is_whole = Path(connection.engine.url.database or "").name == "mlflow.db"
        found.append((is_whole, connection.exec_driver_sql("PRAGMA synchronous").scalar()))

    sa.event.listen(sa.Engine, "commit", look)
    try:
        connect(f"sqlite:///{tmp_path / 'mlflow.db'}").create_experiment("new")
    finally:
        sa.event.remove(sa.Engine, "commit", look)
    assert {is_whole: wait for is_whole, wait in found} == {False: 0, True: 2} and len(set(found)) == 2
    assert found.count((False, 0)) > 50


KILLED = """
import os, sys
import sqlalchemy as sa
from sweeper.tracking import client

writes = []


def leave_in_the_middle(connection: object) -> None:
    writes.append(1)
    if len(writes) == 20:
        os.kill(os.getpid(), 9)


sa.event.listen(sa.Engine, "commit", leave_in_the_middle)
client.connect(f"sqlite:///{sys.argv[1]}")
"""


def test_store_whose_maker_was_killed_is_created_by_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    assert not path.exists() and list(tmp_path.glob(".writing-*.db"))
    (tmp_path / ".writing-0123abcd.json").touch()
    assert connect(f"sqlite:///{path}").search_experiments()
    assert sorted(file.name for file in tmp_path.iterdir()) == [".writing-0123abcd.json", "mlflow.db"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_way_is_given_to_other_threads_of_the_process_only(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(client, "_clocks", iter([(0.0, 5.0, 1.0), (0.4, 5.4, 1.2)]).__next__)
    with giving_way():  # 0.2 s of its own within 0.4 s, in which others computed for as long
        pass
    assert slept == [pytest.approx(WAY * 0.5 * 0.2)]
    for alone in ((0.2, 5.2, 1.2), (0.2, 5.19, 1.2), (0.0, 5.0, 1.0)):
        monkeypatch.setattr(client, "_clocks", iter([(0.0, 5.0, 1.0), alone]).__next__)
        with giving_way():
            pass
    assert slept[1:] == pytest.approx([0.0, 0.0, 0.0], abs=1e-9) and min(slept) >= 0
    monkeypatch.setattr(client, "_clocks", iter([(0.0, 5.0, 1.0), (30.0, 45.0, 16.0)]).__next__)
    with giving_way():
        pass
    assert slept[-1] == MAX_WAY_S
