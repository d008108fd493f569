"""What a description says of itself: notes that make a prediction doubtful, and what is missing."""

from __future__ import annotations

from dslm.spec import Missing

WITHOUT_DROPOUT = (
    "the input kernel is that of watch's batch, without dropout or padding mask, and gradients at "
    "the top are taken as independent between tokens"
)
SHARDED = (
    "the parameters are sharded: the weights are those after the step described, and what "
    "attention and feed-forward add is measured from the next sample on"
)
SPLIT = (
    "sequences lie over several processes: the input kernel is that of the first step's batch "
    "without padding mask, and gradients at the top are taken as independent between tokens"
)
AFTER_THE_STEP = "the model is compiled as a whole: the weights are those after the step described"
FLAT = Missing(
    "model",
    "flat parameters",
    "FSDP's first version hides the matrices of a block in one vector: use fully_shard",
)
APART = Missing(
    "model",
    "sharded parameters",
    "their moments are added up, and not every process of the job was ready for that",
)
COMPILED_WHY = (
    "torch has no calls to read off what it compiles: give watch(batch=...) before compiling, "
    "and the model is described by running it once on that batch"
)
COMPILED = Missing("model", "compiled as a whole", COMPILED_WHY)
NOT_FOLLOWED = Missing("model", "forward pass", "it could not be followed call by call")
