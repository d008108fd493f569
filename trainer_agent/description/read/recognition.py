"""Recognising a model: its blocks found by structure, each understood from one forward pass."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn, overrides

from dslm.spec import Missing
from trainer_agent.capture.hooks import first_stream
from trainer_agent.description.hints import Hint, hinted_columns
from trainer_agent.description.read.added import AddedReader
from trainer_agent.description.read.alike import BlockGraph, ReadBlocks, block_graph
from trainer_agent.description.read.block import BlockCall, block_call
from trainer_agent.description.read.by_hand import block_by_hand
from trainer_agent.description.read.encoder_output import EncoderOutput, EncoderOutputs
from trainer_agent.description.read.head_trace import HeadTrace, padding_of
from trainer_agent.description.read.parts import Added, Architecture, StackParts
from trainer_agent.description.read.stacks import BlockReading, stacks_of
from trainer_agent.description.trace.graph import UnrecognisedError
from trainer_agent.description.trace.module_calls import Arguments, ModuleCall, ModuleCalls
from trainer_agent.description.trace.replay import result_of, stream_of, undisturbed
from trainer_agent.description.trace.tracer import Node, Trace
from trainer_agent.description.trace.unsharded import unsharded
from trainer_agent.model.blocks import columns, holds
from trainer_agent.model.dtensor import local
from trainer_agent.model.plan import Edge
from trainer_agent.model.unwrap import unwrap

logger = logging.getLogger("evenkeel")
# what reading an unforeseen graph may run into: the model's own pass has not failed
UNFORESEEN = (TypeError, ValueError, RuntimeError, LookupError, AttributeError, AssertionError)
SHARED = (
    "the model calls it more than once: the theory takes layers as independent, and those of "
    "shared weights are not"
)
MAX_NODES_BETWEEN = 64  # of autograd's, between two calls of a block
TOKENS = 1  # the dimension of a stream (batch, seq, features) that runs over tokens
FAMILIES = frozenset({"gpt2", "bert", "llama"})

OnBlock = Callable[[str, BlockReading, Mapping[str, ModuleCall]], None]


def architecture(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    hints: Sequence[Hint] = (),
) -> Architecture:
    """Blocks and parts of a model, from one forward pass on ``model(*args, **kwargs)``.

    The pass runs without gradients or dropout and leaves parameters, buffers, gradients, random
    state, mode and hooks as they were. Hooks of the user's own do see the pass. What is not
    understood is named in `missing`. Raises what the model raises on these inputs, and HintError
    for a hint that does not fit the model.
    """
    model, kwargs = unwrap(model), dict(kwargs or {})
    found = hinted_columns(model, columns(model), hints)
    blocks = [b for column in found if column.is_called for b in column.blocks]
    with undisturbed(model), torch.no_grad(), unsharded(model, blocks) as names:
        recognition = Recognition(model, hints, names=names, with_dropout=False)
        recognition.open()
        try:
            output = model(*args, **kwargs)
        except BaseException:
            recognition.close()
            raise
        read = recognition.finish(output, padding_of(kwargs))
    return replace(read, n_params=_n_params(model))  # with every parameter in its place again


class Recognition:
    """Reads what a model computes off one forward pass that somebody runs.

    Between `open` and `finish` (or `close`) hooks and a torch mode look on. They change no tensor,
    draw no random number and hold no tensor past the next block, but for the stack's output that
    another one reads. A failure of theirs ends the reading, never the pass.

    Attributes:
        split_inputs: by the first block of a stack, what enters it, where each process holds a part
            of every sequence: copies of the DTensors that the block's own modules make of it.
    """

    def __init__(
        self,
        model: nn.Module,
        hints: Sequence[Hint] = (),
        *,
        names: dict[int, str] | None = None,
        with_dropout: bool = True,
        on_block: OnBlock | None = None,
    ) -> None:
        """Prepare to read a pass with dropout, or leave dropout out of it.

        `names` are the parameters' by identity, where they may change while it runs; `on_block`
        is told of every block that was read, with the calls of the modules in it.
        """
        self._model, self._hints, self._on_block = model, hints, on_block
        self._columns = hinted_columns(model, columns(model), hints)
        if names is None:
            names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._trace = Trace(names, with_dropout=with_dropout)
        called, loose = (
            [
                block
                for column in self._columns
                if column.is_called == is_called
                for block in column.blocks
            ]
            for is_called in (True, False)
        )
        self._calls = ModuleCalls(model, called, self._trace, self, loose=loose)
        self._loose = frozenset(loose)
        self._edges: list[tuple[str, Edge]] = []
        self._steps: dict[str, int] = {}
        self._readings: dict[str, BlockReading] = {}
        self._read_blocks = ReadBlocks()
        self._running: tuple[str, Node] | None = None
        self._encoder_outputs = EncoderOutputs(model)
        self._head = HeadTrace(model, frozenset(c.blocks[0] for c in self._columns))
        self._is_open = False
        self._packed: set[str] = set()
        self._call_order: list[str] = []
        self._restarts: set[str] = set()
        self._last_output: Tensor | None = None
        self.split_inputs: dict[str, Tensor] = {}

    @property
    def spent_s(self) -> float:
        """Seconds taken beside the model's own calls of torch."""
        return self._trace.spent_s

    @property
    def is_complete(self) -> bool:
        """Whether every block was called and read."""
        return all(block in self._readings for c in self._columns for block in c.blocks)

    def open(self) -> None:
        """Look on from here on."""
        self._calls.attach()
        self._trace.__enter__()  # type: ignore[no-untyped-call]
        self._is_open = True

    def close(self) -> None:
        """Look on no longer, and let every tensor go."""
        self._trace.end()
        self._calls.detach()
        self._last_output = None
        # Modes leave in the order of a stack: one that code of the job's has left on top stays.
        if self._is_open and _top_mode() is self._trace:
            self._trace.__exit__(None, None, None)
            self._is_open = False

    def finish(self, output: Any, mask: Tensor | None = None) -> Architecture:
        """The architecture, at the end of the pass, and close.

        `output` is what the model has put out, `mask` (batch, seq) its padding mask. Raises what
        has ended the reading.
        """
        try:
            if self._trace.failure is not None:
                raise self._trace.failure
            self._calls.finish(output)
            with _reading(self._model):
                self._head.read(output, mask, self._trace)
                return self._architecture()
        finally:
            self.close()

    def _architecture(self) -> Architecture:
        stacks, missing = stacks_of(
            self._columns,
            self._readings,
            self._calls.outside,
            self._packed,
            self._layers(),
            edges=self._edges_of_columns(),
        )
        stacks = tuple(
            replace(stack, head=self._head.of(stack.blocks[0], stack.blocks[-1]))
            for stack in stacks
        )
        return Architecture(
            family=_family(self._model),
            stacks=stacks,
            missing=missing + self._head.missing,
            n_params=_n_params(self._model),
            notes=(*_copies(stacks, self._model), *_unmeasured(stacks)),
        )

    def _edges_of_columns(self) -> dict[str, tuple[Edge, ...]]:
        """By container, the edges of loose blocks, where each was passed once and in order."""
        edges: dict[str, tuple[Edge, ...]] = {}
        for column in (c for c in self._columns if not c.is_called):
            passed = [block for block, _ in self._edges if block in column.blocks]
            are_steps = all(self._steps.get(block) for block in column.blocks)
            if passed != list(column.blocks) or not are_steps:
                continue
            first = next(i for i, (block, _) in enumerate(self._edges) if block == passed[0])
            of_column = [edge for block, edge in self._edges[first:] if block in column.blocks]
            last = max(i for i, (block, _) in enumerate(self._edges) if block == passed[-1])
            end = next((edge for block, edge in self._edges[last:] if not block), None)
            if end is not None:
                edges[column.container] = (*of_column, end)
        return edges

    def ends_row(self, args: Arguments) -> bool:
        """Whether the stream that a module outside is given has come as far as after other blocks.

        What is called between the parts of a block, dropout of the model's own say, is given less.
        """
        path, stream = self._running or ("", None)
        before = self._steps.get(self._call_order[-2]) if len(self._call_order) > 1 else None
        given = stream_of(*args)
        if stream is None or before is None or given is None:
            return False
        with _reading(self._model), suppress(UnrecognisedError, *UNFORESEEN):
            return self._steps_to(path, stream, given) == before
        return False

    def pass_edge(self, block: str, edge: Edge) -> None:
        """Note where the stream passes from loose block to loose block."""
        self._edges.append((block, edge))

    def _steps_to(self, path: str, stream: Node, tensor: Tensor) -> int:
        node = self._trace.find(tensor)
        inside = {p: call for p, call in self._calls.calls.items() if holds(path, p)}
        return 0 if node is None else AddedReader(stream, inside, self._model).steps_to(node)

    def _layers(self) -> list[str]:
        """Blocks as often as they were called, where each call goes on from the one before."""
        return [path for path in self._call_order if path not in self._restarts]

    def enter_block(self, path: str, before: Arguments, args: Arguments) -> None:
        """Begin to record a block."""
        stream = stream_of(*args)
        with _reading(self._model):
            self._encoder_outputs.note(before, args, self._trace)
            first = first_stream((*args[0], *args[1].values())) if stream is None else None
            if first is not None and first.ndim == 2:
                self._packed.add(path)
            if stream is not None:
                if path in self._call_order and not _goes_on(stream, self._last_output):
                    self._restarts.add(path)
                self._call_order.append(path)
                self._last_output = None
                entering = stream_of(*before)
                self._head.note_input(path, stream if entering is None else entering, self._trace)
                self._running = (path, self._trace.begin(path, stream))

    def hand_on(self, before: Tensor, after: Tensor) -> None:
        """Keep what enters a stack, where each process holds a part of its sequences."""
        if self._running is None or not self._running[1].is_of(before) or before is after:
            return
        path, _ = self._running
        placements = getattr(after, "placements", ())
        is_first = path in self._head.firsts and path not in self.split_inputs
        if is_first and any(p.is_shard(TOKENS) for p in placements):
            with _reading(self._model):
                self.split_inputs[path] = after.clone()

    def leave_block(self, path: str, output: Any) -> None:
        """Read the block, and what becomes of the last one's output."""
        if self._running is None or self._running[0] != path:
            return
        _, stream = self._running
        self._running = None
        self._last_output = result_of(output)
        with _reading(self._model):
            if path in self._loose:
                self._count_steps(path, stream, output)
            reading = self._read(path, stream, output)
        if self._on_block is not None:
            self._on_block(path, reading, self._calls.calls)
        self._trace.end()
        self._calls.calls = {}
        with _reading(self._model):
            self._trace_on(path, output)

    def _count_steps(self, path: str, stream: Node, output: Any) -> None:
        result = result_of(output)
        if result is not None:
            with suppress(UnrecognisedError, *UNFORESEEN):
                self._steps[path] = self._steps_to(path, stream, result)

    def _trace_on(self, path: str, output: Any) -> None:
        """Follow a stack's last block: into another stack, where one is still to come."""
        ends = any(column.blocks[-1] == path for column in self._columns)
        to_come = any(self._readings.keys().isdisjoint(column.blocks) for column in self._columns)
        result = result_of(output)
        if ends and result is not None:
            trace_from = self._encoder_outputs.trace_from if to_come else self._head.trace_from
            trace_from(path, result, self._trace)

    def _read(self, path: str, stream: Node, output: Any) -> BlockReading:
        order, former = len(self._readings), self._readings.get(path)
        graph, alike = (None, None) if former is not None else self._like(path, output)
        if alike is not None:
            self._readings[path] = replace(alike, order=order)
            return self._readings[path]
        reading = BlockReading(stream.value.shape[-1], order)
        self._readings[path] = reading
        try:
            if former is not None:
                reading.first_call = former.parts or former.first_call
                raise UnrecognisedError(path, "shared block", SHARED)
            call = _call(path, stream, output, self._trace, self._model)
            reading.reads = self._encoder_output(call)
            reading.parts = call.parts
        except UnrecognisedError as error:
            where = error.where if error.where.startswith(path) else path
            reading.missing = Missing(where, error.what, error.why)
        except UNFORESEEN:
            logger.debug("evenkeel cannot read %s", path, exc_info=True)
            reading.missing = Missing(path, "block", "what it computes could not be read")
        self._heed_hints(path, reading)
        with suppress(UnrecognisedError, *UNFORESEEN):
            reading.added = self._added(path, stream, output, reading)
        if graph is not None:
            self._read_blocks.add(graph, reading)
        return reading

    def _like(self, path: str, output: Any) -> tuple[BlockGraph | None, BlockReading | None]:
        """The graph just recorded, and the reading of a block whose graph was like it."""
        result = result_of(output)
        made_by = None if result is None else self._trace.find(result)
        if made_by is None or any(hint.matches(path) for hint in self._hints):
            return None, None
        with suppress(*UNFORESEEN):
            graph = block_graph(path, made_by, self._trace, self._calls.calls, self._model)
            return graph, self._read_blocks.find(graph)
        return None, None

    def _added(
        self, path: str, stream: Node, output: Any, reading: BlockReading
    ) -> dict[str, Added]:
        result = result_of(output)
        ends = None if result is None else self._trace.find(result)
        if ends is None or len(self._calls.calls) == 0:
            return {}
        inside = {p: call for p, call in self._calls.calls.items() if holds(path, p)}
        return AddedReader(stream, inside, self._model).of(ends, reading.parts)

    def _heed_hints(self, path: str, reading: BlockReading) -> None:
        for hint in self._hints:
            if hint.matches(path):
                if reading.parts is None and hint.modules:
                    modules = self._trace.modules
                    reading.parts = block_by_hand(hint, path, self._model, modules)
                    reading.missing = None
                reading.stack = hint.stack or reading.stack
                if reading.parts is not None:
                    said = (*reading.parts.said, *hint.fields.items())
                    reading.parts = replace(reading.parts, said=said)

    def _encoder_output(self, call: BlockCall) -> EncoderOutput | None:
        if call.encoder_output is None:
            return None
        output = self._encoder_outputs.of(call.encoder_output)
        if output is None:
            why = "what it reads is not the output of a stack seen here, normed or not"
            raise UnrecognisedError(call.encoder_output, "cross-attention", why)
        return output


_top_mode: Callable[[], Any] = overrides._get_current_function_mode


@contextmanager
def _reading(model: nn.Module) -> Iterator[None]:
    """Read tensors without a trace in the job: unseen by modes, no gradients, no cast kept."""
    parameter = next(model.parameters(), None)
    kind = "cpu" if parameter is None else parameter.device.type
    unseen = torch._C.DisableTorchFunction()
    with unseen, torch.no_grad(), torch.autocast(kind, enabled=False):
        yield


def _goes_on(x: Tensor, output: Tensor | None) -> bool:
    """Whether what enters a block is the last one's output, or was made of it."""
    if x is output or output is None or output.grad_fn is None:
        return x is output
    nodes = [x.grad_fn]
    for node in nodes:  # which grows; `is` fails on nodes, which torch wraps anew
        if node == output.grad_fn:
            return True
        if node is not None and len(nodes) < MAX_NODES_BETWEEN:
            nodes += [parent for parent, _ in node.next_functions]
    return False


def _copies(stacks: tuple[StackParts, ...], model: nn.Module) -> Iterator[str]:
    """Says which stacks start from copies of one block, as ``nn.TransformerEncoder`` makes them."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for stack in stacks:
        ups = [parameters[p.feed_forward.up.weight] for p in stack.parts[:2] if p is not None]
        if len(ups) == 2 and torch.equal(*map(local, ups)):
            yield (
                f"{stack.name}: when first seen, blocks 0 and 1 held equal weights; the theory "
                "takes those of different blocks as independent, and is off by tens of percent "
                "where they are not: draw each block's weights anew"
            )


def _unmeasured(stacks: tuple[StackParts, ...]) -> Iterator[str]:
    """Says which branches add what no hook is given."""
    for stack in stacks:
        for site, name in (("attention", "attention"), ("feed_forward", "feed-forward")):
            added = [
                of_block.get(site)
                for block, of_block in zip(stack.blocks, stack.added, strict=True)
                if block not in stack.skipped
            ]
            if any(item is None or item.module is None for item in added):
                yield (
                    f"{stack.name}: what {name} adds to the stream is put out by no module of the "
                    "block, and is not measured"
                )


def _n_params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _family(model: nn.Module) -> str:
    name = getattr(getattr(model, "config", None), "model_type", None)
    return name if name in FAMILIES else "custom"


def _call(path: str, stream: Node, output: Any, trace: Trace, model: nn.Module) -> BlockCall:
    result = result_of(output)
    if result is None or result.shape != stream.value.shape:
        raise UnrecognisedError(path, "output", "not shaped like the stream that goes in")
    return block_call(stream, trace.node(result), model)
