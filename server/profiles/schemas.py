"""The JSON form of measurements."""

from __future__ import annotations

from server.schemas import Answer


class Steps(Answer):
    """The sampled steps, and those at which the model was described."""

    steps: list[int]
    revision_steps: list[int]


class StackProfile(Answer):
    """The vectors of one stack at one step, under ``site/quantity_f32``."""

    n_layers: int
    series: dict[str, str]


class Profile(Answer):
    """Everything measured at one step."""

    run_id: str
    step: int
    time: float
    stacks: dict[str, StackProfile]
    scalars: dict[str, float]


class History(Answer):
    """One series over steps: every layer, beside theory at initialisation."""

    series: str
    steps: list[int]
    n_layers_plus_one: int
    shape: tuple[int, int]
    values_f32: str
    ratio_f32: str


class Scalars(Answer):
    """Series of length 1 over steps."""

    steps: list[int]
    values_f32: dict[str, str]
