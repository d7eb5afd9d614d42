from __future__ import annotations

import os
import random
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sweeper.core.urls import (
    connect_to_read,
    expand,
    is_same_database,
    problem_of_database_url,
    problem_of_tracking_uri,
    sqlite_path,
)

SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    ("uri", "proposal"),
    [
        ("file:///data/x", "use sqlite:////data/x/mlflow.db,"),
        ("file:data/x/", "use sqlite:///data/x/mlflow.db,"),
        ("file:///with%20space", "use sqlite:////with space/mlflow.db,"),
        ("file://mlruns", "use sqlite:///mlruns/mlflow.db,"),
        ("mlruns/", "use sqlite:///mlruns/mlflow.db,"),
        ("./mlruns", "use sqlite:///mlruns/mlflow.db,"),
        ("/data//runs", "use sqlite:////data/runs/mlflow.db,"),
        (".", "use sqlite:///mlflow.db,"),
        ("mlflow.db", "use sqlite:///mlflow.db,"),
        ("127.0.0.1:5000", "write http://127.0.0.1:5000"),
        ("my-host:5000/prefix", "write http://my-host:5000/prefix"),
        ("//head:5000", "write http://head:5000"),
        ("[::1]:5000", "write http://[::1]:5000"),
        ("localhost", "write http://localhost"),
        ("databricks-uc", "write databricks"),
        ("uc:p", "write databricks"),
        ("sqlite://m.db", "the file: sqlite:///m.db"),
        ("sqlite:m.db", "the file: sqlite:///m.db"),
        ("sqlite:///:memory:", "try sqlite:///sweeper.db"),
        ("sqlite://", "try sqlite:///sweeper.db"),
        ("sqlite:///m.db?timeout=5", "a SQLite file takes none"),
        ("HTTP://head:5000", "write http"),
        ("http://head:5000/#/experiments/1", "as in http://host:5000"),
        ("postgresql:head/mlflow", "needs '://' after the scheme"),
        (" http://head:5000", "has a space"),
    ],
)
def test_wrong_address_of_mlflow_is_refused_with_a_proposal(uri: str, proposal: str) -> None:
    problem = problem_of_tracking_uri(uri)
    assert problem is not None and proposal in f"{problem},"
    if proposal.startswith(("use", "write http://")):
        assert problem_of_tracking_uri(proposal.split(maxsplit=1)[1].rstrip(",")) is None


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:///m.db",
        "sqlite:////data/m.db",
        "sqlite+pysqlite:///~/m.db",
        "http://head:5000/prefix/",
        "https://head",
        "postgresql+psycopg://head/mlflow?connect_timeout=5",
        "mysql+pymysql://head/mlflow",
        "databricks",
        "databricks://profile",
        "https://ada:${env:PASSWORD}@head",
        "${env:URI}",
        "sqlite:///${env:HOME}/m.db",
    ],
)
def test_address_of_mlflow_that_can_work_is_accepted(uri: str) -> None:
    assert problem_of_tracking_uri(uri) is None


def test_folder_is_accepted_where_mlflow_is_told_to_use_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert problem_of_tracking_uri("file:///data/x") is problem_of_tracking_uri("mlruns") is None


def test_tilde_in_the_path_of_a_database_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("URL", "sqlite:///~/x.db")
    for url in ("sqlite:///~/x.db", "${env:URL}", "sqlite:///${env:HOME}/x.db"):
        assert expand(url) == f"sqlite:///{tmp_path}/x.db"
    assert sqlite_path("sqlite+pysqlite:///~/x.db") == tmp_path / "x.db"
    assert sqlite_path("sqlite:///./~/x.db") == Path("./~/x.db").absolute()
    problem = problem_of_database_url("sqlite:///~nobody-of-this-name/x.db")
    assert problem is not None and "no such user" in problem


def test_log_that_another_process_deletes_does_not_stop_a_reader(tmp_path: Path) -> None:
    file, ended = tmp_path / "a.db", threading.Event()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE trials (number)")

    def write_and_delete_the_log() -> None:
        log = tmp_path / "a.db-wal"
        while not ended.is_set():
            log.write_bytes(b"log")
            log.unlink()

    writer = threading.Thread(target=write_and_delete_the_log)
    writer.start()
    try:
        for _ in range(3000):
            connect_to_read(file, timeout=1).close()
    finally:
        ended.set()
        writer.join()


def test_same_database_is_recognised_under_another_spelling(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "a.db")
    (tmp_path / "folder").symlink_to(tmp_path)
    spellings = ["sqlite:///a.db", "sqlite+pysqlite:///./x/../a.db", f"sqlite:///{tmp_path}/a.db", "sqlite:///link.db"]
    for spelling in [*spellings, "sqlite:///folder/a.db"]:
        assert is_same_database("sqlite:///a.db", spelling) and is_same_database(spelling, "sqlite:///a.db")
    (tmp_path / "a.db").touch()
    (tmp_path / "hard.db").hardlink_to(tmp_path / "a.db")
    assert is_same_database("sqlite:///a.db", "sqlite:///hard.db")
    assert not is_same_database("sqlite:///a.db", "sqlite:///b.db")


def test_same_database_of_a_server_is_recognised() -> None:
    url = "postgresql://localhost/runs"
    for same in ("postgresql+psycopg://ada:x@127.0.0.1:5432/runs", "postgresql+psycopg://[::1]/runs?connect_timeout=5"):
        assert is_same_database(url, same)
    others = (
        "postgresql://localhost/other",
        "postgresql://head/runs",
        "postgresql://localhost:1/runs",
        "sqlite:///runs",
    )
    for other in (*others, f"{url}?options=-csearch_path%3Dmlflow", "http://localhost/runs"):
        assert not is_same_database(url, other)


PARTS = [
    ["", "", "sqlite", "sqlite+pysqlite", "file", "http", "https", "HTTP", "postgresql", "postgresql+psycopg", "mysql",
     "uc", "databricks", "databricks-uc", "s3", "C", "ray", "ftp", "\u00fc", "1", "${env:X}", "${env", "mssql+pyodbc"],
    ["", ":", "://", ":///", ":////", "//", "/", ":/", "::", "%", "?", "#"],
    ["", "", f"ada:{SECRET}@", f":{SECRET}@", f"{SECRET}@@", "@", "ada@", f"ada:{SECRET}@x@"],
    ["", "host", "127.0.0.1", "[::1]", "[::1", "localhost", "a b", "~", "~ada", ".", "..", ":memory:", "\u4e16",
     "x" * 300, "-", "%2F", "%zz", "\\", "host\n", "\x00", "\ud800"],
    ["", ":5000", ":0", ":99999", ":-1", ":x", ":", ":1e3", ":\u0665"],
    ["", "/", "/mlflow.db", "/a b", "/../x", "/#/runs", "/~/x", "//", "/%00", "/\t"],
    ["", "", f"?password={SECRET}", f"?token={SECRET}&x=1", "?timeout=5", "?", "?=", "?a=b#c", "#frag", "?uri=true"],
]  # fmt: skip


def test_any_text_is_accepted_or_refused_in_one_line_without_its_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "X", "x")
    draw = random.Random(16)
    refused = 0
    for _ in range(2000):
        text = "".join(draw.choice(part) for part in PARTS)
        for problem_of in (problem_of_database_url, problem_of_tracking_uri):
            for secrets in (False, True):
                problem = problem_of(text, secrets=secrets)
                refused += problem is not None
                assert problem is None or (problem.isprintable() and len(problem) < 300), (text, problem)
                assert problem is None or SECRET not in problem, (text, problem)
                if problem is None and not secrets and "://" in text:
                    assert SECRET not in urlsplit(text).netloc + urlsplit(text).query, text
    assert 4000 < refused < 8000
