"""Texts that the processes of a job exchange through torch's key-value store."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable
from typing import Any

MAX_BYTES = 4 << 20  # torch's store takes no value beyond 8 MiB
POLL_S = 0.02


class TextStore:
    """Texts by key, compressed. Only `wait_for` waits longer than the store takes to answer."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def put(self, key: str, text: str) -> None:
        """Store a text in place of an earlier one; once this returns every process can read it."""
        compressed = zlib.compress(text.encode())
        if len(compressed) > MAX_BYTES:
            raise ValueError(f"{key}: {len(compressed)} bytes are too many for the job's store")
        self._store.set(key, compressed)
        # `set` returns before the server has the value; `add` returns with the server's answer,
        # and the server takes requests of one connection in their order.
        self._store.add("writes", 1)

    def get(self, key: str) -> str | None:
        """The text under `key`, None where there is none."""
        if not self._store.check([key]):
            return None
        return zlib.decompress(self._store.get(key)).decode()

    def wait_for(self, keys: Iterable[str], timeout_s: float) -> dict[str, str]:
        """The texts that are there in time, by key. For a background thread: it waits."""
        texts: dict[str, str] = {}
        missing, deadline = list(keys), time.monotonic() + timeout_s
        while True:
            # Polled: a wait inside the store would hold the connection, which the training
            # thread uses, too.
            answers = {key: self.get(key) for key in missing}
            texts |= {key: text for key, text in answers.items() if text is not None}
            missing = [key for key in missing if key not in texts]
            if not missing or time.monotonic() >= deadline:
                return texts
            time.sleep(POLL_S)

    def delete(self, keys: Iterable[str]) -> None:
        """Free the room of texts that no process needs any more."""
        for key in keys:
            self._store.delete_key(key)
