"""One process of a job of two, run by `test_multi_process`: trains on its part of each batch.

Where both processes work on the same sequences (``tensor``, ``sequence``, ``pipeline``) a batch
goes to both whole. ``-bare`` behind a kind leaves the agent out.

python -m tests.trainer_agent.distributed_job KIND RANK PORT FOLDER
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.pipelining import (
    PipelineStage,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleLoopedBFS,
    ScheduleZBVZeroBubble,
)
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from dslm import spec_to_json
from tests.trainer_agent.recording import RecordingTransport, recorded
from tests.trainer_agent.small_gpt import SmallGPT, batch, built, loss_of, loss_of_logits
from trainer_agent import describe
from trainer_agent.description import Architecture
from trainer_agent.description.read.recognition import Recognition
from trainer_agent.description.spec.model_spec import over_all_processes
from trainer_agent.description.spec.weight_sums import weight_sums
from trainer_agent.distributed import agreement, collective, rendezvous, spec_exchange
from wire import AlertNotice, Command

WORLD, STEPS = 2, 12
PROCESSES = {"grid": 4, "grid-sequence": 4, "sums": 4}  # of kinds that take more than two
# Of each pipeline which blocks make which stage, and of interleaved ones who holds which stages.
SPLIT = {
    "pipeline": (range(2), range(2, 3)),
    "interleaved": (range(1), range(1, 3), range(3, 4), range(4, 6)),
    "looped": (range(0), range(2), range(2, 3), range(3, 4)),  # embeddings by themselves
}
SPLIT["v_shaped"] = SPLIT["interleaved"]
PIPELINES = tuple(SPLIT)
SPLIT |= dict.fromkeys(("asked", "asked-fixed", "uneven", "staged_burst"), SPLIT["pipeline"])
LAYERS = {kind: stages[-1].stop for kind, stages in SPLIT.items()}
STAGES = {"interleaved": ((0, 2), (1, 3)), "looped": ((0, 2), (1, 3)), "v_shaped": ((0, 3), (1, 2))}
CHECKPOINTING = {"looped": False}
SCHEDULES = {
    "interleaved": ScheduleInterleaved1F1B,
    "looped": ScheduleLoopedBFS,
    "v_shaped": ScheduleZBVZeroBubble,
}
LONGER = {
    "burst": 80,
    "staged_burst": 80,
    "stop": 80,
    "asked": 80,
    "asked-fixed": 40,
    "fsdp-asked": 40,
    "stop-fixed": 80,
    "burst-fixed": 40,
    "stop-apart": 40,
}
PATIENCE_S = 60.0
IMPATIENT = ("alone", "slow-server", "stop-apart")  # whom some never answer
EVERYTHING = {"sites": "all", "quantities": "all"}
ALERTS: list[AlertNotice] = []  # given to the function that some kinds act on alerts with
OPTIONS: dict[str, dict[str, Any]] = {
    "budget": {"overhead": 0.05},
    "burst": {"overhead": 0.05},
    "staged_burst": {"overhead": 0.05},
    "stop": {"overhead": 1.0, "on_alert": "stop"},
    "stop-fixed": {"every": 1, "on_alert": "stop"},
    "burst-fixed": {"every": 3},
    "stop-apart": {"every": 3, "on_alert": ["stop", ALERTS.append]},
    "alone": {"on_alert": ["stop", ALERTS.append], **EVERYTHING},
    "slow-server": {"overhead": 1.0},
    "asked": {"overhead": 1.0},
    "asked-fixed": {"every": 1},
    "fsdp-asked": {"every": 1},
}
ALERT = AlertNotice("rank_collapse", "critical", "Rank collapse", "r is 1", 1, "decoder", "stream")
COMMANDS = {
    "burst": Command(id="b", kind="burst", steps=6),
    "staged_burst": Command(id="b", kind="burst", steps=6, layers=(2,)),
    "stop": Command(id="a", kind="alert", alert=ALERT),
    "stop-fixed": Command(id="a", kind="alert", alert=ALERT),
    "asked": Command(id="d", kind="describe"),
    "asked-fixed": Command(id="d", kind="describe"),
    "fsdp-asked": Command(id="d", kind="describe"),
    "burst-fixed": Command(id="b", kind="burst", steps=6),
    "stop-apart": Command(id="a", kind="alert", alert=ALERT),
    "alone": Command(id="a", kind="alert", alert=ALERT),
}
STAGED: dict[str, Any] = {
    "sites": ("norm_inputs", "weights", "updates", "attention_heads"),
    "custom_sites": {"hidden": "blocks.*.up", "normed": "rest.norm", "absent": "nowhere.*"},
}


def wrapped(kind: str, model: SmallGPT) -> nn.Module:
    """The model as the kind of job has it."""
    if kind == "tensor":
        return split_matrices(model, init_device_mesh("cpu", (WORLD,)))
    if kind == "sequence":
        return split_sequences(model, init_device_mesh("cpu", (WORLD,)))
    if kind in ("grid", "grid-sequence"):
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
        split = split_matrices if kind == "grid" else split_sequences
        return sharded(split(model, mesh["tensor"]), mesh=mesh["data"])
    if not kind.startswith("fsdp"):
        return DistributedDataParallel(model)
    halves = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return sharded(model, **({"mp_policy": halves} if kind == "fsdp-halves" else {}))


def sharded(model: SmallGPT, **options: Any) -> nn.Module:
    """Fully sharded, every block a unit of its own."""
    for block in model.blocks:
        fully_shard(block, **options)
    return fully_shard(model, **options)


def split_matrices(model: SmallGPT, mesh: DeviceMesh) -> SmallGPT:
    """Tensor parallelism: feed-forward and output projection over the processes of a mesh."""
    plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    plan["out"] = RowwiseParallel(input_layouts=Replicate())
    for block in model.blocks:
        parallelize_module(block, mesh, plan)
    return model


def split_sequences(model: SmallGPT, mesh: DeviceMesh) -> SmallGPT:
    """Sequence parallelism: each process of a mesh holds half of the tokens of the stream."""
    halves = Shard(1)
    inside = {
        "norm_1": SequenceParallel(use_local_output=False),
        "qkv": ColwiseParallel(input_layouts=halves, output_layouts=Replicate()),
        "out": RowwiseParallel(input_layouts=Replicate(), output_layouts=halves),
        "norm_2": SequenceParallel(use_local_output=False),
        "up": ColwiseParallel(input_layouts=halves),
        "down": RowwiseParallel(output_layouts=halves),
    }
    for block in model.blocks:
        parallelize_module(block, mesh, inside)
    outside = {
        "tokens": RowwiseParallel(input_layouts=Replicate(), output_layouts=halves),
        "positions": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(0)),
        "norm": SequenceParallel(use_local_output=False),
        "head": ColwiseParallel(input_layouts=halves, output_layouts=Replicate()),
    }
    parallelize_module(model, mesh, outside)
    return model


class Stage(nn.Module):
    """Some blocks of a `SmallGPT`, with the embeddings before or norm and head behind them."""

    def __init__(self, model: SmallGPT, numbers: range, *, first: bool) -> None:
        super().__init__()
        self.first, self.last = first, numbers.stop == len(model.blocks)
        self.reentrant = model.reentrant
        self.blocks = nn.ModuleDict({str(n): model.blocks[n] for n in numbers})
        names = ["tokens", "positions"] if self.first else []
        names += ["norm", "head"] if self.last else []
        self.rest = nn.ModuleDict({name: getattr(model, name) for name in names})

    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            x = self.rest["tokens"](x) + self.rest["positions"](torch.arange(x.shape[1]))
        for block in self.blocks.values():
            x = block(x) if self.reentrant is None else checkpoint(block, x, use_reentrant=False)
        return self.rest["head"](self.rest["norm"](x)) if self.last else x


def staged(kind: str, rank: int) -> nn.Module:
    """What this process holds of a pipeline: one stage, or a list of them."""
    model = built(layers=LAYERS[kind], checkpointing=CHECKPOINTING.get(kind))[0]
    if kind == "uneven":
        model.blocks[-1].heads *= 2
    if kind not in STAGES:
        return Stage(model, SPLIT[kind][rank], first=rank == 0)
    return nn.ModuleList(
        Stage(model, SPLIT[kind][stage], first=stage == 0) for stage in STAGES[kind][rank]
    )


def full_weights(model: nn.Module) -> dict[str, np.ndarray]:
    """Every parameter, gathered where it is sharded."""
    weights: dict[str, np.ndarray] = {}
    for name, parameter in model.named_parameters():
        value: Any = parameter.detach()
        value = value.full_tensor() if hasattr(value, "full_tensor") else value
        weights[name.removeprefix("module.")] = value.numpy()
    return weights


def slow_down() -> None:
    """A server that takes a second to answer, where processes give up after half of that."""
    agreement.TIMEOUT_S = 0.5
    send = RecordingTransport.send

    def later(*args: Any) -> Any:
        time.sleep(1.0)
        return send(*args)

    RecordingTransport.send = later  # type: ignore[method-assign]


def be_patient() -> None:
    """A process that is late because the machine is busy is none that will never come."""
    for module in (agreement, spec_exchange):
        module.TIMEOUT_S = PATIENCE_S
    rendezvous.BARRIER_TIMEOUT_S = PATIENCE_S


def main(kind: str, rank: int, port: int, folder: Path) -> None:
    """Train, watched as `kind` says, and leave weights and frames in the folder."""
    torch.set_num_threads(1)
    kind, watched = kind.removesuffix("-bare"), not kind.endswith("bare")
    distributed.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=PROCESSES.get(kind, WORLD),
    )
    in_stages = kind in SPLIT
    model = staged(kind, rank) if in_stages else wrapped(kind, built()[0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    options: dict[str, Any] = dict(OPTIONS.get(kind, EVERYTHING))
    if in_stages:
        local = STAGES[kind][rank] if kind in STAGES else rank
        options |= {"pipeline": (local, len(SPLIT[kind])), **STAGED}
    agent, transport = None, RecordingTransport()
    if kind not in IMPATIENT:
        be_patient()
    if kind == "slow-server":
        slow_down()
    if kind == "stop-apart":
        collective.TIMEOUT_S = 1.0
    if watched and (not kind.endswith("alone") or rank == 0):
        agent, transport = recorded(model, folder / f"spool-{rank}", optimizer=optimizer, **options)
    run = pipelined(kind, model, rank) if in_stages else partial(backward_of, kind, model, rank)
    for step in range(LONGER.get(kind, STEPS)):
        # A process that is watched alone learns that at the end of step 0.
        command_step = 0 if kind == "alone" else 5
        if step == command_step and rank == 0 and agent is not None and kind in COMMANDS:
            # As the sender does with what the server answers.
            agent._parts.dispatcher.dispatch(COMMANDS[kind])
        if step == 12 and rank == 1 and agent is not None and kind == "stop-apart":
            # Its command is announced by now, and not yet scheduled.
            agent._parts.processes.detach(RuntimeError("on its own"))
        optimizer.zero_grad()
        loss = run(batch(step, size=4))
        if not in_stages and kind not in ("tensor", "sequence", "grid", "grid-sequence"):
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if agent is not None:
            agent.step(loss=loss)
            if agent.should_stop:
                break
    if agent is not None:
        agent.close(30.0)
    results = {"last_step": np.array(step), "alerts": np.array(len(ALERTS))}
    np.savez(folder / f"weights-{rank}.npz", **results, **full_weights(model))
    keep(transport, folder / f"frames-{rank}.npz")
    distributed.destroy_process_group()
    # A gloo group that torch destroys right after a collective may wait for itself for ever.
    os._exit(0)


def backward_of(kind: str, model: nn.Module, rank: int, ids: Tensor) -> Tensor:
    """The loss on this process's part of a batch, and its gradients."""
    rank = rank // 2 if kind.startswith("grid") else rank
    ids = ids if kind in ("tensor", "sequence") else ids[rank::WORLD]
    loss = loss_of(model, ids)
    loss.backward()
    return loss


def pipelined(kind: str, model: nn.Module, rank: int) -> Callable[[Tensor], Tensor | None]:
    """Runs a batch through all stages, as two micro-batches."""
    modules = zip(STAGES[kind][rank], model, strict=True) if kind in STAGES else [(rank, model)]
    stages = [
        PipelineStage(module, number, len(SPLIT[kind]), torch.device("cpu"))
        for number, module in modules
    ]
    options: dict[str, Any] = {"n_microbatches": 2, "loss_fn": loss_of_logits}
    if kind in STAGES:
        schedule = SCHEDULES[kind](stages, **options)
    else:
        schedule = ScheduleGPipe(stages[0], **options)

    def through(method: Callable[..., Any], ids: Tensor) -> Tensor | None:
        inputs = [ids[:, :-1]] if stages[0].is_first else []
        if not stages[-1].is_last:
            method(*inputs)
            return None
        losses: list[Tensor] = []
        method(*inputs, target=ids[:, 1:], losses=losses)
        return torch.stack(losses).mean()

    def run(ids: Tensor) -> Tensor | None:
        if kind == "looped":  # after an evaluation a schedule rehearses the next step again
            through(schedule.eval, ids)
        return through(schedule.step, ids)

    return run


def describe_in_parts(_kind: str, rank: int, port: int, folder: Path) -> None:
    """Describe a GPT-2 with its loss, then the same one sharded; leave both on rank 0."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=50)).eval()
    ids = torch.randint(50, (2, 8))
    full = describe(model, {"input_ids": ids, "labels": ids})
    for block in model.transformer.h:
        fully_shard(block)
    parts = describe(fully_shard(model), {"input_ids": ids, "labels": ids})
    if rank == 0:
        for name, spec in (("full", full), ("parts", parts)):
            (folder / name).write_text(json.dumps(spec_to_json(spec)))
    distributed.destroy_process_group()


def read_split_heads(_kind: str, rank: int, port: int, folder: Path) -> None:
    """Read a Llama off a pass, then one whose heads and hidden features lie over the processes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 50}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads)).train()
    ids = torch.randint(50, (2, 8))
    read = [read_off(model, ids)]
    columns = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    plan: dict[str, Any] = dict.fromkeys((*columns, "mlp.gate_proj", "mlp.up_proj"))
    plan = {name: ColwiseParallel() for name in plan}
    plan |= {name: RowwiseParallel() for name in ("self_attn.o_proj", "mlp.down_proj")}
    for layer in model.model.layers:
        parallelize_module(layer, init_device_mesh("cpu", (WORLD,)), plan)
    read.append(read_off(model, ids))
    if rank == 0:
        (folder / "read").write_text(json.dumps([repr(one.stacks) for one in read]))
    distributed.destroy_process_group()


def read_off(model: nn.Module, ids: Tensor) -> Architecture:
    """The architecture as one training pass shows it."""
    recognition = Recognition(model)
    recognition.open()
    return recognition.finish(model(input_ids=ids))


def sum_in_parts(_kind: str, rank: int, port: int, folder: Path) -> None:
    """Sums over thirds of a matrix of uneven parts, split by tensor parallelism and FSDP2."""
    distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=4
    )
    torch.manual_seed(0)
    linear = nn.Linear(5, 21)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    slices = [("weight", ((start, start + 7),), 0) for start in (0, 7, 14)]
    slices += [("weight", ((1, 3), (4, 5)), 1), ("bias", ((2, 9),), 0), ("bias", (), 0)]
    full = weight_sums(dict(linear.named_parameters()), slices)
    fully_shard(parallelize_module(linear, mesh["tensor"], ColwiseParallel()), mesh=mesh["data"])
    parts = weight_sums(dict(linear.named_parameters()), slices).added_up(over_all_processes)
    if rank == 0:
        np.savez(folder / "sums.npz", full=full.rows, parts=parts.rows)
    distributed.destroy_process_group()


def keep(transport: RecordingTransport, target: Path) -> None:
    """Leave what was sent: the first frame by series, the second as well, the description."""
    if not transport.frames:
        return
    layouts = {layout.hash: layout for layout in (d.layout for d in transport.declarations)}
    values: dict[str, np.ndarray] = {}
    for at, prefix in ((0, ""), (1, "second|")):
        for key in layouts[transport.frames[at].layout].slices:
            values[prefix + key.replace("/", "|")] = transport.series(key, at=at)
    steps = np.array([frame.step for frame in transport.frames])
    reason = np.array(transport.health.first_failure)
    health = transport.health
    notes = {
        "burst": np.array([health.burst, health.burst_note]),
        "dropped": np.array(health.dropped_sites),
    }
    closer = [
        transport.series("decoder/stream/variance", at)
        for at in range(len(steps))
        if transport.holds("/burst_layers/value", at)
        and transport.series("/burst_layers/value", at)[0] > 0
    ]
    np.savez(target, steps=steps, reason=reason, closer=np.array(closer), **notes, **values)
    specs = [
        {"step": revision.step, "spec": revision.spec, "flows": revision.flows}
        for revision in transport.revisions
    ]
    target.with_suffix(".json").write_text(json.dumps(specs))
