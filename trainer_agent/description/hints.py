"""What a user says of blocks by hand: which modules their parts are, and what fields hold."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from torch import nn

from dslm.spec import Block, Linear, Norm
from trainer_agent.model.blocks import Column
from trainer_agent.model.nearest_path import did_you_mean

PARTS = (
    "attention.query, attention.key, attention.value, attention.output, "
    "attention_norm, feed_forward.up, feed_forward.down, feed_forward_norm"
)


class HintError(ValueError):
    """A hint that cannot be used; `field` names what is wrong with it."""

    def __init__(self, field: str, fix: str) -> None:
        super().__init__(f"{field}: {fix}")
        self.field, self.fix = field, fix


@dataclass(frozen=True, slots=True)
class Hint:
    """Blocks by the path of their modules, and what is known of them.

    Attributes:
        blocks: pattern of module paths; ``*`` and ``?`` stand for what is between two dots:
            ``"layers.*"``. Modules it matches are blocks of one stack, found to be or not.
        modules: for blocks whose forward pass cannot be read: the parts of a `dslm.Block`, by
            dotted name, and the path, within the block, of the module (or parameter) that each
            is. ``"qkv[0:64]"`` takes outputs 0 to 63 of a fused map; ``"w.T"`` is a parameter
            stored (d_in, d_out) rather than (d_out, d_in).
        fields: fields of the `dslm.Block`, by dotted name, and the values they are to have,
            whatever was found: ``{"attention.causal": True, "attention.window": 128}``.
        stack: ``"encoder"`` or ``"decoder"``; None to tell by the mask.

    Raises:
        HintError: naming the field that no `dslm.Block` has, or a value of another type.
    """

    blocks: str
    modules: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    stack: Literal["encoder", "decoder"] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.blocks, str) or not self.blocks:
            raise HintError("blocks", "give a pattern of module paths, such as 'layers.*'")
        if self.stack not in {None, "encoder", "decoder"}:
            raise HintError("stack", "use 'encoder', 'decoder' or None")
        for name, path in self.modules.items():
            if not isinstance(path, str) or kind_of(name) not in (Linear, Norm):
                fix = f"give a module path, to a dense map or norm of a block: {PARTS}"
                raise HintError(f"modules[{name!r}]", fix)
        for name, value in self.fields.items():
            _check_value(value, kind_of(name), f"fields[{name!r}]")

    def matches(self, path: str) -> bool:
        """Whether the module at `path` is one of its blocks."""
        names, patterns = path.split("."), self.blocks.split(".")
        pairs = zip(names, patterns, strict=False)
        return len(names) == len(patterns) and all(fnmatchcase(n, p) for n, p in pairs)


def hinted_columns(
    model: nn.Module, detected: tuple[Column, ...], hints: Sequence[Hint]
) -> tuple[Column, ...]:
    """The columns found, and those that hints name instead or besides.

    Raises HintError for a pattern that no module matches.
    """
    paths = [path for path, _ in model.named_modules()]
    for index, hint in enumerate(hints):
        blocks = tuple(path for path in paths if hint.matches(path))
        if not blocks:
            fix = f"no module's path matches {hint.blocks!r}{did_you_mean(hint.blocks, paths)}"
            raise HintError(f"hints[{index}].blocks", fix)
        if not any(set(blocks) <= set(column.blocks) for column in detected):
            others = tuple(c for c in detected if not _overlap(c.blocks, blocks))
            detected = (*others, Column(blocks[0].rpartition(".")[0], blocks))
    return detected


def check_modules(model: nn.Module, hints: Sequence[Hint]) -> None:
    """Raise HintError where a block has no module or parameter that a hint names."""
    blocks = dict(model.named_modules())
    for index, hint in enumerate(hints):
        for path in filter(hint.matches, blocks):
            parts = [name for name, _ in blocks[path].named_modules()]
            parts += [name for name, _ in blocks[path].named_parameters(remove_duplicate=False)]
            for name, reference in hint.modules.items():
                part = module_path(reference)
                if part not in parts:
                    fix = f"{path} has no {part!r}{did_you_mean(part, parts)}"
                    raise HintError(f"hints[{index}].modules[{name!r}]", fix)


def module_path(reference: str) -> str:
    """The path in what a hint's `modules` hold, without ``[a:b]`` and ``.T``."""
    return reference.removesuffix(".T").partition("[")[0]


def _overlap(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    """Whether a block of one is, or is inside, or holds, a block of the other."""
    return any(f"{x}.".startswith(f"{y}.") or f"{y}.".startswith(f"{x}.") for x in a for y in b)


def kind_of(name: str) -> Any:
    """The type of a block's field, dots leading into its parts; None where there is none."""
    kind: Any = Block
    for part in name.split("."):
        hints_by_name = get_type_hints(kind) if is_dataclass(kind) else {}
        if part not in hints_by_name:
            return None
        kind = _without_none(hints_by_name[part])
    return kind


def with_fields(block: Block, values: Mapping[str, Any]) -> Block:
    """The block with those fields changed; HintError where a part of the way is None."""
    for name, value in values.items():
        block = cast(Block, _changed(block, name.split("."), value, name))
    return block


def _changed(part: Any, path: list[str], value: Any, name: str) -> Any:
    if part is None:
        above = name.rpartition(".")[0]
        raise HintError(f"fields[{name!r}]", f"the block has no {above}: give all of {above}")
    head, *deeper = path
    inner = value if not deeper else _changed(getattr(part, head), deeper, value, name)
    return replace(part, **{head: inner})


def _check_value(value: Any, kind: Any, where: str) -> None:
    if kind is None:
        names = ", ".join(f.name for f in fields(Block))
        raise HintError(where, f"no such field of a block; it has {names}, and theirs by dots")
    if value is None or _is_of(value, kind):
        return
    expected = getattr(kind, "__name__", str(kind))
    if get_origin(kind) is Literal:
        expected = " or ".join(map(repr, get_args(kind)))
    raise HintError(where, f"expected {expected}, found {value!r}")


def _is_of(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        return next(arg for arg in get_args(kind) if arg is not type(None))
    return kind
