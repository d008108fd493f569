"""A real agent on a real server, under the default budget: the loss of every step counts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import trainer_agent
from server.app import create_app
from server.settings import Settings
from tests.services.polling import DEADLINE_S, eventually
from tests.services.serving import listening
from tests.services.vectors import from_f32

STEPS, FAULT = 160, 100
VOCABULARY, CONTEXT = 64, 32


def small_gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 3, "n_head": 2}
    special = {"bos_token_id": None, "eos_token_id": None}
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=CONTEXT, **sizes, **special)
    return GPT2LMHeadModel(config)


def train(url: str, spool: Path) -> list[float]:
    """Train until long after the learning rate jumps; returns the loss of every step."""
    model, generator = small_gpt2(), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    options = {"project": "p", "run": "r", "server": url, "spool_dir": spool}
    losses = []
    with trainer_agent.watch(model, optimizer=optimizer, **options) as agent:
        for step in range(STEPS):
            if step == FAULT:
                optimizer.param_groups[0]["lr"] *= 100
            first = torch.randint(0, VOCABULARY, (8, 1), generator=generator)
            ids = (first + torch.arange(CONTEXT)) % VOCABULARY  # each token follows the one before
            loss = model(input_ids=ids, labels=ids).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            agent.step(loss=loss)
            losses.append(loss.item())
    return losses


async def test_a_loss_that_jumps_between_samples_has_its_alert_within_ten_steps(
    embedded: Settings, tmp_path: Path
):
    async with (
        listening(create_app(embedded)) as address,
        httpx.AsyncClient(base_url=f"http://{address}/api/v1", timeout=DEADLINE_S) as client,
    ):
        url = f"http://{address}"
        losses = await asyncio.to_thread(train, url, tmp_path / "spool")
        (run,) = (await client.get("/runs")).json()["runs"]
        path = f"/runs/{run['id']}"

        async def alerts() -> list[dict[str, Any]]:
            answer = (await client.get("/alerts", params={"run": run["id"]})).json()
            return [alert for alert in answer["alerts"] if alert["rule"] == "loss_divergence"]

        (alert,) = await eventually(alerts, bool)
        series = ["/loss/value", "/learning_rate/value"]
        scalars = (await client.get(f"{path}/scalars", params={"series": series})).json()
        sampled = (await client.get(f"{path}/steps")).json()["steps"]

    assert FAULT < alert["step"] <= FAULT + 10
    assert scalars["steps"] == list(range(STEPS))
    loss, rate = (from_f32(scalars["values_f32"][key]) for key in series)
    assert np.array_equal(loss, np.array(losses, dtype=np.float32))
    assert np.array_equal(np.flatnonzero(rate > 0.1), np.arange(FAULT, STEPS))
    assert len(sampled) < STEPS
