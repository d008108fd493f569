"""A config's settings: checked field by field, and the text model inside a composite one."""

from __future__ import annotations

import re
from typing import Any

import transformers

from server.errors import StartError

Settings = dict[str, Any]
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "num_hidden_layers",
    "head_dim",
    "max_position_embeddings",
)
LARGEST = {"vocab_size": 10_000_000, "num_hidden_layers": 2_000}  # more takes minutes, or memory
WRONG_TYPE = re.compile(r"Field '(\w+)' expected (\w+), got \w+ \(value: (.{1,40})\)")
TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a string"}
# how a checkpoint is stored, run and labelled: no question for a model at initialisation
UNREAD: tuple[str, ...] = (
    "quantization_config",
    "attn_implementation",
    "_attn_implementation",
    "dtype",
)
UNREAD += ("torch_dtype", "id2label", "label2id", "num_labels", "problem_type", "auto_map")
WRONG_KIND = re.compile(r"'(\w+)' object (?:has no attribute|is not \w+)")
KINDS = {"int": "a number", "float": "a number", "str": "a string", "bool": "true or false"}
KINDS |= {"list": "a list", "dict": "an object", "NoneType": "null"}
LONGEST_REASON = 300  # characters: a reason may quote a value of any length
LAYER_LISTS = ("layer_types", "mlp_layer_types", "layers_block_type")


def config_of(settings: Settings) -> Any:
    """Return the settings as a transformers config.

    Raises:
        StartError: naming the field that is wrong, and what to give instead.
    """
    kind = settings.get("model_type")
    if not isinstance(kind, str):
        raise StartError(f"model_type is {kind!r}: give the name of a transformers model")
    _check_lists(settings)
    read = {name: value for name, value in settings.items() if name not in UNREAD}
    try:
        config = transformers.AutoConfig.for_model(**read)
    except Exception as error:  # each of the hundreds of configs raises what it likes
        raise StartError(f"transformers cannot build it: {reason_of(error)}") from error
    _check_sizes(config)
    return config


def text_settings(settings: Settings) -> tuple[Settings, tuple[str, ...]]:
    """Return the settings of the model that reads token ids, and a note where they were nested.

    Raises:
        StartError: as `config_of` does, or if no part of the model reads tokens.
    """
    nested = settings.get("text_config", {})
    if not isinstance(nested, dict):
        raise StartError(f"text_config is {_shortened(repr(nested))}: give an object, or none")
    config = config_of(settings)
    inner = _text_config(config)
    if isinstance(setting(inner, "vocab_size"), int):
        return (settings, ()) if inner is config else _nested(settings, config, inner)
    raise StartError(
        f"vocab_size is missing: {config.model_type} reads no token ids; predict takes configs of "
        "text models, or of models with one inside (text_config)"
    )


def _text_config(config: Any) -> Any:
    """Return the config of the text model inside a composite one, or `config` itself."""
    if not getattr(config, "sub_configs", None):
        return config
    for choice in ({}, {"decoder": True}, {"encoder": True}):
        try:
            inner = config.get_text_config(**choice)
        except Exception:  # several candidates
            continue
        if isinstance(setting(inner, "vocab_size"), int):
            return inner
    return config


def _nested(settings: Settings, config: Any, inner: Any) -> tuple[Settings, tuple[str, ...]]:
    names = [name for name, value in vars(config).items() if value is inner]
    name = names[0] if names else "text_config"
    written = inner.to_dict() | {"model_type": inner.model_type}
    nested = settings.get(name)
    if isinstance(nested, dict):  # so that messages speak of the file's own values
        written |= {key: value for key, value in nested.items() if key != "model_type"}
    _check_sizes(inner)
    note = f"the text model inside {config.model_type} ({name}); its other parts are left out"
    return written, (note,)


def reason_of(error: BaseException) -> str:
    """Return an error's own sentence, on one line, without names of classes."""
    if isinstance(error, KeyError) and " " not in str(error.args[0] if error.args else ""):
        return f"{_shortened(str(error))} is missing"  # the name of a setting, not a sentence
    wrong = WRONG_TYPE.search(str(error))
    if wrong:
        field, kind, value = wrong.groups()
        fix = f"give {TYPES[kind]}" if kind in TYPES else "leave it out, or give what it needs"
        return f"{field} is {value}: {fix}"
    if isinstance(error, AttributeError | TypeError) and (kinds := WRONG_KIND.search(str(error))):
        kind = KINDS.get(kinds[1])
        if kind is not None:
            return f"a setting is {kind} where another kind is needed ({error})"
    said = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if len(lines) > 1 and "alidation error for" in lines[0]:
        # "Validation error for field 'x':", then "TypeError: what is wrong"
        field = lines[0].partition("'")[2].partition("'")[0]
        sentence = lines[1].partition("Error: ")[2] or lines[1]
        is_named = field in sentence or "Class validation" in lines[0]
        text = sentence if is_named else f"{field}: {sentence}"
    else:
        text = lines[0] if lines else "it gives no reason"
    # what follows may list every model there is
    sentence = text.split(". ", maxsplit=1)[0].partition(" Should contain one of")[0]
    return _shortened(sentence.rstrip(":. "))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}…"


def setting(config: Any, name: str) -> Any:
    """Return a config's setting; None where it has none, or one of its own for each layer."""
    try:
        return getattr(config, name, None)
    except Exception:  # transformers raises where layers differ
        return None


def _check_lists(settings: Settings) -> None:
    """Refuse a list with an entry a layer that has another length than the depth."""
    depth = settings.get("num_hidden_layers")
    if not isinstance(depth, int):
        return
    for name in LAYER_LISTS:
        values = settings.get(name)
        if isinstance(values, list) and len(values) != depth:
            raise StartError(
                f"{name} has {len(values)} entries for num_hidden_layers {depth}: give {depth} "
                "entries, or as many layers as entries"
            )


def _check_sizes(config: Any) -> None:
    """Refuse a size that no model can have; transformers checks types, not signs."""
    renamed = getattr(config, "attribute_map", {})
    for name in SIZES:
        value = setting(config, name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            field = renamed.get(name, name)
            if value != int(value) or isinstance(value, float):
                raise StartError(f"{field} is {value}: give a whole number, {int(value)}")
            if value <= 0 and not (name == "max_position_embeddings" and value in (0, -1)):
                raise StartError(f"{field} is {value}: give a positive number")
            if value > LARGEST.get(name, value):
                raise StartError(f"{field} is {value}: give at most {LARGEST[name]:,}")
