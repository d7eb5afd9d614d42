"""Sources of Python modules, read without importing them."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sweeper.core.errors import InputError
from sweeper.core.text import did_you_mean


def import_user_module(module: str) -> Any:
    """Import a module of the user; the current folder is on the path, as with `python -m`.

    Raises:
        InputError: The module cannot be imported.
    """
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:  # a script that runs when imported may exit
        raise InputError(f"module {module!r} cannot be imported: {type(error).__name__}: {error}") from error


def locate_module(module: str) -> ModuleSpec | None:
    """Return the spec of a module without importing its packages; None if there is none."""
    names = module.split(".")
    top = sys.modules.get(names[0])
    path = [os.getcwd(), *sys.path]  # as with `python -m`; find_spec() asks the other finders
    spec = top.__spec__ if top else PathFinder.find_spec(names[0], path) or find_spec(names[0])
    for end in range(2, len(names) + 1):
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(".".join(names[:end]), list(spec.submodule_search_locations))
    return spec


class SourceModule:
    """Syntax tree of a module, with its definitions and imports by name."""

    def __init__(self, module: str, tree: ast.Module, *, is_package: bool) -> None:
        self.module = module
        self._tree = tree
        self._package = module if is_package else module.rpartition(".")[0]
        self._nodes: dict[str, ast.stmt] = {}
        self._imports: dict[str, tuple[str, str]] = {}
        for node in _statements(tree.body):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self._nodes[node.name] = node
            elif isinstance(node, ast.Assign):
                self._nodes |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
            elif isinstance(node, ast.ImportFrom):
                origin = resolve_name("." * node.level + (node.module or ""), self._package)
                self._imports |= {alias.asname or alias.name: (origin, alias.name) for alias in node.names}
            elif isinstance(node, ast.Import):
                self._imports |= {alias.asname: (alias.name, "") for alias in node.names if alias.asname}

    @classmethod
    def of(cls, module: str) -> SourceModule:
        """Find and parse a module.

        Raises:
            InputError: There is no such module, or its source cannot be parsed.
        """
        try:
            spec = locate_module(module)
        except (ImportError, ValueError, AttributeError):
            spec = None
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            raise InputError(f"there is no module {module!r} in {os.getcwd()} or on Python's path")
        try:
            tree = ast.parse(Path(spec.origin).read_bytes(), spec.origin)
        except SyntaxError as error:
            place = ":".join(str(part) for part in (spec.origin, error.lineno, error.offset) if part)
            raise InputError(f"{place}: {error.msg}") from error
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{spec.origin} cannot be read: {error}") from error
        return cls(module, tree, is_package=spec.submodule_search_locations is not None)

    @property
    def digest(self) -> str:
        """SHA-256 of the module's code, without its comments and layout."""
        return hashlib.sha256(ast.unparse(self._tree).encode()).hexdigest()

    def definition(self, name: str, *, hops: int = 10) -> tuple[SourceModule, ast.stmt]:
        """Return the statement that defines a name, and its module. Follows at most `hops` imports."""
        if name in self._nodes:
            return self, self._nodes[name]
        if name in self._imports and hops:
            module, original = self._imports[name]
            return SourceModule.of(module).definition(original, hops=hops - 1)
        functions = [name for name, node in self._nodes.items() if isinstance(node, ast.FunctionDef)]
        known = [name for name in [*functions, *self._imports] if not name.startswith("_")]
        raise InputError(f"module {self.module!r} has no function {name!r}. {did_you_mean(name, known)}")

    def resolve(self, annotation: ast.expr) -> type[Any] | None:
        """Return the class of an annotation if it is a pydantic model or a dataclass, None otherwise."""
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            try:
                annotation = ast.parse(annotation.value, mode="eval").body
            except SyntaxError:
                return None
        if isinstance(annotation, ast.Name) and isinstance(self._nodes.get(annotation.id), ast.ClassDef):
            found = getattr(import_user_module(self.module), annotation.id, None)
        elif isinstance(annotation, ast.Name) and annotation.id in self._imports:
            module, name = self._imports[annotation.id]
            found = getattr(import_user_module(module), name, None)
        elif isinstance(annotation, ast.Attribute) and isinstance(annotation.value, ast.Name):
            module, name = self._imports.get(annotation.value.id, (annotation.value.id, ""))
            found = getattr(import_user_module(f"{module}.{name}" if name else module), annotation.attr, None)
        else:
            return None
        declares = isinstance(found, type) and (issubclass(found, BaseModel) or dataclasses.is_dataclass(found))
        return found if declares else None

    def call_of(self, node: ast.Assign) -> ast.stmt | None:
        """Return the method `__call__` of the object that `name = Class()` creates; None for any other assignment."""
        if isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name):
            made = self._nodes.get(node.value.func.id)
            body = made.body if isinstance(made, ast.ClassDef) else []
            return next((item for item in body if isinstance(item, ast.FunctionDef) and item.name == "__call__"), None)
        return None


def _statements(body: list[ast.stmt]) -> list[ast.stmt]:
    """Return the statements of a module, including those inside `if` (as `if TYPE_CHECKING:`) and `try`."""
    found = []
    for node in body:
        found.append(node)
        if isinstance(node, ast.If | ast.Try):
            found += _statements(node.body) + _statements(node.orelse)
    return found


def first_annotation(source: SourceModule, node: ast.stmt) -> ast.expr | None:
    """Return the annotation of a trainable's first parameter, None if it has none.

    Raises:
        InputError: The statement does not define a function of two arguments.
    """
    called = source.call_of(node) if isinstance(node, ast.Assign) else node
    if isinstance(node, ast.ClassDef | ast.AsyncFunctionDef) or (
        isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant | ast.List | ast.Dict | ast.Tuple)
    ):
        raise InputError(f"the name in module {source.module!r} is not a plain function (line {node.lineno})")
    if not isinstance(called, ast.FunctionDef):
        return None
    parameters = [*called.args.posonlyargs, *called.args.args]
    first = 1 if called is not node else 0
    if len(parameters) - first < 2 and called.args.vararg is None:
        raise InputError(
            f"{source.module}:{called.name} must take two arguments, params and trial (line {node.lineno})"
        )
    return parameters[first].annotation if len(parameters) > first else None
