"""``evenkeel mcp``: a coding assistant's questions on runs, by the Model Context Protocol.

All tools read; none changes anything. An assistant starts it by itself, told so by its settings::

    {"mcpServers": {"evenkeel": {"command": "evenkeel", "args": ["mcp"]}}}
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from evenkeel import __version__
from evenkeel.client import Client, ClientError, Run
from evenkeel.client.arrays import Floats
from evenkeel.reading import plain
from server.errors import StartError

if TYPE_CHECKING:
    from mcp.server import MCPServer

INSTRUCTIONS = (
    "evenkeel watches the stability of transformer training: moments of every layer beside what "
    "signal-propagation theory predicts. Ask diagnose_run how a run is before anything else: it "
    "says what is wrong, since which step, in which layers, and what to do. plan predicts a model "
    "that has not been trained yet. Runs are named by id, name or project/name."
)
MOST_RUNS, MOST_STEPS = 100, 500
DIGITS = 5  # that an assistant reads of a number
Status = Literal["running", "finished", "failed", "diverged", "lost_contact"]
RunName = Annotated[str, Field(description="Id, name or project/name of a run.")]
StepNumber = Annotated[
    int | None, Field(description="The sampled step nearest from below; the newest unless given.")
]


def serve_stdio(server: str, key: str | None) -> None:
    """Answer on standard input and output until the input ends.

    Raises:
        StartError: if the SDK is not installed.
    """
    build(server, key).run("stdio")


def build(server: str, key: str | None) -> MCPServer:
    """Return the server, with its tools.

    Raises:
        StartError: if the SDK is not installed.
    """
    try:
        from mcp.server import MCPServer
        from mcp.types import ToolAnnotations
    except ImportError:
        raise StartError("the protocol's SDK is missing: pip install 'evenkeel[mcp]'") from None
    app = MCPServer("evenkeel", instructions=INSTRUCTIONS, version=__version__, log_level="WARNING")
    reads = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True)
    tools = Tools(server, key)
    for tool in (
        tools.list_runs,
        tools.diagnose_run,
        tools.list_alerts,
        tools.profile,
        tools.history,
        tools.scalars,
        tools.compare_runs,
        tools.plan,
    ):
        app.tool(annotations=reads, structured_output=False)(_with_clear_errors(tool))
    return app


class Tools:
    """What an assistant may ask; each answers with text, mostly JSON."""

    def __init__(self, server: str, key: str | None) -> None:
        """Take the address and a key with the read scope; nothing is connected yet."""
        self._server, self._key = server, key

    def list_runs(
        self,
        search: Annotated[str, Field(description="Words of a name, project or tag.")] = "",
        project: str | None = None,
        status: Status | None = None,
        limit: Annotated[int, Field(ge=1, le=MOST_RUNS)] = 20,
    ) -> str:
        """List training runs, newest first: status, step, loss and how many alerts are open."""
        with Client(self._server, self._key) as client:
            runs = client.runs(search, project=project, status=status, limit=limit)
            return _json([_summary(run) for run in runs])

    def diagnose_run(self, run: RunName) -> str:
        """Say how a run is: healthy or not, since when, which layers, why, and what to do."""
        with Client(self._server, self._key) as client:
            return str(client.run(run).verdict())

    def list_alerts(
        self,
        run: Annotated[str | None, Field(description="Of this run alone.")] = None,
        status: Literal["open", "acknowledged", "resolved"] | None = "open",
    ) -> str:
        """List alerts, newest first; those that one fault raised are one entry."""
        with Client(self._server, self._key) as client:
            of = None if run is None else client.run(run)
            incidents = client.incidents(run=of, status=status, limit=MOST_RUNS)
        fields = ("run_name", "severity", "status", "title", "message", "first_step", "last_step")
        return _json(
            [
                {name: each[name] for name in fields}
                | {"layers": [each["first_layer"], each["last_layer"]]}
                | {"advice": each["advice"]["text"]}
                for each in incidents
            ]
        )

    def profile(
        self,
        run: RunName,
        step: StepNumber = None,
        series: Annotated[
            list[str] | None, Field(description="Such as decoder/stream/variance; all unless given")
        ] = None,
    ) -> str:
        """Give every layer's statistics at one step, index 0 the input of the first block."""
        with Client(self._server, self._key) as client:
            profile = client.run(run).profile(step)
        chosen = profile.series if series is None else _chosen(profile.series, series)
        numbers = {name: _numbers(values) for name, values in chosen.items()}
        return _json({"step": profile.step, "series": numbers, "scalars": dict(profile.scalars)})

    def history(
        self,
        run: RunName,
        series: Annotated[str, Field(description="Such as decoder/stream/variance.")],
        start: Annotated[int | None, Field(description="First step.")] = None,
        end: Annotated[int | None, Field(description="Last step.")] = None,
        max_steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] = 50,
    ) -> str:
        """Give one series of every layer over steps, evenly thinned."""
        with Client(self._server, self._key) as client:
            history = client.run(run).history(series, start=start, end=end, max_steps=max_steps)
        rows = [_numbers(row) for row in history.values]
        return _json({"series": series, "steps": history.steps.tolist(), "layers": rows})

    def scalars(
        self,
        run: RunName,
        names: Annotated[list[str], Field(description="Such as loss.")],
        after: Annotated[int, Field(ge=-1, description="Steps past this one.")] = -1,
        max_steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] = 100,
    ) -> str:
        """Give loss, learning rate, gradient norm or others over steps, evenly thinned."""
        with Client(self._server, self._key) as client:
            scalars = client.run(run).scalars(*names, after=after, max_steps=max_steps)
        return _json(
            {
                key: {"steps": each.steps.tolist(), "values": _numbers(each.values)}
                for key, each in scalars.items()
            }
        )

    def compare_runs(
        self,
        runs: Annotated[list[str], Field(min_length=2, max_length=8)],
        step: StepNumber = None,
    ) -> str:
        """Set runs side by side: loss, alerts, and stream and gradient over depth at one step.

        Depths are quarters of the stack, so that runs of different depth can be compared.
        """
        with Client(self._server, self._key) as client:
            return _json([_compared(client.run(name), step) for name in runs])

    def plan(
        self,
        config: Annotated[
            str, Field(description="Path of a transformers config.json, or its text.")
        ],
        what_if: Annotated[
            list[str] | None,
            Field(description="Changes beside it: layers=96, post-ln, deepscale, deepnorm, …"),
        ] = None,
        context: Annotated[int | None, Field(ge=2, description="Tokens a sequence.")] = None,
    ) -> str:
        """Predict a model that has not been trained: curves, what is wrong with it, what helps."""
        from evenkeel.prediction.command import PredictOptions, diagnosed_cases, words_of

        with tempfile.TemporaryDirectory() as folder:
            path = Path(config)
            if config.lstrip().startswith("{"):
                path = Path(folder) / "config.json"
                path.write_text(config, encoding="utf-8")
            options = PredictOptions(
                config=path,
                run=None,
                server=self._server,
                key=self._key,
                context=context,
                what_if=tuple(what_if or ()),
            )
            return "\n".join(words_of(*diagnosed_cases(options)))


def _with_clear_errors(tool: Callable[..., str]) -> Callable[..., str]:
    """The tool, whose refusals reach the assistant as they are."""
    from functools import wraps

    from mcp.server.mcpserver.exceptions import ToolError

    @wraps(tool)
    def answer(*args: Any, **kwargs: Any) -> str:
        try:
            return tool(*args, **kwargs)
        except (ClientError, StartError) as error:
            raise ToolError(str(error)) from None

    return answer


def _summary(run: Run) -> dict[str, Any]:
    info = run.info
    fields = ("status", "last_step", "last_loss", "placement", "n_params", "tags", "alerts")
    return {"run": run.name, "id": run.id, **{name: info[name] for name in fields}, "url": run.url}


def _compared(run: Run, step: int | None) -> dict[str, Any]:
    verdict, profile = run.verdict(), run.profile(step)
    curves = {
        name: values
        for name, values in profile.series.items()
        if name.endswith(("stream/variance", "stream/correlation", "stream_gradient/variance"))
    }
    return {
        "run": run.name,
        "state": verdict.state,
        "alerts": [finding.title for finding in verdict.findings],
        "step": profile.step,
        "scalars": dict(profile.scalars),
        "layers": {name: len(values) - 1 for name, values in curves.items()},
        "at quarters of the depth": {name: _quarters(values) for name, values in curves.items()},
    }


def _quarters(values: Floats) -> list[float | None]:
    places = np.linspace(0, len(values) - 1, 5).round().astype(int)
    return _numbers(values[places])


def _chosen(series: Any, names: list[str]) -> dict[str, Floats]:
    unknown = [name for name in names if name not in series]
    if unknown:
        raise ClientError(f"no series {unknown[0]!r}; there are {', '.join(series)}")
    return {name: series[name] for name in names}


def _numbers(values: Floats) -> list[float | None]:
    """Numbers as short as they need be; null where JSON has none."""
    return [plain(float(f"{value:.{DIGITS}g}")) for value in values]


def _json(value: Any) -> str:
    return json.dumps(plain(value), ensure_ascii=False)
