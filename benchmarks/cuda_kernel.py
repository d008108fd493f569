"""The statistics kernel against the device's own copy: ``python -m benchmarks.cuda_kernel``.

One bfloat16 tensor of 1 GiB, (8, 16384, 4096). The kernel reads it once; a copy reads and writes,
so its bandwidth counts both. Plain torch is what is summed with where there is no Triton. Without
a CUDA device it says so and measures nothing.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

import torch

from trainer_agent.capture.statistics.moments import _on_device

SHAPE = (8, 16_384, 4_096)
ROUNDS = 30


def seconds(work: Callable[[], object]) -> float:
    """The median time of a piece of work on the device, after three warm-ups."""
    taken = []
    for number in range(ROUNDS + 3):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        work()
        after.record()
        torch.cuda.synchronize()
        if number >= 3:
            taken.append(before.elapsed_time(after) / 1e3)
    return statistics.median(taken)


def main() -> int:
    """Print bandwidths and their ratios."""
    if not torch.cuda.is_available():
        print("no CUDA device: nothing measured")
        return 0
    from trainer_agent.capture.statistics.moments_triton import triton_row

    x = torch.randn(SHAPE, dtype=torch.bfloat16, device="cuda")
    target, size = torch.empty_like(x), x.numel() * x.element_size()
    copy = 2 * size / seconds(lambda: target.copy_(x))
    print(f"{torch.cuda.get_device_name()}, {size / 2**30:.0f} GiB of bfloat16")
    print(f"{'copy':14}{copy / 1e9:8.0f} GB/s")
    for name, work in (("fused kernel", triton_row), ("plain torch", _on_device)):
        bandwidth = size / seconds(lambda work=work: work(x, None))  # type: ignore[misc]
        print(f"{name:14}{bandwidth / 1e9:8.0f} GB/s{bandwidth / copy:8.0%} of the copy (aim 60 %)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
