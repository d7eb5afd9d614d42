from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.core.files import private_files, private_folder, write_json, written_whole
from tests.environments import ROOT


def test_files_created_in_the_block_are_private(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with private_files():
            (tmp_path / "folder").mkdir()
            (tmp_path / "file").touch()
        (tmp_path / "after").touch()
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"folder": 0o700, "file": 0o600, "after": 0o644}


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "ray"))
    return tmp_path / "ray"


def test_private_folder_is_closed_and_always_the_same(base: Path) -> None:
    folder = private_folder()
    assert folder == private_folder() == base / f"sweeper-{os.getuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_open_folder_is_not_used(base: Path) -> None:
    known = base / f"sweeper-{os.getuid()}"
    known.mkdir(parents=True)
    known.chmod(0o777)
    folder = private_folder()
    assert folder != known
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_link_at_the_name_of_the_folder_is_not_followed(base: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir(mode=0o700)
    base.mkdir()
    (base / f"sweeper-{os.getuid()}").symlink_to(tmp_path / "other")
    folder = private_folder()
    assert not folder.is_symlink() and folder.parent == base
    assert not list((tmp_path / "other").iterdir())


def test_paths_of_sockets_in_the_private_folder_are_short_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    longest = "ray/session_2026-12-31_23-59-59_999999_4194304/sockets/plasma_store.1"
    assert len(str(private_folder() / longest)) <= 107


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_file_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    target.write_text("old")
    with written_whole(target) as beside:
        beside.write_text("new")
        assert target.read_text() == "old" and beside.suffix == ".json"
    assert target.read_text() == "new" and names(tmp_path) == ["result.json"]


def test_folder_replaces_the_one_before(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").touch()
    with written_whole(target) as beside:
        beside.mkdir()
        (beside / "new").touch()
        assert names(target) == ["old"]
    assert names(target) == ["new"] and names(tmp_path) == ["model"]


@pytest.mark.parametrize("is_folder", [True, False])
def test_block_that_raises_changes_nothing(tmp_path: Path, is_folder: bool) -> None:
    target = tmp_path / "model"
    target.mkdir()
    with pytest.raises(ZeroDivisionError), written_whole(target) as beside:
        beside.mkdir() if is_folder else beside.touch()
        1 / 0  # noqa: B018
    assert names(tmp_path) == ["model"]


def test_block_that_writes_nothing_changes_nothing(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(FileNotFoundError), written_whole(target):
        pass
    assert names(target) == ["old"] and names(tmp_path) == ["model"]


KILLED = """
import os, pathlib, sys
from sweeper.core.files import written_whole
with written_whole(pathlib.Path(sys.argv[1])) as beside:
    beside.write_text("half")
    os.kill(os.getpid(), 9)
"""


def test_killed_process_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    target.write_text("old")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED, target], env=environment)
    assert done.returncode == -signal.SIGKILL and target.read_text() == "old"
    write_json(target, {"whole": True})
    assert target.read_text() == '{\n  "whole": true\n}\n'
