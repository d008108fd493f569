"""A job that starts again from a checkpoint: what it records again supersedes what was there."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from server.app import create_app
from server.runs.rewinds import Progress, Span, advance, superseded
from server.settings import Settings
from server.storage.compaction import compact_some
from tests.services.agent import Agent, frame, vector
from tests.services.polling import eventually
from tests.services.serving import running
from tests.services.vectors import from_f32
from wire import Frame

FAR = 1_000_000  # numbers of a second process begin past all of the first


def again(number: int, step: int) -> Frame:
    """A frame of the second process, whose values tell it from the first one's."""
    return frame(FAR + number, step, values=vector(step + 1000, loss=2.0))


def values(step: int) -> list[float]:
    return vector(step)[:5].tolist()


async def resumed(agent: Agent) -> None:
    """Steps 1 to 9, then a process that goes on from step 5 every second step."""
    await sent(agent, [frame(seq) for seq in range(1, 10)])
    await sent(agent, [again(n, 5 + 2 * n) for n in range(1, 5)], oldest=FAR + 1)


async def sent(agent: Agent, frames: list[Frame], **more: Any) -> None:
    """Send frames and wait until they are committed."""
    before = (await agent.get())["frames"]
    await agent.send(frames, **more)
    await eventually(agent.get, lambda run: run["frames"] == before + len(frames))


async def first_layers(agent: Agent, steps: list[int]) -> list[list[float]]:
    history = await agent.get("/history", series="decoder/stream/variance")
    assert history["steps"] == steps
    return from_f32(history["values_f32"]).reshape(history["shape"]).tolist()


async def test_steps_recorded_again_are_shown_as_they_went_later(agent: Agent):
    await resumed(agent)

    assert (await agent.get("/steps"))["steps"] == [1, 2, 3, 4, 5, 6, 7, 9, 11, 13]
    rows = await first_layers(agent, [1, 2, 3, 4, 5, 6, 7, 9, 11, 13])
    assert rows[5] == values(6) and rows[6] == values(1007)
    assert (await agent.get("/profile", step=8))["step"] == 7


async def test_a_run_tells_which_steps_were_recorded_twice(agent: Agent):
    await sent(agent, [frame(seq) for seq in range(1, 10)])
    before = await agent.get()
    await sent(agent, [again(1, 5), again(2, 6)], oldest=FAR + 1)
    during = await agent.get()
    await sent(agent, [again(n, 4 + n) for n in range(3, 9)], oldest=FAR + 1)
    after = await agent.get()

    assert [run["superseded"] for run in (before, during, after)] == [[], [[5, 6]], [[5, 9]]]
    assert [run["last_step"] for run in (before, during, after)] == [9, 6, 12]
    assert after["frames"] == 17


async def test_frames_that_only_fill_a_gap_supersede_nothing(agent: Agent):
    await sent(agent, [frame(1), frame(2), frame(5), frame(6)])
    await sent(agent, [frame(3), frame(4)])

    detail = await agent.get()
    assert detail["superseded"] == [] and detail["last_step"] == 6
    assert (await agent.get("/steps"))["steps"] == [1, 2, 3, 4, 5, 6]


async def test_late_frames_of_the_dead_process_stay_superseded(agent: Agent):
    await sent(agent, [frame(seq) for seq in range(1, 8)])
    await sent(agent, [again(1, 5)], oldest=8)
    await sent(agent, [frame(8), frame(9)], oldest=8)

    assert (await agent.get("/steps"))["steps"] == [1, 2, 3, 4, 5]


async def test_blocks_leave_out_what_was_superseded(settings: Settings):
    app = create_app(settings.model_copy(update={"segment_frames": 16}))
    shown = [*range(1, 41), *range(42, 200, 2)]
    async with running(app) as client:
        agent = Agent(client)
        await agent.declare()
        await sent(agent, [frame(seq) for seq in range(1, 41)])
        await sent(agent, [frame(seq, seq + 1) for seq in range(41, 101)])
        later = [again(n, step) for n, step in enumerate(shown[40:], start=1)]
        await sent(agent, later, oldest=FAR + 1)
        fresh = await first_layers(agent, shown)

        async def moved() -> float:
            await compact_some(app.state.server)
            return app.state.server.metrics.frames_packed._value.get()

        await eventually(moved, lambda count: count >= 148)
        rows = await first_layers(agent, shown)
        coarse = await agent.get("/history", series="decoder/stream/variance", summary="min")
        nearest = (await agent.get("/profile", step=101))["step"]

    assert rows == fresh == [values(step if step < 42 else step + 1000) for step in shown]
    assert nearest == 100
    # No cell holds a superseded step: past step 41 everything is of the second process.
    lowest = from_f32(coarse["values_f32"]).reshape(coarse["shape"])[:, 0]
    late = [low for step, low in zip(coarse["steps"], lowest, strict=True) if step > 41]
    assert coarse["steps"] == sorted(coarse["steps"]) and min(late) > 1000


def numbered(steps: list[int]) -> list[Span]:
    return [Span(seq, step, step) for seq, step in enumerate(steps, start=1)]


def visible(steps: list[int]) -> set[int]:
    """Numbers of the frames that no later one is at or before: the rule itself."""
    return {
        seq for seq, step in enumerate(steps, start=1) if all(later > step for later in steps[seq:])
    }


@given(st.lists(st.integers(0, 12), max_size=30), st.integers(0, 30))
def test_rewinds_hide_exactly_what_later_frames_supersede(steps: list[int], cut: int):
    frames = numbered(steps)
    progress = advance(advance(Progress(0, -1), frames[:cut]), frames[cut:])

    shown = {
        candidate.seq
        for candidate in frames
        if not any(
            candidate.seq < back.seq and candidate.first >= back.step for back in progress.rewinds
        )
    }
    assert shown == visible(steps)


@given(st.lists(st.integers(0, 12), max_size=30))
def test_superseded_ranges_ascend_and_do_not_touch_what_is_new(steps: list[int]):
    ranges = superseded(advance(Progress(0, -1), numbered(steps)))

    assert all(first <= last for first, last in ranges)
    assert all(earlier[1] < later[0] for earlier, later in pairwise(ranges))
    assert all(last <= (steps or [-1])[-1] for _, last in ranges)
