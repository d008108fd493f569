"""What the columns of each table of sums hold. A row of a table is a place of the plan."""

from __future__ import annotations

from trainer_agent.model.sites import RANGES, RANKS

# Moments of a tensor of tokens and features.
COUNT, SUM, SQUARES, PAIRS, PAIR_PRODUCTS, NONFINITE = range(6)
COLUMNS = 6

# What is taken of such a tensor beyond its moments. Its largest value is kept apart, because it
# does not add up; so are those of attention logits.
CUBES, FOURTHS, ZEROS = range(3)
FIRST_RANGE = 3
RANKED = FIRST_RANGE + len(RANGES)
EFFECTIVE, STABLE = RANKED + 1, RANKED + 2
EXTRA_COLUMNS = STABLE + 1
RANK_COLUMNS = dict(zip(RANKS, (EFFECTIVE, STABLE), strict=True))
RANGE_COLUMNS = {name: FIRST_RANGE + at for at, name in enumerate(RANGES)}

# Values of a tensor by the bits of their significands, as `precision` counts them.
PRECISION_COLUMNS = 3

# Attention logits.
LOGIT_COUNT, LOGIT_SUM, LOGIT_SQUARES, ENTROPY_COUNT, ENTROPY_SUM = range(5)
LOGIT_COLUMNS = 5

# Parameters of a block, their gradients, and what updates change of them.
(
    WEIGHTS,
    WEIGHT_SQUARES,
    GRADIENTS,
    GRADIENT_SQUARES,
    CHANGED_SQUARES,
    CHANGES,
    SECOND_MOMENTS,
    SECOND_MOMENT_SUM,
) = range(8)
PARAMETER_COLUMNS = 8

# The logarithm of the final softmax's partition function.
LOG_Z_COUNT, LOG_Z_SUM, LOG_Z_SQUARES = range(3)
LOG_Z_COLUMNS = 3
