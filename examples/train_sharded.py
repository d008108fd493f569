"""Train a byte-level GPT over several processes, watched by evenkeel as one run.

    torchrun --nproc-per-node 2 examples/train_sharded.py --placement post
    torchrun --nproc-per-node 4 examples/train_sharded.py --tensor-parallel 2

Parameters are sharded by FSDP2; with ``--tensor-parallel`` the matrices of each block are split
over so many processes beside it. Every process calls `watch`; rank 0 speaks for all of them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

sys.path.insert(0, str(Path(__file__).resolve().parent))

from byte_gpt import ByteGPT, Sizes, loss_of
from stdlib_text import batches, stdlib_bytes

import trainer_agent

MATRICES = {
    "attention.out": RowwiseParallel(input_layouts=Replicate()),
    "feed_forward.up": ColwiseParallel(),
    "feed_forward.down": RowwiseParallel(),
}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--placement", choices=("pre", "post"), default="pre")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--context", type=int, default=64, help="bytes of context")
    parser.add_argument("--batch", type=int, default=16, help="sequences of each process")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--tensor-parallel", type=int, default=1, metavar="N")
    parser.add_argument("--server", default=None, help="URL; default $EVENKEEL_URL")
    parser.add_argument("--project", default="sharded")
    return parser.parse_args(argv)


def build(args: argparse.Namespace, grid: DeviceMesh) -> ByteGPT:
    """The model, the same in all processes, in parts over the grid (data, tensor)."""
    torch.manual_seed(0)
    model = ByteGPT(Sizes(args.layers, args.width, 4, args.context), args.placement)
    model.to(grid.device_type)
    for block in model.blocks:
        if args.tensor_parallel > 1:
            parallelize_module(block, grid["tensor"], MATRICES)
        fully_shard(block, mesh=grid["data"])
    fully_shard(model, mesh=grid["data"])
    return model


def train(args: argparse.Namespace, grid: DeviceMesh) -> None:
    """Train, and print the loss now and then."""
    model = build(args, grid)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    seed = grid["data"].get_local_rank()  # processes that split matrices see the same batches
    data = batches(stdlib_bytes(), batch=args.batch, context=args.context, seed=seed)
    with trainer_agent.watch(
        model,
        project=args.project,
        run=f"{args.placement}-ln on {grid.size()} processes",
        optimizer=optimizer,
        server=args.server,
        every=1,
        config=vars(args),
    ) as agent:
        for step, (inputs, targets) in zip(range(args.steps), data, strict=False):
            loss = loss_of(model(inputs.to(grid.device_type)), targets.to(grid.device_type))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            agent.step(loss=loss)
            if step % 25 == 0 and distributed.get_rank() == 0:
                print(f"step {step:5d} loss {loss.item():.4f}", flush=True)


def main() -> None:
    """Take part in the job that torchrun has started."""
    args = parse()
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    if device == "cuda":
        torch.cuda.set_device(distributed.get_rank() % torch.cuda.device_count())
    shape = (distributed.get_world_size() // args.tensor_parallel, args.tensor_parallel)
    train(args, init_device_mesh(device, shape, mesh_dim_names=("data", "tensor")))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
