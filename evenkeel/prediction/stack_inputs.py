"""What enters the stacks of a model whose blocks are not built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from evenkeel.prediction.meta_model import initialise, without_warnings
from server.errors import StartError
from trainer_agent.description.trace.replay import stream_of
from trainer_agent.model.blocks import columns


class BlockOutputs:
    """The form of what each block of a model puts out, noted while it runs."""

    def __init__(self, model: nn.Module, paths: Sequence[str]) -> None:
        self._model, self._paths = model, paths
        self._handles: list[RemovableHandle] = []
        self._outputs: dict[str, Any] = {}

    def __enter__(self) -> BlockOutputs:
        for path in self._paths:
            module = self._model.get_submodule(path)
            self._handles.append(module.register_forward_hook(self._noting(path)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _noting(self, path: str) -> Callable[..., None]:
        def hook(_: nn.Module, _args: object, output: Any) -> None:
            self._outputs[path] = output

        return hook

    def with_stream(self, path: str, stream: Tensor) -> Any:
        """Return what the block at `path` would put out, with `stream` for its own result."""
        output = self._outputs.get(path)
        if isinstance(output, tuple | list):
            return (stream, *output[1:])
        if isinstance(output, Mapping):
            first = next(iter(output))
            kind: Any = type(output)
            return kind({**output, first: stream})
        return stream


class _Seen(Exception):
    """Every stack has been entered."""


def stack_inputs(
    model: nn.Module,
    firsts: Mapping[str, str],
    outputs: BlockOutputs,
    batch: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Return what enters each stack's first block, (batch, seq, features).

    Blocks hand on their input as it is. A model that is on the meta device is built without them.

    Args:
        model: the model, in training mode, or on the meta device.
        firsts: path of each stack's first block.
        outputs: the form of what the blocks put out.
        batch: what the model's forward takes.
    """
    inputs: dict[str, Tensor] = {}
    paths = [path for column in columns(model) for path in column.blocks]
    names = {path: name for name, path in firsts.items()}

    def standing_in(path: str) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            stream = stream_of(args, kwargs)
            if stream is None:
                raise StartError(f"{path} takes no stream shaped (batch, seq, features)")
            if path in names:
                inputs[names[path]] = stream.detach()
                if len(inputs) == len(names):
                    raise _Seen
            return outputs.with_stream(path, stream)

        return forward

    _build_outside(model, paths)
    for path in paths:
        model.get_submodule(path).forward = standing_in(path)
    with torch.random.fork_rng([]), without_warnings(), torch.no_grad():
        torch.manual_seed(0)
        try:
            model.train()(**batch)
        except _Seen:
            return inputs
    raise StartError("its forward pass does not enter every stack of blocks")


def _build_outside(model: nn.Module, blocks: Sequence[str]) -> None:
    """Set up what is outside the blocks, of a model on the meta device."""
    if all(parameter.device.type != "meta" for parameter in model.parameters()):
        return
    inside = {id(m) for path in blocks for m in model.get_submodule(path).modules()}
    for module in model.modules():
        if id(module) not in inside:
            module.to_empty(device="cpu", recurse=False)
    initialise(model)
