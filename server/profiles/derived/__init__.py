"""Series that follow from measured ones: one block ahead, innovations, alignment."""
