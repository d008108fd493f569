"""The tables: what is detected, when, with which cause, and what healthy runs are told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median

from benchmarks.alerts.judge import Judged
from benchmarks.alerts.peers import PEERS

USABLE = 2.0  # false alarms in 1,000 healthy steps that somebody may put up with


def report(title: str, runs: Sequence[Judged], *, misses: bool) -> None:
    """Print what was found on one half of the corpus."""
    failed = [run for run in runs if run.failed]
    healthy = [run for run in runs if not run.recipe.fault]
    harmless = len(runs) - len(failed) - len(healthy)
    steps = sum(run.recipe.steps for run in healthy)
    print(
        f"\n{title}: {len(runs)} runs, {len(failed)} failed, {len(healthy)} healthy of {steps} "
        f"steps, {harmless} with a fault that did no harm"
    )
    print(f"{'':22}{'detected':>14}{'after':>8}{'false in 1,000':>16}")
    _line("every step sampled", [_first(run, run.opened) for run in failed], failed)
    _false([len(run.opened) for run in healthy], steps)
    _line("few steps sampled", [_first(run, run.sparse) for run in failed], failed)
    _false([len(run.sparse) for run in healthy], steps)
    for name in PEERS:
        _line(name, [_peer(run, name) for run in failed], failed)
        _false([len(run.peers[name]) for run in healthy], steps)
    usable = [
        name
        for name in PEERS
        if sum(len(run.peers[name]) for run in healthy) <= USABLE * steps / 1000
    ]
    _causes(failed, usable)
    rise = max(run.rise for run in healthy)
    print(f"losses of healthy runs rose by at most {rise:.1f} standard errors")
    _by_fault(failed)
    if misses:
        _misses(failed, healthy)


def _first(run: Judged, opened: list) -> int | None:  # type: ignore[type-arg]
    alert = run.after_fault(opened)
    return None if alert is None else alert.step - run.recipe.at


def _peer(run: Judged, name: str) -> int | None:
    return next((at - run.recipe.at for at in run.peers[name] if at >= run.recipe.at), None)


def _line(name: str, firsts: Sequence[int | None], failed: Sequence[Judged]) -> None:
    steps = [first for first in firsts if first is not None]
    share = f"{len(steps)} of {len(failed)}"
    print(f"{name:22}{share:>14}{median(steps) if steps else float('nan'):>8.0f}", end="")


def _false(counts: Sequence[int], steps: int) -> None:
    print(f"{1000 * sum(counts) / max(steps, 1):>16.2f}", flush=True)


def _causes(failed: Sequence[Judged], usable: Sequence[str]) -> None:
    alerts = [(run, alert) for run in failed if (alert := run.after_fault(run.opened))]
    right = sum(run.names_cause(alert) for run, alert in alerts)
    layers = [named for run, alert in alerts if (named := run.names_layer(alert)) is not None]
    print(
        f"first alert's cause right in {right} of {len(alerts)}, its layer in {sum(layers)} of "
        f"{len(layers)}"
    )
    for names in (usable, list(PEERS)):
        before, both = 0, 0
        for run, alert in alerts:
            peers = [at for name in names if (at := _peer(run, name)) is not None]
            both += bool(peers)
            before += bool(peers) and alert.step - run.recipe.at < min(peers)
        print(f"before {' and '.join(names)} in {before} of {both} that both see")


def _by_fault(failed: Sequence[Judged]) -> None:
    for fault in dict.fromkeys(run.recipe.fault for run in failed):
        of_fault = [run for run in failed if run.recipe.fault == fault]
        rules = Counter(
            alert.key.rule if (alert := run.after_fault(run.opened)) else "–" for run in of_fault
        )
        names = ", ".join(f"{rule} {n}" for rule, n in rules.most_common())
        print(f"  {fault:28}{len(of_fault):>3}  {names}")


def _misses(failed: Sequence[Judged], healthy: Sequence[Judged]) -> None:
    for run in failed:
        if run.after_fault(run.opened) is None:
            print(f"missed: {run.recipe.name}, at {run.recipe.at}; peers {run.peers}")
    for run in healthy:
        for alert in run.opened:
            print(f"false: {run.recipe.name}, at {run.recipe.at}: {alert.key.rule} at {alert.step}")
