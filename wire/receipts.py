"""Answers of the server to an agent; these travel as JSON."""

from __future__ import annotations

from typing import Literal

import msgspec


class AlertNotice(msgspec.Struct, frozen=True):
    """An alert of the run, as far as the job acts on it.

    Attributes:
        rule, severity, title, message: as the alerts page has them.
        step: the step judged.
        stack, site: where; "" for the complete model.
        first_layer, last_layer: which layers, or None.
    """

    rule: str
    severity: str
    title: str
    message: str
    step: int
    stack: str = ""
    site: str = ""
    first_layer: int | None = None
    last_layer: int | None = None


class Command(msgspec.Struct, frozen=True):
    """Something the server asks of the agent; an agent ignores a kind it does not know.

    Attributes:
        id: repeats of an id are ignored.
        kind: ``"describe"`` asks for a fresh `SpecRevision`, ``"burst"`` for samples of every
            step for a while, ``"alert"`` notifies of an open alert.
        steps, layers: how long the burst lasts, and its layers; () means all.
        alert: the open alert.
    """

    id: str
    kind: Literal["describe", "burst", "alert"] | str
    steps: int = 0
    layers: tuple[int, ...] = ()
    alert: AlertNotice | None = None


class RunReceipt(msgspec.Struct, frozen=True):
    """Answer to a declaration.

    Attributes:
        run_id: the run.
        durable: per rank (as a decimal string), the ack watermark: every frame up to and
            including this `seq` is committed to the database or was given up by the agent.
        url: path of the run's page on this server.
        epoch: number of the writer's claim on its rank, which its batches repeat; 0 where it made
            none, or the server is an older one.
        packs_steps: whether the server takes frames that hold several steps; older ones do not.
    """

    run_id: str
    durable: dict[str, int]
    url: str
    packs_steps: bool = False
    epoch: int = 0


class FramesReceipt(msgspec.Struct, frozen=True):
    """Answer to a batch of frames.

    Attributes:
        durable: the rank's ack watermark; it may lie below the batch's last `seq` while the
            writer is behind, and those frames then stay in the agent's spool.
        accepted: frames taken from this batch.
        duplicates: frames of this batch that were already stored.
        commands: what the server asks of the agent.
    """

    durable: int
    accepted: int
    duplicates: int
    commands: list[Command] = []
