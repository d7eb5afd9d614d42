from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sweeper.core.environment import commit, user, versions


def test_versions_skip_packages_that_are_not_installed() -> None:
    assert versions(["numpy", "no-such-package"]).keys() == {"python", "numpy"}


def test_user_is_the_one_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    assert user() == "ada"


def test_commit_is_that_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() is None
    subprocess.run(["git", "init", "--quiet"], check=True)
    author = ["-c", "user.name=ada", "-c", "user.email=ada@example.org"]
    subprocess.run(["git", *author, "commit", "--quiet", "--allow-empty", "--message", "one"], check=True)
    known = commit()
    assert known is not None and len(known) == 40
    monkeypatch.chdir("/")
    assert commit(tmp_path) == known and commit() is None


def test_commit_says_that_files_have_changed_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    author = ["-c", "user.name=ada", "-c", "user.email=ada@example.org"]
    (tmp_path / "train.py").write_text("one")
    for command in (["init", "--quiet"], ["add", "train.py"], [*author, "commit", "--quiet", "--message", "one"]):
        subprocess.run(["git", *command], check=True)
    known = commit()
    (tmp_path / "unknown.py").touch()
    assert commit() == known
    (tmp_path / "train.py").write_text("two")
    assert commit() == f"{known}-dirty"


def test_commit_is_unknown_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert commit() is None
