"""Sites that are off unless asked for, each against a direct computation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.trainer_agent.recording import recorded
from tests.trainer_agent.small_gpt import (
    HEADS,
    LAYERS,
    SEQ,
    WIDTH,
    SmallGPT,
    batch,
    built,
    loss_of,
    train_step,
)
from trainer_agent.capture.guard import Guard
from trainer_agent.capture.overhead_account import OverheadAccount
from trainer_agent.capture.recorder import Recorder
from trainer_agent.capture.statistics.finalise import frame_values
from trainer_agent.capture.statistics.logits import log_z_sums
from trainer_agent.errors import WatchError
from trainer_agent.model.lm_head import lm_head_of
from trainer_agent.model.plan import Plan, StackPlan, settled
from trainer_agent.model.sites import CustomSite, RequestedSites


def recorded_tensors(
    modules: dict[str, nn.Module], *, inputs: bool = False
) -> dict[str, list[Tensor]]:
    """Inputs or outputs of modules from now on, while gradients are on."""
    tensors: dict[str, list[Tensor]] = {name: [] for name in modules}
    for name, module in modules.items():

        def keep(_: object, args: tuple[Tensor, ...], out: Tensor, name: str = name) -> None:
            if torch.is_grad_enabled():
                tensors[name].append((args[0] if inputs else out).detach().double())

        module.register_forward_hook(keep)
    return tensors


def test_norm_inputs_are_what_the_norms_are_given(tmp_path: Path):
    model, _ = built()
    inputs = recorded_tensors(
        {"one": model.blocks[1].norm_1, "two": model.blocks[1].norm_2}, inputs=True
    )
    agent, transport = recorded(model, tmp_path, sites="norm_inputs", quantities="absmax")

    for seed in (1, 2):
        loss_of(model, batch(seed)).backward()
    agent.step()
    agent.close()

    for name, site in (("one", "attention_norm_input"), ("two", "feed_forward_norm_input")):
        x = torch.cat(inputs[name])
        variance = transport.series(f"decoder/{site}/variance")
        assert len(variance) == LAYERS
        assert variance[1] == pytest.approx(float(x.var(correction=0)), rel=1e-5)
        assert transport.series(f"decoder/{site}/mean")[1] == pytest.approx(
            float(x.mean()), rel=1e-4
        )
        assert transport.series(f"decoder/{site}/absmax")[1] == pytest.approx(float(x.abs().max()))
    assert transport.health.silent == ()


def test_a_norms_input_that_is_the_stream_is_taken_once_unless_it_was_changed():
    stack = StackPlan("decoder", ("0",), (None,), (None,))
    plan = Plan((stack,), RequestedSites(("kurtosis", "effective_rank"), ("norm_inputs",)))
    guard = Guard()
    recorder = Recorder(plan, torch.device("cpu"), guard, OverheadAccount())
    x = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))

    recorder.stream("decoder", 0, x)
    recorder.branch("decoder", "attention_norm_input", 0, x)
    x.mul_(0.5)
    recorder.branch("decoder", "feed_forward_norm_input", 0, x)

    assert guard.failures == 0
    values = frame_values(plan, recorder.accumulator.take()(), [])
    places = plan.layout([]).slices
    stream, same, halved = (
        values[places[f"decoder/{site}/variance"]][0]
        for site in ("stream", "attention_norm_input", "feed_forward_norm_input")
    )
    assert same == stream == pytest.approx(float(x.double().var(correction=0)) * 4, rel=1e-5)
    assert halved == pytest.approx(stream / 4, rel=1e-6)
    assert values[places["decoder/attention_norm_input/kurtosis"]] > 0


def test_log_z_is_that_of_the_heads_output_without_padding(tmp_path: Path):
    model, _ = built()
    outputs = recorded_tensors({"head": model.head})
    mask = torch.ones(3, SEQ, dtype=torch.long)
    mask[1:, SEQ // 2 :] = 0
    agent, transport = recorded(model, tmp_path, sites=["log_z"])

    loss_of(model, batch(1), attention_mask=mask).backward()
    loss_of(model, batch(2)).backward()
    agent.step()
    agent.close()

    padded, plain = (torch.logsumexp(x, -1) for x in outputs["head"])
    log_z = torch.cat([padded[mask.bool()], plain.flatten()])
    assert transport.series("/log_z/mean")[0] == pytest.approx(float(log_z.mean()), rel=1e-6)
    expected = float(log_z.square().mean())
    assert transport.series("/log_z/mean_square")[0] == pytest.approx(expected, rel=1e-6)


def test_log_z_samples_at_most_256_tokens():
    logits = torch.randn(4, 300, 11, generator=torch.Generator().manual_seed(0))

    count, total, squares = log_z_sums(logits).tolist()

    stride = math.ceil(1200 / 256)
    sampled = torch.logsumexp(logits.double(), -1).flatten()[::stride]
    assert count == len(sampled) == 240
    # log-sum-exp is taken in float32
    assert (total, squares) == pytest.approx(
        (float(sampled.sum()), float((sampled**2).sum())), rel=1e-6
    )


def test_a_model_without_a_head_of_its_own_has_no_log_z(tmp_path: Path):
    class Tied(SmallGPT):
        def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            x = self.tokens(ids)
            for block in self.blocks:
                x = block(x)
            return x @ self.tokens.weight.T

    model = Tied()
    del model.head
    agent, transport = recorded(model, tmp_path, sites=["log_z"])

    loss_of(model, batch(1)).backward()
    agent.step()
    agent.close()

    assert lm_head_of(model, ()) is None
    assert np.isnan(transport.series("/log_z/mean")).all()
    assert transport.health.failures == 0


def attention(block: nn.Module, x: Tensor) -> Tensor:
    """Logits of every head, (batch, heads, queries, keys), -inf where masked, in float64."""
    split = (*x.shape[:2], HEADS, WIDTH // HEADS)
    q, k, _ = (
        part.view(split).transpose(1, 2)
        for part in block.qkv(block.norm_1(x)).detach().double().split(WIDTH, -1)
    )
    future = torch.ones(SEQ, SEQ, dtype=torch.bool).triu(1)
    return (q @ k.mT / math.sqrt(WIDTH // HEADS)).masked_fill(future, float("-inf"))


def test_each_heads_logits_equal_a_direct_computation(tmp_path: Path):
    model, _ = built()
    with torch.no_grad():
        model.blocks[1].qkv.weight *= 8  # heads that differ
    inputs = recorded_tensors(dict(enumerate(model.blocks)), inputs=True)  # type: ignore[arg-type]
    agent, transport = recorded(model, tmp_path, sites="attention_heads")

    for seed in (1, 2):
        loss_of(model, batch(seed)).backward()
    agent.step()
    agent.close()

    for layer, block in enumerate(model.blocks):
        logits = torch.cat([attention(block, x.float()) for x in inputs[layer]])  # type: ignore[index]
        for head in range(HEADS):
            head_logits = logits[:, head]
            allowed = head_logits[torch.isfinite(head_logits)]
            weights = torch.softmax(head_logits, -1)
            entropy = -(weights * weights.log()).nan_to_num().sum(-1).mean()
            expected = {"max": allowed.max(), "variance": allowed.var(correction=0)}
            expected["entropy"] = entropy
            for quantity, value in expected.items():
                measured = transport.series(f"decoder/attention_head_{head}/{quantity}")[layer]
                assert measured == pytest.approx(float(value), rel=1e-5), (layer, head, quantity)


def test_all_heads_together_are_what_they_are_by_default(tmp_path: Path):
    series = []
    for sites in ((), ("attention_heads",)):
        model, optimizer = built()
        agent, transport = recorded(model, tmp_path / str(len(sites)), sites=sites)
        agent.step(loss=train_step(model, optimizer, batch(1)))
        agent.close()
        series.append(
            [transport.series(f"decoder/attention_logits/{q}") for q in ("max", "entropy")]
        )

    np.testing.assert_allclose(series[0], series[1], rtol=1e-6)


def test_a_custom_site_is_measured_over_depth(tmp_path: Path):
    model, _ = built()
    outputs = recorded_tensors({"up": model.blocks[2].up, "tokens": model.tokens})
    agent, transport = recorded(
        model,
        tmp_path,
        custom_sites={"hidden": "blocks.*.up", "embedding": "tokens"},
        quantities="zeros",
    )

    for seed in (1, 2):
        loss_of(model, batch(seed)).backward()
    agent.step()
    agent.close()

    hidden, embedding = (torch.cat(outputs[name]) for name in ("up", "tokens"))
    assert len(transport.series("decoder/hidden/variance")) == LAYERS
    assert transport.series("decoder/hidden/variance")[2] == pytest.approx(
        float(hidden.var(correction=0)), rel=1e-5
    )
    assert transport.series("/embedding/variance") == pytest.approx(
        [float(embedding.var(correction=0))], rel=1e-5
    )
    assert transport.series("decoder/hidden/zeros")[2] == 0.0


@pytest.mark.parametrize(
    ("patterns", "says"),
    [
        ({"x": "nowhere.*"}, "fits no module"),
        ({"x": "block.*.up"}, r"the nearest is 'blocks\.\*\.up'"),
        ({"x": "blocks.*.norm_*"}, "several modules of one block"),
        ({"Stream!": "blocks.*.up"}, "cannot name a site"),
        ({"stream": "blocks.*.up"}, "cannot name a site"),
        ([("x", "tokens")], "no mapping"),
    ],
)
def test_a_custom_site_that_cannot_be_is_refused(tmp_path: Path, patterns: object, says: str):
    with pytest.raises(WatchError, match=says) as refused:
        recorded(SmallGPT(), tmp_path, custom_sites=patterns)

    assert refused.value.argument == "custom_sites" and refused.value.fix


def test_watching_everything_changes_no_weight(tmp_path: Path):
    plain, optimizer = built(p_drop=0.1)
    for step in range(3):
        train_step(plain, optimizer, batch(step))
    watched, optimizer = built(p_drop=0.1)
    agent, transport = recorded(
        watched,
        tmp_path,
        optimizer=optimizer,
        sites="all",
        quantities="all",
        custom_sites={"hidden": "blocks.*.up"},
    )
    for step in range(3):
        agent.step(loss=train_step(watched, optimizer, batch(step)))
    agent.close()

    assert transport.health.failures == 0 and transport.health.silent == ()
    for weight, plain_weight in zip(watched.parameters(), plain.parameters(), strict=True):
        assert torch.equal(weight, plain_weight)


# torch.compile looks at a block's input in a way that torch itself warns of.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_compiled_model_gives_the_same_numbers_of_everything(tmp_path: Path):
    numbers: list[dict[str, np.ndarray]] = []
    for compiled in (False, True):
        model, _ = built()
        folder = tmp_path / str(compiled)
        agent, transport = recorded(model, folder, sites=["log_z"], quantities="all")
        trained = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
        loss_of(trained, batch(1)).backward()
        agent.step()
        agent.close()
        assert transport.health.failures == 0
        # Modules of branches are found by a pass that is not compiled, which this model never has.
        sites = ("stream", "stream_gradient", "log_z")
        keys = {series.key for series in transport.declarations[-1].layout if series.site in sites}
        # A norm's gradient has a mean of zero but for rounding.
        keys -= {"decoder/stream_gradient/mean"}
        numbers.append({key: transport.series(key) for key in keys})

    for key, eager in numbers[0].items():
        largest = np.nanmax(np.abs(eager), initial=0.0)
        # sums in float32 about another centre
        np.testing.assert_allclose(
            numbers[1][key], eager, rtol=1e-4, atol=1e-4 * largest, err_msg=key
        )


def test_a_custom_site_goes_with_its_blocks_when_the_forward_pass_names_the_stack_otherwise():
    site = CustomSite("hidden", "decoder", ("h.0.up", "h.1.up"))
    called = StackPlan("encoder", ("h.1", "h.0", "h.2"), (None,) * 3, (None,) * 3)

    assert settled(site, (called,)) == CustomSite("hidden", "encoder", ("h.1.up", "h.0.up", None))
    outside = CustomSite("embedding", "", ("tokens",))
    assert settled(outside, (called,)) == outside
