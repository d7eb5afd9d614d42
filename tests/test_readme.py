"""The README's examples are run exactly as it shows them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.spec import load_sweep

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_sweep_file_of_the_readme_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_USER", "somebody")
    (example,) = [block for block in blocks("yaml") if "name: lstm" in block]
    (tmp_path / "lstm.yaml").write_text(example)
    sweep = load_sweep(tmp_path / "lstm.yaml")
    assert (sweep.name, sweep.budget.reports, sweep.warnings()) == ("lstm", 32, [])


@pytest.mark.parametrize("name", ["digits", pytest.param("linear", marks=pytest.mark.long)])
def test_own_model_of_the_readme_runs_and_is_registered(tmp_path: Path, name: str) -> None:
    (code,) = [block for block in blocks("python") if block.startswith(f"# {name}.py")]
    (space,) = [block for block in blocks("yaml") if f"name: {name}" in block]
    assert len(code.splitlines()) < 40
    (tmp_path / f"{name}.py").write_text(code)
    (tmp_path / f"{name}.yaml").write_text(space)
    command = [sys.executable, "-m", "sweeper", "run", f"{name}.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{name}: " in done.stdout and "COMPLETE" in done.stdout
    assert f"models:/{name}@champion" in done.stdout and "warning" not in done.stderr, done.stderr
    if name == "digits":
        assert code.count("# changed") == 3


def test_mistakes_in_the_readme_are_reported_as_shown(tmp_path: Path) -> None:
    shown = next(block for block in blocks("console") if "validate" in block)
    (tmp_path / "broken.yaml").write_text(BROKEN)
    command = [sys.executable, "-m", "sweeper", "validate", "broken.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    printed = [" ".join(line.split()) for line in done.stderr.splitlines()]
    assert " ".join(printed) in " ".join(shown.split())


BROKEN = """\
name: broken
dataset: {type: mnist}
budget: {trials: 0, epochs: 8}
prunner: {type: median}
space:
  unitz: {type: int, low: 32, high: 256}
  learning_rate: {type: float, low: 0, high: 0.1, log: true}
  optimizer: {type: categorical, choices: [sgd, adm]}
"""


def test_files_that_the_readme_links_to_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_verbs_and_options_that_the_readme_names_exist() -> None:
    texts = [
        subprocess.run([sys.executable, "-m", "sweeper", verb, "--help"], capture_output=True, text=True, check=True)
        for verb in ("run", "submit", "logs", "show", "export", "promote")
    ]
    known = " ".join(text.stdout for text in texts)
    own = re.sub("command: .*", "", README)  # a script has options of its own
    for flag in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", own)):
        assert flag in known, flag
