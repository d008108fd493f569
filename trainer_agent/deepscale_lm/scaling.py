"""DeepScaleLM applied to a real model, all of it or nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from torch import Tensor, nn

import dslm
from dslm.branch_share import BranchShare, Count
from dslm.scaling import DEFAULT_FORM, Form
from dslm.schemes import SchemeName, name_of_scheme
from trainer_agent.deepscale_lm.drawing import draw_block, linears_of, plain_norm
from trainer_agent.deepscale_lm.entrances import unit_head, unit_inputs
from trainer_agent.deepscale_lm.probe import Batch, probe_batch, understood
from trainer_agent.deepscale_lm.report import (
    Change,
    DeepScaleError,
    Gain,
    Report,
    ResidualChange,
    StackReport,
)
from trainer_agent.deepscale_lm.residual_scales import (
    factors,
    hook_scales,
    is_scaled,
    own_scales,
    residuals_are,
    set_scales,
    steps_of,
)
from trainer_agent.deepscale_lm.rollback import all_or_nothing, in_training_mode
from trainer_agent.deepscale_lm.schemes import apply_scheme, schemes_of
from trainer_agent.deepscale_lm.surroundings import Surroundings, surroundings
from trainer_agent.description import Architecture, StackParts, describe
from trainer_agent.description.trace.unsharded import holds_shards
from trainer_agent.model.unwrap import unwrap

Scalings = Mapping[str, dslm.Scaling]
Steps = Mapping[str, Sequence[tuple[dslm.Amplitudes, ...]]]
K, ALPHA = 2.0, 1.0  # of DeepScaleLM's branch share
COUNT: Count = "sublayers"
# A form is refused where largest over smallest is more than this, and this much more than before.
EVEN, LESS_EVEN = 2.0, 1.2


def deepscale(
    model: nn.Module,
    batch: Tensor | Mapping[str, Any] | None = None,
    *,
    form: Form | SchemeName = DEFAULT_FORM,
    k: float = K,
    alpha: float = ALPHA,
    count: Count = COUNT,
    force: bool = False,
) -> Report:
    """Give a model DeepScaleLM's weights and residual scales; returns what was changed.

    Draws embeddings, attention, feed-forward and head anew from torch's global random state,
    zeroes biases, sets the blocks' norms to one, and makes every residual step
    lam·x + beta·f(x), so that stream and gradient keep unit variance over depth. Call it on a
    fresh model, before the optimizer is built and before ``torch.compile``. It describes the
    model on `batch`, or on random ids distributed as words are (random images for a vision
    model of `transformers`). `form` is one of `dslm.deepscale`'s; ``"balanced"`` takes the
    gradient at the top from the batch's loss where the model returns one. State dict keys stay
    the same; load a state dict into a model that went through `deepscale` too.

    `form` may name another scheme as well: ``"deepnorm"``, ``"gpt2"``, ``"depth_mup"``,
    ``"layernorm_scaling"`` or ``"admin"`` (`dslm.schemes`). These set what their sources set, and
    leave everything else as it is.

    Args:
        model, batch, form: see above.
        k, alpha, count: DeepScaleLM's branch share, k / N^alpha (`dslm.BranchShare`).
        force: also where the prediction says that stream and gradient would be less even over
            depth than they are.

    Raises:
        DeepScaleError: naming what is not supported, or what would get less even; then nothing has
            changed. For that the parameters are held twice while it runs.
    """
    model = unwrap(model)
    request = checked_request(form, k, alpha, count)
    if is_scaled(model):
        raise DeepScaleError("the model has residual scales of ours already")
    if holds_shards(model):
        raise DeepScaleError("its parameters are sharded: call deepscale before they are")
    batch = probe_batch(model) if batch is None else batch
    with in_training_mode(model):
        architecture = understood(model, batch)
        _check_unshared(architecture)
        before = describe(model, batch)
        with all_or_nothing(model, architecture):
            report = _apply(model, architecture, batch, request)
            return _expected(report, before, describe(model, batch), force=force)


@dataclass(frozen=True, slots=True)
class Request:
    """What `deepscale` was asked for, checked."""

    form: Form | SchemeName
    share: BranchShare

    @property
    def scheme(self) -> SchemeName | None:
        """The scheme that is not DeepScaleLM's, or None."""
        return next((name for name in get_args(SchemeName) if name == self.form), None)


def checked_request(form: str, k: float, alpha: float, count: Count) -> Request:
    """The arguments, checked; raises `DeepScaleError` naming the one that cannot be."""
    forms = (*get_args(Form), *get_args(SchemeName))
    if form not in forms:
        raise DeepScaleError(f"form: {form!r} is none of {', '.join(forms)}")
    is_scheme = form in get_args(SchemeName)
    if is_scheme and (k, alpha, count) != (K, ALPHA, COUNT):
        raise DeepScaleError(f"k, alpha and count are DeepScaleLM's; {form} has none")
    try:
        share = BranchShare(k, alpha, count)
    except dslm.SpecError as error:
        raise DeepScaleError(str(error)) from None
    return Request(form, share)  # type: ignore[arg-type]


def _apply(model: nn.Module, architecture: Architecture, batch: Batch, request: Request) -> Report:
    if request.scheme is not None:
        return _apply_scheme(model, architecture, batch, request.scheme)
    widths = {stack.name: stack.d_model for stack in architecture.stacks}
    around, drawn = unit_inputs(model, widths, lambda: surroundings(model, architecture, batch))
    changes = list(drawn.changes.values())
    share = request.share
    scalings = dslm.deepscale_stacks(
        describe(model, batch),
        form=request.form,  # type: ignore[arg-type]
        k=share.k,
        alpha=share.alpha,
        count=share.count,
    )
    stacks_with_scales = _set_own(model, architecture, scalings)
    now = understood(model, batch) if stacks_with_scales else architecture
    for stack in now.stacks:
        _check_obeyed(stack, scalings[stack.name], stacks_with_scales)
        changes += _blocks(model, stack, scalings[stack.name])
    steps = {name: [block.residuals for block in w.blocks] for name, w in scalings.items()}
    hooked = [s.name for s in now.stacks if hook_scales(model, s, steps[s.name], around.called)]
    ways = {
        s.name: _way(s.name in stacks_with_scales, s.name in hooked) for s in architecture.stacks
    }
    head, notes = unit_head(model, surroundings(model, architecture, batch), drawn)
    _check(understood(model, batch), steps)
    return Report(
        form=request.form,
        stacks=tuple(_told(s, scalings[s.name], ways[s.name], around) for s in architecture.stacks),
        changes=tuple(changes + head),
        residuals=_step_changes(architecture, steps),
        notes=notes,
    )


def _apply_scheme(
    model: nn.Module, architecture: Architecture, batch: Batch, name: SchemeName
) -> Report:
    schemes = schemes_of(model, batch, name)
    changes, ways, around = apply_scheme(model, architecture, batch, schemes)
    steps = {key: [block.residuals for block in each.blocks] for key, each in schemes.items()}
    _check(understood(model, batch), steps)
    return Report(
        form=name,
        stacks=tuple(
            StackReport(
                stack.name,
                steps[stack.name][0][0].lam,
                steps[stack.name][0][0].beta,
                len(stack.blocks),
                ways[stack.name],
                around.entrances[stack.name].variance,
            )
            for stack in architecture.stacks
        ),
        changes=tuple(changes),
        residuals=_step_changes(architecture, steps),
    )


def _expected(
    report: Report, before: dslm.ModelSpec, after: dslm.ModelSpec, *, force: bool
) -> Report:
    """The report with what is predicted of both models; raises where the new one is less even."""
    old, new = dslm.evenness(before), dslm.evenness(after)
    gains = tuple(
        Gain(
            stack=name,
            replaced=name_of_scheme(before.stacks[name]),
            stream=(old[name].stream, new[name].stream),
            gradient=(old[name].gradient, new[name].gradient),
        )
        for name in before.stacks
    )
    worse = [
        gain
        for gain in gains
        if new[gain.stack].worst > max(EVEN, LESS_EVEN * old[gain.stack].worst)
    ]
    if worse and not force:
        raise DeepScaleError(
            f"{worse[0]}. The model is more even as it is: try another form, or give force=True"
        )
    return replace(report, expected=gains)


def _set_own(model: nn.Module, architecture: Architecture, scalings: Scalings) -> set[str]:
    """Set the blocks' own lam and beta; names of the stacks that have them."""
    stacks_with_scales = set()
    for stack in architecture.stacks:
        scales = own_scales(model, stack)
        set_scales(
            model, dict.fromkeys(scales, (scalings[stack.name].lam, scalings[stack.name].beta))
        )
        stacks_with_scales |= {stack.name} if scales else set()
    return stacks_with_scales


def _blocks(model: nn.Module, stack: StackParts, scaling: dslm.Scaling) -> Iterator[Change]:
    for parts, stds in zip(stack.parts, scaling.blocks, strict=True):
        assert parts is not None  # `understood` raises where one is not
        readers = factors(parts, stds.residuals).readers
        yield from draw_block(model, parts, stds, readers)
    if stack.final_norm is not None:
        yield from plain_norm(model, stack.final_norm)


def _way(attributes: bool, hooked: bool) -> str:
    if attributes:
        return "attributes and hooks" if hooked else "attributes"
    return "hooks"


def _check_obeyed(
    stack: StackParts, scaling: dslm.Scaling, stacks_with_scales: Collection[str]
) -> None:
    """Numbers named lam and beta that mean something else are none of ours to set."""
    if stack.name not in stacks_with_scales:
        return
    for path, parts in zip(stack.blocks, stack.parts, strict=True):
        assert parts is not None
        first = steps_of(parts)[0]
        if abs(first.lam - scaling.lam) > 1e-5 or abs(first.beta - scaling.beta) > 1e-5:
            raise DeepScaleError(f"{path}: its residual scales do not follow what is set")


def _check(after: Architecture, steps: Steps) -> None:
    for stack in after.stacks:
        stray = residuals_are(stack, steps[stack.name])
        if stray is not None:
            raise DeepScaleError(f"{stray}: its residual scales do not follow what is set")


def _told(
    stack: StackParts, scaling: dslm.Scaling, residual: str, around: Surroundings
) -> StackReport:
    variance = around.entrances[stack.name].variance
    return StackReport(stack.name, scaling.lam, scaling.beta, len(stack.blocks), residual, variance)


def _step_changes(architecture: Architecture, steps: Steps) -> tuple[ResidualChange, ...]:
    changes = []
    for stack in architecture.stacks:
        for path, parts, block in zip(stack.blocks, stack.parts, steps[stack.name], strict=True):
            assert parts is not None  # `understood` raises where one is not
            names = ("attention", *(["cross"] if parts.cross else []), "feed_forward")
            for name, old, new in zip(names, steps_of(parts), block, strict=True):
                changes.append(ResidualChange(path, name, old.lam, old.beta, new.lam, new.beta))
    return tuple(changes)


def _check_unshared(architecture: Architecture) -> None:
    """Two maps on one weight cannot have two standard deviations."""
    slices: set[tuple[str, tuple[tuple[int, int], ...]]] = set()
    for parts in (parts for stack in architecture.stacks for parts in stack.parts):
        assert parts is not None  # `understood` raises where one is not
        for part in linears_of(parts).values():
            key = (part.weight, part.outputs)
            if key in slices:
                raise DeepScaleError(f"{part.weight}: used by more than one map")
            slices.add(key)
