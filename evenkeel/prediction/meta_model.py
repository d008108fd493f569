"""A config's model on torch's meta device: shapes without numbers, at no cost for any size."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from evenkeel.prediction.model_settings import Settings, config_of, reason_of
from server.errors import StartError

# the bare model where there is one, else the class that its config belongs to
KINDS = ("AutoModel", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForMaskedLM")


def build_on_meta(settings: Settings) -> nn.Module:
    """Return the config's model on the meta device, float32.

    Raises:
        StartError: naming what transformers cannot build.
    """
    config = config_of(settings)
    build = _builder_of(config)
    with without_warnings(), torch.device("meta"):
        try:
            model = build(config, dtype=torch.float32)
        except Exception as error:  # each of the hundreds of models raises what it likes
            reason = reason_of(error)
            raise StartError(f"transformers cannot build it: {reason}") from error
    assert isinstance(model, nn.Module)
    return model


def initialise(model: nn.Module) -> None:
    """Fill the model's weights and buffers by its own rule, each time from the same seed.

    What that rule passes by is filled as its layer's constructor does.

    Raises:
        StartError: if neither fills a weight.
    """
    for module in model.modules():  # transformers marks what it has set up, and would pass it by
        vars(module).pop("_is_hf_initialized", None)
    # forked: the caller's random state is not ours to move
    with torch.random.fork_rng([]), without_warnings(), torch.no_grad():
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.fill_(float("nan"))  # what stays so was not filled
        model.initialize_weights()  # type: ignore[operator]
        for name, module in model.named_modules():
            if _is_unfilled(module):
                _fill_as_constructed(name, module)


def _is_unfilled(module: nn.Module) -> bool:
    parameters = module.parameters(recurse=False)
    return any(p.device.type != "meta" and bool(p.isnan().any()) for p in parameters)


def _fill_as_constructed(name: str, module: nn.Module) -> None:
    if isinstance(module, Conv1D):  # as its constructor has it
        module.weight.normal_(std=0.02)
        module.bias.zero_()
    elif callable(reset := getattr(module, "reset_parameters", None)):
        reset()
    if _is_unfilled(module):
        raise StartError(f"transformers does not say how the weights of {name} begin")


def parameter_count(model: nn.Module) -> int:
    """Return the number of a model's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def _builder_of(config: Any) -> Any:
    for name in KINDS:
        kind = getattr(transformers, name)
        if type(config) in kind._model_mapping:
            return kind.from_config
    for kind in _unmapped(type(config)):
        return kind._from_config
    raise StartError(f"transformers has no text model for the config {config.model_type}")


def _unmapped(config: type[Any]) -> Iterator[Any]:
    """Text models of a config that transformers' automatic classes leave out."""
    try:
        module = importlib.import_module(config.__module__.replace(".configuration_", ".modeling_"))
    except ImportError:
        return
    for name, kind in vars(module).items():
        is_model = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
        is_whole = name.endswith("Model") and not name.endswith("PreTrainedModel")
        if is_model and is_whole and kind.config_class is config:
            yield kind


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep transformers' advice about configs off a terminal that shows a table."""
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
