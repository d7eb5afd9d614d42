"""Every kind of bad input is refused with a clear message before anything is created; unusual input is accepted.

`python -m tests.faults.test_bad_input > docs/bad-input.md` writes the page of the documentation.
"""

from __future__ import annotations

import io
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from sweeper.cli.main import main
from tests.faults.bad_input import BASE, Case
from tests.faults.bad_input_files import FILES
from tests.faults.bad_input_sweeps import SWEEPS

ROOT = Path(__file__).parents[2]
NOBODY_UID = 65534
KINDS = FILES | SWEEPS
CASES = [pytest.param(case, id=f"{kind}-{i}") for kind, cases in KINDS.items() for i, case in enumerate(cases)]

MANY = "".join(f"  p{i}: {{type: float, low: 0, high: 1}}\n" for i in range(1_000))
WIDE = f"type: categorical, choices: [{', '.join(map(str, range(10_000)))}]"
FLOAT = "type: float, low: 0, high: 1"
ACCEPTED = {
    "1e-3, which older YAML reads as text": [
        (BASE.replace("low: 0", "low: 1e-3"), "1 parameters"),
        (BASE.replace("epochs: 2", "epochs: 1e1"), "3 trials of 10 epochs"),
    ],
    "3.0 for a whole number": [
        (BASE.replace("trials: 3", "trials: 3.0"), "x: 3 trials"),
        (BASE + "dataset: {type: digits, train: 10.0}\n", "x: 3 trials"),
    ],
    "a date where text is meant": [
        (BASE.replace("name: x", "name: 2024-01-01"), "2024-01-01: 3 trials"),
        (BASE + "description: 2024-01-01\n", "x: 3 trials"),
    ],
    "a range of one value, with a warning": [
        (BASE.replace("low: 0", "low: 1"), "space.height has one value only; write height: 1.0"),
        (BASE.replace(FLOAT, "type: categorical, choices: [7]"), "space.height has one value only; write height: 7"),
    ],
    "a thousand parameters, ten thousand choices": [
        (BASE[: BASE.index("space")] + "space:\n" + MANY, "1000 parameters"),
        (BASE.replace(FLOAT, WIDE), "1 parameters"),
    ],
    "names of parameters in any script": [
        (BASE.replace("height", "学習率"), "1 parameters"),
        (BASE.replace("height", "größe"), "1 parameters"),
    ],
}


@contextmanager
def world(case: Case, folder: Path) -> Iterator[None]:
    """Enter the folder of a case, with its environment and, where permissions matter, not as root."""
    if case.content is not None:
        data = case.content if isinstance(case.content, bytes) else case.content.encode()
        (folder / "sweep.yaml").write_bytes(data)
    before = dict(os.environ)
    path = list(sys.path)
    with chdir(folder):
        if case.prepare:
            case.prepare(folder)
        os.environ.pop("SWEEPER_DATA_DIR", None)
        os.environ |= case.environment
        drops_root = not case.is_root and os.geteuid() == 0
        if drops_root:
            folder.chmod(0o777)
            os.seteuid(NOBODY_UID)
        try:
            yield
        finally:
            if drops_root:
                os.seteuid(0)
            sys.path[:] = path
            for name in [name for name, module in sys.modules.items() if _is_in(folder, module)]:
                del sys.modules[name]
            os.environ.clear()
            os.environ |= before


def _is_in(folder: Path, module: object) -> bool:
    return str(getattr(module, "__file__", None)).startswith(os.path.realpath(folder))


def run(*arguments: str) -> tuple[int, str, str]:
    """Run a command in this process; return its exit code, its stdout and its stderr."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main(arguments)
    return code, out.getvalue(), err.getvalue()


def commands(case: Case) -> Iterator[tuple[str, ...]]:
    for verb in case.verbs:
        yield (verb, case.path, *case.options)


def messages(err: str) -> list[str]:
    return [line.removeprefix("error: ") for line in err.splitlines() if line.startswith("error: ")]


def contents() -> set[Path]:
    return set(Path().rglob("*"))


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_before_anything_is_created(case: Case, tmp_path: Path) -> None:
    with world(case, tmp_path):
        before = contents()
        for command in commands(case):
            code, out, err = run(*command)
            assert code == 2, err
            assert any(message.startswith(case.message) for message in messages(err)), err
            assert "Traceback" not in err and "hunter2" not in err and out == ""
            assert contents() - before == set()


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_two_cases_at_least(kind: str) -> None:
    assert len(KINDS[kind]) >= 2


@pytest.mark.parametrize("kind", ACCEPTED)
def test_unusual_but_valid_input_is_accepted(kind: str, tmp_path: Path) -> None:
    for text, message in ACCEPTED[kind]:
        (tmp_path / "sweep.yaml").write_text(text)
        code, out, err = run("validate", "sweep.yaml")
        assert code == 0 and message in out + err, err


def test_name_is_text_whatever_it_looks_like(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(BASE)
    for name in ("2024", "null", "1e3", "true"):
        _, _, err = run("run", "sweep.yaml", "--name", name, "--trials", "0")
        assert messages(err) == ["sweep.yaml  --trials: 0 must be >= 1"]


def test_start_point_outside_a_changed_space_is_refused_with_a_proposal(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(BASE + "enqueue: [{height: 0.5}]\n")
    code, _, err = run("run", "sweep.yaml", "--set", "space.height=0.7")
    assert code == 2
    assert "enqueue[0].height: 0.5 is not in the space, which has 0.7" in err and "--set enqueue=null" in err


def test_all_problems_of_a_file_and_its_options_are_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(BASE.replace("low: 0", "low: 2").replace("epochs: 2", "epochs: 0"))
    _, _, err = run("run", "sweep.yaml", "--name", "a/b", "--seed", "-1")
    assert [message.split(": ")[0] for message in messages(err)] == [
        "sweep.yaml:4:21  budget.epochs",
        "sweep.yaml:5:31  space.height.low",
        "sweep.yaml  --name",
        "sweep.yaml  --seed",
    ]


def test_at_most_twenty_problems_are_reported(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(BASE + "".join(f"k{i}: 1\n" for i in range(500)))
    _, _, err = run("validate", "sweep.yaml")
    assert len(messages(err)) == 21 and messages(err)[-1] == "sweep.yaml  and many more problems"


@pytest.mark.long
@pytest.mark.parametrize("kind", [kind for kind, cases in KINDS.items() if cases[0].is_root])
def test_real_command_refuses_bad_input_within_three_seconds(kind: str, tmp_path: Path) -> None:
    """Measure processor time, most of it for starting Python: elapsed time depends on what else the machine does."""
    case = KINDS[kind][0]
    with world(case, tmp_path):
        before, (command, *_) = contents(), commands(case)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "sweeper", *command],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            timeout=60,
        )
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 2 and any(text.startswith(case.message) for text in messages(done.stderr)), (
            done.stderr
        )
        assert "Traceback" not in done.stderr and contents() == before
        assert now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime < 3


def table() -> Iterator[str]:
    """Yield the lines of the documentation: each kind with the message of its first case, as it is printed."""
    yield "# Bad input\n"
    yield (
        "Mistakes in a sweep file, on the command line or in what they refer to are reported before anything is\n"
        "created or started: position, value, rule, and mostly a proposal; all at once (at most 20), exit code 2. The\n"
        "messages are real; `python -m tests.faults.test_bad_input > docs/bad-input.md` writes this page.\n"
    )
    yield "| | Kind | Message, for example |\n|---|---|---|"
    for number, (kind, cases) in enumerate(KINDS.items(), 1):
        with tempfile.TemporaryDirectory() as folder, world(cases[0], Path(folder)):
            _, _, err = run(*next(commands(cases[0])))
            yield f"| {number} | {kind} | `{_example(err, cases[0], folder)}` |"
    yield "\nAccepted on purpose: " + "; ".join(ACCEPTED) + "."


def _example(err: str, case: Case, folder: str) -> str:
    message = next(message for message in messages(err) if message.startswith(case.message))
    if message.endswith(":"):
        message = " ".join(" ".join(messages(err)).split())
    return message.replace(os.path.realpath(folder), "/home/ada").replace(folder, "/home/ada").replace("|", "\\|")


def test_page_of_the_documentation_shows_what_is_printed() -> None:
    shown = (ROOT / "docs/bad-input.md").read_text()
    assert shown == "\n".join(table()) + "\n", "run: python -m tests.faults.test_bad_input > docs/bad-input.md"


if __name__ == "__main__":
    print("\n".join(table()))
