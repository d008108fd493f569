"""Bursts: every step for a while, of all layers or some, within a bound."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.trainer_agent.recording import recorded
from tests.trainer_agent.sampling.stepped_clock import SteppedClock
from tests.trainer_agent.small_gpt import LAYERS, batch, built, train_step
from trainer_agent.agent import Agent
from trainer_agent.sampling.bursts import Bursts
from wire import Command


def burst(steps: int, *layers: int, name: str = "a") -> Command:
    return Command(name, "burst", steps=steps, layers=layers)


def run(agent: Agent, model: object, optimizer: object, steps: range) -> None:
    for step in steps:
        agent.step(loss=train_step(model, optimizer, batch(step)))  # type: ignore[arg-type]


def test_a_burst_samples_every_step_and_then_the_interval_holds_again(tmp_path: Path):
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, every=20)

    run(agent, model, optimizer, range(5))
    agent._parts.dispatcher.dispatch(burst(6))
    run(agent, model, optimizer, range(5, 45))
    agent.close()

    # the command is heard of at the end of step 5
    assert [frame.step for frame in transport.frames] == [0, *range(6, 12), 20, 40]
    assert transport.series("decoder/stream/variance", at=1).shape == (LAYERS + 1,)
    assert np.isfinite(transport.series("decoder/stream_gradient/variance", at=6)).all()
    assert transport.series("/burst_layers/value", at=3) == [0.0]
    assert np.isnan(transport.series("/burst_layers/value", at=-1))
    assert (transport.health.burst, transport.health.burst_left) == ("a", 0)


def test_a_burst_of_named_layers_measures_those_alone(tmp_path: Path):
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, every=50)

    run(agent, model, optimizer, range(2))
    agent._parts.dispatcher.dispatch(burst(3, 1))
    run(agent, model, optimizer, range(2, 6))
    agent.close()

    assert [frame.step for frame in transport.frames] == [0, 3, 4, 5]
    for site, n in (("stream", LAYERS + 1), ("stream_gradient", LAYERS + 1), ("attention", LAYERS)):
        measured = np.isfinite(transport.series(f"decoder/{site}/variance"))
        assert measured.tolist() == [at == 1 for at in range(n)], site
    assert transport.series("/burst_layers/value") == [1.0]
    assert np.isfinite(transport.series("decoder/stream/variance", at=0)).all()


def test_a_burst_changes_no_weight(tmp_path: Path):
    plain, optimizer = built(p_drop=0.1)
    for step in range(6):
        train_step(plain, optimizer, batch(step))
    model, optimizer = built(p_drop=0.1)
    agent, _ = recorded(model, tmp_path, every=50)

    run(agent, model, optimizer, range(2))
    agent._parts.dispatcher.dispatch(burst(3, 0, 2))
    run(agent, model, optimizer, range(2, 6))
    agent.close()

    for watched, bare in zip(model.parameters(), plain.parameters(), strict=True):
        assert watched.equal(bare)


def test_a_command_that_is_repeated_is_one_burst():
    bursts = Bursts(overhead=None)
    bursts.request(burst(2))
    sampled = [bursts.wants_next() for _ in range(2)]
    bursts.request(burst(2))

    assert sampled == [True, True] and not bursts.wants_next()


def test_a_burst_has_at_most_256_steps():
    bursts = Bursts(overhead=None)
    bursts.request(burst(10**9))

    assert sum(bursts.wants_next() for _ in range(1000)) == 256


def test_a_burst_ends_where_it_would_cost_more_than_bursts_may(clock: SteppedClock):
    bursts = Bursts(overhead=0.01)
    taken = 0
    for name in "ab":
        bursts.request(burst(200, name=name))
        while bursts.wants_next():
            taken += 1
            bursts.charge(0.5)
        clock.now_s += 100.0

    # One second of grace holds two samples of 0.5 s; 1 % of 100 s holds two more.
    assert taken == 4
    assert "ended after 2 of 200 steps" in bursts.note


def test_a_burst_of_several_processes_is_cut_to_what_bursts_may_cost():
    bursts = Bursts(overhead=None)

    # One second of grace holds two samples of 0.4 s, whatever the budget has granted since.
    assert bursts.affordable(200, 1e-9, 0.4) == 2
    assert bursts.affordable(200, 1e-9, 0.0) == 200
    assert bursts.affordable(10**6, 1.0, 0.0) == 256


def test_a_burst_is_paid_back_by_sampling_less(clock: SteppedClock, tmp_path: Path):
    clock.tick_s = 0.0001  # training takes no time at all: every sample exceeds the budget
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, overhead=0.01)

    run(agent, model, optimizer, range(12))
    agent._parts.dispatcher.dispatch(burst(10))
    before = agent._parts.controller.sampler.every
    run(agent, model, optimizer, range(12, 26))
    agent.close()

    assert sum(1 for frame in transport.frames if frame.step >= 12) >= 10
    assert agent._parts.controller.sampler._balance_s < 0
    assert agent._parts.controller.sampler.every >= before
