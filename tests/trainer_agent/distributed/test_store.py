"""What the processes of a job leave for each other in its store."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from torch.distributed import HashStore

from trainer_agent.distributed.store import MAX_BYTES, Board


def test_what_is_pinned_late_is_found_while_it_is_waited_for() -> None:
    store = HashStore()
    Board(store).pin("a", "first")
    late = threading.Timer(0.05, lambda: Board(store).pin("b", "second"))
    late.start()

    found = Board(store).wait_for(["a", "b"], timeout_s=60.0)

    assert found == {"a": "first", "b": "second"}


def test_what_never_comes_is_left_out() -> None:
    store = HashStore()
    Board(store).pin("a", "first")

    assert Board(store).wait_for(["a", "b"], timeout_s=0.1) == {"a": "first"}


def test_what_was_taken_down_is_gone_and_pins_replace_each_other() -> None:
    board = Board(HashStore())
    board.pin("a", "first")
    board.pin("a", "second")

    assert board.read("a") == "second"
    board.take_down(["a", "never pinned"])
    assert board.read("a") is None


def test_a_text_too_large_for_the_store_is_refused_before_it_is_sent() -> None:
    noise = np.random.default_rng(0).integers(32, 127, 2 * MAX_BYTES, dtype=np.uint8)

    with pytest.raises(ValueError, match="too many for the job's store"):
        Board(HashStore()).pin("a", noise.tobytes().decode())
