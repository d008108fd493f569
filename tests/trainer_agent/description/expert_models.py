"""Mixtures of experts and latent attention, as different projects write them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.trainer_agent.description.home_made import WIDTH

EXPERTS, TOP = 6, 2


class Listed(nn.Module):
    """Experts in a list, a loop over them with `index_add_`, gates over the chosen ones."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = nn.ModuleList(
            nn.ModuleDict(
                {name: nn.Linear(WIDTH, 2 * WIDTH) for name in ("w1", "w3")}
                | {"w2": nn.Linear(2 * WIDTH, WIDTH)}
            )
            for _ in range(EXPERTS)
        )

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, WIDTH)
        scores, chosen = self.router(flat).topk(TOP, dim=-1)
        gates = scores.softmax(-1)
        total = torch.zeros_like(flat)
        for index, expert in enumerate(self.experts):
            token, place = torch.where(chosen == index)
            rows = flat[token]
            hidden = functional.silu(expert["w1"](rows)) * expert["w3"](rows)
            total.index_add_(0, token, expert["w2"](hidden) * gates[token, place, None])
        return total.reshape(x.shape)


class Stacked(nn.Module):
    """Experts in tensors of three dimensions, stored (in, out), computed for all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(0.3 * torch.randn(EXPERTS, WIDTH))
        self.first = nn.Parameter(0.1 * torch.randn(EXPERTS, WIDTH, 3 * WIDTH))
        self.last = nn.Parameter(0.1 * torch.randn(EXPERTS, 3 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        shares = functional.linear(x, self.gate).softmax(-1)
        best, chosen = shares.topk(TOP, dim=-1)
        gates = torch.zeros_like(shares).scatter(-1, chosen, best)
        hidden = functional.gelu(torch.einsum("bsd,edf->bsef", x, self.first))
        return torch.einsum("bsef,efd,bse->bsd", hidden, self.last, gates)


class Shared(nn.Module):
    """Sigmoid gates, normalised and scaled, and a layer that all tokens go through."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS)
        self.up = nn.Parameter(0.1 * torch.randn(EXPERTS, 4 * WIDTH, WIDTH))
        self.down = nn.Parameter(0.1 * torch.randn(EXPERTS, WIDTH, 2 * WIDTH))
        self.common = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
        self.open = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        best, chosen = self.router(x).sigmoid().topk(TOP, dim=-1)
        gates = 2.5 * best / best.sum(-1, keepdim=True)
        up, gate = torch.einsum("bsd,efd->bsef", x, self.up).chunk(2, dim=-1)
        every = torch.einsum("bsef,edf->bsed", up * functional.silu(gate), self.down)
        index = chosen.unsqueeze(-1).expand(*chosen.shape, WIDTH)
        routed = (every.gather(2, index) * gates.unsqueeze(-1)).sum(2)
        return routed + torch.sigmoid(self.open(x)) * self.common(x)
