"""The fused kernel against the plain sums: interpreted here, compiled where there is a GPU."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from trainer_agent.capture.statistics.moments import TritonMoments, moment_sums

SHAPES = [(1, 1, 1), (2, 9, 33), (2, 300, 130), (1, 520, 33)]


@pytest.fixture(scope="module")
def fused() -> ModuleType:
    """The kernel's module, run by Triton's interpreter where there is no GPU (see conftest)."""
    pytest.importorskip("triton", reason="Triton is not installed")
    import trainer_agent.capture.statistics.moments_triton as module

    return module


@pytest.fixture
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def draw(shape: tuple[int, int, int], mean: float, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    common = torch.randn(shape[0], 1, shape[2], generator=generator)
    return (mean + 0.6 * common + 0.8 * torch.randn(shape, generator=generator)).to(dtype)


def assert_alike(found: Tensor, x: Tensor, mask: Tensor | None = None) -> None:
    expected = moment_sums(x.double(), mask)
    # Sums of squares carry float32's rounding of each run; sums of numbers that cancel do not
    # get smaller than that.
    scale = float(expected[2]) * 2e-6 + 1e-6
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.cpu(), expected, rtol=2e-6, atol=scale)


@pytest.mark.parametrize("shape", SHAPES)
def test_triton_row_is_the_plain_one(fused, device, shape):
    x = draw(shape, 0.3, torch.float32)

    assert_alike(fused.triton_row(x.to(device)), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_triton_row_takes_half_precision(fused, device, dtype):
    x = draw((2, 9, 33), 0.3, dtype)

    assert_alike(fused.triton_row(x.to(device)), x)


def test_large_mean_of_bfloat16_keeps_its_spread(fused, device):
    x = draw((2, 300, 65), 1000.0, torch.bfloat16)

    found = fused.triton_row(x.to(device)).cpu()

    variance = float(found[2] / found[0] - (found[1] / found[0]) ** 2)
    # 1e6 squared-mean, in float64 sums of exact bfloat16 differences
    assert variance == pytest.approx(float(x.double().var(correction=0)), rel=1e-6)


def test_padding_is_left_out_even_where_it_is_nan(fused, device):
    x = draw((3, 300, 40), 0.0, torch.float32)
    mask = torch.arange(300) < torch.tensor([[300], [10], [257]])
    x[~mask] = float("nan")

    assert_alike(fused.triton_row(x.to(device), mask.to(device)), x, mask)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of the interpreter
def test_nonfinite_values_are_counted(fused, device):
    x = draw((2, 20, 30), 0.0, torch.float32)
    x[0, 3, 4], x[1, 0, 0], x[1, 19, 29] = float("nan"), float("inf"), float("-inf")

    assert float(fused.triton_row(x.to(device))[5]) == 3.0


def test_strided_tokens_are_taken_and_strided_features_are_not(fused, device):
    wide = draw((2, 40, 64), 0.0, torch.float32).to(device)
    half = wide[:, ::2, 8:40]

    assert fused.takes(half)
    assert_alike(fused.triton_row(half), half.cpu())
    assert not fused.takes(wide[:, :, ::2])


def test_kernel_that_fails_is_given_up_once_and_for_all():
    calls = []

    def load():
        calls.append(1)
        raise RuntimeError("no compiler")

    kernel = TritonMoments(load)

    assert [kernel.row(torch.ones(1, 2, 3), None) for _ in range(3)] == [None] * 3
    assert len(calls) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_tensors_are_summed_by_the_kernel_without_waiting(fused):
    x = draw((4, 512, 1024), 0.3, torch.bfloat16).cuda()
    fused.triton_row(x)  # compiles

    torch.cuda.set_sync_debug_mode("error")
    try:
        found = moment_sums(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")

    assert_alike(found, x.cpu())
