from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import sweeper

ROOT = Path(sweeper.__file__).parent

MAY_IMPORT = {
    "core": set(),
    "datasets": {"core"},
    "search": {"core"},
    "backends": {"core"},
    "spec": {"core", "search", "datasets"},
    "study": {"core", "search", "spec"},
    "tracking": {"core", "spec"},
    "worker": {"core", "spec", "datasets", "tracking"},
    "training": {"core", "datasets", "worker"},
    "driver": {"core", "spec", "study", "worker"},
    "analysis": {"core", "search", "spec", "study"},
    "run": {"core", "spec", "study", "tracking", "worker", "driver", "analysis"},
    "cli": {"core", "datasets", "backends", "spec", "study", "tracking", "driver", "analysis", "run"},
    "__init__": {"spec", "analysis", "run", "study", "worker"},
    "__main__": {"cli"},
}
"""Each room, and the rooms that it may import, also lazily and for types only."""

HEAVY = {
    "ray": {"driver", "backends"},
    "ray.tune": {"driver"},
    "mlflow": {"tracking"},
    "optuna": {"study", "search", "analysis"},
    "plotly": {"analysis"},
    "jinja2": {"analysis"},
    "sqlalchemy": {"study", "driver", "tracking"},
    "tensorflow": {"training"},
    "keras": {"training", "tracking", "worker"},
    "jax": {"training"},
    "sklearn": {"datasets"},
    "kubernetes": {"backends"},
    "pyarrow": {"core"},
    "pandas": {"study", "analysis"},
    "cloudpickle": {"core", "tracking"},
    "fsspec": {"core"},
    "ruamel": {"spec", "core", "backends", "cli"},
    "typer": {"cli"},
    "rich": {"cli"},
    "plotext": {"cli"},
}
"""Packages that take long to import or that one room is to know, and the rooms that may."""

CORE = {
    "confirmation", "environment", "errors", "files", "predictions", "remote_folder", "schema", "secrets",
    "sweep_folder", "text", "trials", "urls",
}  # fmt: skip
"""What all rooms may use is kept small: a file that only one room needs belongs there."""

MAX_ENTRIES, MAX_FILES, MAX_LINES, MAX_BODY_LINES, MAX_METHODS = 15, 13, 280, 45, 20

MODULES = {
    ".".join(["sweeper", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def imports_of(path: Path) -> set[str]:
    """Every import of a file, within functions and `if TYPE_CHECKING:` too; a name of a package that is a module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}:{node.lineno} imports relatively"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & MODULES.keys()) or {node.module}
    return found


def room_of(module: str) -> str:
    return (module.split(".") + ["__init__"])[1]


def in_package(path: Path) -> set[str]:
    return {name for name in imports_of(path) if name in MODULES}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    for module, path in MODULES.items():
        if room_of(module) == room:
            strangers = {room_of(name) for name in in_package(path)} - {room} - MAY_IMPORT[room]
            assert not strangers, f"{path} imports {strangers}"


def test_the_table_has_every_room() -> None:
    assert {room_of(module) for module in MODULES} == MAY_IMPORT.keys()


def test_the_table_has_no_circle() -> None:
    left = {room: set(below) for room, below in MAY_IMPORT.items()}
    while ground := [room for room, below in left.items() if not below & left.keys()]:
        for room in ground:
            del left[room]
    assert not left


def test_no_module_imports_itself_through_others() -> None:
    graph = {module: in_package(path) - {module} for module, path in MODULES.items()}
    while ground := [module for module, below in graph.items() if not below & graph.keys()]:
        for module in ground:
            del graph[module]
    assert not graph, f"a circle among {sorted(graph)}"


@pytest.mark.parametrize("package", HEAVY)
def test_a_heavy_package_is_imported_in_its_rooms_only(package: str) -> None:
    for module, path in MODULES.items():
        for name in imports_of(path):
            if f"{name}.".startswith(f"{package}."):
                assert room_of(module) in HEAVY[package], f"{path} imports {name}"


def test_core_attracts_no_strays() -> None:
    assert {path.stem for path in (ROOT / "core").glob("*.py")} == CORE | {"__init__"}


def folders() -> Iterator[Path]:
    yield from (path for path in ROOT.rglob("*") if path.is_dir() and path.name != "__pycache__")


def test_rooms_and_files_stay_few() -> None:
    assert len([path for path in ROOT.iterdir() if path.name != "__pycache__"]) <= MAX_ENTRIES + 1  # py.typed
    for folder in folders():
        assert len([path for path in folder.iterdir() if path.is_file()]) <= MAX_FILES, folder


def test_modules_classes_and_functions_stay_small_enough_to_read() -> None:
    for path in MODULES.values():
        assert len(path.read_text().splitlines()) <= MAX_LINES, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                assert length <= MAX_BODY_LINES, f"{path}:{node.lineno} {node.name} has {length} lines"
            elif isinstance(node, ast.ClassDef):
                methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
                assert len(methods) <= MAX_METHODS, f"{path}:{node.lineno} {node.name} has {len(methods)} methods"


def test_the_public_names_are_what_they_are_said_to_be() -> None:
    names = ["Sweep", "SweepResult", "Trial", "load_sweep", "read_study", "report", "run_sweep"]
    assert sorted(sweeper.__all__) == names


@pytest.mark.parametrize("name", sweeper.__all__)
def test_each_public_name_has_a_docstring_with_an_example(name: str) -> None:
    assert "Example" in (inspect.getdoc(getattr(sweeper, name)) or "")
