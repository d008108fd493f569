"""``WS /live``: what is new, to a page, for as long as it is open."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Query, WebSocket, WebSocketDisconnect

from server.access.dependencies import Reader, require_project
from server.app_state import State
from server.errors import InvalidField, RunNotFound
from server.live.encoding import to_json
from server.live.hub import Hub
from server.live.queue import ConflatingQueue
from server.runs.repository import RunRepository
from server.runs.rows import RunRow

MIN_INTERVAL_S = 0.1  # ten messages a second and run
PING_EVERY_S = 15.0
MAX_RUNS = 50  # each is read before the socket opens
CLOSE_RECONNECT = 1012

router = APIRouter()


@router.websocket("/live")
async def live(
    socket: WebSocket,
    caller: Reader,
    state: State,
    runs: Annotated[str | None, Query()] = None,
) -> None:
    """Frames, alerts and changes of the runs named, or the run list's events of every run."""
    run_ids = None if not runs else tuple(dict.fromkeys(runs.split(",")))
    hub: Hub = socket.app.state.hub
    shown = None if run_ids is None else frozenset(run_ids)
    async with hub.open_queue(shown, caller.project) as queue:
        # Read once the queue is open: a frame committed in between waits there.
        rows = await _rows(state, run_ids or ())
        for run in rows:
            require_project(caller, run.project)
        await socket.accept()
        await _converse(socket, hub, queue, _hello(rows))


async def _rows(state: State, run_ids: tuple[str, ...]) -> list[RunRow]:
    if len(run_ids) > MAX_RUNS:
        raise InvalidField(
            f"{len(run_ids)} runs", field="runs", fix=f"name at most {MAX_RUNS} runs"
        )
    rows: list[RunRow] = []
    async with state.database.reading() as session:
        for run_id in run_ids:
            run = await RunRepository(session).get(run_id)
            if run is None:
                raise RunNotFound(run_id)
            rows.append(run)
    return rows


def _hello(rows: list[RunRow]) -> str:
    runs = {run.id: {"last_step": run.last_step, "status": run.status} for run in rows}
    return to_json({"type": "hello", "runs": runs})


async def _converse(socket: WebSocket, hub: Hub, queue: ConflatingQueue, hello: str) -> None:
    """Send until the page goes away; whichever side ends first ends the other."""
    sending = asyncio.create_task(_send(socket, hub, queue, hello))
    try:
        with suppress(WebSocketDisconnect):
            while True:
                await socket.receive_text()  # a page sends nothing: this only notices that it left
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _send(socket: WebSocket, hub: Hub, queue: ConflatingQueue, hello: str) -> None:
    await socket.send_text(hello)
    while not queue.closed:
        messages = await queue.take(PING_EVERY_S)
        for message, skipped in messages:
            await socket.send_text(await hub.text_of(message, skipped))
        if not messages and not queue.closed:
            await socket.send_text('{"type":"ping"}')
        await asyncio.sleep(MIN_INTERVAL_S)  # meanwhile the queue conflates what arrives
    await socket.close(CLOSE_RECONNECT, reason="events were missed: reconnect")
