from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.core import user_code
from sweeper.core.errors import InputError
from sweeper.core.user_code import copy_user_code, user_code_root


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, with what lies about in one."""
    for name in (
        "mine.py",
        "helpers.py",
        "parts/__init__.py",
        "parts/deep/model.py",
        ".venv/lib/other.py",
        "sweeps/x.py",
    ):
        file = tmp_path / "home" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("def train(params, trial): ...\n")
    (tmp_path / "home" / "images.npz").write_bytes(bytes(1000))
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


@pytest.mark.parametrize("trainable", ["mine:train", "parts.deep.model:train"])
def test_the_python_files_beside_a_trainable_are_shipped_and_nothing_else(
    home: Path, tmp_path: Path, trainable: str
) -> None:
    copy_user_code(trainable, tmp_path / "there")
    shipped = {str(file.relative_to(tmp_path / "there")) for file in (tmp_path / "there").rglob("*") if file.is_file()}
    assert shipped == {"mine.py", "helpers.py", "parts/__init__.py", "parts/deep/model.py"}


@pytest.mark.parametrize("trainable", ["sweeper.training:train_rnn", "sklearn.linear_model:train", "json:train"])
def test_what_is_installed_is_not_shipped(home: Path, tmp_path: Path, trainable: str) -> None:
    assert user_code_root(trainable) is None
    copy_user_code(trainable, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_a_folder_that_holds_all_sorts_of_things_is_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_code, "MAX_FILES", 3)
    with pytest.raises(InputError, match="holds more than 3 Python files .* the code of mine:train alone"):
        copy_user_code("mine:train", tmp_path / "there")


def test_a_module_that_does_not_exist_is_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no module 'absent'"):
        copy_user_code("absent:train", tmp_path / "there")
