from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sweeper.core.files import private_files, private_folder


def test_files_made_in_the_block_are_for_their_user_only(tmp_path: Path) -> None:
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


def test_the_folder_of_a_user_is_closed_and_the_same_each_time(base: Path) -> None:
    folder = private_folder()
    assert folder == private_folder() == base / f"sweeper-{os.getuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_stands_open_is_not_used(base: Path) -> None:
    known = base / f"sweeper-{os.getuid()}"
    known.mkdir(parents=True)
    known.chmod(0o777)
    folder = private_folder()
    assert folder != known
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_link_in_the_place_of_the_folder_is_not_followed(base: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    base.mkdir()
    (base / f"sweeper-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    folder = private_folder()
    assert not folder.is_symlink() and folder.parent == base
    assert not list((tmp_path / "elsewhere").iterdir())


def test_paths_of_sockets_in_the_folder_are_short_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    longest = "ray/session_2026-12-31_23-59-59_999999_4194304/sockets/plasma_store.1"
    assert len(str(private_folder() / longest)) <= 107
