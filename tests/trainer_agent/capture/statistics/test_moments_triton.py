"""Triton's sums against the plain ones: interpreted here, compiled where there is a GPU."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from trainer_agent.capture.statistics.moments import TritonMoments, moment_sums

SHAPES = [(1, 1, 1), (2, 9, 33), (2, 300, 130), (1, 520, 33)]


@pytest.fixture(scope="module")
def module() -> ModuleType:
    """`moments_triton`, run by Triton's interpreter where there is no GPU (see conftest)."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from trainer_agent.capture.statistics import moments_triton

    return moments_triton


@pytest.fixture
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def draw(shape: tuple[int, int, int], mean: float, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    common = torch.randn(shape[0], 1, shape[2], generator=generator)
    return (mean + 0.6 * common + 0.8 * torch.randn(shape, generator=generator)).to(dtype)


def assert_alike(row: Tensor, x: Tensor, mask: Tensor | None = None) -> None:
    expected = moment_sums(x.double(), mask)
    # Sums of squares carry float32's rounding of each run; sums of numbers that cancel do not
    # get smaller than that.
    scale = float(expected[2]) * 2e-6 + 1e-6
    assert row.dtype == torch.float64
    torch.testing.assert_close(row.cpu(), expected, rtol=2e-6, atol=scale)


@pytest.mark.parametrize("shape", SHAPES)
def test_triton_row_is_the_plain_one(module, device, shape):
    x = draw(shape, 0.3, torch.float32)

    assert_alike(module.triton_row(x.to(device)), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_triton_row_takes_half_precision(module, device, dtype):
    x = draw((2, 9, 33), 0.3, dtype)

    assert_alike(module.triton_row(x.to(device)), x)


def test_large_mean_of_bfloat16_keeps_its_spread(module, device):
    x = draw((2, 300, 65), 1000.0, torch.bfloat16)

    row = module.triton_row(x.to(device)).cpu()

    variance = float(row[2] / row[0] - (row[1] / row[0]) ** 2)
    # 1e6 squared-mean, in float64 sums of exact bfloat16 differences
    assert variance == pytest.approx(float(x.double().var(correction=0)), rel=1e-6)


def test_padding_is_left_out_even_where_it_is_nan(module, device):
    x = draw((3, 300, 40), 0.0, torch.float32)
    mask = torch.arange(300) < torch.tensor([[300], [10], [257]])
    x[~mask] = float("nan")

    assert_alike(module.triton_row(x.to(device), mask.to(device)), x, mask)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of the interpreter
def test_nonfinite_values_are_counted(module, device):
    x = draw((2, 20, 30), 0.0, torch.float32)
    x[0, 3, 4], x[1, 0, 0], x[1, 19, 29] = float("nan"), float("inf"), float("-inf")

    assert float(module.triton_row(x.to(device))[5]) == 3.0


def test_strided_tokens_are_taken_and_strided_features_are_not(module, device):
    wide = draw((2, 40, 64), 0.0, torch.float32).to(device)
    half = wide[:, ::2, 8:40]

    assert module.takes(half)
    assert_alike(module.triton_row(half), half.cpu())
    assert not module.takes(wide[:, :, ::2])


def test_triton_that_fails_is_given_up_once_and_for_all():
    calls = []

    def load():
        calls.append(1)
        raise RuntimeError("no compiler")

    triton_moments = TritonMoments(load)

    assert [triton_moments.row(torch.ones(1, 2, 3), None) for _ in range(3)] == [None] * 3
    assert len(calls) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_tensors_are_summed_by_triton_without_waiting(module):
    x = draw((4, 512, 1024), 0.3, torch.bfloat16).cuda()
    module.triton_row(x)  # compiles

    torch.cuda.set_sync_debug_mode("error")
    try:
        row = moment_sums(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")

    assert_alike(row, x.cpu())
