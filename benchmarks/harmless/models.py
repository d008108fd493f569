"""Small transformers with the state, the randomness and the hooks that people's models have."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from benchmarks.harmless.recipe import Recipe

WIDTH, HEADS, VOCAB, SEQ = 16, 2, 29, 6


class SquaredReLU(torch.autograd.Function):
    """An activation with a backward pass of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Run the forward pass."""
        ctx.save_for_backward(x)
        return x.clamp(min=0).square()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Give the gradient of the input."""
        (x,) = ctx.saved_tensors
        return 2 * x.clamp(min=0) * gradients[0]


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "relu": functional.relu,
    "silu": functional.silu,
    "squared_relu": SquaredReLU.apply,
}


class Attention(nn.Module):
    """Causal attention, by SDPA or written out; queries, keys, values from one map or three."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.fused, self.packed = recipe.fused_attention, recipe.packed_projection
        if self.packed:
            self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        else:
            self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.p_drop = recipe.p_drop

    def forward(self, x: Tensor) -> Tensor:
        """Run the forward pass."""
        batch, seq, _ = x.shape
        maps = (
            self.qkv(x).split(WIDTH, -1)
            if self.packed
            else (self.query(x), self.key(x), self.value(x))
        )
        q, k, v = (part.view(batch, seq, HEADS, -1).transpose(1, 2) for part in maps)
        p_drop = self.p_drop if self.training else 0.0
        if self.fused:
            mixed = functional.scaled_dot_product_attention(
                q, k, v, is_causal=True, dropout_p=p_drop
            )
        else:
            scores = q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5
            past = torch.ones(seq, seq, dtype=torch.bool, device=x.device).tril()
            weights = scores.masked_fill(~past, float("-inf")).softmax(-1)
            mixed = functional.dropout(weights, p_drop) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, seq, WIDTH))


class Block(nn.Module):
    """Pre-LN or Post-LN, with whatever else the recipe puts into it."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.attention = Attention(recipe)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.dropout = nn.Dropout(recipe.p_drop)
        self.activation = ACTIVATIONS[recipe.activation]
        self.calls = 0
        self.memory: deque[Tensor] = deque(maxlen=3)
        if recipe.running_mean:
            self.register_buffer("running_mean", torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """Run the forward pass."""
        recipe = self.recipe
        self.calls += 1
        if recipe.python_random and random.random() < 0.2:  # stochastic depth
            return x
        if recipe.numpy_random:
            x = x + float(np.random.normal(scale=1e-3))
        if recipe.cache:
            self.memory.append(x.detach().mean((0, 1)))
            x = x + 1e-3 * torch.stack(tuple(self.memory)).mean(0)
        if recipe.running_mean and self.training:
            with torch.no_grad():
                self.running_mean.lerp_(x.detach().mean((0, 1)), 0.1)
            x = x - 1e-2 * self.running_mean
        if recipe.post_norm:
            x = self.norm_1(x + self.dropout(self.attention(x)))
            return self.norm_2(x + self.dropout(self._feed_forward(x)))
        x = x + self.dropout(self.attention(self.norm_1(x)))
        return x + self.dropout(self._feed_forward(self.norm_2(x)))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


class HomeMade(nn.Module):
    """A language model of such blocks."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.tokens, self.positions = nn.Embedding(VOCAB, WIDTH), nn.Embedding(SEQ, WIDTH)
        blocks = [Block(recipe) for _ in range(recipe.layers)]
        if recipe.shared_block:
            blocks[-1] = blocks[0]
        self.blocks = nn.ModuleList(blocks)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCAB, bias=False)
        if recipe.tied:
            self.head.weight = self.tokens.weight
        if recipe.frozen:
            self.blocks[0].requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        """Run the forward pass."""
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            if self.recipe.checkpointing == "none" or not self.training:
                x = block(x)
            else:
                reentrant = self.recipe.checkpointing == "reentrant"
                x = checkpoint(block, x, use_reentrant=reentrant)
        return self.head(self.norm(x))


class TorchLayers(nn.Module):
    """torch's own encoder layers under a head."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.tokens = nn.Embedding(VOCAB, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH,
            HEADS,
            4 * WIDTH,
            dropout=recipe.p_drop,
            batch_first=recipe.batch_first,
            norm_first=not recipe.post_norm,
        )
        self.encoder = nn.TransformerEncoder(layer, recipe.layers, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, ids: Tensor) -> Tensor:
        """Run the forward pass."""
        x = self.tokens(ids)
        if self.recipe.batch_first:
            return self.head(self.encoder(x))
        return self.head(self.encoder(x.transpose(0, 1))).transpose(0, 1)


class Library(nn.Module):
    """A model of `transformers`, from a config as small as it goes."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        import transformers

        sizes = {"vocab_size": VOCAB, "max_position_embeddings": SEQ, "hidden_size": WIDTH}
        depth = {"num_hidden_layers": recipe.layers, "num_attention_heads": HEADS}
        ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
        wide = {"intermediate_size": 4 * WIDTH}
        if recipe.family == "gpt2":
            config: Any = transformers.GPT2Config(
                vocab_size=VOCAB,
                n_positions=SEQ,
                n_embd=WIDTH,
                n_layer=recipe.layers,
                n_head=HEADS,
                resid_pdrop=recipe.p_drop,
                attn_pdrop=recipe.p_drop,
                embd_pdrop=recipe.p_drop,
                **ids,
            )
            self.model: nn.Module = transformers.GPT2LMHeadModel(config)
        elif recipe.family == "llama":
            config = transformers.LlamaConfig(**sizes, **depth, **wide, **ids)
            self.model = transformers.LlamaForCausalLM(config)
        else:
            config = transformers.BertConfig(
                **sizes, **depth, **wide, **ids, hidden_dropout_prob=recipe.p_drop
            )
            self.model = transformers.BertForMaskedLM(config)
        if recipe.checkpointing != "none":
            self.model.gradient_checkpointing_enable(
                {"use_reentrant": recipe.checkpointing == "reentrant"}
            )

    def forward(self, ids: Tensor) -> Tensor:
        """Run the forward pass."""
        return self.model(input_ids=ids).logits


def build(recipe: Recipe) -> nn.Module:
    """The recipe's model, the same for the same recipe."""
    torch.manual_seed(recipe.seed)
    kinds = {"home_made": HomeMade, "torch": TorchLayers}
    return kinds.get(recipe.family, Library)(recipe)
