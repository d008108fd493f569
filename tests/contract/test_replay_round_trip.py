"""What the server exports, replayed, is the same run again."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI

from tests.services.agent import LAYOUT, Agent, frame
from tests.services.polling import DEADLINE_S, eventually
from tests.services.serving import listening
from trainer_agent.importing.__main__ import main

N_FRAMES = 700


def recorded(rng: np.random.Generator) -> list[np.ndarray]:
    """Values of every kind that a float32 has."""
    values = rng.standard_normal((N_FRAMES, LAYOUT.size)).astype(np.float32)
    values *= np.float32(10) ** rng.integers(-38, 38, values.shape)
    values[3, 2], values[4, 0], values[5, 1] = np.nan, np.inf, -np.inf
    values[-1, LAYOUT.slices["/loss/value"]] = np.nan
    return list(values)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
async def test_a_replayed_export_is_equal_frame_by_frame(app: FastAPI, tmp_path: Path, kind: str):
    values = recorded(np.random.default_rng(0))
    async with (
        listening(app) as address,
        httpx.AsyncClient(base_url=f"http://{address}", timeout=DEADLINE_S) as client,
    ):
        agent = Agent(client)
        await agent.declare()
        await agent.send([frame(n + 1, 3 * n, values=entry) for n, entry in enumerate(values)])
        await eventually(agent.get, lambda run: run["frames"] == N_FRAMES)
        file = tmp_path / f"run.{kind}"
        file.write_bytes((await client.get(agent.path(f"/export?format={kind}"))).content)

        copy = Agent(client)
        command = [str(file), "--server", f"http://{address}", "--run-id", copy.run_id]
        assert await asyncio.to_thread(main, command) == 0

        first, second = [
            pq.read_table(io.BytesIO((await client.get(entry.path("/export"))).content))
            for entry in (agent, copy)
        ]
        # Diagnosed like any other run: its last loss is NaN.
        detail = await eventually(copy.get, lambda run: run["status"] != "finished")

    assert first.column("step").to_pylist() == [3 * n for n in range(N_FRAMES)]
    assert second.schema.equals(first.schema)
    for name in first.column_names:
        assert _bits(second.column(name)) == _bits(first.column(name)), name
    assert (detail["name"], detail["status"], detail["frames"]) == ("run", "diverged", N_FRAMES)


def _bits(column) -> bytes:
    values = column.combine_chunks()
    flat = values.flatten() if hasattr(values, "flatten") else values
    return np.asarray(flat).tobytes()
