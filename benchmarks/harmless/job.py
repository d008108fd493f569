"""A recipe's training job, with an agent beside it or without, and what it leaves behind."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import trainer_agent
from benchmarks.harmless.models import SEQ, VOCAB, build
from benchmarks.harmless.recipe import Recipe

NOWHERE = "http://127.0.0.1:9"  # frames wait in the spool folder
DICTIONARIES_OF_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")


class OwnError(Exception):
    """Raised in the middle of a job's forward pass, and caught by its loop."""


@dataclass
class Outcome:
    """All that a job leaves behind.

    Attributes:
        losses: of each micro-batch.
        graph_sizes: nodes of the autograd graph behind each loss.
        calls: how often each of the job's own hooks was called.
        raised: the error that ended the job, "" where none did.
        state: weights, gradients, optimizer and random states, and attributes of the modules.
    """

    losses: list[Tensor] = field(default_factory=list)
    graph_sizes: list[int] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    raised: str = ""
    state: dict[str, Any] = field(default_factory=dict)


def run(recipe: Recipe, spool: Path | None) -> Outcome:
    """Train by the recipe; with an agent whose spool is that folder, or without one."""
    random.seed(recipe.seed)
    np.random.seed(recipe.seed % 2**32)
    model = build(recipe)
    return _Job(recipe, model).train(spool)


class _Job:
    def __init__(self, recipe: Recipe, model: nn.Module) -> None:
        self.recipe, self.model = recipe, model
        self.outcome = Outcome()
        self.optimizers = _optimizers(recipe, model)
        self.scaler = torch.amp.GradScaler("cpu", enabled=recipe.scaler, init_scale=2.0**8)
        self._raise = False
        self._set_hooks()
        torch.manual_seed(recipe.seed + 1)

    def train(self, spool: Path | None) -> Outcome:
        agent = None
        if spool is not None:
            optimizer = self.optimizers[0] if len(self.optimizers) == 1 else None
            agent = trainer_agent.watch(
                self.model,
                project="harmless",
                run=str(self.recipe.seed),
                optimizer=optimizer,
                scaler=self.scaler if self.recipe.scaler else None,
                server=NOWHERE,
                spool_dir=spool,
                **dict(self.recipe.agent),  # type: ignore[arg-type]
            )
        for step in range(self.recipe.steps):
            self._raise = step == self.recipe.raises_at
            try:
                loss = self._step(step)
            except OwnError:
                self._zero_grad()
                continue
            except RuntimeError as error:  # what torch refuses, it refuses with the agent, too
                self.outcome.raised = type(error).__name__
                break
            if agent is not None:
                agent.step(**self._scalars(step, loss))
            self._between(step)
        if agent is not None:
            agent.close(0.0)
        self.outcome.state = dict(_state(self.model, self.optimizers, self.scaler))
        return self.outcome

    def _scalars(self, step: int, loss: Tensor) -> dict[str, Any]:
        kind = self.recipe.loss_given
        return {"loss": loss} if kind == "always" or (kind == "sometimes" and step % 2) else {}

    def _step(self, step: int) -> Tensor:
        recipe = self.recipe
        if recipe.optimizer == "lbfgs":
            return self._with_closure(step)
        self._zero_grad()
        for micro in range(recipe.accumulate):
            loss = self._backward(step, micro)
        if recipe.optimizer == "sam":
            self._ascend(step)
        if recipe.clip:
            for optimizer in self.optimizers:
                self.scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        return loss.detach()

    def _with_closure(self, step: int) -> Tensor:
        def closure() -> Tensor:
            self._zero_grad()
            return self._backward(step, 0)

        loss: Any = self.optimizers[0].step(closure)
        return loss.detach() if isinstance(loss, Tensor) else torch.tensor(float(loss))

    def _ascend(self, step: int) -> None:
        """SAM: move along the gradient, differentiate there, and move back."""
        moves = [(p, 0.05 * p.grad) for p in self.model.parameters() if p.grad is not None]
        with torch.no_grad():
            for parameter, move in moves:
                parameter.add_(move)
        self._zero_grad()
        self._backward(step, 0)
        with torch.no_grad():
            for parameter, move in moves:
                parameter.sub_(move)

    def _backward(self, step: int, micro: int) -> Tensor:
        recipe, ids = self.recipe, _ids(self.recipe, step, micro)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.autocast):
            logits = self.model(ids[:, :-1])
            loss = _cross_entropy(logits, ids[:, 1:]) / recipe.accumulate
        if self._raise:
            raise OwnError
        self.outcome.losses.append(loss.detach().clone())
        self.outcome.graph_sizes.append(_graph_size(loss))
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        if recipe.losses == "two_passes":
            self.scaler.scale(loss).backward(retain_graph=True)
            self.scaler.scale(1e-3 * logits.float().square().mean()).backward()
        elif recipe.losses == "by_hand":
            gradients = torch.autograd.grad(self.scaler.scale(loss), parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.grad = (
                        gradient if parameter.grad is None else parameter.grad + gradient
                    )
        elif recipe.losses == "penalty":
            inner = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
            squares = [g.float().square().sum() for g in inner if g is not None]
            self.scaler.scale(loss + 1e-2 * torch.stack(squares).sum()).backward()
        elif recipe.losses == "auxiliary":
            self.scaler.scale(loss + 1e-4 * logits.float().logsumexp(-1).square().mean()).backward()
        else:
            self.scaler.scale(loss).backward()
        return loss

    def _zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def _between(self, step: int) -> None:
        between, ids = self.recipe.between, _ids(self.recipe, 100 + step, 0)
        if "evaluate" in between:
            self.model.eval()
            with torch.no_grad():
                self.outcome.losses.append(_cross_entropy(self.model(ids[:, :-1]), ids[:, 1:]))
            self.model.train()
        if "generate" in between:
            self.model.eval()
            with torch.inference_mode():
                prefix = ids[:, :1]
                for _ in range(3):
                    probabilities = self.model(prefix)[:, -1].float().softmax(-1)
                    prefix = torch.cat([prefix, torch.multinomial(probabilities, 1)], 1)
            self.model.train()
            self.outcome.losses.append(prefix.clone().float().mean())
        if "copy" in between and step == 0:
            average = copy.deepcopy(self.model)
            self.outcome.losses.append(average(ids[:, :-1]).detach().mean())
        if "state_dict" in between:
            self.model.load_state_dict(copy.deepcopy(self.model.state_dict()))
        if "per_sample" in between and not self.recipe.shared_block:
            self._per_sample(ids)
        if "draw" in between:
            self.outcome.losses.append(torch.rand(()) + random.random() + np.random.rand())

    def _per_sample(self, ids: Tensor) -> None:
        """Outputs with other parameters through `functional_call`, beside ordinary steps."""
        changed = {name: 1.01 * p.detach() for name, p in self.model.named_parameters()}
        logits = torch.func.functional_call(self.model, changed, (ids[:, :-1],))
        self.outcome.losses.append(logits.detach().float().mean())

    def _set_hooks(self) -> None:
        calls = self.outcome.calls
        block = _first_block(self.model)
        hooks = self.recipe.hooks
        if "forward" in hooks:
            block.register_forward_hook(lambda *_: calls.update(["forward"]))
        if "pre_forward" in hooks:
            block.register_forward_pre_hook(lambda *_: calls.update(["pre_forward"]))
        if "backward" in hooks and self.recipe.checkpointing != "reentrant":
            block.register_full_backward_hook(lambda *_: calls.update(["backward"]))
        if "scaling" in hooks:
            block.register_forward_hook(lambda _m, _i, output: _map_tensors(output, _scaled))
        if "tensor" in hooks:
            block.register_forward_hook(lambda _m, _i, output: _map_tensors(output, self._listen))
        if "once" in hooks:
            self._listen_once(block)
        if "parameter" in hooks:
            first = next(p for p in self.model.parameters() if p.requires_grad)
            first.register_hook(lambda _: calls.update(["parameter"]))

    def _listen_once(self, block: nn.Module) -> None:
        def hook(*_: Any) -> None:
            self.outcome.calls.update(["once"])
            handle.remove()

        handle = block.register_forward_hook(hook)

    def _listen(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(lambda _: self.outcome.calls.update(["tensor"]))
        return x


def _scaled(x: Tensor) -> Tensor:
    return 1.01 * x


def _map_tensors(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(output, tuple):
        return (change(output[0]), *output[1:])
    return change(output)


def _first_block(model: nn.Module) -> nn.Module:
    lists = (m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) > 1)
    return next(lists)[0]


def _optimizers(recipe: Recipe, model: nn.Module) -> list[torch.optim.Optimizer]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if recipe.optimizer == "two":
        half = len(parameters) // 2
        return [
            torch.optim.AdamW(parameters[:half], lr=1e-2),
            torch.optim.SGD(parameters[half:], lr=1e-2, momentum=0.9),
        ]
    if recipe.optimizer == "lbfgs":
        return [torch.optim.LBFGS(parameters, lr=1e-2, max_iter=2, history_size=2)]
    kinds: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),
        "rmsprop": lambda: torch.optim.RMSprop(parameters, lr=1e-3),
    }
    return [kinds.get(recipe.optimizer, lambda: torch.optim.AdamW(parameters, lr=1e-2))()]


def _ids(recipe: Recipe, step: int, micro: int) -> Tensor:
    generator = torch.Generator().manual_seed(1_000 * step + micro + recipe.seed % 1_000)
    return torch.randint(VOCAB, (2, SEQ + 1), generator=generator)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits.float().reshape(-1, VOCAB), targets.reshape(-1))


def _graph_size(loss: Tensor) -> int:
    visited, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in visited:
            visited.add(node)
            waiting += [after for after, _ in node.next_functions]
    return len(visited)


def _state(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], scaler: torch.amp.GradScaler
) -> Iterator[tuple[str, Any]]:
    for name, tensor in model.state_dict().items():
        yield f"state {name}", tensor.clone()
        yield f"stride of {name}", tensor.stride()
    for name, parameter in model.named_parameters():
        yield f"gradient of {name}", None if parameter.grad is None else parameter.grad.clone()
        yield f"hooks on {name}", len(parameter._backward_hooks or ())
    for path, module in model.named_modules():
        for name in sorted(vars(module)):
            if name not in ("_modules", "_parameters", "_buffers"):
                value = vars(module)[name]
                yield (
                    f"{path}.{name}",
                    len(value)
                    if "hooks" in name and hasattr(value, "__len__")
                    else copy.copy(value),
                )
        yield f"class of {path}", type(module).__name__
    for number, optimizer in enumerate(optimizers):
        for key, value in _flat(optimizer.state_dict(), f"optimizer {number}"):
            yield key, value
        yield f"hooks of optimizer {number}", len(optimizer._optimizer_step_pre_hooks)
    yield "scaler", scaler.state_dict()
    yield "random of Python", random.getstate()
    yield "random of numpy", np.random.get_state()[1].tolist()  # type: ignore[index]
    yield "random of torch", torch.get_rng_state()
    yield (
        "modes",
        (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.get_default_dtype()),
    )


def _flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}")
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _flat(inner, f"{key}.{index}")
    else:
        yield key, value.clone() if isinstance(value, Tensor) else value
