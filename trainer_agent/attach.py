"""`watch`: the one call that puts an agent beside a training loop."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from trainer_agent.agent import Agent, close_former, is_open
from trainer_agent.capture.custom_sites import custom_sites as find_custom_sites
from trainer_agent.commands.alert_actions import Action, read_actions
from trainer_agent.delivery.http_transport import HttpTransport
from trainer_agent.description.hints import Hint, HintError, check_modules
from trainer_agent.description.planning import plan_by_structure
from trainer_agent.description.trace.replay import call_arguments
from trainer_agent.errors import WatchError
from trainer_agent.job.optimizer import OptimizerArgument, optimizers_of
from trainer_agent.model.chunks import called_modules, chunks_of, sites_in
from trainer_agent.model.sites import CustomSite
from trainer_agent.model.unwrap import unwrap
from trainer_agent.options import (
    SPOOL_LIMIT_BYTES,
    Options,
    Pipeline,
    PipelineArgument,
    read_options,
)


def watch(
    model: nn.Module,
    *,
    project: str,
    run: str,
    optimizer: OptimizerArgument = None,
    scaler: Any = None,
    server: str | None = None,
    key: str | None = None,
    overhead: float | None = None,
    every: int | None = None,
    tags: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
    spool_dir: str | os.PathLike[str] | None = None,
    spool_limit_bytes: int = SPOOL_LIMIT_BYTES,
    rank: int = 0,
    resume: str | None = None,
    take_over: bool | None = None,
    pipeline: PipelineArgument | None = None,
    sites: Sequence[str] | str = (),
    quantities: Sequence[str] | str = (),
    custom_sites: Mapping[str, str] | None = None,
    on_alert: Action | Sequence[Action] | None = None,
    hints: Sequence[Hint] = (),
    batch: Tensor | Mapping[str, Any] | None = None,
    token_axis: int | None = None,
) -> Agent:
    """Measure `model` while it trains and send what is measured to the server.

    Call it once the model is on its device and before ``torch.compile``; then call
    ``agent.step(loss=loss)`` after every optimizer step.

    Args:
        model: the model that trains.
        project, run: how the run is filed and shown. Another model that this process watches under
            the same two is closed: a notebook's cell may run again.
        optimizer: read for the learning rate and the norm of the gradients; several as a list or
            a dictionary.
        scaler: the ``torch.amp.GradScaler``; found by itself where the process has one.
        server, key: where to send; default ``EVENKEEL_URL``, ``EVENKEEL_KEY``.
        overhead: share of the job's time that measuring may take, default 0.01. The first two
            steps are measured whatever they cost, two more where that is cheap, then as many as
            this allows.
        every: measure every so many optimizer steps instead, whatever it costs.
        tags: words to find the run by.
        config: the run's settings, shown as they are.
        spool_dir: folder where frames wait for the server; default ``EVENKEEL_SPOOL_DIR`` or
            the user's state folder.
        spool_limit_bytes: how much may wait there; the oldest frames go first.
        rank: which process of a distributed job this is.
        resume: the run to go on with after a restart: its id, or a name of the job that every
            restart repeats (a scheduler's job id), or ``"auto"``: the run of this project and
            name, wherever it ran. Default ``EVENKEEL_RUN_ID``, else a new run. Where a
            checkpoint carries ``agent.state_dict()`` it is not needed.
        take_over: send though another process holds this run, which sends no more from then on.
            Without it the server refuses the later of two jobs until the earlier one has ended or
            was silent for 30 s; its frames wait meanwhile. Default ``EVENKEEL_TAKE_OVER``, else no.
        pipeline: which stage of how many `model` is, from 0, where a pipeline spreads the layers
            over processes; every process watches its own stage, and one run shows all layers.
            Where a process holds several (interleaved schedules), `model` is an
            ``nn.ModuleList`` of them and this names the stage of each: ``([0, 2], 4)``.
        sites: measured beyond the default, off unless named: ``"norm_inputs"``,
            ``"attention_heads"``, ``"weights"``, ``"updates"``, ``"log_z"``, or ``"all"``.
        quantities: of every tensor measured, beyond the default: ``"rms"``, ``"absmax"``,
            ``"kurtosis"``, ``"zeros"``, ``"nonfinite"``, ``"ranks"``, ``"ranges"``, ``"all"``, or
            one of a group by its own name.
        custom_sites: outputs of modules to measure, as names of sites and patterns of module
            paths: ``{"activation": "blocks.*.mlp.act"}``. In a pipeline seen from each stage.
        hints: what the description of the model cannot see by itself, or sees wrongly.
        batch: what the model's forward takes, a tensor or a dict passed as keywords. Only needed
            where the model, its blocks or functions of its code are compiled: what they compute is
            then read from one forward pass on this batch, without gradients, and branches are
            measured. Without it the agent never runs the model. Sharded models and stages of a
            pipeline take none.
        token_axis: 1 where the streams are (batch, seq, features), 0 where they are (seq, batch,
            features). Told by the first attention calls where it is left out.
        on_alert: what to do when the server opens an alert, nothing by default: a function of one
            argument (`wire.AlertNotice`), called at the end of a step; ``"stop"`` sets
            ``agent.should_stop`` and ``"checkpoint"`` ``agent.should_save`` on a critical one, for
            the loop to look at; ``"skip_step"`` waits for no alert and skips updates whose
            gradient norm is not finite or 20 times the usual. Or several of these.

    Raises:
        WatchError: naming the argument that cannot be used, and the fix. Nothing raises later.
    """
    _check_objects(model, optimizer, scaler)
    options = read_options(
        project=project,
        run=run,
        server=server,
        key=key,
        overhead=overhead,
        every=every,
        tags=tags,
        config=config,
        spool_dir=spool_dir,
        spool_limit_bytes=spool_limit_bytes,
        rank=rank,
        resume=resume,
        take_over=take_over,
        pipeline=pipeline,
        sites=sites,
        quantities=quantities,
        token_axis=token_axis,
    )
    options = replace(options, on_alert=read_actions(on_alert))
    if "skip_step" in options.on_alert and not all(
        hasattr(each, "register_step_pre_hook") for each in optimizers_of(optimizer) or (None,)
    ):
        raise WatchError("on_alert", '"skip_step" needs an optimizer', fix="pass optimizer=")
    _check_chunks(model, options.pipeline)
    for module in called_modules(model):
        _check_hints(module, hints)
    custom = () if custom_sites is None else sites_of(model, options, custom_sites, hints)
    former = close_former(options)
    # Two agents of one run and rank would number their frames alike, and lose half of them.
    if options.run_id is not None and is_open(options.run_id, options.rank):
        raise WatchError(
            "resume",
            f"run {options.run_id} is watched in this process already",
            fix="give each model a resume of its own",
        )
    transport = partial(HttpTransport, options.server, options.key)
    agent = Agent(
        model,
        options,
        optimizer=optimizer,
        scaler=scaler,
        transport=transport,
        custom=custom,
        hints=hints,
    )
    if batch is not None:
        _prepare(agent, batch)
    # Printed, not logged: a job without logging set up would hide the address.
    if agent.is_sender:
        ended = f" (in the place of {', '.join(former)}, which is closed)" if former else ""
        print(f"evenkeel: {agent.url}{ended}", flush=True)
    return agent


def _check_objects(model: Any, optimizer: Any, scaler: Any) -> None:
    if not isinstance(model, nn.Module):
        raise WatchError(
            "model", f"{type(model).__name__} is no torch module", fix="pass the model"
        )
    try:
        optimizers = optimizers_of(optimizer)
    except TypeError:
        optimizers = (optimizer,)
    for each in optimizers:
        if not hasattr(each, "param_groups"):
            raise WatchError(
                "optimizer",
                f"{type(each).__name__} has no param_groups",
                fix="pass the optimizer, or a list of optimizers",
            )
    if scaler is not None and not hasattr(scaler, "get_scale"):
        raise WatchError(
            "scaler", f"{type(scaler).__name__} has no get_scale", fix="pass the GradScaler"
        )


def sites_of(
    model: nn.Module, options: Options, patterns: Mapping[str, str], hints: Sequence[Hint] = ()
) -> tuple[CustomSite, ...]:
    """The modules that `custom_sites` names, in each chunk of the model; raises `WatchError`."""
    local_stages, _ = options.pipeline or (None, None)
    sites: list[CustomSite] = []
    for chunk in chunks_of(model, local_stages):
        plan = plan_by_structure(chunk.module, hints)
        required = local_stages is None  # a pipeline's other stages may have the modules
        in_chunk = find_custom_sites(chunk.module, plan, patterns, required=required)
        sites += sites_in(chunk, in_chunk)
    return tuple(sites)


def _check_chunks(model: nn.Module, pipeline: Pipeline | None) -> None:
    if pipeline is None:
        return
    stages, chunks = len(pipeline[0]), len(called_modules(model))
    if stages != chunks:
        raise WatchError(
            "pipeline",
            f"{stages} stages are named, and the model is {chunks} chunks",
            fix="give watch(nn.ModuleList([chunk, ...]), pipeline=([stage, ...], stages)), "
            "one stage for each chunk",
        )


def _check_hints(model: nn.Module, hints: Sequence[Hint]) -> None:
    for hint in hints:
        if not isinstance(hint, Hint):
            raise WatchError("hints", f"{hint!r} is none", fix="give trainer_agent.Hint objects")
    try:
        plan_by_structure(model, hints)
        check_modules(unwrap(model), hints)
    except HintError as error:
        raise WatchError(error.field, error.fix, fix="name modules of this model") from None


def _prepare(agent: Agent, batch: Tensor | Mapping[str, Any]) -> None:
    try:
        agent.prepare(*call_arguments(batch))
    except Exception as error:
        agent.close(0.0)
        raise WatchError(
            "batch", f"the model cannot run on it ({error})", fix="give what its forward takes"
        ) from error
