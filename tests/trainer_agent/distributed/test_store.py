"""Texts that the processes of a job exchange through its store."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from torch.distributed import HashStore

from trainer_agent.distributed.store import MAX_BYTES, TextStore


def test_a_text_that_comes_late_is_found_while_it_is_waited_for() -> None:
    store = HashStore()
    TextStore(store).put("a", "first")
    late = threading.Timer(0.05, lambda: TextStore(store).put("b", "second"))
    late.start()

    texts = TextStore(store).wait_for(["a", "b"], timeout_s=60.0)

    assert texts == {"a": "first", "b": "second"}


def test_a_text_that_never_comes_is_left_out() -> None:
    store = HashStore()
    TextStore(store).put("a", "first")

    assert TextStore(store).wait_for(["a", "b"], timeout_s=0.1) == {"a": "first"}


def test_texts_replace_each_other_and_are_gone_once_deleted() -> None:
    texts = TextStore(HashStore())
    texts.put("a", "first")
    texts.put("a", "second")

    assert texts.get("a") == "second"
    texts.delete(["a", "never put"])
    assert texts.get("a") is None


def test_a_text_too_large_for_the_store_is_refused_before_it_is_sent() -> None:
    noise = np.random.default_rng(0).integers(32, 127, 2 * MAX_BYTES, dtype=np.uint8)

    with pytest.raises(ValueError, match="too many for the job's store"):
        TextStore(HashStore()).put("a", noise.tobytes().decode())
