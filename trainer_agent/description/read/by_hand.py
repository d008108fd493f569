"""Blocks that a user describes by hand: parts from the modules that a hint names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn

from dslm.spec import Residual
from trainer_agent.description.hints import PARTS, Hint, HintError
from trainer_agent.description.read.norms import norm_call
from trainer_agent.description.read.parts import (
    AttentionParts,
    BlockParts,
    FeedForwardParts,
    LinearPart,
    NormPart,
)
from trainer_agent.description.trace.tracer import Node
from trainer_agent.model.nearest_path import did_you_mean

NEEDED = ("placement", "attention.n_heads", "attention.causal", "feed_forward.activation")
MODULE_PATTERN = re.compile(r"(?P<path>.*?)(\[(?P<start>\d+):(?P<stop>\d+)\])?(?P<turned>\.T)?")


def block_by_hand(
    hint: Hint, path: str, model: nn.Module, modules: Mapping[str, Node]
) -> BlockParts:
    """The parts of the block at `path` as the hint names them; HintError for what it lacks.

    `modules` are the small modules that the block has called.
    """
    for name in NEEDED:
        if name not in hint.fields:
            raise HintError(f"fields[{name!r}]", f"give it, to describe {path} by hand")
    for name in PARTS.split(", "):
        if name not in hint.modules:
            raise HintError(f"modules[{name!r}]", f"give it, to describe {path} by hand")
    block = _Block(hint, path, model, modules)
    return BlockParts(
        placement=hint.fields["placement"],
        attention=_attention(block),
        attention_norm=block.norm("attention_norm"),
        attention_residual=Residual(),
        feed_forward=FeedForwardParts(
            up=block.linear("feed_forward.up"),
            down=block.linear("feed_forward.down"),
            gate=block.maybe_linear("feed_forward.gate"),
            activation=hint.fields["feed_forward.activation"],
            p_drop=0.0,
        ),
        feed_forward_norm=block.norm("feed_forward_norm"),
        feed_forward_residual=Residual(),
        attention_out_norm=block.maybe_norm("attention_out_norm"),
        feed_forward_out_norm=block.maybe_norm("feed_forward_out_norm"),
    )


def _attention(block: _Block) -> AttentionParts:
    query, key = block.linear("attention.query"), block.linear("attention.key")
    n_heads = block.hint.fields["attention.n_heads"]
    if n_heads < 1 or query.d_out % n_heads:
        fix = f"{n_heads} heads do not share the {query.d_out} outputs of attention.query evenly"
        raise HintError("fields['attention.n_heads']", fix)
    d_head = query.d_out // n_heads
    return AttentionParts(
        query=query,
        key=key,
        value=block.linear("attention.value"),
        output=block.linear("attention.output"),
        n_heads=n_heads,
        n_kv_heads=max(key.d_out // d_head, 1),
        d_head=d_head,
        causal=block.hint.fields["attention.causal"],
        score_scale=d_head**-0.5,
        rotary=None,
        p_drop=0.0,
        query_norm=block.maybe_norm("attention.query_norm"),
        key_norm=block.maybe_norm("attention.key_norm"),
    )


class _Block:
    """Looks up the modules and parameters that a hint names, inside one block."""

    def __init__(
        self, hint: Hint, path: str, model: nn.Module, modules: Mapping[str, Node]
    ) -> None:
        self.hint, self.path, self.model, self.modules = hint, path, model, modules
        self.parameters = dict(model.named_parameters(remove_duplicate=False))

    def maybe_linear(self, name: str) -> LinearPart | None:
        return self.linear(name) if name in self.hint.modules else None

    def maybe_norm(self, name: str) -> NormPart | None:
        return self.norm(name) if name in self.hint.modules else None

    def linear(self, name: str) -> LinearPart:
        said = MODULE_PATTERN.fullmatch(self.hint.modules[name])
        assert said is not None  # the pattern takes any text
        where = f"{self.path}.{said['path']}"
        weight = where if where in self.parameters else f"{where}.weight"
        matrix = self.parameters.get(weight)
        if matrix is None or matrix.ndim != 2:
            matrices = {path.removesuffix(".weight") for path in self._matrices()}
            fix = f"{where} is, and holds, no matrix 'weight'{did_you_mean(where, matrices)}"
            raise HintError(f"modules[{name!r}]", fix)
        input_first = bool(said["turned"]) or _is_conv1d(self.model, where)
        width = matrix.shape[1 if input_first else 0]
        run = (int(said["start"]), int(said["stop"])) if said["start"] else (0, width)
        if not 0 <= run[0] < run[1] <= width:
            raise HintError(f"modules[{name!r}]", f"{run} is outside the {width} outputs")
        bias = f"{where}.bias" if f"{where}.bias" in self.parameters else None
        d_in = matrix.shape[0 if input_first else 1]
        return LinearPart(weight, bias, d_in, run[1] - run[0], (run,), input_first)

    def norm(self, name: str) -> NormPart:
        where = f"{self.path}.{self.hint.modules[name]}"
        modules = dict(self.model.named_modules())
        if where not in modules:
            fix = f"there is no module {where}{did_you_mean(where, modules)}"
            raise HintError(f"modules[{name!r}]", fix)
        node = self.modules.get(where)
        call = None if node is None else norm_call(node, self.model)
        if call is None:
            raise HintError(f"modules[{name!r}]", f"{where} computes no LayerNorm or RMSNorm")
        return call.part

    def _matrices(self) -> list[str]:
        return [name for name, p in self.parameters.items() if p.ndim == 2]


def _is_conv1d(model: nn.Module, path: str) -> bool:
    """Whether a module stores its matrix (d_in, d_out), as `transformers`' Conv1D says by `nf`."""
    return hasattr(dict(model.named_modules()).get(path), "nf")
