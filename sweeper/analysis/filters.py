"""The trials that a person asks for: by their state, by expressions of what is known of them, and in which order."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from sweeper.analysis.trials import INTERRUPTED, PAUSED, unit
from sweeper.core.errors import InputError
from sweeper.core.text import did_you_mean, format_value
from sweeper.search.domains import Float, Int
from sweeper.spec.expressions import ExpressionError, column_of, names_in, parsed, value_of

if TYPE_CHECKING:
    from sweeper.core.trials import TrialRecord
    from sweeper.search.space import AnyDomain
    from sweeper.spec import Sweep

STATES = ("COMPLETE", "RUNNING", INTERRUPTED, PAUSED, "PRUNED", "FAIL")
"""States that people see, in the order of the leaderboard."""

_Getter = Callable[["TrialRecord"], Any]

_FACTS: dict[str, tuple[type, _Getter]] = {
    "number": (float, lambda row: row.number),
    "state": (str, lambda row: row.state),
    "value": (float, lambda row: row.value),
    "time": (float, lambda row: row.seconds),
    "attempt": (float, lambda row: row.attempt),
    "node": (str, lambda row: row.node),
}
"""What is known of every trial beside its parameters, with its kind: a number, or text."""


def select(
    sweep: Sweep,
    rows: Sequence[TrialRecord],
    *,
    states: Sequence[str] = (),
    where: Sequence[str] = (),
    sort: str | None = None,
) -> list[TrialRecord]:
    """Return the trials that are asked for; without `sort` in the order given.

    Args:
        rows: trials with the states that people see.
        states: the states that they may have, in small letters too; none: all states.
        where: expressions that are all true of them. A comparison with what a trial does not have, such as a parameter
            that it does not use, is false.
        sort: a parameter or fact to sort by, from the smallest; with a minus from the largest. `value`, or the name of
            a goal's metric, sorts from the best. Trials without it come last.

    Raises:
        InputError: there is no such state, parameter or fact, or an expression cannot be computed.
    """
    known = _known(sweep)
    chosen = {_state(text) for given in states for text in given.split(",")}
    tests = [_test(text, known) for text in where]
    order = None if sort is None else _order(sort, known, sweep)
    found = [row for row in rows if not chosen or row.state in chosen]
    found = [row for row in found if all(test(row) for test in tests)]
    return found if order is None else order(found)


def _known(sweep: Sweep) -> dict[str, tuple[type | None, _Getter]]:
    """Return what is known of a trial by its name, with its kind; None: numbers and text. A parameter hides a fact."""
    budget = sweep.budget
    facts: dict[str, tuple[type | None, _Getter]] = {**_FACTS}
    facts[unit(budget)] = float, lambda row: budget.epoch_of(row.step)
    facts[sweep.objective.metric] = _FACTS["value"]
    for goal in sweep.goals[1:]:
        facts[goal.metric] = float, partial(_goal_value, goal.metric)
    for name, domain in sweep.space.items():
        facts[name] = _kind_of(domain), lambda row, name=name: row.params.get(name)  # type: ignore[misc]
    return {name: facts[name] for name in (*sweep.space, *(fact for fact in facts if fact not in sweep.space))}


def _goal_value(metric: str, row: TrialRecord) -> float | None:
    return next((other.value for other in row.others if other.metric == metric), None)


def _kind_of(domain: AnyDomain) -> type | None:
    if isinstance(domain, Float | Int):
        return float
    kinds = {_kind(value) for value in domain.values()} - {None}
    return kinds.pop() if len(kinds) == 1 else None


def _kind(value: object) -> type | None:
    """Return the kind of a value: a number, text, or true and false."""
    if isinstance(value, bool):
        return bool
    return float if isinstance(value, int | float) else str if isinstance(value, str) else None


def _state(text: str) -> str:
    if (state := text.strip().upper()) not in STATES:
        raise InputError(f"--state {format_value(text)}: there is no such state. {did_you_mean(state, STATES)}")
    return state


def _order(
    key: str, known: Mapping[str, tuple[type | None, _Getter]], sweep: Sweep
) -> Callable[[list[TrialRecord]], list[TrialRecord]]:
    """Return a function that sorts trials by a key, with a minus in front the other way round."""
    name = key.removeprefix("-")
    if name not in known:
        raise InputError(f"--sort {format_value(key)}: there is no such column. {did_you_mean(name, known)}")
    get, is_reversed = known[name][1], key.startswith("-")
    goals = {"value": sweep.objective, **{goal.metric: goal for goal in sweep.goals}}
    if name not in sweep.space and name in goals and goals[name].direction == "maximize":
        is_reversed = not is_reversed

    def sort(rows: list[TrialRecord]) -> list[TrialRecord]:
        having = [row for row in rows if not _is_missing(get(row))]
        return sorted(having, key=lambda row: _sortable(get(row)), reverse=is_reversed) + [
            row for row in rows if _is_missing(get(row))
        ]

    return sort


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _sortable(value: Any) -> tuple[bool, Any]:
    return isinstance(value, str), value  # a parameter may have numbers and text


class _Missing:
    """What a trial does not have: no comparison with it is true."""

    def _is_false(self, _: object) -> bool:
        return False

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _is_false
    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return False


_MISSING = _Missing()
_WORDS = {"true": True, "false": False}
"""Values as a sweep file writes them."""


def _test(text: str, known: Mapping[str, tuple[type | None, _Getter]]) -> Callable[[TrialRecord], bool]:
    """Return the test of an expression of `--where`.

    Raises:
        InputError: it is no expression, or compares or computes what cannot be; with the column of the fault.
    """
    try:
        tree = parsed(text)
    except ExpressionError as error:
        raise _fault(text, error.column, str(error)) from None
    names = set(names_in(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in names and node.id not in {*known, *_WORDS}:
            message = f"there is no parameter or column {format_value(node.id)}. {did_you_mean(node.id, known)}"
            raise _fault(text, column_of(node, text), message)
    kinds = {name: kind for name, (kind, _) in known.items()} | dict.fromkeys(_WORDS, bool)
    _check_kinds(tree, kinds, text)
    getters = {name: known[name][1] for name in names if name in known}

    def test(row: TrialRecord) -> bool:
        values = {name: get(row) for name, get in getters.items()}
        point = _WORDS | {name: _MISSING if _is_missing(value) else value for name, value in values.items()}
        try:
            return bool(value_of(tree, point))
        except (TypeError, ValueError):  # it needs what this trial does not have; kinds were checked before
            return False
        except ArithmeticError as error:
            raise _fault(text, 1, f"it cannot be computed for trial {row.number}: {error}") from error

    return test


def _fault(text: str, column: int, message: str) -> InputError:
    return InputError(f"--where {format_value(text)}, column {column}: {message}")


def _check_kinds(node: ast.expr, kinds: Mapping[str, type | None], text: str) -> type | None:
    """Return the kind of an expression's value; None if it may be of several.

    Raises:
        InputError: text is compared with a number, or computed with.
    """
    match node:
        case ast.Constant(value):
            return _kind(value)
        case ast.Name(name):
            return kinds[name]
        case ast.Compare(left, _, [right]):
            pair = {_check_kinds(left, kinds, text), _check_kinds(right, kinds, text)}
            if str in pair and pair & {float, bool}:
                message = f"{_described(left, kinds)} and {_described(right, kinds)} cannot be compared"
                raise _fault(text, column_of(left, text), message)
            return bool
        case ast.BoolOp(_, parts):
            for part in parts:
                _check_kinds(part, kinds, text)
            return bool
        case ast.IfExp(test, body, orelse):
            _check_kinds(test, kinds, text)
            found = {_check_kinds(body, kinds, text), _check_kinds(orelse, kinds, text)}
            return found.pop() if len(found) == 1 else None
        case ast.UnaryOp(ast.Not(), operand):
            _check_kinds(operand, kinds, text)
            return bool
        case ast.UnaryOp(_, operand):
            operands = [operand]
        case ast.BinOp(left, _, right):
            operands = [left, right]
        case ast.Call(_, arguments):
            operands = arguments
        case _:
            raise AssertionError(ast.dump(node))
    for operand in operands:
        if _check_kinds(operand, kinds, text) in (str, bool):
            raise _fault(text, column_of(operand, text), f"{_described(operand, kinds)} is not a number")
    return float


def _described(node: ast.expr, known: Mapping[str, type | None]) -> str:
    """Return a part of an expression and its kind for a message: optimizer (text)."""
    kinds: dict[type | None, str] = {str: "text", float: "a number", bool: "true or false", None: "of several kinds"}
    return f"{ast.unparse(node)} ({kinds[_check_kinds(node, known, '')]})"
