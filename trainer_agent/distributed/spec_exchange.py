"""Brings the descriptions of all stages of a pipeline to rank 0."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from trainer_agent.distributed.merge_specs import merged_spec
from trainer_agent.distributed.pipeline import PipelineLayout
from trainer_agent.distributed.store import TextStore

# How long rank 0 waits for descriptions that should have come with the same step's sample.
TIMEOUT_S = 5.0
SpecJson = dict[str, Any]
MakeSpec = Callable[[], SpecJson]


def exchange(
    texts: TextStore,
    layout: PipelineLayout,
    sample: int,
    specs: Mapping[int, MakeSpec],
    *,
    is_sender: bool,
) -> MakeSpec:
    """The work of one process for the description of a sample; to be done in the background.

    Args:
        sample: its number, the same in all processes.
        specs: makes the description of each local stage.
        is_sender: whether this process merges the descriptions of all stages. The work of the
            others leaves theirs in the store, and returns nothing to send.
    """
    keys = [f"spec/{sample}/{stage}" for stage in range(len(layout.stages))]
    if is_sender:
        return partial(_merge, texts, layout, keys, specs)
    return partial(_leave, texts, keys, specs)


def _leave(texts: TextStore, keys: list[str], specs: Mapping[int, MakeSpec]) -> SpecJson:
    for stage, make in specs.items():
        texts.put(keys[stage], json.dumps(make()))
    return {}


def _merge(
    texts: TextStore, layout: PipelineLayout, keys: list[str], specs: Mapping[int, MakeSpec]
) -> SpecJson:
    from dslm import spec_from_json, spec_to_json  # pulls in what no other process needs

    remote = texts.wait_for((key for n, key in enumerate(keys) if n not in specs), TIMEOUT_S)
    texts.delete(keys)
    local = {keys[stage]: json.dumps(make()) for stage, make in specs.items()}
    answers = [(remote | local).get(key) for key in keys]
    parts = [None if text is None else spec_from_json(json.loads(text)) for text in answers]
    return spec_to_json(merged_spec(parts, layout.blocks))
