"""Sites of the user's own: modules found by a pattern of their paths."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn

from trainer_agent.errors import WatchError
from trainer_agent.model.blocks import holds
from trainer_agent.model.nearest_path import did_you_mean
from trainer_agent.model.plan import NORM_INPUTS, Plan
from trainer_agent.model.sites import CustomSite

RESERVED = frozenset({
    "stream", "stream_gradient", "attention", "feed_forward", "attention_logits", "weights",
    "weight_gradients", "updates", "log_z", "agent", *NORM_INPUTS,
})  # fmt: skip
ARGUMENT = "custom_sites"


def custom_sites(
    model: nn.Module, plan: Plan, patterns: Mapping[str, str], *, required: bool = True
) -> tuple[CustomSite, ...]:
    """The modules that each pattern names; ``*`` stands for one part of a path.

    ``"blocks.*.mlp.act"`` is a site over depth, one module a block; ``"embed"`` is a site of one
    module. Where it is not `required`, as in a stage of a pipeline, a site may have no module.

    Raises:
        WatchError: for a name that cannot be used, or a pattern that fits no module or several
            of one block.
    """
    if not isinstance(patterns, Mapping):
        raise WatchError(
            ARGUMENT,
            f"{type(patterns).__name__} is no mapping",
            fix='give {"activation": "blocks.*.mlp.act"}',
        )
    return tuple(_site(model, plan, *item, required=required) for item in patterns.items())


def _site(model: nn.Module, plan: Plan, name: str, pattern: str, *, required: bool) -> CustomSite:
    if (
        not isinstance(name, str)
        or not re.fullmatch("[a-z][a-z0-9_]{0,63}", name)
        or name in RESERVED
    ):
        raise WatchError(
            ARGUMENT,
            f"{name!r} cannot name a site",
            fix="use small letters, digits and _, and no name of evenkeel's own sites",
        )
    fits = re.compile(re.escape(str(pattern)).replace(r"\*", "[^.]+"))
    modules = [path for path, _ in model.named_modules() if path]
    paths = [path for path in modules if fits.fullmatch(path)]
    if not paths and not required:
        return CustomSite(name, "", ())
    if not paths:
        raise WatchError(
            ARGUMENT,
            f"{name}: {pattern!r} fits no module{did_you_mean(str(pattern), modules)}",
            fix="write a path of model.named_modules(), with * for a block's number",
        )
    for stack in plan.stacks:
        by_block = [[path for path in paths if holds(block, path)] for block in stack.blocks]
        if sum(map(len, by_block)) == len(paths):
            if max(map(len, by_block)) > 1:
                raise WatchError(
                    ARGUMENT,
                    f"{name}: {pattern!r} fits several modules of one block",
                    fix="write a pattern that fits one of them, and a site for each other",
                )
            return CustomSite(
                name, stack.name, tuple(next(iter(block), None) for block in by_block)
            )
    return CustomSite(name, "", tuple(paths))
