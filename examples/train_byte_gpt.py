"""Train a byte-level GPT on the standard library's sources, watched by evenkeel.

    python examples/train_byte_gpt.py --variant post-ln --steps 400

The three variants share seed and data. At 24 layers Post-LN fails to train; Pre-LN learns, and
so does Post-LN once DeepScaleLM has set its weights and residual scales.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))

from byte_gpt import ByteGPT, Sizes, loss_of
from stdlib_text import batches, stdlib_bytes

VARIANTS = ("pre-ln", "post-ln", "post-ln-deepscale")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", choices=VARIANTS, default="pre-ln")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--context", type=int, default=64, help="bytes of context")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--warmup", type=int, default=20, help="steps of linear warm-up")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--server", default=None, help="URL; default $EVENKEEL_URL")
    parser.add_argument("--project", default="demo")
    parser.add_argument("--run", default=None, help="name of the run; default the variant")
    parser.add_argument("--no-watch", action="store_true", help="train without the agent")
    parser.add_argument("--print-every", type=int, default=25)
    return parser.parse_args(argv)


def build(args: argparse.Namespace) -> ByteGPT:
    """The model of a variant; DeepScaleLM changes its weights and residual scales in place."""
    torch.manual_seed(args.seed)
    sizes = Sizes(args.layers, args.width, args.heads, args.context)
    model = ByteGPT(sizes, "pre" if args.variant == "pre-ln" else "post")
    if args.variant == "post-ln-deepscale":
        import trainer_agent

        print(trainer_agent.deepscale(model), flush=True)
    return model


def watched(
    args: argparse.Namespace, model: ByteGPT, optimizer: torch.optim.Optimizer
) -> AbstractContextManager[Any]:
    """The agent on this run, or nothing when it is to train plain."""
    if args.no_watch:
        return nullcontext()
    import trainer_agent

    return trainer_agent.watch(
        model,
        project=args.project,
        run=args.run or args.variant,
        optimizer=optimizer,
        server=args.server,
        every=1,  # to show every step; a long run leaves it to the budget
        config=vars(args),
        tags=[args.variant],
    )


def train(args: argparse.Namespace) -> Iterator[tuple[int, float]]:
    """Train, yielding (step, loss) of each step."""
    model = build(args)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.0)
    warmup = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / max(1, args.warmup))
    )
    data = batches(stdlib_bytes(), batch=args.batch, context=args.context, seed=args.seed)
    with watched(args, model, optimizer) as agent:
        for step, (inputs, targets) in zip(range(args.steps), data, strict=False):
            loss = one_step(model, optimizer, inputs, targets)
            if agent is not None:
                agent.step(loss=loss)
            warmup.step()
            yield step, loss.item()


def one_step(
    model: ByteGPT, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor
) -> Tensor:
    """One optimizer step; returns the loss, detached."""
    optimizer.zero_grad(set_to_none=True)
    loss = loss_of(model(inputs), targets)
    loss.backward()
    optimizer.step()
    return loss.detach()


def main() -> None:
    """Train and print the loss now and then."""
    args = parse()
    torch.set_num_threads(1)
    for step, loss in train(args):
        if step % args.print_every == 0 or step == args.steps - 1:
            print(f"{args.variant} step {step:5d} loss {loss:.4f}", flush=True)


if __name__ == "__main__":
    main()
