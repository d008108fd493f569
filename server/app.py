"""The server as one ASGI app: API, health, workers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

from fastapi import APIRouter, FastAPI, Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.middleware.gzip import GZipMiddleware

from server import error_handlers, health, migration
from server.access import endpoints as access
from server.access import sessions
from server.access.middleware import AccessMiddleware
from server.alerts import endpoints as alerts
from server.alerts.incidents import endpoints as incidents
from server.alerts.incidents.ended_silences import watch_silences
from server.alerts.user_rules import endpoints as user_rules
from server.app_state import AppState
from server.attribution import endpoints as attribution
from server.bus import open_bus
from server.cache_control import CacheControlMiddleware
from server.clock import Clock, system_clock
from server.database import connect
from server.diagnosis.watchdog import watch
from server.diagnosis.worker import DiagnosisWorker
from server.errors import NotFound
from server.ingest import endpoints as ingest
from server.ingest.writer import write
from server.live import endpoints as live
from server.live.hub import Hub
from server.metrics import Metrics
from server.outbox import endpoints as deliveries
from server.outbox.channel_workers import ChannelWorkers
from server.outbox.channels import endpoints as channels
from server.outbox.housekeeping import tidy
from server.outbox.outbox import Outbox
from server.outbox.signing import Signer
from server.outbox.targets import Target, open_targets
from server.outbox.worker import DeliveryWorker
from server.predictions import endpoints as predictions
from server.predictions.worker import predict
from server.probe import Probe
from server.profiles import endpoints as profiles
from server.profiles import export
from server.runs import endpoints as runs
from server.schemas import Failure
from server.settings import Settings
from server.storage.compaction import compact
from server.workers import Workers

API = "/api/v1"
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def create_app(settings: Settings | None = None, *, clock: Clock = system_clock) -> FastAPI:
    """The app of these settings (the environment's when None); pages may be mounted beside it.

    Raises:
        StartError: if the settings name something that cannot be used.
    """
    settings = settings or Settings()
    database, metrics = connect(settings.resolved_database_url), Metrics()
    state = AppState(
        settings=settings,
        database=database,
        bus=open_bus(settings),
        clock=clock,
        metrics=metrics,
        probe=Probe(settings, database, metrics),
    )
    app = FastAPI(
        title="evenkeel",
        version="1",
        lifespan=_lifespan,
        openapi_url=f"{API}/openapi.json",
        docs_url=None,  # FastAPI's pages load their scripts from a CDN
        redoc_url=None,
    )
    app.state.server = state
    app.state.cookie_secret = secret = sessions.secret_of(settings)
    app.state.hub = Hub(state.bus, state.database, state.metrics)
    app.state.targets = targets = _targets(settings)
    names = {target.id: target.name for target in targets}
    app.state.outbox = outbox = Outbox(
        names, give_up_s=settings.delivery_give_up_s, public_url=settings.public_url
    )
    app.state.workers = Workers(
        state.metrics, lambda task: state.database.serves(task) or outbox.sends(task)
    )
    app.state.channel_workers = ChannelWorkers(
        app.state.workers, outbox, state.database, state.clock, state.metrics.deliveries
    )
    app.state.diagnosis = DiagnosisWorker(state, outbox)
    # The last one added runs first: access is checked before anything else looks at a request.
    app.add_middleware(GZipMiddleware, minimum_size=2048, compresslevel=4)
    app.add_middleware(CacheControlMiddleware)
    app.add_middleware(AccessMiddleware, settings=settings, secret=secret, clock=clock)
    error_handlers.install(app)
    _route(app)
    return app


def _targets(settings: Settings) -> list[Target]:
    secrets = [secret.get_secret_value() for secret in settings.webhook_secrets]
    return open_targets(settings.webhooks, Signer(secrets))


def _route(app: FastAPI) -> None:
    app.include_router(health.router)
    app.include_router(access.router)
    judging = (predictions, attribution, alerts, incidents, user_rules, deliveries, channels)
    for endpoints in (ingest, runs, profiles, export, *judging, live):
        app.include_router(endpoints.router, prefix=API, responses={"4XX": {"model": Failure}})
    # Last, so that it answers what nothing above has, and before a mounted page's catch-all does.
    app.include_router(_unknown)


_unknown = APIRouter(include_in_schema=False)


@_unknown.api_route("/api/{path:path}", methods=METHODS)
async def unknown_path(request: Request, path: str) -> None:  # noqa: ARG001
    """A 404 in the API's own form for a path that the API does not have."""
    raise NotFound(
        f"there is no {request.method} {request.url.path}",
        fix=f"see {API}/openapi.json for what there is",
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state: AppState = app.state.server
    try:
        await migration.prepare(state.settings, state.database)
        async with app.state.workers.running(_turns(app)):
            yield
    finally:
        await app.state.channel_workers.close()
        with suppress(OSError, SQLAlchemyError):  # a database that is away frees its runs later
            await app.state.diagnosis.close()
        for target in app.state.targets:
            await target.close()
        await state.bus.close()
        await state.database.close()


def _turns(app: FastAPI) -> dict[str, Callable[[], Awaitable[None]]]:
    """One turn of each background worker, by the worker's name."""
    state: AppState = app.state.server
    hub: Hub = app.state.hub
    outbox: Outbox = app.state.outbox
    return {
        "probe": state.probe.turn,
        "writer": partial(write, state),
        "diagnosis": app.state.diagnosis.turn,
        "predictor": partial(predict, state),
        "watchdog": partial(watch, state, outbox),
        "compaction": partial(compact, state),
        "pages": hub.listen,
        "summaries": hub.summarise,
        "silences": partial(watch_silences, state.database, outbox, state.clock),
        "deliveries": partial(tidy, state.database, state.clock),
        "channels": app.state.channel_workers.turn,
        **_delivery_turns(state, outbox, app.state.targets),
    }


def _delivery_turns(
    state: AppState, outbox: Outbox, targets: Sequence[Target]
) -> dict[str, Callable[[], Awaitable[None]]]:
    delivering = {
        target.id: DeliveryWorker(
            target, outbox, state.database, state.clock, state.metrics.deliveries
        )
        for target in targets
    }
    return {f"delivery {target_id}": worker.turn for target_id, worker in delivering.items()}
