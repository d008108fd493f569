"""One attempt that nobody repeats: what a target answers to a test."""

from __future__ import annotations

import uuid

from server.outbox.message import Message
from server.outbox.schemas import TargetAnswer
from server.outbox.targets import DeliveryError, Target


async def answer_of(target: Target, message: Message, now: float) -> TargetAnswer:
    """What a target answers to this message, or how the attempt failed."""
    try:
        answer = await target.send(uuid.uuid4().hex, message, now)
    except DeliveryError as error:
        return TargetAnswer(target=target.name, delivered=False, answer=str(error))
    return TargetAnswer(target=target.name, delivered=True, answer=answer)
