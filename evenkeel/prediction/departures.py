"""Which blocks of a server's run depart from what they did before, in words and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import httpx

from evenkeel.api import client_of, read, require_success, unreachable
from evenkeel.prediction.table import WIDTH

Ahead = dict[str, Any]
OLDER = (
    "the server at {server} has no /ahead, so which block departs is not known; it is older than "
    "this command: update it"
)


def ahead_of_run(server: str, key: str | None, run_id: str) -> Ahead | None:
    """Return what the server says of the run's newest steps; None for a run without any.

    An older server cannot tell: the answer then has nothing but `missing`, the reason.

    Raises:
        StartError: if the server does not answer, or refuses.
    """
    with client_of(server, key) as client:
        if read(client, f"/runs/{run_id}")["last_step"] is None:
            return None
        try:
            response = client.get(f"/runs/{run_id}/ahead")
        except httpx.HTTPError as error:
            raise unreachable(client, error) from error
        if response.status_code == httpx.codes.NOT_FOUND:  # the run is there, and has steps
            return {"missing": OLDER.format(server=server)}
        require_success(response)
        answer = response.json()
        assert isinstance(answer, dict)
        return answer


def departure_lines(ahead: Ahead | None) -> Iterator[str]:
    """Yield the lines that say which block departs, and since when."""
    if ahead is None:
        return
    if "missing" in ahead:
        yield from ("One block ahead:", *_item(f"Not shown: {ahead['missing']}."), "")
        return
    yield f"One block ahead, from the {ahead['baseline']['samples']} samples before:"
    for departure in ahead["departures"]:
        last = departure["last_step"]
        until = f" Blocks are outside their bands until step {last}." if _lasts(departure) else ""
        yield from _item(departure["text"] + until)
    if not ahead["departures"]:
        yield from _item(f"No block departs from what it did before, up to step {ahead['step']}.")
    if ahead.get("note"):  # an older server sends none
        yield from _item(ahead["note"])
    yield ""


def _lasts(departure: dict[str, Any]) -> bool:
    return bool(departure["last_step"] > departure["step"])


def _item(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="- ", subsequent_indent="  ")
