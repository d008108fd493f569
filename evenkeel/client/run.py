"""One run of a server: its numbers as arrays and tables, and its page in a notebook's cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evenkeel.client.arrays import Floats, floats
from evenkeel.client.connection import Connection
from evenkeel.client.errors import ClientError
from evenkeel.client.verdict import Verdict, verdict_of

ALL_STEPS = 10_000  # the most steps that one answer of /scalars or /history has
FRAME_HEIGHT = 900
LIBRARIES = {"pandas": "pandas", "polars": "polars"}


@dataclass(frozen=True, slots=True)
class Series:
    """A series over steps.

    Attributes:
        key: its name, such as ``"decoder/stream/variance"``.
        steps: int64 (steps,).
        values: float32 (steps, layers); (steps,) of a scalar.
    """

    key: str
    steps: NDArray[np.int64]
    values: Floats


@dataclass(frozen=True, slots=True)
class Profile:
    """What was measured at one step.

    Attributes:
        step: the step; the sampled one nearest from below to that asked for.
        series: by name, float32 (layers,).
        scalars: by name.
    """

    step: int
    series: Mapping[str, Floats]
    scalars: Mapping[str, float]


class Run:
    """A run; `Client.run` and `Client.runs` make it.

    Attributes:
        info: what the server says of it, as in ``GET /runs/{id}``; `reload` reads it again.
    """

    def __init__(self, connection: Connection, info: dict[str, Any]) -> None:
        self._connection, self.info = connection, info

    @property
    def id(self) -> str:
        """Its id, 32 hexadecimal digits."""
        return str(self.info["id"])

    @property
    def name(self) -> str:
        """``project/name``."""
        return f"{self.info['project']}/{self.info['name']}"

    @property
    def status(self) -> str:
        """``"running"``, ``"finished"``, …"""
        return str(self.info["status"])

    @property
    def step(self) -> int | None:
        """Number of the newest step, None before the first."""
        step: int | None = self.info["last_step"]
        return step

    @property
    def url(self) -> str:
        """Address of its page."""
        return f"{self._connection.server}/runs/{self.id}"

    def reload(self) -> Run:
        """Read `info` again, whole; returns itself."""
        self.info = self._read("")
        return self

    @property
    def series(self) -> list[str]:
        """Names of the measured series."""
        if "layout" not in self.info:  # the list of runs leaves it out
            self.reload()
        return [each["key"] for each in self.info["layout"]]

    def scalars(self, *keys: str, after: int = -1, max_steps: int = ALL_STEPS) -> dict[str, Series]:
        """Loss, learning rate and other numbers, at every recorded step past `after`.

        Args:
            keys: such as ``"/loss/value"`` or plainly ``"loss"``; all scalars unless given.
            after: number of a step.
            max_steps: more are thinned evenly.

        Raises:
            ClientError: where the server does not know one of them.
        """
        names = [_scalar_key(key) for key in keys] or [k for k in self.series if k[0] == "/"]
        params = {"series": names, "after": after, "max_steps": max_steps}
        answer = self._read("/scalars", **params)
        steps = np.array(answer["steps"], dtype=np.int64)
        return {
            key: Series(key, steps, floats(values)) for key, values in answer["values_f32"].items()
        }

    def history(
        self, key: str, *, start: int | None = None, end: int | None = None, max_steps: int = 250
    ) -> Series:
        """A series of every layer over the sampled steps from `start` to `end`.

        Raises:
            ClientError: where the server does not know it.
        """
        window = {"from": start, "to": end}
        params = {name: step for name, step in window.items() if step is not None}
        answer = self._read("/history", series=key, max_steps=max_steps, **params)
        values = floats(answer["values_f32"]).reshape(answer["shape"])
        return Series(key, np.array(answer["steps"], dtype=np.int64), values)

    def profile(self, step: int | None = None) -> Profile:
        """Every series at one step, over depth; the newest unless given."""
        answer = self._read("/profile", **({} if step is None else {"step": step}))
        series = {
            f"{stack}/{name.removesuffix('_f32')}": floats(values)
            for stack, profile in answer["stacks"].items()
            for name, values in profile["series"].items()
        }
        return Profile(answer["step"], series, answer["scalars"])

    def predictions(self, step: int | None = None) -> list[dict[str, Any]]:
        """Theory's curves, a revision of the model each, as in ``GET /runs/{id}/predictions``.

        Base64 of floats becomes arrays under the name without ``_f32``.
        """
        answer = self._read("/predictions", **({} if step is None else {"step": step}))
        decoded: list[dict[str, Any]] = _decoded(answer["revisions"])
        return decoded

    def attribution(self, step: int | None = None) -> dict[str, Any]:
        """Why the blocks differ from the first description, as the API says it."""
        answer: dict[str, Any] = _decoded(
            self._read("/attribution", **({} if step is None else {"step": step}))
        )
        return answer

    def alerts(self, status: str | None = None) -> list[dict[str, Any]]:
        """Its alerts, newest first."""
        return self._connection.pages("alerts", {"run": self.id, "status": status})

    def incidents(self, status: str | None = None) -> list[dict[str, Any]]:
        """Its incidents, newest first: alerts of one fault together."""
        return self._connection.pages("incidents", {"run": self.id, "status": status})

    def verdict(self) -> Verdict:
        """How it is, in words; prints as text."""
        self.reload()
        ahead = None if self.step is None else self._read("/ahead")
        incidents = [each for each in self.incidents() if each["status"] != "resolved"]
        return verdict_of(self.info, incidents, ahead, self.url)

    def frame(self, *keys: str, library: Literal["pandas", "polars"] = "pandas") -> Any:
        """The scalars as a table of `library`, a row a step, a column a number.

        Raises:
            ClientError: where the library is not installed.
        """
        series = self.scalars(*keys)
        columns: dict[str, Any] = {"step": next((s.steps for s in series.values()), [])}
        columns |= {key.strip("/").removesuffix("/value"): s.values for key, s in series.items()}
        if library not in LIBRARIES:
            raise ClientError(f"library {library!r}: use one of {', '.join(LIBRARIES)}")
        try:
            module = __import__(library)
        except ImportError:
            raise ClientError(f"{library} is not installed; pip install {library}") from None
        return module.DataFrame(columns)

    def __repr__(self) -> str:
        return f"Run({self.name!r}, {self.status}, step {self.step}, {self.url})"

    def _repr_html_(self) -> str:
        """The run's page, in a notebook's cell."""
        return (
            f'<iframe src="{escape(self.url, quote=True)}" title="{escape(self.name, quote=True)}"'
            f' width="100%" height="{FRAME_HEIGHT}" style="border:0"></iframe>'
        )

    def _read(self, path: str, **params: Any) -> Any:
        return self._connection.read(f"/runs/{self.id}{path}", **params)


def _scalar_key(key: str) -> str:
    return key if key.startswith("/") else f"/{key}/value"


def _decoded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            name.removesuffix("_f32"): (
                floats(each) if name.endswith("_f32") and isinstance(each, str) else _decoded(each)
            )
            for name, each in value.items()
        }
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_decoded(each) for each in value]
    return value
