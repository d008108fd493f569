"""What is measured of a branch is what is added to the stream, as the job's own tensors show it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.trainer_agent.recording import RecordingTransport, recorded

WIDTH, HEADS, SEQ, LAYERS = 24, 3, 7, 3


class LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(WIDTH) * 0.01)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.drop = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.drop(self.out(mixed.transpose(1, 2).flatten(2)))


class Written(Attention):
    """The same, with its softmax written out."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        scores = (q @ k.transpose(-2, -1)) * (WIDTH // HEADS) ** -0.5
        mixed = scores.softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


class Experts(nn.Module):
    """Two feed-forward layers, mixed by a router: no dense map puts out what is added."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, 2)
        self.experts = nn.ModuleList(feed_forward() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.router(x).softmax(-1).chunk(2, -1)
        return first * self.experts[0](x) + second * self.experts[1](x)


def feed_forward() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))


class Block(nn.Module):
    """Two branches, and what the job itself notes of what each adds."""

    def __init__(self, recipe: str) -> None:
        super().__init__()
        attention = Written if recipe == "written attention" else Attention
        self.branches = nn.ModuleList([attention(), feed_forward()])
        if recipe == "experts":
            self.branches[1] = Experts()
        norm = nn.RMSNorm if "rms" in recipe else nn.LayerNorm
        self.norms = nn.ModuleList(norm(WIDTH) for _ in range(2))
        self.posts = nn.ModuleList(norm(WIDTH) for _ in range(2))
        for post in self.posts:
            nn.init.constant_(post.weight, 0.3)
        self.scales = nn.ModuleList(LayerScale() for _ in range(2))
        self.gain = nn.Parameter(torch.rand(WIDTH))
        self.recipe = recipe
        self.added: list[Tensor] = []

    def note(self, added: Tensor) -> Tensor:
        self.added.append(added.detach().clone())
        return added

    def forward(self, x: Tensor) -> Tensor:
        self.added = []
        if self.recipe == "parallel":
            outputs = [self.note(b(n(x))) for b, n in zip(self.branches, self.norms, strict=True)]
            return x + (outputs[0] + outputs[1])
        if self.recipe == "parallel, one after the other":
            outputs = [self.note(b(n(x))) for b, n in zip(self.branches, self.norms, strict=True)]
            return outputs[0] + x + outputs[1]
        for index, branch in enumerate(self.branches):
            x = self.step(x, branch, index)
        return x

    def step(self, x: Tensor, branch: nn.Module, index: int) -> Tensor:
        pre, post, scale = self.norms[index], self.posts[index], self.scales[index]
        y = branch(x if self.recipe in {"norm on the branch", "post norm"} else pre(x))
        if self.recipe in {"sandwich", "sandwich rms", "norm on the branch"}:
            y = post(y)
        elif self.recipe.startswith("layer scale"):
            y = scale(y)
        elif self.recipe == "multiplier behind a norm":
            y = 0.4 * post(y)
        elif self.recipe == "gain":
            y = y * self.gain
        return self.total(x, y, post)

    def total(self, x: Tensor, y: Tensor, post: nn.Module) -> Tensor:
        """The residual sum, in one way of writing it."""
        sums: dict[str, tuple[float, Callable[[], Tensor]]] = {
            "layer scale in place": (1.0, lambda: y.add_(x)),
            "multiplier": (0.22, lambda: x + y * 0.22),
            "multiplier of both": (0.35, lambda: 0.7 * (x + 0.5 * y)),
            "number on the stream": (0.5, lambda: 0.9 * x + 0.5 * y),
            "lerp": (0.3, lambda: torch.lerp(x, y, 0.3)),
            "alpha": (0.1, lambda: torch.add(x, y, alpha=0.1)),
            "post norm": (0.5, lambda: post(1.5 * x + 0.5 * y)),
        }
        factor, add = sums.get(self.recipe, (1.0, lambda: x + y))
        self.note(y * factor)
        return add()


class Model(nn.Module):
    def __init__(self, recipe: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, WIDTH)
        self.blocks = nn.ModuleList(Block(recipe) for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, 20)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def run(recipe: str, folder: Path) -> tuple[Model, RecordingTransport]:
    """Two steps: the one read, in which no hook was set for branches, and one with hooks."""
    torch.manual_seed(0)
    model = Model(recipe)
    agent, transport = recorded(model, folder)
    for _ in range(2):
        model(torch.randint(0, 20, (3, SEQ))).square().mean().backward()
        agent.step(loss=1.0)
    agent.close()
    assert agent._parts.guard.first_failure == ""
    return model, transport


def variances(model: Model) -> np.ndarray:
    """(branch, layer)"""
    return np.array(
        [[float(a.double().var(correction=0)) for a in b.added] for b in model.blocks]
    ).T


MEASURED = [
    "plain", "parallel", "parallel, one after the other", "sandwich", "sandwich rms",
    "norm on the branch", "layer scale", "layer scale in place", "multiplier",
    "multiplier of both", "number on the stream", "lerp", "alpha",
    "multiplier behind a norm", "post norm", "written attention", "experts",
]  # fmt: skip


@pytest.mark.parametrize("recipe", MEASURED)
def test_what_is_measured_is_what_is_added(recipe: str, tmp_path: Path) -> None:
    model, transport = run(recipe, tmp_path)

    direct = variances(model)
    stack = "encoder" if recipe == "written attention" else "decoder"  # the one without a mask
    for at in (0, 1):
        assert np.isfinite(transport.series(f"{stack}/attention/variance", at)).all()
    for site, branch in (("attention", 0), ("feed_forward", 1)):
        np.testing.assert_allclose(
            transport.series(f"{stack}/{site}/variance"), direct[branch], rtol=1e-5
        )


def test_what_no_module_puts_out_is_absent(tmp_path: Path) -> None:
    _, transport = run("gain", tmp_path)

    for site in ("attention", "feed_forward"):
        assert np.isnan(transport.series(f"decoder/{site}/variance")).all()
    notes = transport.revisions[0].spec["notes"]
    assert [note.partition(" adds")[0] for note in notes] == [
        "decoder: what attention",
        "decoder: what feed-forward",
    ]


class TorchLayers(nn.Module):
    """Torch's own layers: an encoder, or an encoder and a decoder."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        options = {"batch_first": True, "dropout": 0.0, "norm_first": "pre" in kind}
        encoder = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, **options)
        decoder = nn.TransformerDecoderLayer(WIDTH, HEADS, 2 * WIDTH, **options)
        self.embedding, self.head = nn.Embedding(20, WIDTH), nn.Linear(WIDTH, 20)
        self.encoder = nn.TransformerEncoder(encoder, LAYERS, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(decoder, LAYERS) if "decoder" in kind else None
        self.mask = nn.Transformer.generate_square_subsequent_mask(SEQ)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.encoder(self.embedding(ids))
        if self.decoder is not None:
            x = self.decoder(self.embedding(ids.flip(1)), x, tgt_mask=self.mask)
        return self.head(x)


class AroundMultihead(nn.Module):
    """A block around ``nn.MultiheadAttention``, as CLIP and Whisper have been written."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.mlp = feed_forward()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[0](x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norms[1](x))


def outputs_of(modules: list[nn.Module]) -> dict[int, Tensor]:
    outputs: dict[int, Tensor] = {}

    def note(module: nn.Module, _: object, output: Tensor | tuple[Tensor, ...]) -> None:
        outputs[id(module)] = (output[0] if isinstance(output, tuple) else output).detach()

    for module in modules:
        module.register_forward_hook(note)
    return outputs


@pytest.mark.parametrize("kind", ["post", "pre", "post decoder", "pre decoder", "home-made"])
def test_attention_of_torchs_own_modules_is_measured(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    if kind == "home-made":
        model: nn.Module = Model("plain")
        model.blocks = nn.ModuleList(AroundMultihead() for _ in range(LAYERS))
        branches = {"encoder": [(block.attention, block.mlp[2]) for block in model.blocks]}
    else:
        model = TorchLayers(kind)
        for parameter in model.parameters():  # torch copies one layer into all
            nn.init.normal_(parameter, std=0.1)
        branches = {"encoder": [(layer.self_attn, layer.linear2) for layer in model.encoder.layers]}
        if model.decoder is not None:
            layers = model.decoder.layers
            branches["decoder"] = [(layer.self_attn, layer.linear2) for layer in layers]
    outputs = outputs_of([m for pairs in branches.values() for pair in pairs for m in pair])
    agent, transport = recorded(model, tmp_path)
    for _ in range(2):
        model(torch.randint(0, 20, (3, SEQ))).square().mean().backward()
        agent.step(loss=1.0)
    agent.close()

    assert agent._parts.guard.first_failure == ""
    for stack, pairs in branches.items():
        for branch, site in enumerate(("attention", "feed_forward")):
            direct = [float(outputs[id(pair[branch])].double().var(correction=0)) for pair in pairs]
            measured = transport.series(f"{stack}/{site}/variance")
            np.testing.assert_allclose(measured, direct, rtol=1e-5)
            assert np.isfinite(transport.series(f"{stack}/{site}/variance", 0)).all()
