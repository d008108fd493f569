"""One thread per test process: the machine is shared."""

from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is first imported


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
