"""The documentation agrees with the code, and with itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from ruamel.yaml import YAML

import sweeper
from sweeper.cli.main import EXIT_CODES, app
from sweeper.spec import Sweep, load_sweep

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md")), ROOT / "k8s/README.md", ROOT / "benchmarks/README.md"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def rows(page: Path, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without its head."""
    _, _, section = page.read_text().partition(f"\n## {heading}\n")
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert table is not None, heading
    lines = table[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands() -> dict[str, Any]:
    root = typer.main.get_command(app)
    context = typer.Context(root)
    return {name: root.get_command(context, name) for name in root.list_commands(context)}  # type: ignore[attr-defined]


def options_of(command: Any) -> set[str]:
    options = {option for param in command.params for option in param.opts if option.startswith("-")}
    return options - {"--help", "-h"}


def documented_options() -> dict[str, set[str]]:
    """Return the verbs of each option of docs/cli.md."""
    found: dict[str, set[str]] = {}
    for names, verbs, *_ in rows(DOCS / "cli.md", "Options"):
        for option in re.findall(r"`(--?[a-z-]+)", names):
            found[option] = set(commands()) if verbs == "all" else set(verbs.split(", "))
    return found


def test_yaml_page_shows_the_models_as_they_are() -> None:
    command = [sys.executable, "docs/generate_yaml.py", "--check"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_key_of_a_sweep_is_described() -> None:
    text = (DOCS / "yaml.md").read_text()
    assert re.findall(r"^\| `.*\|  \|$", text, re.MULTILINE) == []


def test_index_lists_every_page() -> None:
    listed = re.findall(r"\]\(([a-z-]+\.md)\)", (DOCS / "README.md").read_text())
    assert set(listed) == {page.name for page in DOCS.glob("*.md")} - {"README.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", page.read_text()):
        found = page.parent / target if target else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), f"{target}#{anchor}"


def test_every_verb_is_documented() -> None:
    documented = [re.sub(r"`sweeper ([a-z]+).*", r"\1", verb) for verb, _ in rows(DOCS / "cli.md", "Verbs")]
    assert sorted(documented) == sorted(commands())


@pytest.mark.parametrize("verb", sorted(commands()))
def test_options_of_a_verb_are_documented(verb: str) -> None:
    documented = {option for option, verbs in documented_options().items() if verb in verbs}
    assert documented == options_of(commands()[verb])


def test_exit_codes_are_documented() -> None:
    assert [int(code) for code, *_ in rows(DOCS / "cli.md", "Exit codes")] == sorted(EXIT_CODES)


def test_public_names_are_documented() -> None:
    sentence = re.search(r"`sweeper.__all__` is (.*?)\. ", (DOCS / "python.md").read_text(), re.DOTALL)
    assert sentence is not None
    assert sorted(re.findall(r"`(\w+)`", sentence[1])) == sorted(sweeper.__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_can_be_read(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_USER", "somebody")
    monkeypatch.chdir(tmp_path)
    for code in blocks(page, "python"):
        compile(code, page.name, "exec")
    for text in blocks(page, "yaml"):
        if re.search("^name: ", text, re.MULTILINE) and not re.search(
            "trainable: (linear|digits)", text
        ):  # these are run
            (tmp_path / "train.py").touch()
            (tmp_path / "sweep.yaml").write_text(text)
            assert load_sweep(tmp_path / "sweep.yaml").warnings() == []


def test_examples_of_resources_are_valid() -> None:
    space = {"units": {"type": "int", "low": 32, "high": 1024}}
    declared = {"name": "wide", "dataset": {"type": "digits"}, "budget": {"trials": 2, "epochs": 1}, "space": space}
    examples = [YAML(typ="safe").load(text) for text in blocks(DOCS / "resources.md", "yaml")]
    resources, budget = (Sweep.from_mapping(declared | example) for example in examples)
    assert resources.resources.custom == {"scratch": 1} and budget.budget.cpu_hours == 8


def test_changelog_has_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\n## [{version}] - " in (ROOT / "CHANGELOG.md").read_text()
