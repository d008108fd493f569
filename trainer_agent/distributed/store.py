"""What the processes of a job leave for each other in its store, for whoever looks later."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable
from typing import Any

MAX_BYTES = 4 << 20  # a store takes no value beyond 8 MiB
POLL_S = 0.02


class Board:
    """Texts by name. No method but `wait_for` waits longer than the store takes to answer."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def pin(self, name: str, text: str) -> None:
        """Leave a text in place of what was there; whoever hears of it after this finds it."""
        packed = zlib.compress(text.encode())
        if len(packed) > MAX_BYTES:
            raise ValueError(f"{name}: {len(packed)} bytes are too many for the job's store")
        self._store.set(name, packed)
        self._store.add("pinned", 1)  # this one is answered, and so what came before is done

    def read(self, name: str) -> str | None:
        """The text of that name, None where there is none."""
        if not self._store.check([name]):
            return None
        return zlib.decompress(self._store.get(name)).decode()

    def wait_for(self, names: Iterable[str], timeout_s: float) -> dict[str, str]:
        """The texts that are there in time; in a background thread.

        It asks again and again: a wait inside the store would hold up the training thread's use.
        """
        found: dict[str, str] = {}
        missing, until = list(names), time.monotonic() + timeout_s
        while True:
            texts = {name: self.read(name) for name in missing}
            found |= {name: text for name, text in texts.items() if text is not None}
            missing = [name for name in missing if name not in found]
            if not missing or time.monotonic() >= until:
                return found
            time.sleep(POLL_S)

    def take_down(self, names: Iterable[str]) -> None:
        """Free the room of texts that nobody needs any more."""
        for name in names:
            self._store.delete_key(name)
