"""A transformers config as the theory's spec, at initialisation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dslm
from evenkeel.prediction.cases import Case
from evenkeel.prediction.progress import progress
from server.errors import StartError

LFS_POINTER = "version https://git-lfs"


def case_of_config(config: Path, context: int | None, layers: int | None = None) -> Case:
    """Return the config's model with initial weights, described on Zipf-distributed ids.

    `layers` replaces the config's depth, for initialisations that depend on it.

    Raises:
        StartError: if the config cannot be read, its model cannot be built, or the packages that
            build it are not installed.
    """
    settings = read_config(config)
    with progress("loading torch and transformers"):
        spec, notes = _described(config, settings, context, layers)
    return Case(f"{settings['model_type']} at initialisation", spec, "initialisation", notes=notes)


def _described(
    config: Path, settings: dict[str, Any], context: int | None, layers: int | None
) -> tuple[dslm.ModelSpec, tuple[str, ...]]:
    try:  # here, as torch and transformers take seconds that no other command should
        from evenkeel.prediction.meta_model import without_warnings
        from evenkeel.prediction.reduced_model import describe_config
    except ModuleNotFoundError as error:
        raise StartError(
            f"predict builds the model and needs {error.name}: pip install 'evenkeel[predict]'"
        ) from error
    try:
        with without_warnings():
            return describe_config(settings, context, layers)
    except (StartError, dslm.SpecError) as error:
        raise StartError(f"{config}: {error}") from error
    except Exception as error:  # a config may hold what no code here or there foresees
        if "can't allocate memory" in str(error) or isinstance(error, MemoryError):
            raise StartError(f"{config}: its sizes take more memory than there is") from error
        reason = str(error).strip().partition("\n")[0] or "no reason is given"
        raise StartError(f"{config}: no model can be made of it: {reason}") from error


def read_config(config: Path) -> dict[str, Any]:
    """Return the JSON object of a config file, or of the config.json in a folder.

    Raises:
        StartError: if it cannot be read, is no JSON object, or has no model_type.
    """
    config = config / "config.json" if config.is_dir() else config
    try:
        text = config.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise StartError(f"cannot read {config}: {error.strerror}") from error
    except ValueError as error:
        raise StartError(f"{config} is no text: give a transformers config.json") from error
    _require_text(config, text)
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StartError(f"{config} is not JSON: {error}") from error
    if not isinstance(settings, dict) or "model_type" not in settings:
        raise StartError(f"{config}: model_type is missing; give a transformers config.json")
    return settings


def _require_text(config: Path, text: str) -> None:
    if not text.strip():
        raise StartError(f"{config} is empty: give a transformers config.json")
    if text.startswith(LFS_POINTER):
        raise StartError(
            f"{config} is a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`"
        )
