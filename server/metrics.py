"""Counters of one server process, in a registry of their own so that two can share a process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """What ``/metrics`` shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.frames_accepted = Counter(
            "evenkeel_frames_accepted", "Frames put on the bus.", registry=registry
        )
        self.frames_committed = Counter(
            "evenkeel_frames_committed", "Frames committed to the database.", registry=registry
        )
        self.frames_duplicate = Counter(
            "evenkeel_frames_duplicate", "Frames that were already stored.", registry=registry
        )
        self.entries_rejected = Counter(
            "evenkeel_entries_rejected", "Bus messages that cannot be stored.", registry=registry
        )
        self.commit_seconds = Histogram(
            "evenkeel_commit_seconds", "Time of one writer transaction.", registry=registry
        )
        self.worker_failures = Counter(
            "evenkeel_worker_failures", "Failures of a worker.", ["worker"], registry=registry
        )
        self.frames_packed = Counter(
            "evenkeel_frames_packed", "Frames moved into segments.", registry=registry
        )
        self.frames_judged = Counter(
            "evenkeel_frames_judged", "Frames judged by the alert rules.", registry=registry
        )
        self.runs_unjudged = Gauge(
            "evenkeel_runs_unjudged",
            "Runs with frames that wait for this process to judge them.",
            registry=registry,
        )
        self.judging_lag = Gauge(
            "evenkeel_judging_lag_seconds",
            "For how long the run that waits longest has had frames that are not judged.",
            registry=registry,
        )
        self.disk_free = Gauge(
            "evenkeel_disk_free_bytes",
            "Free space where the embedded database is.",
            registry=registry,
        )
        self.deliveries = Counter(
            "evenkeel_alert_deliveries",
            "Attempts to send alerts, by target and outcome (delivered, retried, given_up).",
            ["target", "outcome"],
            registry=registry,
        )
        self.live_clients = Gauge("evenkeel_live_clients", "Open live pages.", registry=registry)
        self.bus_pending = Gauge(
            "evenkeel_bus_pending", "Batches waiting for the writer.", registry=registry
        )

    def text(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)
