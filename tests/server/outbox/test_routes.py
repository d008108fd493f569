"""Which channel carries which message."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.outbox.channels.rows import RouteRow, carries
from server.outbox.message import MILDEST_FIRST, Message
from tests.server.outbox.samples import message

CHANNEL = "c" * 16


def route(**changes: object) -> RouteRow:
    row = RouteRow("r" * 32, CHANNEL, None, None, severity="warning", created_at=0.0)
    return msgspec.structs.replace(row, **changes)


def told(**changes: object) -> Message:
    return msgspec.structs.replace(message(), tags=("nightly", "seed 1"), **changes)


@pytest.mark.parametrize(
    ("routes", "carried"),
    [
        ([], True),
        ([route(channel="d" * 16, project="other")], True),
        ([route()], True),
        ([route(project="demo", tag="nightly", severity="critical")], True),
        ([route(project="other")], False),
        ([route(tag="night")], False),
        ([route(project="other"), route(tag="seed 1")], True),
    ],
)
def test_channel_without_routes_carries_all_and_others_what_a_route_matches(routes, carried):
    assert carries(routes, CHANNEL, told()) is carried


def test_what_resolves_a_critical_incident_goes_where_the_incident_went():
    critical = [route(severity="critical")]

    assert carries(critical, CHANNEL, told(severity="info", reach="critical"))
    assert not carries(critical, CHANNEL, told(severity="info", reach="warning"))


@given(st.sampled_from(MILDEST_FIRST), st.sampled_from(MILDEST_FIRST))
def test_route_carries_its_severity_and_what_is_worse(severity, least):
    expected = MILDEST_FIRST.index(severity) >= MILDEST_FIRST.index(least)

    assert route(severity=least).matches(told(severity=severity)) is expected
