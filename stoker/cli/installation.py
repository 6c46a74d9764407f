"""What operators do once: streams, NATS users, the key of webhooks."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stoker.cli.app import app, console, fail
from stoker.cli.on_bus import Data, with_bus

if TYPE_CHECKING:
    from stoker.services.bus.connection import Bus


@app.command(
    "install-streams",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def install_streams(context: typer.Context) -> None:
    """Make the streams on a NATS server, or bring them up to date.

    Run it once before the services start, and again after an upgrade, as a NATS user that may make streams.
    """
    install_with(context.args)


def install_with(arguments: list[str]) -> None:
    """Make the streams, with the options of services."""
    from stoker.services.bus.addresses import urls_of, wait_for_port
    from stoker.services.bus.connection import open_bus
    from stoker.services.bus.errors import BusError, CannotConnect
    from stoker.services.process.settings import BadSetting, InstallSettings, read_settings
    from stoker.services.records.installation import install

    async def run() -> None:
        try:
            await wait_for_port(urls_of(settings), 0)
        except CannotConnect as error:
            typer.echo(f"{error}; waiting for it, {settings.wait_s:g} s at most (--wait-s)", err=True)
        async with open_bus(settings, "stoker-install-streams", settings.wait_s) as bus:
            await install(bus)

    try:
        settings = read_settings(InstallSettings, "stoker install-streams", arguments)
        asyncio.run(run())
    except (BadSetting, CannotConnect) as error:
        fail(str(error), 2)
    except BusError as error:
        fail(
            f"{error}; has this NATS user (STOKER_NATS_USER, STOKER_NATS_PASSWORD) the right to make streams?",
            2,
        )
    console.print("the streams and buckets are there", highlight=False)


@app.command()
def users(prefix: Annotated[str, typer.Option(help="First token of every subject.")] = "stoker") -> None:
    """Print nats-server's file of users: what each service may do."""
    from stoker.services.bus import permissions

    typer.echo(permissions.users_conf(prefix), nl=False)


@app.command("webhook-secret")
def webhook_secret(data: Data = Path(".stoker")) -> None:
    """Print the key with which webhooks are signed.

    Unless gateways are given another (--webhook-secret).
    """
    from stoker.services.records.seal_key import knowing_seals

    async def read(bus: "Bus") -> str:
        async with knowing_seals(bus):
            return bus.seals.webhook_secret()

    typer.echo(with_bus("stoker webhook-secret", data, read))
