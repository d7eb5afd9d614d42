"""Sources of Python modules, read without importing them."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sweeper.core.errors import InputError
from sweeper.core.text import did_you_mean


def import_user_module(module: str, folder: Path | None) -> Any:
    """Import a module; if it lies in `folder`, that comes first on Python's path from now on, as with `python -m`.

    Raises:
        InputError: The module cannot be imported.
    """
    top = locate_module(module.partition(".")[0], folder) if folder and not module.startswith("sweeper.") else None
    if top is not None and root_of(top) == folder and sys.path[:1] != [str(folder)]:
        sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:  # a script that runs when imported may exit
        raise InputError(f"module {module!r} cannot be imported: {type(error).__name__}: {error}") from error


def locate_module(module: str, folder: Path | None) -> ModuleSpec | None:
    """Return the spec of a module without importing its packages; None if there is none.

    Args:
        folder: where the user's modules are looked for before Python's path; None: only on Python's path.
    """
    try:
        return _locate(module, folder)
    except (ImportError, ValueError, AttributeError):  # as for a module without a spec
        return None


def _locate(module: str, folder: Path | None) -> ModuleSpec | None:
    names = module.split(".")
    if module.startswith("sweeper."):
        spec = sys.modules["sweeper"].__spec__  # no file of the user takes its place
    else:
        path = [*([str(folder)] if folder else []), *sys.path]
        spec = PathFinder.find_spec(names[0], path) or find_spec(names[0])  # find_spec() asks the other finders
    for end in range(2, len(names) + 1):
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(".".join(names[:end]), list(spec.submodule_search_locations))
    return spec


def root_of(spec: ModuleSpec) -> Path | None:
    """Return the folder that a top-level module is imported from; None for a module that is built in."""
    place = next(iter(spec.submodule_search_locations or ()), spec.origin if spec.has_location else None)
    return None if place is None else Path(place).parent


def code_digests(root: Path, module: str) -> dict[str, str]:
    """Return the digest of each file in `root` that a module imports, itself included, by its path in `root`.

    Imports inside functions count; names that are computed when the code runs are not found.
    """
    return {file: hashlib.sha256(content).hexdigest() for file, content in own_files(root, module)}


def mentions_model(code: str) -> bool:
    """Return whether code mentions what leaves a model to register: `save_model`, `keras`, `evaluate`, a return."""
    return bool(_LEAVES_MODEL.search(code))


_LEAVES_MODEL = re.compile(
    r"\bsave_model\b|\.keras\(|\.evaluate = |\bdef evaluate\(|['\"]evaluate['\"]|"
    r"\breturn \w*(model|net|network|classifier|regressor|clf|estimator)\b"
)


def own_files(root: Path, module: str) -> Iterator[tuple[str, bytes]]:
    """Yield each file in `root` that a module imports, with its code; without comments, if it can be parsed."""
    waiting, seen = [module], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name.partition(".")[0] == "sweeper":
            continue
        seen.add(name)
        waiting += [name.rpartition(".")[0]] if "." in name else []
        base = root.joinpath(*name.split("."))
        file = next(
            (file for file in (base / "__init__.py", base.with_name(f"{base.name}.py")) if file.is_file()), None
        )
        if file is None:
            continue
        content = file.read_bytes()
        try:
            tree = ast.parse(content)
        except (SyntaxError, ValueError, RecursionError):
            yield str(file.relative_to(root)), content
            continue
        yield str(file.relative_to(root)), ast.unparse(tree).encode()
        waiting += _imported(tree, name if file.name == "__init__.py" else name.rpartition(".")[0])


def script_digests(root: Path, scripts: Iterable[Path]) -> dict[str, str]:
    """Return the digest of each script, and of the Python files beside it that it imports, by its path in `root`.

    A script outside of `root` has its absolute path.
    """
    found: dict[Path, str] = {}
    for script in scripts:
        imported = code_digests(script.parent, script.stem) if script.suffix == ".py" else {}
        found |= {script.parent / file: digest for file, digest in imported.items()}
        if script not in found:
            found[script] = hashlib.sha256(script.read_bytes()).hexdigest()
    return {
        str(file.relative_to(root) if file.is_relative_to(root) else file): digest for file, digest in found.items()
    }


def _all_statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield all statements, at any depth. `ast.walk` visits expressions too, which takes twenty times as long."""
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            yield from _all_statements(getattr(node, part, []))


def _digest(tree: ast.Module) -> str:
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    """Yield the names that may be modules which a tree imports."""
    for node in _all_statements(tree.body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (package or not node.level):
            with suppress(ImportError):  # more dots than there are packages
                origin = resolve_name("." * node.level + (node.module or ""), package)
                yield origin
                yield from (f"{origin}.{alias.name}" for alias in node.names)


class SourceModule:
    """Syntax tree of a module, with its definitions and imports by name.

    `folder` is where its user's modules are looked for, see `locate_module`.
    """

    def __init__(self, module: str, tree: ast.Module, folder: Path | None, *, is_package: bool) -> None:
        self.module = module
        self._folder = folder
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
    def of(cls, module: str, folder: Path | None) -> SourceModule:
        """Find and parse a module.

        Raises:
            InputError: There is no such module, or its source cannot be parsed.
        """
        spec = locate_module(module, folder)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            raise InputError(f"there is no module {module!r} in {folder or os.getcwd()} or on Python's path")
        try:
            tree = ast.parse(Path(spec.origin).read_bytes(), spec.origin)
        except SyntaxError as error:
            place = ":".join(str(part) for part in (spec.origin, error.lineno, error.offset) if part)
            raise InputError(f"{place}: {error.msg}") from error
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{spec.origin} cannot be read: {error}") from error
        return cls(module, tree, folder, is_package=spec.submodule_search_locations is not None)

    @property
    def digest(self) -> str:
        """SHA-256 of the module's code, without its comments and layout."""
        return _digest(self._tree)

    def definition(self, name: str, *, hops: int = 10) -> tuple[SourceModule, ast.stmt]:
        """Return the statement that defines a name, and its module. Follows at most `hops` imports."""
        if name in self._nodes:
            return self, self._nodes[name]
        if name in self._imports and hops:
            module, original = self._imports[name]
            return SourceModule.of(module, self._folder).definition(original, hops=hops - 1)
        functions = [name for name, node in self._nodes.items() if isinstance(node, ast.FunctionDef)]
        offered = functions or (self._imports if self._package == self.module else ())
        known = [name for name in offered if not name.startswith("_")]
        script = f"It has no functions; to run it as a script, write {{command: python {self.module}.py}}"
        hint = did_you_mean(name, known) if known else script
        raise InputError(f"module {self.module!r} has no function {name!r}. {hint}")

    def resolve(self, annotation: ast.expr) -> type[Any] | None:
        """Return the class of an annotation if it is a pydantic model or a dataclass, None otherwise."""
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            try:
                annotation = ast.parse(annotation.value, mode="eval").body
            except SyntaxError:
                return None
        if isinstance(annotation, ast.Name) and isinstance(self._nodes.get(annotation.id), ast.ClassDef):
            found = getattr(self._import(self.module), annotation.id, None)
        elif isinstance(annotation, ast.Name) and annotation.id in self._imports:
            module, name = self._imports[annotation.id]
            found = getattr(self._import(module), name, None)
        elif isinstance(annotation, ast.Attribute) and isinstance(annotation.value, ast.Name):
            module, name = self._imports.get(annotation.value.id, (annotation.value.id, ""))
            found = getattr(self._import(f"{module}.{name}" if name else module), annotation.attr, None)
        else:
            return None
        declares = isinstance(found, type) and (issubclass(found, BaseModel) or dataclasses.is_dataclass(found))
        return found if declares else None

    def _import(self, module: str) -> Any:
        return import_user_module(module, self._folder)

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
