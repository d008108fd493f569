"""`watch` for training loops that somebody else wrote: transformers, Accelerate, Lightning.

Each framework has a module of its own, which alone imports it.
"""
