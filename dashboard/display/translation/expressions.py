"""Python expressions as JavaScript."""

from __future__ import annotations

import ast
import json
import re
from typing import NoReturn

NAMES = {"None": "null", "True": "true", "False": "false", "math.inf": "Infinity"}
FUNCTIONS = {
    "abs": "Math.abs",
    "max": "Math.max",
    "min": "Math.min",
    "int": "Number",
    "str": "String",
    "math.ceil": "Math.ceil",
    "math.floor": "Math.floor",
    "math.isfinite": "Number.isFinite",
    "math.isnan": "Number.isNaN",
    "math.log10": "Math.log10",
}
METHODS = {"append": "push", "split": "split"}
OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Pow: "**",
    ast.And: "&&",
    ast.Or: "||",
    ast.Not: "!",
    ast.USub: "-",
    ast.Eq: "===",
    ast.NotEq: "!==",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Is: "==",  # what is null for Python may be undefined for JavaScript; == takes both
}
# JavaScript's toPrecision keeps trailing zeros, which g and a conversion to a number drop.
FORMATS = {"f": "{}.toFixed({})", "e": "{}.toExponential({})", "g": "Number({}.toPrecision({}))"}
# In parentheses wherever they are operands, which spares a table of two languages' precedence.
COMPOUND = (ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.UnaryOp)


class Untranslatable(Exception):
    """A Python construct that has no translation here."""

    def __init__(self, node: ast.AST) -> None:
        super().__init__(f"line {getattr(node, 'lineno', '?')}: {ast.unparse(node)}")


def expression(node: ast.AST) -> str:
    """One expression.

    Raises:
        Untranslatable: for what has no translation.
    """
    return str(_Expressions().visit(node))


def operator(node: ast.AST, parent: ast.AST) -> str:
    """The sign of an operator of `parent`."""
    if type(node) not in OPERATORS:
        raise Untranslatable(parent)
    return OPERATORS[type(node)]


def camel_case(name: str) -> str:
    """A name as JavaScript writes it: in camel case, but constants as they are."""
    if name.isupper():
        return name
    first, *following = name.strip("_").split("_")
    return first + "".join(word.capitalize() for word in following)


def _operand(node: ast.expr) -> str:
    """Part of an expression, in parentheses where precedence might differ."""
    return f"({expression(node)})" if isinstance(node, COMPOUND) else expression(node)


def _literal(node: ast.Constant) -> str:
    """The text between the braces of a format string."""
    if re.search(r"[`$\\]", str(node.value)):
        raise Untranslatable(node)
    return str(node.value)


class _Expressions(ast.NodeVisitor):
    def generic_visit(self, node: ast.AST) -> NoReturn:
        raise Untranslatable(node)

    def visit_Constant(self, node: ast.Constant) -> str:
        if isinstance(node.value, str):
            return json.dumps(node.value, ensure_ascii=False)
        return NAMES.get(str(node.value), repr(node.value))

    def visit_Name(self, node: ast.Name) -> str:
        return camel_case(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> str:
        name = ast.unparse(node)
        return NAMES[name] if name in NAMES else f"{_operand(node.value)}.{node.attr}"

    def visit_List(self, node: ast.List) -> str:
        return f"[{', '.join(map(expression, node.elts))}]"

    def visit_Tuple(self, node: ast.Tuple) -> str:
        return f"[{', '.join(map(expression, node.elts))}]"

    def visit_Subscript(self, node: ast.Subscript) -> str:
        values, place = _operand(node.value), node.slice
        if isinstance(place, ast.UnaryOp) and isinstance(place.op, ast.USub):
            return f"{values}[{values}.length - {expression(place.operand)}]"
        return f"{values}[{expression(place)}]"

    def visit_BinOp(self, node: ast.BinOp) -> str:
        return f"{_operand(node.left)} {operator(node.op, node)} {_operand(node.right)}"

    def visit_BoolOp(self, node: ast.BoolOp) -> str:
        return f" {operator(node.op, node)} ".join(map(_operand, node.values))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> str:
        return f"{operator(node.op, node)}{_operand(node.operand)}"

    def visit_Compare(self, node: ast.Compare) -> str:
        lefts = [node.left, *node.comparators]
        pairs = zip(lefts, node.ops, node.comparators, strict=False)
        return " && ".join(
            f"{_operand(left)} {operator(sign, node)} {_operand(right)}"
            for left, sign, right in pairs
        )

    def visit_IfExp(self, node: ast.IfExp) -> str:
        return f"{_operand(node.test)} ? {_operand(node.body)} : {_operand(node.orelse)}"

    def visit_Call(self, node: ast.Call) -> str:
        name = ast.unparse(node.func)
        arguments = ", ".join(map(expression, node.args))
        if node.keywords:
            raise Untranslatable(node)
        if name == "len":
            return f"{_operand(node.args[0])}.length"
        if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            return f"{_operand(node.func.value)}.{METHODS[node.func.attr]}({arguments})"
        if isinstance(node.func, ast.Attribute) and name not in FUNCTIONS:
            raise Untranslatable(node)
        return f"{FUNCTIONS.get(name, camel_case(name))}({arguments})"

    def visit_JoinedStr(self, node: ast.JoinedStr) -> str:
        pieces = (
            _literal(part) if isinstance(part, ast.Constant) else f"${{{self.visit(part)}}}"
            for part in node.values
        )
        return f"`{''.join(pieces)}`"

    def visit_FormattedValue(self, node: ast.FormattedValue) -> str:
        spec = self._spec(node.format_spec)
        if spec == "":
            return expression(node.value)
        if spec == ",":
            return f'{_operand(node.value)}.toLocaleString("en")'
        parsed = re.fullmatch(r"(?:\.(.+))?([feg])", spec)
        if parsed is None:
            raise Untranslatable(node)
        return FORMATS[parsed[2]].format(_operand(node.value), parsed[1] or 6)

    def _spec(self, node: ast.expr | None) -> str:
        """A format specification, with JavaScript where it holds an expression."""
        parts = node.values if isinstance(node, ast.JoinedStr) else []
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else expression(part)
            for part in parts
        )
