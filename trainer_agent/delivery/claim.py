"""The claim of this process on its rank of a run: a rank has one sender at a time."""

from __future__ import annotations

import os
import socket
import time
import uuid

import msgspec

from trainer_agent.delivery import messages
from trainer_agent.delivery.spool import Spool
from trainer_agent.delivery.transport import Refused
from wire import RunDeclaration, RunEnd, Writer


class Claim:
    """Who this process is to the server, and the epoch under which it may send.

    Attributes:
        epoch: what batches repeat; 0 before the server has answered, and with an older server.
        succeeds_others: whether the last epoch granted follows that of another process, whose
            frames may have higher numbers than this one's next.
    """

    def __init__(self, rank: int, *, take_over: bool = False) -> None:
        self._rank = rank
        self._take_over = take_over
        self._writer = Writer(
            id=uuid.uuid4().hex, host=socket.gethostname(), pid=os.getpid(), since=time.time()
        )
        self.epoch = 0
        self.succeeds_others = False

    def keep_in(self, spool: Spool) -> None:
        """Go on as the process whose frames the spool holds, and note who that is.

        Where there is one it is dead: its spool was locked as long as it lived. Its claim need not
        run out first.
        """
        former = messages.writer(spool)
        if former is not None:
            self._writer = msgspec.structs.replace(self._writer, id=former)
        messages.put_writer(spool, self._writer.id)

    def sign(self, declaration: RunDeclaration) -> RunDeclaration:
        """The declaration with this claim in it."""
        writer = msgspec.structs.replace(self._writer, take_over=self._take_over)
        return msgspec.structs.replace(declaration, rank=self._rank, writer=writer)

    def sign_end(self, end: RunEnd) -> RunEnd:
        """The run's end with this claim in it."""
        return msgspec.structs.replace(end, rank=self._rank, epoch=self.epoch)

    def grant(self, epoch: int) -> None:
        """The server has granted the claim under this epoch."""
        if epoch > 1 and epoch != self.epoch:
            self.succeeds_others = True
        self.epoch = epoch
        # Once: two jobs that both take over would go on taking the rank from each other.
        self._take_over = False


def is_held(refusal: Refused) -> bool:
    """Whether a request was refused because another process sends as this rank."""
    return refusal.status == 409 and refusal.field == "writer"
