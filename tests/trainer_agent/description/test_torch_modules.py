"""PyTorch's own encoder layers, and blocks around ``nn.MultiheadAttention``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dslm
import trainer_agent
from benchmarks.streams import measured_stacks
from trainer_agent.description import Architecture, architecture, measure

WIDTH, SEQ = 32, 8


def encoder(*, layers: int = 2, norm_first: bool = False, batch_first: bool = True) -> nn.Module:
    layer = nn.TransformerEncoderLayer(
        WIDTH, 4, 64, 0.1, "gelu", norm_first=norm_first, batch_first=batch_first
    )
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


def described(model: nn.Module, mask: Tensor | None = None) -> Architecture:
    return architecture(model, (torch.randn(2, SEQ, WIDTH),), {"mask": mask})


@pytest.mark.parametrize(("norm_first", "placement"), [(True, "pre"), (False, "post")])
def test_encoder_layers_are_recognised(norm_first: bool, placement: str) -> None:
    model = encoder(norm_first=norm_first)

    recognised = described(model)

    assert recognised.missing == ()
    parts = recognised.stacks[0].parts[0]
    assert parts is not None
    assert (recognised.stacks[0].name, parts.placement) == ("encoder", placement)
    assert (parts.attention.n_heads, parts.attention.p_drop) == (4, 0.1)
    assert parts.attention_residual.p_drop == pytest.approx(0.1)
    assert parts.feed_forward.activation == "gelu"
    (block, _) = measure(recognised, model)["encoder"]
    assert block is not None
    keys = model.get_parameter("layers.0.self_attn.in_proj_weight")[WIDTH : 2 * WIDTH]
    assert block.attention.key.weight_var == pytest.approx(float(keys.detach().square().mean()))


@pytest.mark.parametrize("additive", [True, False])
def test_a_causal_mask_makes_an_encoder_layer_a_decoder(additive: bool) -> None:
    masked_out = torch.ones(SEQ, SEQ).triu(1).bool()
    mask = torch.zeros(SEQ, SEQ).masked_fill(masked_out, float("-inf")) if additive else masked_out

    assert described(encoder(), mask).stacks[0].name == "decoder"


@pytest.mark.parametrize("heads", [1, 4])
def test_a_bias_in_the_mask_is_read(heads: int) -> None:
    slopes = 0.1 * torch.arange(1, heads + 1)[:, None, None]
    back = torch.arange(SEQ)[:, None] - torch.arange(SEQ)[None]
    bias = -slopes * back.abs()
    bias = bias.repeat(2, 1, 1) if heads > 1 else bias[0]

    recognised = described(encoder(), bias)

    assert recognised.missing == ()
    parts = recognised.stacks[0].parts[0]
    assert parts is not None and parts.attention.position_bias is not None
    observed = parts.attention.position_bias.observed
    assert (observed.distances, sum(observed.heads)) == ((1 - SEQ, 0, SEQ - 1), 4)
    assert [row[0] for row in observed.values] == pytest.approx((-7 * slopes.flatten()).tolist())


@pytest.mark.parametrize("batch", [3, SEQ])  # as many sequences as tokens tell nothing by shape
def test_streams_of_sequence_first_are_described_as_those_of_batch_first(batch: int) -> None:
    batch_first, sequence_first = encoder(), encoder(batch_first=False)
    sequence_first.load_state_dict(batch_first.state_dict())
    x = torch.randn(batch, SEQ, WIDTH)

    expected = trainer_agent.describe(batch_first.eval(), {"src": x})
    spec = trainer_agent.describe(sequence_first.eval(), {"src": x.transpose(0, 1)})

    assert [each.what for each in spec.missing] == ["top gradient"]  # no loss is returned
    assert spec.batch_size == batch
    of_batch, of_sequence = expected.stacks["encoder"], spec.stacks["encoder"]
    assert of_sequence.blocks == of_batch.blocks
    np.testing.assert_allclose(
        dslm.predict(spec).stacks["encoder"].forward.correlation,
        dslm.predict(expected).stacks["encoder"].forward.correlation,
        rtol=1e-5,
    )


class Sequences(nn.Module):
    """Ids through an encoder, or an encoder and a decoder, of torch's own."""

    def __init__(self, transformer: nn.Module, width: int = 128) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(50, width), nn.Linear(width, 50)
        self.places = nn.Parameter(torch.randn(24, width) * 0.5)
        self.transformer = transformer

    def forward(self, ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        x = self.tokens(ids) + self.places
        if isinstance(self.transformer, nn.Transformer):
            mask = nn.Transformer.generate_square_subsequent_mask(24)
            y = self.tokens(labels) + self.places
            x = self.transformer(x, y, tgt_mask=mask, tgt_is_causal=True)
        else:
            x = self.transformer(x)
        loss = nn.functional.cross_entropy(self.head(x).flatten(0, 1), labels.flatten())
        return {"loss": loss}


def sequences() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    ids, labels = (torch.randint(0, 50, (4, 24), generator=draw) for _ in range(2))
    return {"ids": ids, "labels": labels}


def redrawn(model: nn.Module) -> nn.Module:
    """Every matrix anew: torch copies one layer into all."""
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.xavier_uniform_(parameter)
    return model


def check_prediction(model: nn.Module) -> dslm.ModelSpec:
    spec = trainer_agent.describe(model, sequences())
    assert spec.missing == ()
    stacks = architecture(model, (), sequences()).stacks
    measurement = measured_stacks(model, {s.name: s.blocks for s in stacks}, sequences())
    for name, stack in dslm.predict(spec).stacks.items():
        # one draw at d = 128: a layer scatters by sqrt(2/d) = 12 %
        np.testing.assert_allclose(stack.forward.variance, measurement[name].forward, rtol=0.15)
        np.testing.assert_allclose(stack.backward.variance, measurement[name].backward, rtol=0.3)
        np.testing.assert_allclose(
            stack.forward.correlation, measurement[name].correlation, atol=0.08
        )
    return spec


@pytest.mark.parametrize("training", [True, False])  # in evaluation torch takes its fast path
@pytest.mark.parametrize(("norm_first", "activation"), [(True, "gelu"), (False, "relu")])
def test_torch_encoders_are_predicted(norm_first: bool, activation: str, training: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(
        128, 4, 512, activation=activation, norm_first=norm_first, batch_first=True
    )
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    model = Sequences(redrawn(encoder)).train(training)

    spec = check_prediction(model)

    assert spec.notes == ()
    blocks = spec.stacks["encoder"].blocks
    assert all(b is not None and b.feed_forward.activation == activation for b in blocks)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")  # torch's own, of norm_first
@pytest.mark.parametrize("norm_first", [True, False])
def test_torch_decoders_are_predicted(norm_first: bool) -> None:
    torch.manual_seed(0)
    model = Sequences(nn.Transformer(128, 4, 3, 3, 512, batch_first=True, norm_first=norm_first))

    spec = check_prediction(model)

    assert spec.stacks["decoder"].reads == "encoder"
    assert all(b is not None and b.cross is not None for b in spec.stacks["decoder"].blocks)


def test_a_decoder_that_reads_no_stack_is_missing_by_name() -> None:
    layer = nn.TransformerDecoderLayer(WIDTH, 4, 64, batch_first=True)
    decoder = nn.TransformerDecoder(layer, 2)
    x, memory = torch.randn(2, SEQ, WIDTH), torch.randn(2, SEQ, WIDTH)

    recognised = architecture(decoder, (x, memory))

    assert {m.what for m in recognised.missing} == {"cross-attention"}
    assert all(parts is None for stack in recognised.stacks for parts in stack.parts)


def test_copies_of_one_layer_are_noted() -> None:
    (note,) = described(encoder()).notes

    assert "equal weights" in note


def test_multihead_attention_in_a_home_made_block_is_predicted() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(128, 4, batch_first=True)
            self.norms = nn.ModuleList(nn.LayerNorm(128) for _ in range(2))
            self.up, self.down = nn.Linear(128, 512), nn.Linear(512, 128)

        def forward(self, x: Tensor) -> Tensor:
            h = self.norms[0](x)
            x = x + self.attention(h, h, h, attn_mask=torch.ones(24, 24).triu(1).bool())[0]
            return x + self.down(torch.relu(self.up(self.norms[1](x))))

    torch.manual_seed(0)
    spec = check_prediction(Sequences(nn.Sequential(*(Mixed() for _ in range(3)))))

    assert all(b is not None and b.attention.causal for b in spec.stacks["decoder"].blocks)
