"""What is advised of a signal that is lost over depth, by the kind of stack."""

from __future__ import annotations

from dataclasses import replace

import dslm
from dslm.schemes import apply_scheme, scheme
from server.alerts.rules.depth_advice import advice_for
from server.alerts.rules.observation import facts
from tests.dslm.specs import spec_of, stack


def advised(spec: dslm.ModelSpec) -> tuple[str, bool]:
    """The advice's text, and whether it names scales."""
    (of_stack,) = facts(spec, {}).values()
    advice = advice_for(of_stack)
    return advice.text, advice.scaling is not None


def test_a_post_ln_decoder_is_told_of_the_repair_that_was_seen_to_help() -> None:
    text, scales = advised(spec_of(stack(24, 8, 32, placement="post")))

    assert scales
    assert "DeepScaleLM" in text and "0.7 nats lower" in text


def test_an_encoder_without_a_causal_mask_is_told_of_what_helped_there() -> None:
    text, scales = advised(spec_of(stack(24, 8, 32, placement="post", causal=False)))

    assert not scales
    assert text.startswith("Lengthen the warm-up")
    assert "something to try" in text


def test_a_stack_that_is_scaled_already_is_told_by_which_scheme() -> None:
    plain = spec_of(stack(24, 8, 32, placement="post"))
    deepnorm = apply_scheme(plain, scheme(plain, "deepnorm"))
    deepscale = replace(
        plain,
        stacks={
            name: dslm.apply_scaling(each, dslm.deepscale(each))
            for name, each in plain.stacks.items()
        },
    )

    assert "already (DeepNorm)" in advised(deepnorm)[0]
    assert "already (DeepScaleLM)" in advised(deepscale)[0]


def test_pre_ln_and_blocks_that_are_not_understood_get_other_advice() -> None:
    pre = spec_of(stack(24, 8, 32))
    unknown = spec_of(replace(stack(2, 8, 32), blocks=(None, None)))

    assert advised(pre)[0].startswith("Pre-LN does not collapse by depth alone")
    assert "could not be described" in advised(unknown)[0]
