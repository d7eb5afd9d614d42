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
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


_FUNCTIONS: dict[str, Callable[..., Any]] = {"min": min, "max": max, "ceil": math.ceil}

_PARTS = (ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop)
"""Nodes that belong to another node, which decides whether they are allowed."""


_RULE = (
    "expressions may use numbers, parameters, + - * / // %, comparisons, and, or, not, `A if B else C`, min, max and "
    "ceil"
)


class ExpressionError(ValueError):
    """A text is not an expression. `column` is the place of the fault in it, from 1."""

    def __init__(self, message: str, column: int) -> None:
        super().__init__(message)
        self.column = column


@functools.cache
def parsed(text: str) -> ast.expr:
    """Parse an expression.

    Raises:
        ExpressionError: the text is not an expression, or has more in it than an expression may have.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        end = len(text.strip()) + 1  # where something is missing at the end, the offset is 0
        column = _indent(text) + ((error.offset or end) if isinstance(error, SyntaxError) else 1)
        raise ExpressionError(f"{format_value(text)} is neither a number nor an expression; {_RULE}", column) from None
    if (forbidden := next(filter(_is_forbidden, ast.walk(tree)), None)) is not None:
        message = f"{format_value(ast.unparse(forbidden))} is not allowed in an expression; {_RULE}"
        raise ExpressionError(message, column_of(forbidden, text))
    if not names_in(tree):
        message = "must be a number, or an expression of parameters; write a number without quotes"
        raise ExpressionError(f"{format_value(text)} {message}", 1)
    return tree


def column_of(node: ast.AST, text: str) -> int:
    """Return the column at which a node of an expression begins in its text, from 1."""
    before = text.strip().encode()[: getattr(node, "col_offset", 0)]
    return _indent(text) + len(before.decode(errors="replace")) + 1


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())


def _is_forbidden(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return type(node.value) not in (int, float, str, bool)
    if isinstance(node, ast.Call):
        return not (isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS) or bool(node.keywords)
    if isinstance(node, ast.Compare):
        return len(node.ops) > 1 or type(node.ops[0]) not in _OPERATIONS
    if isinstance(node, ast.BinOp | ast.UnaryOp):
        return type(node.op) not in _OPERATIONS
    return not isinstance(node, (ast.Name, ast.IfExp, ast.BoolOp, *_PARTS))


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
        case ast.BoolOp(ast.And(), values):
            return all(value_of(value, point) for value in values)
        case ast.BoolOp(ast.Or(), values):
            return any(value_of(value, point) for value in values)
        case ast.Compare(left, [operation], [right]):
            return _OPERATIONS[type(operation)](value_of(left, point), value_of(right, point))
        case ast.UnaryOp(ast.Not(), operand):
            return not value_of(operand, point)
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
