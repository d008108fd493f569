"""An export holds series that were derived, which a run that is made of it does not measure."""

from __future__ import annotations

from pathlib import Path

from dslm.ahead import QUANTITIES
from trainer_agent.importing import read_recording
from trainer_agent.importing.exports import DERIVED


def test_derived_columns_are_left_out(tmp_path: Path):
    names = [
        "decoder/stream/variance[0]",
        "decoder/stream/variance[1]",
        "decoder/innovation/variance[0]",
        "decoder/alignment/attention[0]",
        "decoder/alignment/mean[0]",  # a custom site of that name
        "/loss/value",
    ]
    path = tmp_path / "run.csv"
    path.write_text(",".join(["step", "time", *names]) + "\n0,1.0,1,2,0.1,0.2,3,4\n")

    keys = {series.key for series in read_recording(path).series}

    assert keys == {"decoder/stream/variance", "decoder/alignment/mean", "/loss/value"}


def test_every_innovation_is_one():
    assert set(DERIVED["innovation"]) == set(QUANTITIES)
