"""Expressions of parameters, such as `1 if units > 512 else 0.25`: parsed and evaluated safely."""

from __future__ import annotations

import ast
import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from sweeper.core.text import format_value

_OPERATIONS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


_FUNCTIONS: dict[str, Callable[..., Any]] = {"min": min, "max": max, "ceil": math.ceil}


_RULE = "expressions may use numbers, parameters, + - * / // %, comparisons, `A if B else C`, min, max and ceil"


@functools.cache
def parsed(text: str) -> ast.expr:
    """Parse an expression.

    Raises:
        ValueError: the text is not an expression, or has more in it than an expression may have.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"{format_value(text)} is neither a number nor an expression; {_RULE}") from None
    if (forbidden := next(filter(_is_forbidden, ast.walk(tree)), None)) is not None:
        raise ValueError(f"{format_value(ast.unparse(forbidden))} is not allowed in an expression; {_RULE}")
    if not names_in(tree):
        raise ValueError(
            f"{format_value(text)} must be a number, or an expression of parameters; write a number without quotes"
        )
    return tree


def _is_forbidden(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return type(node.value) not in (int, float, str)
    if isinstance(node, ast.Call):
        return not (isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS) or bool(node.keywords)
    if isinstance(node, ast.Compare):
        return len(node.ops) > 1 or type(node.ops[0]) not in _OPERATIONS
    if isinstance(node, ast.BinOp | ast.UnaryOp):
        return type(node.op) not in _OPERATIONS
    return not isinstance(node, ast.Name | ast.IfExp | ast.expr_context | ast.operator | ast.unaryop | ast.cmpop)


def names_in(tree: ast.expr) -> list[str]:
    """Return the parameters of an expression, repeated ones included."""
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called]


def value_of(node: ast.expr, point: Mapping[str, Any]) -> Any:
    """Compute an expression.

    Raises:
        TypeError: the values are not of the kinds that it needs.
        ArithmeticError: a division by zero, or a number too large.
    """
    match node:
        case ast.Constant(value):
            return value
        case ast.Name(name):
            return point[name]
        case ast.IfExp(test, body, orelse):
            return value_of(body if value_of(test, point) else orelse, point)
        case ast.Compare(left, [operation], [right]):
            return _OPERATIONS[type(operation)](value_of(left, point), value_of(right, point))
        case ast.UnaryOp(operation, operand):
            return _OPERATIONS[type(operation)](_number(operand, point))
        case ast.BinOp(left, operation, right):
            return _OPERATIONS[type(operation)](_number(left, point), _number(right, point))
        case ast.Call(ast.Name(name), arguments):
            return _FUNCTIONS[name](*(_number(argument, point) for argument in arguments))
    raise AssertionError(ast.dump(node))


def _number(node: ast.expr, point: Mapping[str, Any]) -> float:
    """Return the value of an operand, which must be a number: `'text' * 10**9` would fill the memory."""
    value = value_of(node, point)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{ast.unparse(node)} is {format_value(value)}, not a number")
    return value
