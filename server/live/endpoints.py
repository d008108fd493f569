"""``WS /live``: what is new, to a page, for as long as it is open."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Query, WebSocket, WebSocketDisconnect

from server.access.dependencies import Reader, require_project
from server.database import Row
from server.errors import InvalidField, RunNotFound
from server.live.encoding import to_json
from server.live.hub import Hub
from server.live.mailbox import Mailbox
from server.parts import Serving
from server.runs.repository import RunRepository

MIN_INTERVAL_S = 0.1  # ten messages a second and run
PING_EVERY_S = 15.0
MAX_RUNS = 50
CLOSE_COME_BACK = 1012

router = APIRouter()


@router.websocket("/live")
async def live(
    socket: WebSocket,
    caller: Reader,
    parts: Serving,
    runs: Annotated[str | None, Query()] = None,
) -> None:
    """Frames, alerts and changes of the runs named, or the run list's events of every run."""
    wanted = None if not runs else tuple(dict.fromkeys(runs.split(",")))
    hub: Hub = socket.app.state.hub
    async with hub.open_box(None if wanted is None else frozenset(wanted), caller.project) as box:
        rows = await _rows(parts, wanted)  # read with the box open: nothing falls in between
        for row in rows:
            require_project(caller, row["project"])
        await socket.accept()
        await _converse(socket, hub, box, _hello(rows))


async def _rows(parts: Serving, wanted: tuple[str, ...] | None) -> list[Row]:
    if wanted is None:
        return []
    if len(wanted) > MAX_RUNS:
        raise InvalidField(f"{len(wanted)} runs", field="runs", fix=f"name at most {MAX_RUNS} runs")
    async with parts.database.reading() as session:
        rows = {run_id: await RunRepository(session).get(run_id) for run_id in wanted}
    for run_id, row in rows.items():
        if row is None:
            raise RunNotFound(run_id)
    return [row for row in rows.values() if row is not None]


def _hello(rows: list[Row]) -> str:
    known = {row["id"]: {"last_step": row["last_step"], "status": row["status"]} for row in rows}
    return to_json({"type": "hello", "runs": known})


async def _converse(socket: WebSocket, hub: Hub, box: Mailbox, hello: str) -> None:
    """Send until the page goes away; whichever side ends first ends the other."""
    sending = asyncio.create_task(_send(socket, hub, box, hello))
    try:
        with suppress(WebSocketDisconnect):
            while True:
                await socket.receive_text()  # a page says nothing; this notices that it left
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _send(socket: WebSocket, hub: Hub, box: Mailbox, hello: str) -> None:
    await socket.send_text(hello)
    while not box.closed:
        taken = await box.take(PING_EVERY_S)
        for mail, skipped in taken:
            await socket.send_text(await hub.text_of(mail, skipped))
        if not taken and not box.closed:
            await socket.send_text('{"type":"ping"}')
        await asyncio.sleep(MIN_INTERVAL_S)
    await socket.close(CLOSE_COME_BACK, reason="news was missed: connect again")
