"""Arithmetic by a parser of its own: Python's grammar is read, nothing of it is executed.

Numbers are bounded before each operation, so that no expression takes long or much memory.
"""

import ast
import math
import operator
from collections.abc import Callable
from typing import Final

from pydantic import JsonValue

from aios_proto.errors import InvalidRequest
from aios_proto.messages.tool import ToolSpec
from aios_tool.core.builtin import Builtin
from aios_tool.ports import Attempt

MAX_CHARS: Final = 1000
MAX_NODES: Final = 300
MAX_DIGITS: Final = 1000

Number = int | float

_BINARY: Final[dict[type[ast.operator], Callable[[Number, Number], Number]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: Final[dict[type[ast.unaryop], Callable[[Number], Number]]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_FUNCTIONS: Final[dict[str, Callable[..., Number]]] = {
    **{name: getattr(math, name) for name in ("sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "atan2")},
    **{name: getattr(math, name) for name in ("exp", "log", "log2", "log10", "floor", "ceil", "gcd", "hypot")},
    **{name: getattr(math, name) for name in ("degrees", "radians")},
    "abs": abs,
    "round": round,
    "min": min,
    "max": max,
}
_CONSTANTS: Final = {"pi": math.pi, "e": math.e, "tau": math.tau}


def evaluate(expression: str) -> Number:
    """The value of an arithmetic expression.

    Raises:
        InvalidRequest: it is none, or its value cannot be told.
    """
    if len(expression) > MAX_CHARS:
        raise _refused(f"an expression may have {MAX_CHARS} characters")
    try:
        tree = ast.parse(expression.strip().replace("^", "**"), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _refused("that is no arithmetic expression") from error
    if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
        raise _refused(f"an expression may have {MAX_NODES} parts")
    try:
        return _value(tree.body)
    except (ArithmeticError, ValueError, TypeError) as error:
        raise _refused(f"it has no value: {error}") from error


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=bool()):
            raise _refused("only numbers can be computed with")
        case ast.Constant(value=int() | float() as number):
            return _bounded(number)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _UNARY:
            return _UNARY[type(sign)](_value(operand))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
            return _binary(type(sign), _value(left), _value(right))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return _bounded(_FUNCTIONS[name](*map(_value, arguments)))
    raise _refused(f"{type(node).__name__} is not arithmetic")


def _binary(sign: type[ast.operator], left: Number, right: Number) -> Number:
    whole = isinstance(left, int) and isinstance(right, int)
    if sign is ast.Pow and whole and int(left).bit_length() * right > MAX_DIGITS * 4:
        raise _refused(f"the number would have more than {MAX_DIGITS} digits")
    value = _BINARY[sign](left, right)
    if isinstance(value, complex):
        raise _refused("its value is no real number")
    return _bounded(value)


def _bounded(value: Number) -> Number:
    if isinstance(value, float) and not math.isfinite(value):
        raise _refused("its value is not finite")
    if isinstance(value, int) and value.bit_length() > MAX_DIGITS * 4:
        raise _refused(f"the number has more than {MAX_DIGITS} digits")
    return value


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest(f"expression: {why}", field="arguments.expression")


_LARGEST_EXACT = 1 << 53


async def _calculate(attempt: Attempt) -> JsonValue:
    value = evaluate(str(attempt.arguments["expression"]))
    # JSON readers keep whole numbers exactly up to 2**53 only.
    return {"value": str(value) if isinstance(value, int) and abs(value) > _LARGEST_EXACT else value}


CALCULATOR = Builtin(
    ToolSpec(
        name="calculator",
        description="Computes an arithmetic expression: + - * / // % ** with brackets, sqrt, sin, log, round, min, "
        "max, pi and e.",
        input_schema={
            "type": "object",
            "properties": {"expression": {"type": "string", "minLength": 1, "description": "such as (17 + 4) * 2"}},
            "required": ["expression"],
            "additionalProperties": False,
        },
        output_schema={
            "type": "object",
            "properties": {"value": {"type": ["number", "string"]}},
            "required": ["value"],
        },
        effects=["read_only"],
        timeout_s=5,
        concurrency=64,
    ),
    _calculate,
)
