"""Where a model's blocks are: chunks of a pipeline, columns of blocks, the plan of sites."""
