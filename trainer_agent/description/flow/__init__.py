"""What passes through the parts of a block, measured in the step that is described."""
