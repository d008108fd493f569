"""An attribution's terms add up, and name the cause that was put in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

import dslm
from dslm import BlockFlow, Direction, ModelSpec, Site, attribute
from tests.dslm.attribution.flows import drawn_spec

KINDS = [
    (placement, gated, crossed)
    for placement in ("pre", "post", "sandwich", "branch", "parallel")
    for gated in (False, True)
    for crossed in ((False,) if placement == "parallel" else (False, True))
]


def adds_up(direction: Direction) -> bool:
    explained = np.sum(list(direction.terms.values()), axis=0)
    return bool(np.allclose(explained, direction.total, rtol=1e-9, atol=1e-9, equal_nan=True))


def variance(spec: ModelSpec, site: str) -> np.ndarray:
    flows = [flow for flow in spec.flows["decoder"] if flow is not None]
    return np.array([flow.forward[site].variance for flow in flows])


def without(spec: ModelSpec, site: str) -> ModelSpec:
    def bare(flow: BlockFlow) -> BlockFlow:
        forward, backward = (
            {name: value for name, value in values.items() if name != site}
            for values in (flow.forward, flow.backward)
        )
        return BlockFlow(forward, backward)

    return replace(spec, flows={"decoder": tuple(bare(f) for f in spec.flows["decoder"] if f)})


@pytest.mark.parametrize(("placement", "gated", "crossed"), KINDS)
def test_terms_add_up_to_the_measured_ratios(
    placement: str, gated: bool, crossed: bool, rng: np.random.Generator
) -> None:
    before, after = (drawn_spec(rng, placement, gated=gated, crossed=crossed) for _ in range(2))

    stack = attribute(before, after).stacks["decoder"]

    ratio = np.log10(variance(after, "out") / variance(before, "out"))
    assert stack.forward.total == pytest.approx(ratio)
    assert stack.cumulative.total == pytest.approx(ratio)
    gains = [
        [f.backward["in"].variance / f.backward["out"].variance for f in spec.flows["decoder"] if f]
        for spec in (before, after)
    ]
    assert stack.backward.total == pytest.approx(np.log10(np.divide(gains[1], gains[0])))
    directions = (stack.forward, stack.backward, stack.cumulative)
    branches = (*stack.branches.values(), *stack.branches_backward.values())
    assert all(map(adds_up, (*directions, *branches)))
    assert len(stack.branches) == (3 if crossed else 2)


@pytest.mark.parametrize("placement", ["pre", "post", "sandwich", "branch", "parallel"])
@pytest.mark.parametrize(
    "site", ["attention.value", "attention.mixed", "attention.stream", "feed_forward.hidden"]
)
def test_terms_add_up_where_a_site_was_not_measured(
    placement: str, site: str, rng: np.random.Generator
) -> None:
    before, after = (drawn_spec(rng, placement, gated=False, crossed=False) for _ in range(2))

    stack = attribute(without(before, site), without(after, site)).stacks["decoder"]

    assert adds_up(stack.forward) and adds_up(stack.backward) and adds_up(stack.cumulative)


def test_what_crosses_an_unmeasured_site_remains(rng: np.random.Generator) -> None:
    before, after = (drawn_spec(rng, "pre", gated=False, crossed=False) for _ in range(2))

    complete, part = (
        attribute(*pair).stacks["decoder"].branches["attention"]
        for pair in (
            (before, after),
            (without(before, "attention.mixed"), without(after, "attention.mixed")),
        )
    )

    assert part.total == pytest.approx(complete.total)
    assert np.all(complete.terms["attention"] != 0) and not np.any(part.terms["attention"])
    assert np.all(part.terms["remainder"] != complete.terms["remainder"])


def test_nothing_changes_between_a_description_and_itself(rng: np.random.Generator) -> None:
    spec = drawn_spec(rng, "pre", gated=True, crossed=False)

    stack = attribute(spec, spec).stacks["decoder"]

    assert not np.any(stack.forward.total) and not np.any(stack.backward.total)
    assert not any(np.any(values) for values in stack.forward.terms.values())
    assert stack.sentences == () and stack.parts == ()


def scaled(spec: ModelSpec, index: int, factor: float) -> ModelSpec:
    """Block `index` with its last matrix larger, and all that follows from that there."""
    stack, flows = spec.stacks["decoder"], list(spec.flows["decoder"])
    block, flow = stack.blocks[index], flows[index]
    assert block is not None and flow is not None
    down = block.feed_forward.down
    larger = replace(
        down, weight_var=down.weight_var * factor**2, bias_var=down.bias_var * factor**2
    )
    feed_forward = replace(block.feed_forward, down=larger)
    output, middle = flow.forward["feed_forward.output"], flow.forward["attention.stream"]
    added = scale(output, factor)
    rho = 0.25
    stream = middle.variance + added.variance
    stream += 2 * rho * math.sqrt(middle.variance * added.variance)
    forward = {**flow.forward, "feed_forward.output": added, "out": Site(stream)}
    flows[index] = replace(flow, forward=forward)
    blocks = list(stack.blocks)
    blocks[index] = replace(block, feed_forward=feed_forward)
    stacks: Mapping[str, dslm.Stack] = {"decoder": replace(stack, blocks=tuple(blocks))}
    return replace(spec, stacks=stacks, flows={"decoder": tuple(flows)})


def scale(site: Site, factor: float) -> Site:
    return Site(site.mean_square * factor**2, site.mean * factor, site.shared * factor**2)


def test_a_rescaled_matrix_is_size_in_its_branch_and_nothing_else(
    rng: np.random.Generator,
) -> None:
    drawn = drawn_spec(rng, "pre", gated=False, crossed=False)
    before, after = scaled(drawn, 1, 1.0), scaled(drawn, 1, 3.0)

    stack = attribute(before, after).stacks["decoder"]

    branch = stack.branches["feed_forward"]
    assert branch.terms["weights"] == pytest.approx([0, 2 * math.log10(3), 0], abs=1e-12)
    assert branch.total == pytest.approx(branch.terms["weights"], abs=1e-12)
    assert stack.branches["attention"].total == pytest.approx(np.zeros(3), abs=1e-12)
    for term, values in stack.forward.terms.items():
        assert term == "weights" or values == pytest.approx(np.zeros(3), abs=1e-12)
    assert stack.forward.terms["weights"][1] > 0


def test_the_sentence_names_the_block_and_its_causes(rng: np.random.Generator) -> None:
    drawn = drawn_spec(rng, "pre", gated=False, crossed=False)

    stack = attribute(scaled(drawn, 1, 1.0), scaled(drawn, 1, 30.0)).stacks["decoder"]

    (sentence,) = stack.sentences
    times = 10 ** stack.forward.total[1]
    assert f"in block 1, ×{times:.3g}" in sentence
    assert "the feed-forward's last matrix" in sentence


def test_blocks_that_are_not_understood_or_not_measured_are_missing_by_name(
    rng: np.random.Generator,
) -> None:
    before, after = (drawn_spec(rng, "pre", gated=False, crossed=False) for _ in range(2))
    stack = after.stacks["decoder"]
    after = replace(
        after,
        stacks={"decoder": replace(stack, blocks=(stack.blocks[0], None, stack.blocks[2]))},
        flows={"decoder": (after.flows["decoder"][0], None, None)},
    )

    result = attribute(before, after)

    assert np.isnan(result.stacks["decoder"].forward.total).tolist() == [False, True, True]
    assert [missing.where for missing in result.missing] == [
        "decoder.blocks[1]",
        "decoder.blocks[2]",
    ]


def test_a_block_that_is_not_finite_is_missing_and_those_around_it_are_not(
    rng: np.random.Generator,
) -> None:
    before, after = (drawn_spec(rng, "pre", gated=False, crossed=False) for _ in range(2))
    flows = list(after.flows["decoder"])
    assert flows[1] is not None
    flows[1] = replace(flows[1], forward={**flows[1].forward, "out": Site(math.inf)})

    result = attribute(before, replace(after, flows={"decoder": tuple(flows)}))

    total = result.stacks["decoder"].forward.total
    assert np.isnan(total).tolist() == [False, True, False]
    assert result.missing[0].where == "decoder.blocks[1]"


def test_a_branch_that_starts_at_zero_is_counted_as_weights(rng: np.random.Generator) -> None:
    drawn = drawn_spec(rng, "pre", gated=False, crossed=False, n=1)

    result = attribute(scaled(drawn, 0, 0.0), scaled(drawn, 0, 2.0))

    stack = result.stacks["decoder"]
    assert adds_up(stack.forward)
    assert stack.forward.terms["weights"][0] > 0
    assert "feed_forward" not in stack.branches
    assert any(missing.where.endswith("feed_forward") for missing in result.missing)


def test_models_of_other_shapes_are_refused(rng: np.random.Generator) -> None:
    three, two = (drawn_spec(rng, "pre", gated=False, crossed=False, n=n) for n in (3, 2))
    post = drawn_spec(rng, "post", gated=False, crossed=False)

    with pytest.raises(dslm.SpecError, match="depth"):
        attribute(three, two)
    with pytest.raises(dslm.SpecError, match="one kind"):
        attribute(three, post)
