"""``evenkeel``: serve, demo, predict, runs, show, alerts, tail, export, mcp, key, login, doctor.

A command imports what it needs when it runs: the database's packages take half a second.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from evenkeel import __version__, keys
from evenkeel.options import (
    DEFAULT_URL,
    DatabaseUrl,
    DataDir,
    Host,
    Port,
    RedisUrl,
    ServerKey,
    ServerUrl,
    clean_exit,
    settings_from,
)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Watch the stability of live transformer training.",
)
app.add_typer(keys.app, name="key")
AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")]
RunName = Annotated[str, typer.Argument(help="Id, name or project/name of a run.")]
DEMO_FOLDER = Path(".evenkeel/demo")


def print_version(requested: bool) -> None:
    """Print the version and end, where ``--version`` was given."""
    if requested:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Watch the stability of live transformer training."""


@app.command()
def serve(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    redis_url: RedisUrl = None,
) -> None:
    """Serve API and dashboard on one port, until interrupted."""
    from evenkeel.serving import announce, run_server

    with clean_exit():
        settings = settings_from(
            host=host,
            port=port,
            data_dir=data_dir,
            database_url=database_url,
            redis_url=redis_url,
        )
        run_server(settings, partial(announce, settings))


@app.command()
def demo(
    port: Port = None,
    data_dir: Annotated[Path, typer.Option(help="Folder of the demo's runs.")] = DEMO_FOLDER,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of each job.")] = 600,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open a browser.")] = True,
) -> None:
    """Train three byte-level GPTs and show them live."""
    from evenkeel.demo.command import run_demo

    with clean_exit():
        settings = settings_from(host="127.0.0.1", port=port, data_dir=data_dir)
        run_demo(settings, steps=steps, open_page=open_page)


@app.command()
def runs(
    search: Annotated[str, typer.Argument(help="Words of a name, project or tag.")] = "",
    *,
    as_json: AsJson = False,
    server: ServerUrl = DEFAULT_URL,
    key: ServerKey = None,
) -> None:
    """List the runs of a server, newest first."""
    from evenkeel.runs import print_runs

    with clean_exit():
        print_runs(server, key, search=search, as_json=as_json)


@app.command()
def show(
    run: RunName,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    server: ServerUrl = DEFAULT_URL,
    key: ServerKey = None,
) -> None:
    """Say how a run is: what is wrong, since when, in which layers, and what to do."""
    from evenkeel.reading import show as answer

    with clean_exit():
        answer(server, key, run, as_json=as_json)


@app.command()
def alerts(
    run: Annotated[str | None, typer.Argument(help="Id, name or project/name; all runs.")] = None,
    *,
    status: Annotated[
        Literal["open", "acknowledged", "resolved", "any"], typer.Option(help="Which of them.")
    ] = "open",
    as_json: AsJson = False,
    server: ServerUrl = DEFAULT_URL,
    key: ServerKey = None,
) -> None:
    """List alerts, newest first; those of one fault are one line."""
    from evenkeel.reading import alerts as answer

    with clean_exit():
        answer(server, key, run, status, as_json=as_json)


@app.command()
def tail(
    run: RunName,
    *,
    as_json: AsJson = False,
    server: ServerUrl = DEFAULT_URL,
    key: ServerKey = None,
) -> None:
    """Print a run's loss, learning rate and alerts as they come, until it ends."""
    from evenkeel.reading import tail as answer

    with clean_exit():
        answer(server, key, run, as_json=as_json)


@app.command()
def mcp(server: ServerUrl = DEFAULT_URL, key: ServerKey = None) -> None:
    """Answer a coding assistant's questions on runs: an MCP server on standard input and output."""
    from evenkeel.mcp_server import serve_stdio

    with clean_exit():
        serve_stdio(server, key)


@app.command()
def export(
    run_id: str,
    output: Annotated[Path | None, typer.Option(help="File; default RUN_ID.FORMAT.")] = None,
    file_format: Annotated[Literal["parquet", "csv"], typer.Option("--format")] = "parquet",
    server: ServerUrl = DEFAULT_URL,
    key: ServerKey = None,
) -> None:
    """Write every frame of a run to a file: a row a step, a column a value."""
    from evenkeel.runs import export_run

    with clean_exit():
        target = output or Path(f"{run_id}.{file_format}")
        written = export_run(server, key, run_id, target, file_format=file_format)
        print(f"{target}: {written:,} bytes")


@app.command()
def predict(
    config: Annotated[
        Path | None, typer.Argument(help="A transformers config.json, or the folder it is in.")
    ] = None,
    *,
    run: Annotated[str | None, typer.Option(help="Id of a server's run, in its place.")] = None,
    server: ServerUrl = DEFAULT_URL,
    key: ServerKey = None,
    context: Annotated[
        int | None, typer.Option(min=2, help="Tokens per sequence; 128 unless given.")
    ] = None,
    weights: Annotated[
        Literal["init", "today", "both"] | None, typer.Option(help="Which of a run's models.")
    ] = None,
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            help="pre-ln, post-ln, layers=N, deepscale, deepscale=FORM, deepnorm, …; repeatable."
        ),
    ] = None,
    top_gradient: Annotated[
        float | None, typer.Option(help="Std of the gradient at the last block, where known.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw: .html or .png.")] = None,
) -> None:
    """Say what theory predicts of a config or a run, and what is wrong with it, in words."""
    from evenkeel.prediction.command import PredictOptions
    from evenkeel.prediction.command import predict as answer

    with clean_exit():
        options = PredictOptions(
            config=config,
            run=run,
            server=server,
            key=key,
            context=context,
            weights=weights,
            what_if=tuple(what_if or ()),
            top_gradient=top_gradient,
            as_json=as_json,
            plot=plot,
        )
        answer(options)


@app.command()
def migrate(database_url: DatabaseUrl = None, data_dir: DataDir = None) -> None:
    """Bring a database to this version's schema."""
    from server.migration import migrate as bring_up

    with clean_exit():
        settings = settings_from(database_url=database_url, data_dir=data_dir)
        print(f"The database is at revision {bring_up(settings.resolved_database_url)}.")


@app.command()
def login(
    server: ServerUrl = DEFAULT_URL,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Print a URL that logs one browser in, once, within a quarter of an hour."""
    from evenkeel.database import with_database
    from server.access.service import login_url

    options = {"database_url": database_url, "data_dir": data_dir}
    print(with_database(options, lambda database: login_url(database, server)))


@app.command()
def doctor(
    server: ServerUrl = DEFAULT_URL,
    key: ServerKey = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    redis_url: RedisUrl = None,
) -> None:
    """Check this install, its database and Redis, and the server; exit 1 if something is wrong."""
    from evenkeel.doctor import examine

    with clean_exit():
        settings = settings_from(data_dir=data_dir, database_url=database_url, redis_url=redis_url)
        if not asyncio.run(examine(settings, server, key)):
            raise typer.Exit(1)


@app.command("version")
def show_version() -> None:
    """Print the version."""
    print(__version__)
