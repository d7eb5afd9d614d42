"""Trainables given as functions that no other process can import: those of a notebook, of a script, or of a shell.

A sweep names such a function `__main__:NAME`. This process remembers the function; workers get it by value.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from pydantic import BaseModel

from sweeper.core.code.source import mentions_model
from sweeper.core.errors import InputError
from sweeper.core.text import format_value

MAIN = "__main__"

_functions: dict[str, tuple[Callable[..., Any], type[Any] | None]] = {}
"""Functions of this process, and the class of the first parameter of each, by their paths."""


def path_of(function: Callable[..., Any]) -> str:
    """Return the path of a function, as package.module:function; remember it if no other process can import it.

    Raises:
        InputError: it does not take two arguments, or is no plain function.
    """
    if not isinstance(function, FunctionType) or inspect.iscoroutinefunction(function):
        raise InputError(f"{format_value(function)} is not a plain function; give a function of two arguments")
    parameters = _parameters(function)
    if len(parameters) < 2 and not any(found.kind is found.VAR_POSITIONAL for found in parameters):
        raise InputError(f"{_name(function)!r} must take two arguments, params and trial")
    module, name = str(getattr(function, "__module__", MAIN)), str(getattr(function, "__qualname__", ""))
    source = sys.modules.get(module)
    if module != MAIN and getattr(source, "__file__", None) and getattr(source, name, None) is function:
        return f"{module}:{name}"
    path = f"{MAIN}:{_name(function)}"
    _functions[path] = function, _params_model(function, parameters)
    return path


def function_at(path: str) -> tuple[Callable[..., Any], type[Any] | None] | None:
    """Return the function of this process that has a path, and the class of its first parameter; None without one.

    Raises:
        InputError: the path is one of a notebook or script, and this process has not defined the function.
    """
    if path.startswith(f"{MAIN}:") and path not in _functions:
        raise InputError(
            f"the function {path.partition(':')[2]!r} is defined in a notebook or a script, which no other process can "
            "import. Run the same cell or script again, or move the function into a module"
        )
    return _functions.get(path)


def pickle_function(path: str) -> bytes | None:
    """Return the function of a path by value, None if a worker can import it.

    Raises:
        InputError: it uses something that cannot be sent to another process.
    """
    found = function_at(path)
    if found is None:
        return None
    import cloudpickle

    try:
        return bytes(cloudpickle.dumps(found))
    except Exception as error:  # the objects' own __reduce__ may raise anything
        raise InputError(
            f"{_name(found[0])!r} cannot be sent to a worker ({type(error).__name__}: {error}). Create what it uses, "
            "such as a connection or a lock, inside the function"
        ) from error


def unpickle_function(path: str, content: bytes, code: Path | None) -> None:
    """Remember a function that another process has pickled, under its path.

    Args:
        code: the folder with the user's modules that the function may import, if it is not on Python's path.
    """
    import cloudpickle

    if code is not None and sys.path[:1] != [str(code)]:
        sys.path.insert(0, str(code))
    _functions[path] = cloudpickle.loads(content)


def digest_function(function: Callable[..., Any]) -> str:
    """Return a SHA-256 of a function's code, and of all functions, classes and constants beside it that it uses.

    Comments and layout do not count. Without their source, as in a shell, the compiled code stands for it.
    """
    return hashlib.sha256(repr(sorted(_sources(function).items())).encode()).hexdigest()


def function_leaves_model(path: str) -> bool:
    """Return whether the code of a remembered function mentions what leaves a model, see `source_code.leaves_model`."""
    function = _functions[path][0]
    return hasattr(function, "evaluate") or any(map(mentions_model, _sources(function).values()))


def _sources(function: Callable[..., Any]) -> dict[str, str]:
    """Return the code of a function, and of what is beside it and used by it, by the names that it uses."""
    found: dict[str, str] = {}
    waiting: list[tuple[str, Any]] = [("", function)]
    while waiting:
        name, thing = waiting.pop()
        if name in found:
            continue
        found[name], names = _source(thing)
        space = _namespace(thing)
        waiting += [(used, space[used]) for used in sorted(names & space.keys()) if _is_beside(space[used], thing)]
    return found


def modules_of(function: Callable[..., Any]) -> list[str]:
    """Return the modules that a function uses: those it imports, and those of what it uses by name."""
    names = {name for code in _codes(function) for name in code.co_names}
    found = set()
    for name, value in _namespace(function).items():
        if name in names:
            module = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            found |= {module} if isinstance(module, str) and module != MAIN else set()
    with suppress(OSError, TypeError, SyntaxError):
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
    return sorted(found)


def _name(function: Callable[..., Any]) -> str:
    return function.__name__ if function.__name__.isidentifier() else "trainable"


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [found for found in parameters if found.kind in (*kinds, inspect.Parameter.VAR_POSITIONAL)]


def _params_model(function: Callable[..., Any], parameters: list[inspect.Parameter]) -> type[Any] | None:
    """Return the class of the first parameter if it is a pydantic model or a dataclass."""
    try:
        found = inspect.get_annotations(function, eval_str=True).get(parameters[0].name)
    except Exception:  # an annotation may name what is not defined, or be any expression
        return None
    declares = isinstance(found, type) and (issubclass(found, BaseModel) or dataclasses.is_dataclass(found))
    return found if declares else None


def _source(thing: Any) -> tuple[str, set[str]]:
    """Return the code of a function or class as text, and the names that it uses; the repr of a constant."""
    if not isinstance(thing, FunctionType | type):
        return repr(thing), set()
    if thing.__name__ != "<lambda>":  # its source is the whole line
        with suppress(OSError, TypeError, SyntaxError):  # a shell keeps no source
            tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
            return ast.unparse(tree), {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    codes = list(_codes(thing))
    return repr([_compiled(code) for code in codes]), {name for code in codes for name in code.co_names}


def _compiled(code: CodeType) -> tuple[Any, ...]:
    constants = [value for value in code.co_consts if not isinstance(value, CodeType)]
    return code.co_name, code.co_code, code.co_names, code.co_varnames, repr(constants)


def _codes(thing: Any) -> Iterator[CodeType]:
    """Yield the compiled code of a function or of the methods of a class, and the code that is nested in it."""
    waiting = [
        getattr(value, "__code__", None) for value in (vars(thing).values() if isinstance(thing, type) else [thing])
    ]
    while waiting:
        if isinstance(code := waiting.pop(), CodeType):
            yield code
            waiting += [value for value in code.co_consts if isinstance(value, CodeType)]


def _namespace(thing: Any) -> Mapping[str, Any]:
    """Return what a function or class can use by name: its module's globals, and the variables around it."""
    if isinstance(thing, type):
        return vars(sys.modules.get(thing.__module__) or sys.modules[MAIN])
    cells = zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=False) if hasattr(thing, "__code__") else ()
    around = {}
    for name, cell in cells:
        with suppress(ValueError):  # the variable has no value yet
            around[name] = cell.cell_contents
    return {**getattr(thing, "__globals__", {}), **around}


def _is_beside(value: Any, user: Any) -> bool:
    """Return whether a value is part of the code of its user: a constant, or code of the same module."""
    if isinstance(value, bool | int | float | str | bytes | tuple | frozenset | None):
        return True
    return isinstance(value, FunctionType | type) and value.__module__ == getattr(user, "__module__", MAIN)
