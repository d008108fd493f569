"""The callables set on modules: each finds its tensor and hands it to the recorder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from trainer_agent.capture.recorder import Recorder

ModuleHook = Callable[[nn.Module, Any, Any], None]
# Where `torch.nn.Module.compile` keeps the compiled call.
_SLOT = "_compiled_call_impl"


class Hook:
    """A hook that a copied or pickled model loses.

    A copy of the model (an EMA, a checkpoint of the whole module) is not watched, and must not
    need this package to be loaded: in its place stands a callable of the standard library that
    takes anything and does nothing.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")


class BeforeModel(Hook):
    """Forward pre-hook of the whole model."""

    def __init__(self, recorder: Recorder, begin: Callable[[nn.Module, Any, Any], None]) -> None:
        self._recorder, self._begin = recorder, begin

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Announce a forward pass; of a compiled one, note its arguments instead."""
        if not torch.compiler.is_compiling():
            self._begin(module, args, kwargs)
        elif self._recorder.wants(module) and all(map(_is_plain, (*args, *kwargs.values()))):
            self._recorder.note_arguments(args, kwargs)


def _is_plain(value: Any) -> bool:
    """Whether a compiled graph can hand it out again."""
    return value is None or isinstance(value, (Tensor, bool, int, float, str))


class AfterModel(Hook):
    """Forward hook of the whole model, called when its forward raised, too."""

    def __init__(self, end: Callable[[Any], None]) -> None:
        self._end = end

    def __call__(self, _module: nn.Module, _args: Any, output: Any) -> None:
        """Announce the end of a forward pass, unless it is being compiled."""
        if not torch.compiler.is_compiling():
            self._end(output)


class BeforeBlock(Hook):
    """Forward pre-hook of a block; the first one's input is the stream's start."""

    def __init__(self, recorder: Recorder, stack: str, index: int) -> None:
        self._recorder, self._stack, self._index = recorder, stack, index

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Note which block runs; count the stream where it starts."""
        recorder = self._recorder
        if not recorder.active:
            return
        is_first = self._index == 0
        if not torch.compiler.is_compiling():
            is_first = recorder.enter_block(self._stack, self._index, training=module.training)
        # Every later block's input is the output of the one before, which is counted there.
        if is_first and recorder.wants(module):
            x = first_stream((*args, *kwargs.values()))
            if x is not None:
                recorder.stream(self._stack, 0, x)


class AfterBlock(Hook):
    """Forward hook of a block: its output is the stream at the next place."""

    def __init__(self, recorder: Recorder, stack: str, index: int) -> None:
        self._recorder, self._stack, self._index = recorder, stack, index

    def __call__(self, module: nn.Module, _args: Any, output: Any) -> None:
        """Count the stream after the block."""
        recorder = self._recorder
        if not recorder.active:
            return
        if not torch.compiler.is_compiling():
            recorder.leave_block()
        if recorder.wants(module):
            x = first_stream(output)
            if x is not None:
                recorder.stream(self._stack, self._index + 1, x)


class AtEdge(Hook):
    """Hook where the stream leaves a block and enters the next, of blocks that are no modules.

    `index` is that of the block which it enters; the last edge's is their number.
    """

    def __init__(self, recorder: Recorder, stack: str, index: int, n_blocks: int) -> None:
        self._recorder, self._stack = recorder, stack
        self._index, self._n_blocks = index, n_blocks

    def __call__(self, module: nn.Module, value: Any) -> None:
        """Note which block ends and which begins; count the stream between them."""
        recorder, counts = self._recorder, self._index > 0
        if not recorder.active:
            return
        if not torch.compiler.is_compiling():
            if self._index > 0:
                recorder.leave_block()
            if self._index < self._n_blocks:
                is_first = recorder.enter_block(self._stack, self._index, training=module.training)
                counts = counts or is_first
        if counts and recorder.wants(module):
            x = first_stream(value)
            if x is not None:
                recorder.stream(self._stack, self._index, x)


class EdgeBefore(AtEdge):
    """Such a hook at a module's input."""

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:  # type: ignore[override]
        """Hand on the input."""
        super().__call__(module, (*args, *kwargs.values()))


class EdgeAfter(AtEdge):
    """Such a hook at a module's output."""

    def __call__(self, module: nn.Module, _args: Any, output: Any) -> None:  # type: ignore[override]
        """Hand on the output."""
        super().__call__(module, output)


class BeforeSharedBlock(BeforeBlock):
    """Forward pre-hook of a block that a pass calls several times: a layer a call."""

    def __init__(self, recorder: Recorder, stack: str, layers: Sequence[int]) -> None:
        super().__init__(recorder, stack, layers[0])
        self._layers = layers

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Note which layer runs."""
        if self._recorder.active and not torch.compiler.is_compiling():
            self._index = self._recorder.shared_layer(self._stack, self._layers)
        super().__call__(module, args, kwargs)


class AfterSharedBlock(AfterBlock):
    """Forward hook of such a block."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Count the stream after the layer that runs."""
        if not torch.compiler.is_compiling():
            self._index = self._recorder.running_layer(self._stack, self._index)
        super().__call__(module, args, output)


class AfterBranch(Hook):
    """Forward hook of the module whose output, times `factor`, a branch adds to the stream.

    Inside a compiled block the layer is a tensor, not a number: torch compiles a number into the
    code, and would compile the block once for each layer. `is_shared`: several layers share the
    module, and the one that runs is meant.
    """

    def __init__(
        self,
        recorder: Recorder,
        stack: str,
        site: str,
        index: int,
        factor: float = 1.0,
        *,
        is_shared: bool = False,
    ) -> None:
        self._recorder, self._stack, self._site, self._index = recorder, stack, site, index
        self._factor, self._is_shared = factor, is_shared
        # Made now: made while torch traces it would be a constant of the graph.
        self._row = recorder.row(stack, site, index)

    def __call__(self, module: nn.Module, _args: Any, output: Any) -> None:
        """Count the branch's output."""
        if self._recorder.wants(module):
            x = first_stream(output)
            if x is None:
                return
            if self._factor != 1.0:
                x = x.detach() * self._factor
            if torch.compiler.is_compiling():
                self._recorder.trace_branch(self._stack, self._row, x)
            else:
                index = self._index
                if self._is_shared:
                    index = self._recorder.running_layer(self._stack, index)
                self._recorder.branch(self._stack, self._site, index, x)


class BeforeNorm(AfterBranch):
    """Forward pre-hook of a norm: its input is a site of its own."""

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Count the norm's input."""
        super().__call__(module, (), (*args, *kwargs.values()))


class AfterLMHead(Hook):
    """Forward hook of the module that makes the final logits."""

    def __init__(self, recorder: Recorder, suffix: str) -> None:
        self._recorder, self._suffix = recorder, suffix

    def __call__(self, module: nn.Module, _args: Any, output: Any) -> None:
        """Count log Z."""
        if self._recorder.wants(module):
            logits = first_stream(output)
            if logits is not None:
                self._recorder.final_logits(self._suffix, logits)


class Notify(Hook):
    """Forward hook or pre-hook that calls a function, without what the module was given."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def __call__(self, *_arguments: Any) -> None:
        """Call it, unless the module is being compiled."""
        if not torch.compiler.is_compiling():
            self._call()


class CompiledCall:
    """Replaces the compiled call that ``module.compile()`` has set.

    A hook of the block itself would be compiled into its code together with the layer it stands
    for, and torch would compile that code once a layer instead of once, or give up.
    """

    def __init__(self, module: nn.Module, before: ModuleHook, after: ModuleHook) -> None:
        self._module, self._before, self._after = module, before, after
        # In the instance: the slot of the class is None for modules that are not compiled.
        self._call: Callable[..., Any] = vars(module)[_SLOT]
        vars(module)[_SLOT] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the hooks around the compiled call."""
        self._before(self._module, args, kwargs)
        output = self._call(*args, **kwargs)
        self._after(self._module, args, output)
        return output

    def remove(self) -> None:
        """Put the compiled call back, unless somebody has put another there."""
        if vars(self._module).get(_SLOT) is self:
            vars(self._module)[_SLOT] = self._call


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is compiled by itself, in place or as a module around it."""
    return is_compiled_in_place(module) or type(module).__name__ == "OptimizedModule"


def is_compiled_in_place(module: nn.Module) -> bool:
    """Whether ``module.compile()`` was called; its own hooks are compiled with it."""
    return vars(module).get(_SLOT) is not None


def first_stream(values: Any) -> Tensor | None:
    """The first tensor with tokens and features in a tensor, tuple, list or mapping."""
    if isinstance(values, Tensor):
        values = (values,)
    elif isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, (tuple, list)):
        return None
    for value in values:
        # Not by position: masks, caches and ids of any number may come before the stream.
        if isinstance(value, Tensor) and value.ndim >= 2 and value.is_floating_point():
            return value
    return None
