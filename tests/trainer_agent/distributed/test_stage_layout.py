"""What the stages of a pipeline have in common."""

from __future__ import annotations

from trainer_agent.distributed.stage_layout import (
    StageLayout,
    common_sites,
    dropped_sites,
    from_json,
    to_json,
)

STAGES = (
    StageLayout({"decoder": 1}, custom={"a": ("decoder", 1), "b": ("", 2), "c": ("", 0)}),
    StageLayout({"decoder": 2}, custom={"a": ("", 1), "b": ("", 1), "c": ("decoder", 2)}),
)


def test_a_site_in_blocks_of_one_stage_and_elsewhere_in_another_is_dropped():
    sites = {site.name: (site.stack, len(site.paths)) for site in common_sites(STAGES)}

    assert sites == {"b": ("", 3), "c": ("decoder", 3)}
    (reason,) = dropped_sites(STAGES, ())
    assert reason == "a: in some stages it lies in blocks, in others elsewhere"


def test_layouts_survive_the_job_s_store():
    assert from_json(to_json(STAGES)) == STAGES
