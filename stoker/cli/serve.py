"""`stoker up`, and reading the configuration that it and others are given."""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stoker import servers
from stoker.cli.app import app, console, fail

if TYPE_CHECKING:
    from stoker.services.catalog.load import Configuration

Configs = Annotated[
    list[Path] | None, typer.Option("--config", "-c", help="Configuration file or folder; repeatable.")
]


Gateways = Annotated[
    int, typer.Option(help="Gateway processes behind the one port: a core each.", min=1, max=64)
]
DEFAULT_FILES = (Path("stoker.yaml"), Path("modes.yaml"))
"""Read from the current folder when no --config is given."""


def read_configuration(paths: list[Path], projects: list[Path] | None = None) -> "Configuration":
    """What files say. Ends the program where something is wrong with them."""
    from stoker.services.catalog.documents import ConfigurationError
    from stoker.services.catalog.load import load

    try:
        return load(paths, projects=projects or [])
    except ConfigurationError as error:
        fail(str(error), 2)


def warn(configuration: "Configuration") -> None:
    """Say what is odd about a configuration."""
    for warning in configuration.warnings:
        console.print(f"[yellow]warning:[/] {warning}", soft_wrap=True, highlight=False)


def choose_environments(data: Path, *, is_off: bool) -> None:
    """Where this process and its children keep the environments of projects."""
    from stoker.functions.environments import OFF
    from stoker.functions.environments import VARIABLE as ENVIRONMENTS

    os.environ.setdefault(ENVIRONMENTS, str(data.absolute() / "environments"))
    if is_off:
        os.environ[ENVIRONMENTS] = OFF


@app.command()
def up(
    config: Configs = None,
    port: Annotated[
        int, typer.Option(help="Port of the gateway; 0: one that is free.", min=0, max=65535)
    ] = 8000,
    host: Annotated[str, typer.Option(help="Address of the gateway.")] = "127.0.0.1",
    data: Annotated[
        Path, typer.Option(envvar=servers.DATA_VARIABLE, help="Where everything that is kept lives.")
    ] = Path(servers.DATA),
    nats: Annotated[str, typer.Option(envvar="STOKER_NATS", help="Use this NATS server.")] = "",
    nats_port: Annotated[
        int, typer.Option(help="Port of the embedded NATS server; 0: one that is free.", min=0, max=65535)
    ] = 0,
    workers: Annotated[int | None, typer.Option(help="Start this many plain workers.")] = None,
    functions: Annotated[
        list[Path] | None,
        typer.Option("--functions", help="Folder of a function project, or an installed module; repeatable."),
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload", "--watch", help="Read projects again when they change.")
    ] = False,
    no_environments: Annotated[
        bool, typer.Option("--no-environments", help="Do not install what projects depend on.")
    ] = False,
    insecure: Annotated[bool, typer.Option("--insecure", help="No API keys on a public address.")] = False,
    require_keys: Annotated[bool, typer.Option("--require-keys", help="API keys on loopback too.")] = False,
    allowed_hosts: Annotated[
        str, typer.Option(help="Further names that the gateway answers to, by commas; * = any.")
    ] = "",
    cors_origin: Annotated[
        str, typer.Option(help="Web pages of other sites that may ask, as https://app.example, by commas.")
    ] = "",
    gateways: Gateways = 1,
    end_when_idle: Annotated[
        float, typer.Option(min=0.0, help="Stop after so many seconds without a job; 0 = never.")
    ] = 0.0,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="How much the processes say.")
    ] = "info",
) -> None:
    """Start NATS, all services and the configured workers.

    One Ctrl-C stops all; what runs is finished first.
    """
    paths = config or [path for path in DEFAULT_FILES if path.exists()]
    projects = functions or []
    choose_environments(data, is_off=no_environments)
    _start(
        paths, projects, workers,
        data=data.absolute(), host=host, port=port, nats=nats, nats_port=nats_port, reload=reload,
        insecure=insecure, require_keys=require_keys, allowed_hosts=allowed_hosts, cors_origin=cors_origin,
        log_level=log_level, gateways=gateways, end_when_idle_s=end_when_idle,
    )  # fmt: skip


def _start(paths: list[Path], projects: list[Path], workers: int | None, **options: Any) -> None:
    """Run a system until it is told to stop. options: of stoker.up.Up."""
    from stoker.services.bus.errors import CannotConnect
    from stoker.services.catalog.load import WorkerEntry
    from stoker.services.process.embedded import EmbeddedServerError
    from stoker.up import PortTaken, Up

    configuration = read_configuration(paths, projects)
    warn(configuration)
    if workers is not None:
        configuration.workers = (WorkerEntry(count=workers),)
    elif not configuration.workers:
        configuration.workers = (WorkerEntry(),)
    system = Up(configuration=configuration, paths=paths, projects=projects, **options)
    try:
        asyncio.run(system.run())
    except (EmbeddedServerError, CannotConnect, PortTaken) as error:
        fail(str(error), 2)
