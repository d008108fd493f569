"""A config with another depth, or with a vocabulary of only the ids that are drawn."""

from __future__ import annotations

import numpy as np
import torch

from evenkeel.prediction.model_settings import Settings, config_of, setting
from evenkeel.prediction.zipf import zipf_ids
from server.errors import StartError

FEW_IDS = 4096  # vocabularies up to this size are built in full
SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
DEPTH_SETTINGS = ("num_hidden_layers", "encoder_layers", "decoder_layers", "num_decoder_layers")


def with_layers(settings: Settings, layers: int) -> Settings:
    """Return the settings with another depth; lists with one entry a layer are repeated."""
    config = config_of(settings)
    renamed = getattr(config, "attribute_map", {})
    changed = dict(settings)
    for name in DEPTH_SETTINGS:
        depth = setting(config, name)
        if isinstance(depth, int):
            changed[renamed.get(name, name)] = layers
            for key, value in settings.items():
                if isinstance(value, list) and len(value) == depth:
                    changed[key] = [value[i % depth] for i in range(layers)]
    return changed


def with_small_vocabulary(settings: Settings, context: int) -> tuple[Settings, torch.Tensor]:
    """Return the settings with a vocabulary of the drawn and the special ids, and the drawn ids.

    Raises:
        StartError: if the config has no vocabulary.
    """
    config = config_of(settings)
    vocabulary = setting(config, "vocab_size")
    if not isinstance(vocabulary, int):
        raise StartError("vocab_size is missing; predict takes configs of text models")
    numbers = {name: setting(config, name) for name in SPECIAL_IDS}
    special = {name: number for name, number in numbers.items() if isinstance(number, int)}
    reserved = [number for number in special.values() if 0 <= number < vocabulary]
    if vocabulary <= len(set(reserved)):
        raise StartError(f"vocab_size is {vocabulary}: all ids are special ones; give more")
    ids = zipf_ids(vocabulary, context, reserved)
    if vocabulary <= FEW_IDS:
        return settings, torch.from_numpy(ids)
    # low special ids keep their numbers, as models treat some, such as padding, by number
    first = 1 + max((number for number in reserved if number < FEW_IDS), default=-1)
    drawn, renumbered = np.unique(ids, return_inverse=True)
    last = first + len(drawn)  # takes the place of special ids past the new vocabulary
    moved = {name: last for name, number in special.items() if number >= last}
    small = settings | moved | {"vocab_size": last + 1}
    return small, torch.from_numpy(first + renumbered.reshape(ids.shape))
