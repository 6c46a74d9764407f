"""Starting things: up, check, and the services one by one."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from stoker.cli.app import Json, app, console, fail, print_json
from stoker.functions.environments import OFF
from stoker.functions.environments import VARIABLE as ENVIRONMENTS
from stoker.schemas.catalog import Spec
from stoker.services.bus.errors import CannotConnect
from stoker.services.catalog.documents import ConfigurationError
from stoker.services.catalog.load import Configuration, WorkerEntry, load
from stoker.services.process.embedded import EmbeddedServerError
from stoker.services.process.settings import BadSetting
from stoker.up import Up

Configs = Annotated[
    list[Path] | None, typer.Option("--config", "-c", help="Configuration file or folder; repeatable.")
]


Gateways = Annotated[
    int, typer.Option(help="Gateway processes behind the one port: a core each.", min=1, max=64)
]
DEFAULT_FILES = (Path("stoker.yaml"), Path("modes.yaml"))
"""Read from the current folder when no --config is given."""


def read_configuration(paths: list[Path], projects: list[Path] | None = None) -> Configuration:
    try:
        return load(paths, projects=projects or [])
    except ConfigurationError as error:
        fail(str(error), 2)


def _warn(configuration: Configuration) -> None:
    for warning in configuration.warnings:
        console.print(f"[yellow]warning:[/] {warning}", soft_wrap=True, highlight=False)


def choose_environments(data: Path, *, is_off: bool) -> None:
    """Where this process and its children keep the environments of projects."""
    os.environ.setdefault(ENVIRONMENTS, str(data.absolute() / "environments"))
    if is_off:
        os.environ[ENVIRONMENTS] = OFF


@app.command()
def up(
    config: Configs = None,
    port: Annotated[int, typer.Option(help="Port of the gateway.")] = 8000,
    host: Annotated[str, typer.Option(help="Address of the gateway.")] = "127.0.0.1",
    data: Annotated[Path, typer.Option(help="Where everything that is kept lives.")] = Path(".stoker"),
    nats: Annotated[str, typer.Option(envvar="STOKER_NATS", help="Use this NATS server.")] = "",
    nats_port: Annotated[int, typer.Option(help="Port of the embedded NATS server.")] = 0,
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
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Start NATS, all services and the configured workers; one Ctrl-C stops all."""
    paths = config or [path for path in DEFAULT_FILES if path.exists()]
    projects = functions or []
    choose_environments(data, is_off=no_environments)
    configuration = read_configuration(paths, projects)
    _warn(configuration)
    if workers is not None:
        configuration.workers = (WorkerEntry(count=workers),)
    elif not configuration.workers:
        configuration.workers = (WorkerEntry(),)
    system = Up(
        configuration=configuration,
        data=data.absolute(),
        host=host,
        port=port,
        nats=nats,
        nats_port=nats_port,
        paths=paths,
        projects=projects,
        reload=reload,
        insecure=insecure,
        require_keys=require_keys,
        allowed_hosts=allowed_hosts,
        cors_origin=cors_origin,
        gateways=gateways,
        log_level=log_level,
    )
    try:
        asyncio.run(system.run())
    except (EmbeddedServerError, CannotConnect) as error:
        fail(str(error), 2)


@app.command()
def check(paths: Annotated[list[Path], typer.Argument(help="Files or folders.")], json: Json = False) -> None:
    """Read a configuration and say what it means, or what is wrong with it."""
    configuration = read_configuration(paths)
    if json:
        print_json(
            {
                "models": configuration.models,
                "profiles": configuration.profiles,
                "workers": configuration.workers,
                "warnings": configuration.warnings,
            }
        )
        return
    _warn(configuration)
    for model in configuration.models:
        console.print(f"model [bold]{model.name}[/]: {', '.join(model.features)}", highlight=False)
        for spec in model.specs:
            effective = yaml.safe_dump(
                [_effective(spec)], sort_keys=False, default_flow_style=False, width=1000
            )
            console.print("  " + effective.rstrip().replace("\n", "\n  "), markup=False, soft_wrap=True)
    for profile in configuration.profiles:
        inventory = f", {profile.inventory} units" if profile.inventory is not None else ""
        console.print(f"profile [bold]{profile.name}[/]: {profile.launcher}{inventory}")
    for worker in configuration.workers:
        memory = f", {worker.memory}" if worker.memory else ""
        console.print(f"workers: {worker.count} of profile {worker.profile}{memory}")


def _effective(spec: Spec) -> dict[str, Any]:
    """A spec as it is after everything was merged, in the words of a `kind: Model` document."""
    written: dict[str, Any] = {
        "spec": spec.name,
        "engine": spec.engine,
        "url": spec.url,
        "size": f"{spec.size_bytes / 1e6:.1f} MB" if spec.size_bytes else "",
        "args": list(spec.args),
        "env": dict(spec.env),
        "files": [file.path for file in spec.files],
        "options": dict(spec.options),
        "resourceProfile": f"{spec.profile}:{spec.profile_count}" if spec.profile else "",
        "launcher": spec.launcher,
        "minReplicas": spec.min_replicas,
        "maxReplicas": spec.max_replicas,
        "simultaneousScaleUpGroup": spec.scale_group,
        "adapters": [adapter.name for adapter in spec.adapters],
    }
    shown = {key: value for key, value in written.items() if value}
    if spec.profile:
        shown |= {"targetRequests": spec.target_requests, "scaleDownDelaySeconds": spec.scale_down_delay_s}
    return shown


_FORWARD = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def _forward(run: Callable[[list[str]], int], arguments: list[str]) -> None:
    try:
        raise typer.Exit(run(arguments))
    except BadSetting as error:
        fail(str(error), 2)


@app.command(context_settings=_FORWARD)
def gateway(context: typer.Context) -> None:
    """Run one gateway."""
    from stoker.services.gateway.__main__ import run

    _forward(run, context.args)


@app.command(context_settings=_FORWARD)
def scheduler(context: typer.Context) -> None:
    """Run one scheduler."""
    from stoker.services.scheduler.__main__ import run

    _forward(run, context.args)


@app.command(context_settings=_FORWARD)
def worker(context: typer.Context) -> None:
    """Run one worker."""
    from stoker.services.worker.__main__ import run

    _forward(run, context.args)


@app.command(context_settings=_FORWARD)
def autoscaler(context: typer.Context) -> None:
    """Run one autoscaler."""
    from stoker.services.autoscaler.__main__ import run

    _forward(run, context.args)
