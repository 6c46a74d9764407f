"""The services one by one, each with the settings of its own (stoker/services/NAME/settings.py)."""

from importlib import import_module

import typer

from stoker.cli.app import app, fail

_FORWARD = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def _run(service: str, arguments: list[str]) -> None:
    """Run a service of the name. Its settings are read first: --help, and what is wrong, need no more."""
    from stoker.services.process.settings import BadSetting, read_settings

    try:
        settings = import_module(f"stoker.services.{service}.settings")
        read_settings(settings.Settings, f"stoker {service}", arguments)
        raise typer.Exit(import_module(f"stoker.services.{service}.__main__").run(arguments))
    except BadSetting as error:
        fail(str(error), 2)


@app.command(context_settings=_FORWARD)
def gateway(context: typer.Context) -> None:
    """Run one gateway."""
    _run("gateway", context.args)


@app.command(context_settings=_FORWARD)
def scheduler(context: typer.Context) -> None:
    """Run one scheduler."""
    _run("scheduler", context.args)


@app.command(context_settings=_FORWARD)
def worker(context: typer.Context) -> None:
    """Run one worker."""
    _run("worker", context.args)


@app.command(context_settings=_FORWARD)
def autoscaler(context: typer.Context) -> None:
    """Run one autoscaler."""
    _run("autoscaler", context.args)
