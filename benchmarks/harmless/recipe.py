"""What a random training job is made of."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recipe:
    """One training job; `drawn` makes one of a seed.

    Attributes:
        family: ``"home_made"``, ``"torch"`` (its own layers), or a family of `transformers`.
        steps: optimizer steps.
        loss_given: when `agent.step` is given the loss: ``"always"``, ``"sometimes"``, ``"never"``.
        losses: what is differentiated in a step: one loss, two passes over one graph, a gradient
            penalty, or `torch.autograd.grad` by hand.
        between: what the job does between steps.
        agent: options of `watch`.
    """

    seed: int
    family: str
    layers: int
    steps: int
    p_drop: float
    post_norm: bool
    batch_first: bool
    activation: str
    fused_attention: bool
    packed_projection: bool
    python_random: bool
    numpy_random: bool
    cache: bool
    running_mean: bool
    shared_block: bool
    tied: bool
    frozen: bool
    checkpointing: str
    hooks: tuple[str, ...]
    optimizer: str
    autocast: bool
    scaler: bool
    accumulate: int
    losses: str
    clip: bool
    loss_given: str
    between: tuple[str, ...]
    raises_at: int | None
    agent: tuple[tuple[str, object], ...]


def drawn(seed: int) -> Recipe:
    """The recipe of a seed."""
    rng = random.Random(seed)

    def often(share: float) -> bool:
        return rng.random() < share

    def some(*names: str, share: float = 0.25) -> tuple[str, ...]:
        return tuple(name for name in names if often(share))

    family = rng.choice(("home_made",) * 5 + ("torch", "gpt2", "llama", "bert"))
    checkpointing = rng.choice(("none", "none", "none", "non_reentrant", "reentrant"))
    if family == "torch":
        checkpointing = "none"
    losses = rng.choice(("one",) * 4 + ("two_passes", "auxiliary", "penalty", "by_hand"))
    if checkpointing == "reentrant" and losses != "auxiliary":
        losses = "one"  # torch refuses any other way of differentiating it
    optimizer = rng.choice(("adamw", "adamw", "sgd", "rmsprop", "two", "sam", "lbfgs"))
    if optimizer in ("sam", "lbfgs"):
        losses = "one"
    watch: list[tuple[str, object]] = [rng.choice((("every", 1), ("every", 2), ("overhead", 0.01)))]
    if often(0.25):
        watch.append(("sites", "all"))
    if often(0.25):
        watch.append(("quantities", "all"))
    steps = rng.randint(2, 5)
    return Recipe(
        seed=seed,
        family=family,
        layers=rng.randint(2, 3),
        steps=steps,
        p_drop=rng.choice((0.0, 0.1)),
        post_norm=often(0.4),
        batch_first=often(0.6),
        activation=rng.choice(("gelu", "relu", "silu", "squared_relu")),
        fused_attention=often(0.6),
        packed_projection=often(0.5),
        python_random=often(0.25) and checkpointing == "none",  # a recomputation must match
        numpy_random=often(0.25),
        cache=often(0.25),
        running_mean=often(0.25),
        shared_block=often(0.15),
        tied=often(0.3),
        frozen=often(0.15),
        checkpointing=checkpointing,
        hooks=some("forward", "pre_forward", "backward", "tensor", "scaling", "once", "parameter"),
        optimizer=optimizer,
        autocast=often(0.25),
        scaler=often(0.15) and optimizer in ("adamw", "sgd", "rmsprop"),
        accumulate=rng.choice((1, 1, 2)),
        losses=losses,
        clip=often(0.3),
        loss_given=rng.choice(("always", "sometimes", "never")),
        between=some("evaluate", "generate", "copy", "state_dict", "per_sample", "draw", share=0.2),
        raises_at=rng.randrange(steps) if often(0.15) else None,
        agent=tuple(watch),
    )
