from __future__ import annotations

import ast
from pathlib import Path

import sweeper

ROOT = Path(sweeper.__file__).parent

# From the top down: a room may import from those below it, never from one above.
ROOMS = [
    {"cli", "__main__"},
    {"backends"},
    {"run"},
    {"control", "preflight", "claim"},
    {"tuning", "cluster"},
    {"access", "shipping", "survey"},
    {"watch"},
    {"nodes"},
    {"bridge", "actor"},
    {"worker", "stopping"},
    {"tracking"},
    {"studies", "surroundings"},
    {"study", "changes"},
    {"durable"},
    {"storage", "owned"},
    {"orders", "lease"},
    {"result"},
    {"records", "rows", "databases"},
    {"spec", "trial"},  # a trial is typed by the spec, a budget by nothing
    {"training"},
    {"checkpoints", "failures"},
    {"remote"},
    {"paths", "places"},
    {"errors"},
    {"redaction", "private", "versions"},
]
ONLY_IN = {
    "ray.tune": {"tuning", "watch", "actor"},
    "mlflow": {"tracking", "cli"},
    "ray": {"tuning", "watch", "actor", "cluster", "nodes", "access", "cli", "backends", "survey", "shipping"},
    "kubernetes": {"backends"},
}


def imports_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_imports_go_downward_only() -> None:
    level = {room: number for number, rooms in enumerate(ROOMS) for room in rooms}
    for path in ROOT.rglob("*.py"):
        room = room_of(path)
        if room == "__init__":
            continue
        for name in imports_of(path):
            parts = name.split(".")
            if parts[0] == "sweeper" and parts[1] in level and parts[1] != room:
                assert level[parts[1]] >= level[room], f"{path} imports {name}"


def test_each_engine_is_imported_in_one_room() -> None:
    for path in ROOT.rglob("*.py"):
        for name in imports_of(path):
            for engine, rooms in ONLY_IN.items():
                if name == engine or name.startswith(f"{engine}."):
                    assert room_of(path) in rooms, f"{path} imports {name}"


def test_training_knows_no_ray_no_mlflow_and_no_optuna() -> None:
    for path in (ROOT / "training").rglob("*.py"):
        engines = {name.split(".")[0] for name in imports_of(path)}
        assert not engines & {"ray", "mlflow", "optuna"}, path


def test_the_public_names_are_what_they_are_said_to_be() -> None:
    assert sorted(sweeper.__all__) == ["Sweep", "load_sweep", "run_sweep"]
    assert all(getattr(sweeper, name) is not None for name in sweeper.__all__)


def test_modules_and_functions_stay_small_enough_to_read() -> None:
    for path in ROOT.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 315, path
