"""The lines that a checked script would have to add."""

from __future__ import annotations

from collections.abc import Iterator

from trainer_agent.check.places import LoopPlace

CALLBACKS = {
    "transformers": (
        "from trainer_agent.integrations.transformers import EvenkeelCallback",
        'Trainer(..., callbacks=[EvenkeelCallback(project="{project}")])',
    ),
    "lightning": (
        "from trainer_agent.integrations.lightning import EvenkeelCallback",
        'Trainer(..., callbacks=[EvenkeelCallback(project="{project}", run="first")])',
    ),
}


def lines_to_add(place: LoopPlace | None, project: str) -> Iterator[str]:
    """Yield what to add to a script, and where."""
    place = place or LoopPlace("")
    if place.framework in CALLBACKS:
        yield from ("", "to watch it, add")
        for line in CALLBACKS[place.framework]:
            yield "    " + line.format(project=project)
        return
    model, optimizer = place.model or "model", place.optimizer or "optimizer"
    loss = f"loss={place.loss}" if place.loss else "loss=loss"
    yield ""
    if place.framework == "accelerate":
        yield "to watch it, add after accelerator.prepare(…)"
        yield "    from trainer_agent.integrations.accelerate import watch"
        arguments = f'accelerator, {model}, {optimizer}, project="{project}", run="first"'
        yield f"    agent = watch({arguments})"
    else:
        yield "to watch it, add before the loop, and before any torch.compile"
        yield "    import trainer_agent"
        arguments = f'{model}, project="{project}", run="first", optimizer={optimizer}'
        yield f"    agent = trainer_agent.watch({arguments})"
    where = f" (line {place.line} of {place.file})" if place.line else ""
    yield f"and after the optimizer's step{where}"
    yield f"    agent.step({loss})"
