from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from sweeper.core.code import functions
from sweeper.core.code.user_code import digest_user_code, find_trainable, load_trainable, user_code_root
from sweeper.core.errors import InputError
from tests import samples

SCRIPT = """
from pydantic import BaseModel, Field
from sweeper.core.code import functions

SCALE = 3

class Params(BaseModel):
    height: float = Field(1.0, gt=0)

def scaled(x):
    return x * SCALE

def train(params: Params, trial):
    return scaled(params.height)

path = functions.path_of(train)
"""

LOAD = """
import sys
from sweeper.core.code import functions
functions.unpickle_function("__main__:train", sys.stdin.buffer.read(), None)
train, params = functions.function_at("__main__:train")
print(train(params(height=2), None))
"""


def run_script(code: str, *, content: bytes = b"", folder: Path | None = None) -> bytes:
    done = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True, cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def digest_of(code: str, tmp_path: Path) -> str:
    script = tmp_path / "script.py"
    script.write_text(f"{code}\nprint(functions.digest_function(train))")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_function_of_a_module_keeps_its_path() -> None:
    assert functions.path_of(samples.climb) == "tests.samples:climb"
    assert functions.pickle_function("tests.samples:climb") is None


def test_function_of_a_script_runs_in_another_process_with_its_class(tmp_path: Path) -> None:
    send = "import sys\nsys.stdout.buffer.write(functions.pickle_function(path))"
    (tmp_path / "script.py").write_text(SCRIPT + send)
    content = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, check=True).stdout
    assert run_script(LOAD, content=content) == b"6.0\n"


@pytest.mark.parametrize(
    ("old", "new", "is_other"),
    [
        ("SCALE = 3", "SCALE = 4", True),
        ("return x * SCALE", "return x + SCALE", True),
        ("return scaled(params.height)", "return 2 * scaled(params.height)", True),
        ("gt=0)", "gt=0, lt=9)", True),
        ("    return x * SCALE", "    # a comment\n    return x * SCALE", False),
        ("SCALE = 3", "SCALE = 3\nUNUSED = 4", False),
    ],
)
def test_digest_changes_with_all_code_that_a_function_uses(tmp_path: Path, old: str, new: str, is_other: bool) -> None:
    assert old in SCRIPT
    assert (digest_of(SCRIPT.replace(old, new), tmp_path) != digest_of(SCRIPT, tmp_path)) is is_other


def test_nested_functions_and_lambdas_are_sent_by_value() -> None:
    factor = 2.0

    def train(params: dict[str, Any], trial: Any) -> float:
        return factor

    path = functions.path_of(train)
    first = functions.digest_function(train)
    assert path == "__main__:train" and functions.pickle_function(path)
    assert load_trainable(path) is train and find_trainable(path).digest == first
    factor = 3.0
    assert functions.digest_function(train) != first
    one, other = (lambda params, trial: 1), (lambda params, trial: 2)
    assert functions.path_of(one) == "__main__:trainable"
    assert functions.digest_function(one) != functions.digest_function(other)


def test_first_parameter_of_a_function_declares_its_hyperparameters() -> None:
    class Params(BaseModel):
        height: float

    def train(params: Params, trial: Any) -> None: ...

    train.__annotations__["params"] = Params
    assert find_trainable(functions.path_of(train)).params_model is Params


@pytest.mark.parametrize(
    ("trainable", "message"),
    [
        (3, "3 is not a plain function"),
        (BaseModel, "is not a plain function"),
        (print, "is not a plain function"),
        (lambda params: 1, "'trainable' must take two arguments, params and trial"),
    ],
)
def test_what_cannot_be_called_with_a_trial_is_refused(trainable: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        functions.path_of(trainable)


def test_function_that_cannot_be_sent_is_refused_with_the_reason() -> None:
    lock = threading.Lock()

    def train(params: dict[str, Any], trial: Any) -> None:
        lock.acquire()

    with pytest.raises(InputError, match="'train' cannot be sent to a worker .*lock.*inside the function"):
        functions.pickle_function(functions.path_of(train))


def test_function_of_another_process_is_asked_for() -> None:
    with pytest.raises(InputError, match="'elsewhere' is defined in a notebook or a script.*Run the same cell"):
        find_trainable("__main__:elsewhere")


def test_modules_beside_a_notebook_are_part_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def alone(params: dict[str, Any], trial: Any) -> None: ...

    def helped(params: dict[str, Any], trial: Any) -> None:
        import helper  # type: ignore[import-not-found]

        helper.score()

    (tmp_path / "helper.py").write_text("def score(): return 1")
    assert user_code_root(functions.path_of(alone)) is None
    path = functions.path_of(helped)
    assert user_code_root(path) == tmp_path.resolve()
    before = digest_user_code(path)
    assert before.keys() == {path, "helper.py"}
    (tmp_path / "helper.py").write_text("def score(): return 2")
    assert digest_user_code(path) != before
