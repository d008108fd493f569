"""Python modules, functions and statements as JavaScript."""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType

from dashboard.display.translation.expressions import (
    Untranslatable,
    camel_case,
    expression,
    operator,
)

TYPES = {"float": "number", "int": "number", "str": "string", "bool": "boolean", "None": "null"}


def translate(module: ModuleType) -> str:
    """The constants and functions of a module; only public functions are exported.

    Raises:
        Untranslatable: at the first construct without a translation.
    """
    parts = []
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef):
            parts.append("\n".join(_function(node)))
        elif isinstance(node, ast.Assign):
            parts.append(f"const {ast.unparse(node.targets[0])} = {expression(node.value)};")
    return "\n".join(parts)


def _function(node: ast.FunctionDef) -> Iterator[str]:
    arguments = node.args.args
    defaults = [None] * (len(arguments) - len(node.args.defaults)) + node.args.defaults
    parameters = [
        camel_case(argument.arg) + (f" = {expression(default)}" if default else "")
        for argument, default in zip(arguments, defaults, strict=True)
    ]
    export = "" if node.name.startswith("_") else "export "
    yield ""
    yield from _comment(node, n_required=defaults.count(None))
    yield f"{export}function {camel_case(node.name)}({', '.join(parameters)}) {{"
    yield from _indented(_Scope(node).lines())
    yield "}"


def _comment(node: ast.FunctionDef, *, n_required: int) -> Iterator[str]:
    """The docstring and the types, as JSDoc."""
    yield "/**"
    for line in (ast.get_docstring(node) or "").splitlines():
        yield f" * {line}".rstrip()
    for position, argument in enumerate(node.args.args):
        name = camel_case(argument.arg)
        written = name if position < n_required else f"[{name}]"
        yield f" * @param {{{_type(argument.annotation)}}} {written}"
    yield f" * @returns {{{_type(node.returns)}}}"
    yield " */"


def _type(annotation: ast.expr | None) -> str:
    match annotation:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return f"{_type(left)} | {_type(right)}"
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return f"{_type(item)}[]"
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=items)):
            return f"[{', '.join(map(_type, items))}]"
        case ast.Subscript(value=ast.Name(id=generic), slice=item):
            return f"{generic}<{_type(item)}>"
        case ast.Name() | ast.Constant():
            name = ast.unparse(annotation)
            return TYPES.get(name, name)
    raise Untranslatable(annotation or ast.Name("a parameter without a type"))


class _Scope:
    """The statements of one function.

    A name that is assigned once, and in no branch, is a ``const`` where that happens. Every other
    one is declared at the start, as a name in Python belongs to the function and not to a block.
    """

    def __init__(self, function: ast.FunctionDef) -> None:
        parameters = {argument.arg for argument in function.args.args}
        assigned = Counter(_assigned(ast.walk(function)))
        once = {name for name, times in assigned.items() if times == 1}
        self.body = function.body
        self.constants = once.intersection(_assigned(function.body)) - parameters
        self.variables = [name for name in assigned if name not in self.constants | parameters]

    def lines(self) -> Iterator[str]:
        """The function's body."""
        if self.variables:
            yield f"let {', '.join(map(camel_case, self.variables))};"
        yield from self._block(self.body)

    def _block(self, statements: Sequence[ast.stmt]) -> Iterator[str]:
        for statement in statements:
            if not _is_docstring(statement):
                yield from self._statement(statement)

    def _statement(self, node: ast.stmt) -> Iterator[str]:
        match node:
            case ast.Return(value=value) if value is not None:
                yield f"return {expression(value)};"
            case ast.Expr(value=ast.Call() as call):
                yield f"{expression(call)};"
            case ast.AugAssign(target=target, op=sign, value=value):
                yield f"{expression(target)} {operator(sign, node)}= {expression(value)};"
            case ast.Assign(targets=[target], value=value):
                keyword = "const " if self.constants.issuperset(_assigned([node])) else ""
                yield f"{keyword}{expression(target)} = {expression(value)};"
            case ast.If(test=test, body=body, orelse=otherwise):
                yield f"if ({expression(test)}) {{"
                yield from _indented(self._block(body))
                if otherwise:
                    yield "} else {"
                    yield from _indented(self._block(otherwise))
                yield "}"
            case ast.For(target=target, iter=values, body=body):
                yield f"for ({_loop(target, values)}) {{"
                yield from _indented(self._block(body))
                yield "}"
            case _:
                raise Untranslatable(node)


def _loop(target: ast.expr, values: ast.expr) -> str:
    match values:
        case ast.Call(func=ast.Name(id="range"), args=[first, end, stride]):
            name = expression(target)
            # Python's range counts down for a negative stride; no shared function does.
            start = f"let {name} = {expression(first)}"
            return f"{start}; {name} < {expression(end)}; {name} += {expression(stride)}"
        # Lists and typed arrays have entries(); other iterables do not, and types refuse them.
        case ast.Call(func=ast.Name(id="enumerate"), args=[sequence]):
            return f"const {expression(target)} of {expression(sequence)}.entries()"
    return f"const {expression(target)} of {expression(values)}"


def _assigned(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AugAssign):
            targets = [node.target]
        for target in targets:
            for name in target.elts if isinstance(target, ast.Tuple) else [target]:
                yield ast.unparse(name)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)
