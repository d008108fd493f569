"""A transformers config as the theory's spec, at initialisation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenkeel.prediction.cases import Case
from server.errors import StartError

BATCH = 8
DEFAULT_CONTEXT = 128
SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")


def case_of_config(config: Path, context: int | None, layers: int | None = None) -> Case:
    """The config's model with fresh weights, described on Zipf-distributed ids.

    `layers` replaces the config's depth, so that an initialisation that scales with depth does.

    Raises:
        StartError: if the config cannot be read, names a model that cannot be built, or what
            builds it is not installed.
    """
    settings = read_config(config)
    try:
        from evenkeel.prediction.light_model import described
    except ModuleNotFoundError as error:
        raise StartError(
            f"predict builds the model and needs {error.name}: pip install 'evenkeel[predict]'"
        ) from error
    try:
        spec, notes = described(settings, context or DEFAULT_CONTEXT, layers)
    except StartError as error:
        raise StartError(f"{config}: {error}") from error
    return Case(f"{settings['model_type']} at initialisation", spec, "initialisation", notes=notes)


def read_config(config: Path) -> dict[str, Any]:
    """The JSON object of a config, or of the config.json in a folder, with its model_type."""
    config = config / "config.json" if config.is_dir() else config
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise StartError(f"cannot read {config}: {error.strerror}") from error
    except ValueError as error:
        raise StartError(f"{config} is not JSON: {error}") from error
    if not isinstance(found, dict) or "model_type" not in found:
        raise StartError(f"{config}: model_type is missing; give a transformers config.json")
    return found


def zipf_ids(vocabulary: int, context: int, kept_free: Sequence[int] = ()) -> NDArray[np.int64]:
    """Ids drawn from Zipf's law over the vocabulary, (batch, context), the same every time.

    The commonest id is the lowest; those `kept_free` (padding and other marks) are never drawn.
    """
    ids = np.setdiff1d(np.arange(vocabulary), np.array(kept_free, dtype=np.int64))
    weights = 1.0 / np.arange(1, len(ids) + 1)
    draw = np.random.default_rng(0)
    return np.asarray(draw.choice(ids, size=(BATCH, context), p=weights / weights.sum()))
