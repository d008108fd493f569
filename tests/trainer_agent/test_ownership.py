"""State has one owner: a part of an agent changes another one by calling it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import trainer_agent

ROOT = Path(trainer_agent.__file__).parent
ROOMS = ("capture", "commands", "distributed", "job", "sampling")
# What is written to and belongs to torch or Python.
FOREIGN = {
    "finalize(model, model_is_gone).atexit",
    "options.reduceOp",
    "parameter.grad",
    "wrapper._torchdynamo_orig_callable",
    "wrapper._torchdynamo_wrapper_id",
}


def assigned(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                yield from target.elts if isinstance(target, ast.Tuple) else [target]
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
            yield node.target


def writes_to_others(path: Path) -> Iterator[str]:
    for target in assigned(ast.parse(path.read_text())):
        # A record in a list or dict of the object's own is its own.
        if isinstance(target, ast.Attribute) and not isinstance(target.value, ast.Subscript):
            name = ast.unparse(target)
            if not name.startswith("self.") or name.count(".") > 1:
                yield name


def test_parts_assign_to_attributes_of_their_own_alone() -> None:
    files = [*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))]

    writes = {name for path in files for name in writes_to_others(path)}

    assert writes == FOREIGN


def test_a_write_to_another_part_would_be_seen(tmp_path: Path) -> None:
    path = tmp_path / "part.py"
    path.write_text("self.plan = 1\nself._recorder.active, x = True, 2\nhooks.plan: int = 3\n")

    assert list(writes_to_others(path)) == ["self._recorder.active", "hooks.plan"]
