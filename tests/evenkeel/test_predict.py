"""``evenkeel predict`` as a user types it: words, tables, JSON and plots."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner, Result

import dslm
from evenkeel.cli import app
from evenkeel.prediction.cases import Case, changed, parse_what_if
from evenkeel.prediction.departures import ahead_of_run, departure_lines
from evenkeel.prediction.numbers import document
from evenkeel.prediction.panels import lines_of
from evenkeel.prediction.plot import write_plot
from evenkeel.prediction.table import WIDTH, lines
from server.errors import StartError
from tests.dslm.attribution.flows import drawn_spec
from tests.e2e.jobs import Server
from tests.services.agent import LAYOUT, batch, frame, vector
from tests.services.polling import eventually
from tests.services.process import free_port
from tests.services.specs import post_ln
from wire import MEDIA_TYPE, Frame, RunDeclaration

RUN, BROKEN, GROWN = "a" * 32, "c" * 32, "d" * 32


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["predict", *(str(argument) for argument in arguments)])


def refusal(*arguments: str | Path) -> str:
    """The one line of a command that must end with exit code 2."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    return line


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "config.json"
    sizes = {"n_layer": 3, "n_embd": 32, "n_head": 2, "vocab_size": 300, "n_positions": 32}
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    path.write_text(json.dumps({"model_type": "gpt2"} | sizes | ids))
    return path


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with one run, whose model was described at steps 0 and 50."""
    server = Server(tmp_path_factory.mktemp("server"), free_port())
    server.start()
    first, last = (dslm.spec_to_json(post_ln(4, weight_var=v)) for v in (0.02, 0.1))
    declared = RunDeclaration(project="p", name="r", layout=LAYOUT, spec=first)
    try:
        with httpx.Client(base_url=f"{server.url}/api/v1/runs/", timeout=60) as client:
            client.put(RUN, content=msgspec.json.encode(declared)).raise_for_status()
            client.put(f"{RUN}/spec", json={"step": 50, "spec": last}).raise_for_status()
            body = batch([frame(1, 50, values=measured_at_50())])
            headers = {"content-type": MEDIA_TYPE}
            client.post(f"{RUN}/frames", content=body, headers=headers).raise_for_status()
            asyncio.run(stored(server.url))
            broken = RunDeclaration(project="p", name="broken", layout=LAYOUT, spec=first)
            client.put(BROKEN, content=msgspec.json.encode(broken)).raise_for_status()
            body = batch(broken_at_20())
            client.post(f"{BROKEN}/frames", content=body, headers=headers).raise_for_status()
            asyncio.run(stored(server.url, BROKEN, 25))
            empty = RunDeclaration(project="p", name="empty", layout=LAYOUT)
            client.put("b" * 32, content=msgspec.json.encode(empty)).raise_for_status()
        yield server.url
    finally:
        server.stop()


def measured_at_50() -> Any:
    """A frame whose gradient's norm is 3 at layer 1 and 0.5 at the top, with tokens at 0.875."""
    values = vector(50)
    values[LAYOUT.slices["decoder/stream_gradient/variance"]] = [16, 9, 4, 1, 0.25]
    values[LAYOUT.slices["decoder/stream/correlation"]] = 0.875
    return values


def broken_at_20() -> list[Frame]:
    """Frames of a steady stream, to which block 2 adds 16 times as much from step 20 on."""
    frames = []
    for step in range(25):
        values = vector(step)
        values[LAYOUT.slices["decoder/stream/variance"]] = [1, 1.1, 1.2, 1.3, 1.4]
        values[LAYOUT.slices["decoder/stream/correlation"]] = 0.5
        values[LAYOUT.slices["decoder/stream_gradient/variance"]] = 1
        if step >= 20:
            values[LAYOUT.slices["decoder/stream/variance"]][3:] *= 16
        frames.append(frame(step + 1, step, values=values))
    return frames


async def stored(url: str, run_id: str = RUN, count: int = 1) -> None:
    async with httpx.AsyncClient(base_url=f"{url}/api/v1/runs/") as client:

        async def shown() -> Any:
            return (await client.get(run_id)).json()

        await eventually(shown, lambda run: run["frames"] == count)


def case(n_layers: int = 4) -> Case:
    return Case("it", post_ln(n_layers), "initialisation")


def diagnosed(*cases: Case) -> list[tuple[Case, dslm.Diagnosis]]:
    return [(item, dslm.diagnose(item.spec, search_depth=0)) for item in cases]


def test_config_is_diagnosed_in_words_then_layer_by_layer(config: Path) -> None:
    plot = config.parent / "curves.png"

    shown = run(config.parent, "--context", "16", "--plot", plot).stdout.splitlines()

    assert shown[0] == "gpt2 at initialisation: decoder, 3 layers x 32, 16 tokens"
    assert shown[1].startswith("- Pre-LN: the gradient's norm ")
    table = shown[shown.index("A: gpt2 at initialisation") + 3 :]
    assert [line.split()[0] for line in table if line] == ["0", "1", "2", "3"]
    assert plot.stat().st_size > 10_000


def test_what_if_is_shown_beside_the_model_as_it_is(config: Path) -> None:
    options = ("--what-if", "layers=5", "--what-if", "post-ln")

    numbers = json.loads(run(config, "--context", "16", "--json", *options).stdout)

    unchanged, deeper = (case["stacks"]["decoder"] for case in numbers["cases"])
    assert numbers["cases"][1]["what_if"] == ["layers=5", "post-ln"]
    assert (unchanged["placement"], unchanged["n_layers"]) == ("pre", 3)
    assert (deeper["placement"], deeper["n_layers"]) == ("post", 5)
    assert len(deeper["stream"]["variance"]) == 6
    assert unchanged["stream"]["variance"] == sorted(
        unchanged["stream"]["variance"]
    )  # Pre-LN grows


def test_run_is_shown_at_initialisation_and_from_todays_weights(url: str) -> None:
    numbers = json.loads(run("--run", RUN, "--server", url, "--json").stdout)

    cases = [(case["name"], case["weights"], case["step"]) for case in numbers["cases"]]
    assert cases == [
        ("r at initialisation (step 0)", "initialisation", 0),
        ("r from today's weights (step 50)", "today", 50),
    ]
    for case, weight_var in zip(numbers["cases"], (0.02, 0.1), strict=True):
        expected = dslm.predict(post_ln(4, weight_var=weight_var)).stacks["decoder"].backward
        shown = case["stacks"]["decoder"]["stream_gradient"]["variance"]
        np.testing.assert_allclose(shown, expected.variance, rtol=1e-5)


def test_measurement_is_told_beside_the_prediction_of_its_weights(url: str) -> None:
    first, today = json.loads(run("--run", RUN, "--server", url, "--json").stdout)["cases"]

    assert first["measured"] == {}  # nothing was sampled at step 0
    assert today["measured"]["decoder"] == {
        "step": 50,
        "top_gradient_std": 0.5,
        "gradient_ratio": 6.0,
        "correlation": 0.875,
    }
    assert today["stacks"]["decoder"]["diagnosis"]["top_gradient"]["std"] == 0.5
    words = run("--run", RUN, "--server", url, "--weights", "today").stdout
    assert "Measured at step 50: the gradient's norm at layer 1 is 6 times" in words
    assert "Gradient at the top: 0.5 an entry, as measured." in words


def test_block_that_departs_is_named_with_its_step(url: str) -> None:
    words = run("--run", BROKEN, "--server", url).stdout
    numbers = json.loads(run("--run", BROKEN, "--server", url, "--json").stdout)["ahead"]

    assert "- Block 2 of the decoder departs at step 20: the variance behind it is ×16 of" in words
    (departure,) = numbers["departures"]
    assert (departure["block"], departure["step"], numbers["step"]) == (2, 20, 24)
    assert departure["measured"] == pytest.approx(4.0, abs=0.01)


def test_run_in_which_no_block_departs_says_so(url: str) -> None:
    words = run("--run", RUN, "--server", url).stdout

    assert "- No block departs from what it did before, up to step 50." in words


class OlderServer(BaseHTTPRequestHandler):
    """A server that holds one run with steps, and has no path for departures."""

    def do_GET(self) -> None:
        there = self.path == f"/api/v1/runs/{RUN}"
        problem = {"code": "not_found", "message": f"there is no GET {self.path}", "fix": ""}
        self.send_response(200 if there else 404)
        self.end_headers()
        self.wfile.write(json.dumps({"last_step": 9} if there else {"error": problem}).encode())

    def log_message(self, *_: Any) -> None:
        pass


def test_server_that_cannot_tell_departures_is_named_in_a_sentence() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), OlderServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        ahead = ahead_of_run(address, None, RUN)
        server.shutdown()

    words = " ".join(" ".join(departure_lines(ahead)).split())

    assert f"Not shown: the server at {address} has no /ahead" in words
    assert "update it." in words


def test_why_a_run_differs_from_its_first_model_is_told_in_words_and_numbers(url: str) -> None:
    specs = [
        drawn_spec(np.random.default_rng(n), "pre", gated=False, crossed=False) for n in (1, 2)
    ]
    expected = dslm.attribute(*specs).stacks["decoder"]
    with httpx.Client(base_url=f"{url}/api/v1/runs/", timeout=60) as client:
        declared = RunDeclaration(project="p", name="grown", layout=LAYOUT)
        client.put(GROWN, content=msgspec.json.encode(declared)).raise_for_status()
        for step, spec in zip((1, 50), specs, strict=True):
            body = dslm.spec_to_json(spec)
            revision = {"step": step, "flows": body.pop("flows"), "spec": body}
            client.put(f"{GROWN}/spec", json=revision).raise_for_status()

    words = " ".join(run("--run", GROWN, "--server", url).stdout.split())
    first, today = json.loads(run("--run", GROWN, "--server", url, "--json").stdout)["cases"]

    assert first["attribution"] is None
    assert today["attribution"]["baseline_step"] == 1
    total = today["attribution"]["stacks"]["decoder"]["forward"]["total"]
    assert total == pytest.approx(expected.forward.total.tolist(), rel=1e-5)
    for sentence in expected.sentences:
        assert f"Since step 1: t{sentence[1:]}" in words


def test_a_run_of_an_older_agent_is_shown_without_a_reason(url: str) -> None:
    numbers = json.loads(run("--run", RUN, "--server", url, "--json").stdout)

    assert [case["attribution"] for case in numbers["cases"]] == [None, None]


@pytest.mark.parametrize(("weights", "step"), [("init", 0), ("today", 50)])
def test_one_of_a_runs_models_can_be_asked_for(url: str, weights: str, step: int) -> None:
    options = ("--run", RUN, "--server", url, "--weights", weights, "--what-if", "deepscale")

    numbers = json.loads(run(*options, "--json").stdout)

    assert [case["step"] for case in numbers["cases"]] == [step, step]
    assert numbers["cases"][1]["what_if"] == ["deepscale"]


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("deepscale", "deepscale"),
        ("deepscale=balanced", "deepscale=balanced"),
        ("DeepScale=Paper", "deepscale=paper"),
        ("depth_mup", "depth_mup"),
        ("gpt2", "gpt2"),
    ],
)
def test_every_form_can_be_asked_for(config: Path, typed: str, told: str) -> None:
    plain, changed = json.loads(run(str(config), "--what-if", typed, "--json").stdout)["cases"]

    assert (plain["what_if"], changed["what_if"]) == ([], [told])
    assert plain["stacks"] != changed["stacks"]


def test_run_that_is_not_there_or_not_described_is_one_line(url: str) -> None:
    assert "no run" in refusal("--run", "f" * 32, "--server", url)
    assert "run_id" in refusal("--run", "no-id", "--server", url)
    assert "has not described" in refusal("--run", "b" * 32, "--server", url)
    away = f"http://127.0.0.1:{free_port()}"
    assert "evenkeel serve" in refusal("--run", RUN, "--server", away)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "--run"),
        (("{config}", "--run", RUN), "--run"),
        (("--run", RUN, "--context", "16"), "--context"),
        (("{config}", "--weights", "today"), "--weights"),
        (("{config}", "--top-gradient", "-1"), "--top-gradient"),
        (("{config}", "--top-gradient", "nan"), "--top-gradient"),
        (("{config}", "--plot", "curves.svg"), "--plot curves.svg: end it in .html or .png"),
        (("{config}", "--plot", "absent/curves.png"), "--plot"),
        (("{config}", "--what-if", "middle-ln"), "use pre-ln, post-ln, layers=N, deepscale"),
        (("{config}", "--what-if", "layers=many"), "use pre-ln, post-ln, layers=N, deepscale"),
        (("{config}", "--what-if", "layers=0"), "use pre-ln, post-ln, layers=N, deepscale"),
        (("{config}", "--what-if", "deepscale=best"), "deepscale=paper|simplified"),
        (("{config}", "--what-if", "deepnorm"), "deepnorm is for post, not pre"),
        (("{config}", "--what-if", "gpt2", "--what-if", "deepscale"), "twice"),
        (("{config}", "--what-if", "pre-ln", "--what-if", "post-ln"), "twice"),
        (("{config}", "--context", "64"), "--context 64: the model has 32 positions"),
        (("absent.json",), "cannot read absent.json"),
    ],
)
def test_bad_option_is_one_line_that_names_it(
    config: Path, arguments: tuple[str, ...], named: str
) -> None:
    assert named in refusal(*(argument.format(config=config) for argument in arguments))


def test_config_that_is_none_is_one_line_that_names_the_field(tmp_path: Path) -> None:
    path = tmp_path / "config.json"

    path.write_text("{}")
    assert "model_type" in refusal(path)
    path.write_text('{"model_type": "no-such-model"}')
    assert "transformers cannot build it" in refusal(path)
    path.write_text("{")
    assert "is not JSON" in refusal(path)
    path.write_text("")
    assert "is empty" in refusal(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 600\n")
    assert "git lfs pull" in refusal(path)
    path.write_bytes(b"\x80\x81\xff")
    assert "is no text" in refusal(path)
    path.write_text('[{"model_type": "gpt2"}]')
    assert "model_type" in refusal(path)
    assert "cannot read" in refusal(tmp_path / "empty-folder")
    (tmp_path / "folder").mkdir()
    assert "cannot read" in refusal(tmp_path / "folder")


def test_what_if_that_makes_no_sense_names_the_block() -> None:
    spec = post_ln(2)
    stack = spec.stacks["decoder"]
    gap = dslm.ModelSpec("custom", {"decoder": dslm.Stack(64, (None,), stack.input_kernel)})

    with pytest.raises(StartError, match=r"--what-if layers=9: stacks.decoder.blocks\[0\]"):
        changed(Case("it", gap, "initialisation"), parse_what_if(["layers=9"]))


def test_table_fits_a_hundred_columns_however_deep() -> None:
    deep = changed(case(), parse_what_if(["layers=200", "pre-ln"]))
    today = Case("a run of a rather long name from today's weights (step 123456)", *_today())

    shown = list(lines(diagnosed(case(), deep, today)))

    assert max(map(len, shown)) <= WIDTH
    assert any(line.startswith("   200 ") for line in shown)
    assert len(shown) < 140  # 200 layers are thinned


def _today() -> tuple[dslm.ModelSpec, Any]:
    return post_ln(3, weight_var=0.1), "today"


def test_numbers_hold_nothing_that_json_does_not() -> None:
    overflowing = Case("it", post_ln(4, weight_var=1e300), "initialisation")

    written = document({"config": "x"}, diagnosed(overflowing))

    json.dumps(written, allow_nan=False)
    assert written["cases"][0]["missing"]


@pytest.mark.parametrize("ending", [".html", ".png"])
def test_plot_is_of_the_kind_its_name_ends_in(tmp_path: Path, ending: str) -> None:
    target = tmp_path / f"curves{ending}"
    other = changed(case(), parse_what_if(["pre-ln"]))

    write_plot(list(lines_of(diagnosed(case(), other))), target)

    start = target.read_bytes()
    if ending == ".png":
        assert start[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = (int.from_bytes(start[at : at + 4], "big") for at in (16, 20))
        assert width > 1500 and height > 500
    else:
        assert b"what if pre-ln" in start
        assert b"cdn.plot.ly" not in start.split(b"Plotly.newPlot")[-1]


def test_png_without_matplotlib_says_what_to_install(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    assert "pip install 'evenkeel[plot]'" in refusal(config, "--plot", tmp_path / "x.png")
