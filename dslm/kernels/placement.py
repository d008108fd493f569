"""The norms and the residual step around each branch of a block."""

from __future__ import annotations

from dataclasses import dataclass

from dslm.spec import Block, CrossAttention, Norm, Residual


@dataclass(frozen=True, slots=True)
class BranchPlacement:
    """The norms around one branch, None where there is none, and its residual.

    Attributes:
        on_input: the norm on the branch's input (Pre-LN).
        on_branch: the norm on its output.
        on_sum: the norm on the residual sum (Post-LN).
        residual: amplitudes of skip and branch, and dropout.
        d_model: width of the stream.
        parallel: whether the branch reads the block's input, not the stream that it is added to.
    """

    on_input: Norm | None
    on_branch: Norm | None
    on_sum: Norm | None
    residual: Residual
    d_model: int
    parallel: bool = False


def branch_placements(block: Block, d_model: int) -> tuple[BranchPlacement, BranchPlacement]:
    """Return the placements of the attention and of the feed-forward branch."""
    first = _placement(
        block, block.attention_norm, block.attention_out_norm, block.attention_residual, d_model
    )
    second = _placement(
        block,
        block.feed_forward_norm,
        block.feed_forward_out_norm,
        block.feed_forward_residual,
        d_model,
        second=True,
    )
    return first, second


def cross_placement(block: Block, cross: CrossAttention, d_model: int) -> BranchPlacement:
    """Return the place of the cross-attention branch."""
    return _placement(block, cross.norm, cross.out_norm, cross.residual, d_model)


def _placement(
    block: Block,
    norm: Norm | None,
    out_norm: Norm | None,
    residual: Residual,
    d_model: int,
    *,
    second: bool = False,
) -> BranchPlacement:
    match block.placement:
        case "post":
            return BranchPlacement(None, None, norm, residual, d_model)
        case "branch":
            return BranchPlacement(None, norm, None, residual, d_model)
        case _:
            parallel = second and block.placement == "parallel"
            return BranchPlacement(norm, out_norm, None, residual, d_model, parallel)
