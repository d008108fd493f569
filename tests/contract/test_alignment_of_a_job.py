"""The alignment that variances of a job's frames give is that of the job's own tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dslm
from examples.byte_gpt import ByteGPT, Sizes, loss_of
from server.profiles.derived.alignments import alignments
from server.profiles.derived.model_facts import sums_of
from tests.trainer_agent.recording import RecordingTransport, recorded

LAYERS, WIDTH, SEQ, BATCH = 3, 48, 24, 16
KEYS = (
    "stream/variance",
    "attention/variance",
    "feed_forward/variance",
    "attention_norm_input/variance",
    "feed_forward_norm_input/variance",
)


class Outputs:
    """What modules put out in the last pass, and what they were given."""

    def __init__(self, model: nn.Module) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        for path, module in model.named_modules():
            module.register_forward_hook(self._note(path))

    def _note(self, path: str):
        def hook(_module: nn.Module, args: tuple, output: object) -> None:
            if args and isinstance(args[0], Tensor):
                self.inputs[path] = args[0].detach().double()
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, Tensor):
                self.outputs[path] = first.detach().double()

        return hook


def cosine(x: Tensor, y: Tensor) -> float:
    return float(np.corrcoef(x.flatten().numpy(), y.flatten().numpy())[0, 1])


@contextmanager
def one_step(model: nn.Module, folder: Path, ids: Tensor) -> Iterator[RecordingTransport]:
    """The frame and the description of one step, whose tensors stay as they were."""
    agent, transport = recorded(model, folder, sites=("norm_inputs",))
    result = model(ids, labels=ids).loss if hasattr(model, "config") else None
    loss = loss_of(model(ids), ids) if result is None else result
    loss.backward()
    agent.step(loss=loss)
    agent.close()
    yield transport


def derived(transport: RecordingTransport) -> dict[str, np.ndarray]:
    spec = dslm.spec_from_json(transport.revisions[0].spec)
    series = {}
    for key in KEYS:
        if transport.holds(f"decoder/{key}", -1):
            values = transport.series(f"decoder/{key}")
            series[f"decoder/{key}"] = values[None].astype(np.float64)
    of_stack = alignments("decoder", series, sums_of(spec.stacks["decoder"].blocks))
    return {name: values[0] for name, values in of_stack.items()}


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, 256, (BATCH, SEQ), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("lam", "beta"), [(1.0, 1.0), (0.9, 0.4)])
def test_pre_ln(tmp_path: Path, ids: Tensor, lam: float, beta: float):
    torch.manual_seed(0)
    model = ByteGPT(Sizes(LAYERS, WIDTH, 4, SEQ), "pre")
    for block in model.blocks:
        block.lam, block.beta = lam, beta
        with torch.no_grad():  # attention that writes along the stream it reads
            block.attention.qkv.weight[2 * WIDTH :] = torch.eye(WIDTH)
            block.attention.out.weight.copy_(torch.eye(WIDTH))
    tensors = Outputs(model)

    with one_step(model, tmp_path, ids) as transport:
        computed = derived(transport)

    for at in range(LAYERS):
        path = f"blocks.{at}"
        x, middle = tensors.inputs[path], tensors.inputs[f"{path}.feed_forward_norm"]
        a, f = (tensors.outputs[f"{path}.{name}"] for name in ("attention", "feed_forward"))
        assert computed["attention"][at] == pytest.approx(cosine(x, a), abs=2e-4)
        assert computed["feed_forward"][at] == pytest.approx(cosine(middle, f), abs=2e-4)
        parts = (lam * lam * x, lam * beta * a, beta * f)
        pairs = ((0, 1), (0, 2), (1, 2))
        sizes = [float(parts[i].std() * parts[j].std()) for i, j in pairs]
        mean = np.average([cosine(parts[i], parts[j]) for i, j in pairs], weights=sizes)
        assert computed["block"][at] == pytest.approx(mean, abs=2e-4)
    assert np.abs(computed["attention"]).max() > 0.05


def test_post_ln_has_attentions_alone(tmp_path: Path, ids: Tensor):
    torch.manual_seed(0)
    model = ByteGPT(Sizes(LAYERS, WIDTH, 4, SEQ), "post")
    for block in model.blocks:
        block.lam, block.beta = 0.95, 0.3
    tensors = Outputs(model)

    with one_step(model, tmp_path, ids) as transport:
        computed = derived(transport)

    for at in range(LAYERS):
        x, a = tensors.inputs[f"blocks.{at}"], tensors.outputs[f"blocks.{at}.attention"]
        assert computed["attention"][at] == pytest.approx(cosine(x, a), abs=2e-4)
    assert np.isnan(computed["feed_forward"]).all() and np.isnan(computed["block"]).all()


def test_dropout_behind_the_branches(tmp_path: Path, ids: Tensor):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"n_layer": LAYERS, "n_embd": WIDTH, "n_head": 4, "n_positions": SEQ}
    rates = {"resid_pdrop": 0.2, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    ends = {"vocab_size": 256, "bos_token_id": 0, "eos_token_id": 0, "use_cache": False}
    config = transformers.GPT2Config(**sizes, **rates, **ends, initializer_range=0.1)
    model = transformers.GPT2LMHeadModel(config).train()
    tensors = Outputs(model)

    with one_step(model, tmp_path, ids) as transport:
        computed = derived(transport)

    for at in range(LAYERS):
        path = f"transformer.h.{at}"
        x, middle = tensors.inputs[f"{path}.ln_1"], tensors.inputs[f"{path}.ln_2"]
        a, f = (tensors.outputs[f"{path}.{name}.c_proj"] for name in ("attn", "mlp"))
        # one draw of the dropout over 18,000 entries: standard error near 0.004 of a cosine
        assert computed["attention"][at] == pytest.approx(cosine(x, a), abs=0.02)
        assert computed["feed_forward"][at] == pytest.approx(cosine(middle, f), abs=0.02)


def test_without_norm_inputs_only_the_blocks_mean_is_there(tmp_path: Path, ids: Tensor):
    torch.manual_seed(0)
    model = ByteGPT(Sizes(LAYERS, WIDTH, 4, SEQ), "pre")
    agent, transport = recorded(model, tmp_path)
    loss = loss_of(model(ids), ids)
    loss.backward()
    agent.step(loss=loss)
    agent.close()

    computed = derived(transport)

    assert np.isnan(computed["attention"]).all() and np.isnan(computed["feed_forward"]).all()
    assert np.isfinite(computed["block"]).all()
