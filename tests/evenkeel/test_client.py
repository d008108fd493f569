"""Reading a server's runs from scripts, terminals and assistants."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner, Result

import dslm
import evenkeel
from evenkeel.cli import app
from evenkeel.client import Client, ClientError
from tests.e2e.jobs import Server
from tests.services.agent import LAYOUT, batch, frame, vector
from tests.services.polling import eventually
from tests.services.process import free_port
from tests.services.specs import post_ln
from wire import MEDIA_TYPE, RunDeclaration, RunEnd

RUN, OTHER, EMPTY = "a" * 32, "b" * 32, "c" * 32
STEPS = 12


def measured(step: int, *, broken: bool = False) -> Any:
    values = vector(step)
    values[LAYOUT.slices["decoder/stream/variance"]] = np.arange(1, 6) * (step + 1)
    values[LAYOUT.slices["decoder/stream/correlation"]] = 0.3  # tokens that differ
    values[LAYOUT.slices["/loss/value"]] = 5.0 - step / 10
    if broken:
        values[LAYOUT.slices["decoder/stream/variance"]] = np.nan
        values[LAYOUT.slices["/loss/value"]] = np.nan
    return values


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a run that is well, one whose stream broke, and one without a frame."""
    server = Server(tmp_path_factory.mktemp("server"), free_port())
    server.start()
    spec = dslm.spec_to_json(post_ln(4, weight_var=0.02))
    try:
        with httpx.Client(base_url=f"{server.url}/api/v1/runs/", timeout=60) as client:
            for run, name, broken in ((RUN, "well", False), (OTHER, "broken", True)):
                declared = RunDeclaration(project="p", name=name, layout=LAYOUT)
                client.put(run, content=msgspec.json.encode(declared)).raise_for_status()
                frames = [
                    frame(at + 1, at, values=measured(at, broken=broken and at > 5))
                    for at in range(STEPS)
                ]
                headers = {"content-type": MEDIA_TYPE}
                body = batch(frames)
                client.post(f"{run}/frames", content=body, headers=headers).raise_for_status()
            ended = msgspec.json.encode(RunEnd(status="failed", reason="RuntimeError: no memory"))
            client.post(f"{OTHER}/end", content=ended).raise_for_status()
            over = msgspec.json.encode(RunEnd(status="finished"))
            client.post(f"{RUN}/end", content=over).raise_for_status()
            empty = RunDeclaration(project="q", name="empty", layout=LAYOUT, spec=spec)
            client.put(EMPTY, content=msgspec.json.encode(empty)).raise_for_status()
        asyncio.run(judged(server.url))
        yield server.url
    finally:
        server.stop()


async def judged(url: str) -> None:
    """Wait until both runs are stored and the broken one has its alert."""

    async def is_over() -> bool:
        with Client(url) as client:
            alerts = client.run(OTHER).incidents()
            return bool(alerts) and client.run(RUN).step == STEPS - 1

    await eventually(is_over, bool)


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as connected:
        yield connected


def command(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--server", url])


def test_a_run_is_found_by_id_name_and_project(client: Client) -> None:
    ids = [client.run(name).id for name in (RUN, "well", "p/well")]

    assert ids == [RUN] * 3
    assert [run.name for run in client.runs(project="p", status="diverged")] == ["p/broken"]
    assert len(client.runs(limit=2)) == 2


def test_a_run_that_is_not_there_names_the_nearest(client: Client) -> None:
    with pytest.raises(ClientError, match="did you mean 'p/well'"):
        client.run("wel")
    with pytest.raises(ClientError, match="no run"):
        client.run("f" * 32)


def test_series_come_as_arrays_of_what_was_sent(client: Client) -> None:
    run = client.run("well")

    history = run.history("decoder/stream/variance", start=3, end=5)
    np.testing.assert_array_equal(history.steps, [3, 4, 5])
    np.testing.assert_allclose(history.values, np.outer([4, 5, 6], np.arange(1, 6)))
    loss = run.scalars("loss", after=8)["/loss/value"]
    np.testing.assert_array_equal(loss.steps, [9, 10, 11])
    np.testing.assert_allclose(loss.values, [4.1, 4.0, 3.9], rtol=1e-6)
    profile = run.profile(4)
    assert profile.step == 4
    np.testing.assert_allclose(profile.series["decoder/stream/variance"], 5 * np.arange(1, 6))
    assert profile.scalars["loss"] == pytest.approx(4.6)


def test_predictions_come_as_arrays(client: Client) -> None:
    run = client.run("empty")

    async def revisions() -> list[dict[str, Any]]:
        return run.predictions()

    (revision,) = asyncio.run(eventually(revisions, lambda found: found[0]["state"] == "ready"))

    curve = revision["stacks"]["decoder"]["stream"]["variance"]
    assert curve.shape == (5,)
    assert np.isfinite(curve).all()


def test_scalars_become_a_table(client: Client) -> None:
    table = client.run("well").frame("loss")

    assert list(table.columns) == ["step", "loss"]
    assert table["step"].tolist() == list(range(STEPS))
    with pytest.raises(ClientError, match="use one of pandas, polars"):
        client.run("well").frame(library="excel")  # type: ignore[arg-type]


def test_an_unknown_series_is_the_servers_sentence(client: Client) -> None:
    with pytest.raises(ClientError, match="lossy"):
        client.run("well").scalars("lossy")


def test_the_verdict_says_what_is_wrong_and_since_when(client: Client) -> None:
    sick, well = client.run("broken").verdict(), client.run("well").verdict()

    assert (sick.state, well.state) == ("needs you", "healthy")
    assert sick.findings[0].severity == "critical"
    (incident,) = client.run("broken").incidents()
    since = incident["first_step"]
    assert sick.findings[0].since == since
    assert f"/runs/{OTHER}?step={since}" in str(sick)
    assert "diverged: RuntimeError: no memory" in str(sick)
    assert "No alert is open." in str(well)
    assert client.run("empty").verdict().state == "nothing measured yet"


def test_a_run_is_its_page_in_a_notebook(client: Client, url: str) -> None:
    assert f'src="{url}/runs/{RUN}"' in client.run("well")._repr_html_()


def test_a_server_that_is_away_is_a_client_error() -> None:
    away = f"http://127.0.0.1:{free_port()}"
    with Client(away) as client, pytest.raises(ClientError, match="evenkeel serve"):
        client.runs()


def test_the_package_has_the_client() -> None:
    assert evenkeel.Client is Client
    with pytest.raises(AttributeError, match="Clint"):
        _ = evenkeel.Clint


def test_show_prints_words_or_json(url: str) -> None:
    words = command(url, "show", "broken")
    numbers = json.loads(command(url, "show", "broken", "--json").stdout)

    assert words.exit_code == 0
    assert "p/broken: needs you" in words.stdout
    assert numbers["state"] == "needs you"
    assert numbers["findings"][0]["title"] in words.stdout
    assert numbers["loss"] is None  # NaN is no JSON


def test_alerts_are_listed_by_run_and_status(url: str) -> None:
    of_all = [each for each in command(url, "alerts").stdout.splitlines() if "NaN" in each]
    of_one = [
        json.loads(line)
        for line in command(url, "alerts", "p/broken", "--json").stdout.splitlines()
    ]

    assert len(of_all) == len(of_one) >= 1
    assert f"broken, step {of_one[0]['first_step']}: {of_one[0]['title']}" in of_all[0]
    assert {each["run_id"] for each in of_one} == {OTHER}
    assert command(url, "alerts", "well").stdout == "No open alerts.\n"
    assert command(url, "alerts", "well", "--status", "any").stdout == "No alerts.\n"


def test_runs_are_json_lines_where_asked(url: str) -> None:
    runs = [json.loads(line) for line in command(url, "runs", "--json").stdout.splitlines()]

    assert {run["name"] for run in runs} == {"well", "broken", "empty"}


def test_tail_follows_a_run_to_its_end(url: str) -> None:
    lines = [
        json.loads(line) for line in command(url, "tail", "broken", "--json").stdout.splitlines()
    ]

    steps = [line["step"] for line in lines if "step" in line]
    assert steps == list(range(STEPS - 10, STEPS))
    assert any("incident" in line for line in lines)
    assert lines[-1] == {"status": "diverged", "reason": "RuntimeError: no memory"}


@pytest.mark.parametrize("name", ["show", "tail"])
def test_a_name_that_is_none_is_one_line(url: str, name: str) -> None:
    refused = command(url, name, "nothing-like-it")

    assert refused.exit_code == 2
    assert refused.stderr.startswith("evenkeel: the server at")
    assert refused.stderr.count("\n") == 1


async def asked(url: str, *calls: tuple[str, dict[str, Any]]) -> list[tuple[bool, str]]:
    """What an assistant gets that starts the command, as its own client speaks to it."""
    from mcp import Client as Assistant
    from mcp import StdioServerParameters
    from mcp.client.stdio import stdio_client

    arguments = ["-m", "evenkeel", "mcp", "--server", url]
    started = StdioServerParameters(command=sys.executable, args=arguments)
    async with Assistant(stdio_client(started)) as assistant:
        tools = (await assistant.list_tools()).tools
        assert all(tool.annotations and tool.annotations.read_only_hint for tool in tools)
        answers = [await assistant.call_tool(name, given) for name, given in calls]
    return [(bool(each.is_error), each.content[0].text) for each in answers]  # type: ignore[union-attr]


def test_an_assistant_asks_what_is_wrong(url: str, tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 50}
    (tmp_path / "config.json").write_text(json.dumps(config))
    answers = asyncio.run(
        asked(
            url,
            ("list_runs", {"project": "p"}),
            ("diagnose_run", {"run": "broken"}),
            ("list_alerts", {"run": "broken"}),
            ("profile", {"run": "well", "step": 4, "series": ["decoder/stream/variance"]}),
            ("history", {"run": "well", "series": "decoder/stream/variance", "start": 11}),
            ("scalars", {"run": "well", "names": ["loss"], "after": 10}),
            ("compare_runs", {"runs": ["well", "broken"], "step": 8}),
            ("plan", {"config": str(tmp_path / "config.json"), "context": 16}),
            ("plan", {"config": json.dumps(config), "what_if": ["depth_mup"]}),
        )
    )

    assert not any(failed for failed, _ in answers)
    runs, words, alerts, profile, history, scalars, compared, plan, what_if = (
        t for _, t in answers
    )
    assert {run["run"] for run in json.loads(runs)} == {"p/well", "p/broken"}
    assert "p/broken: needs you" in words
    assert "NaN" in json.loads(alerts)[0]["title"]
    assert json.loads(profile)["series"]["decoder/stream/variance"] == [5, 10, 15, 20, 25]
    assert json.loads(history)["layers"] == [[12, 24, 36, 48, 60]]
    assert json.loads(scalars)["/loss/value"] == {"steps": [11], "values": [3.9]}
    assert [each["state"] for each in json.loads(compared)] == ["healthy", "needs you"]
    broken = json.loads(compared)[1]["at quarters of the depth"]["decoder/stream/variance"]
    assert broken == [None] * 5
    assert "2 layers x 32" in plan
    assert "what if depth_mup" in what_if


def test_an_assistants_mistake_comes_back_as_a_sentence(url: str) -> None:
    answers = asyncio.run(
        asked(
            url,
            ("diagnose_run", {"run": "wel"}),
            ("profile", {"run": "well", "series": ["decoder/strem"]}),
            ("plan", {"config": '{"model_type": "no-such-model"}'}),
            ("history", {"run": "well", "series": "none"}),
        )
    )

    assert all(failed for failed, _ in answers)
    assert "did you mean 'p/well'" in answers[0][1]
    assert "decoder/stream/variance" in answers[1][1]
    assert "no-such-model" in answers[2][1]
