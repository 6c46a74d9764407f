"""What operators do once: streams, NATS users, and invitations of workers."""

import asyncio
import os
import secrets
from pathlib import Path
from typing import Annotated

import nkeys
import typer

from stoker.cli.app import app, console, fail
from stoker.cli.look import workers
from stoker.cli.on_bus import Data, with_bus
from stoker.schemas.subjects import BadName, check_name
from stoker.services.bus import permissions
from stoker.services.bus.connection import Bus, open_bus
from stoker.services.bus.errors import BusError, CannotConnect
from stoker.services.process.settings import BadSetting, BusSettings, read_settings
from stoker.services.records.installation import install
from stoker.services.records.seal_key import knowing_seals

CONNECT_S = 30.0

Users = Annotated[Path, typer.Option(help="nats-server's file of users.")]
DEFAULT_USERS = Path("deploy/nats/users.conf")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def init(context: typer.Context) -> None:
    """Make the streams and buckets on a NATS server, or bring them up to date. Takes the options of services.

    Run it once before the services start, and again after an upgrade, as a NATS user that may make streams.
    """

    async def run() -> None:
        async with open_bus(settings, "stoker-init", CONNECT_S) as bus:
            await install(bus)

    try:
        settings = read_settings(BusSettings, "stoker init", context.args)
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
    """Print nats-server's file of users: what each service may do, and nothing else."""
    typer.echo(permissions.users_conf(prefix), nl=False)


@app.command("webhook-secret")
def webhook_secret(data: Data = Path(".stoker")) -> None:
    """Print the key with which webhooks are signed, unless gateways are given another (--webhook-secret)."""

    async def read(bus: Bus) -> str:
        async with knowing_seals(bus):
            return bus.seals.webhook_secret()

    typer.echo(with_bus("stoker webhook-secret", data, read))


@workers.command()
def invite(
    name: str,
    users: Users = DEFAULT_USERS,
    seed: Annotated[Path | None, typer.Option(help="File for the worker's secret; default: NAME.nkey.")] = None,
    prefix: Annotated[str, typer.Option(help="First token of every subject.")] = "stoker",
) -> None:
    """Give a worker a NATS user of its own: it hears and says what concerns itself, and nothing else.

    The file of users gets a public key; the secret lies in a file that only you can read.
    """
    target = seed or Path(f"{name}.nkey")
    try:
        check_name(name)
        made = nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)
        text = permissions.with_worker(
            users.read_text(), name, nkeys.from_seed(bytearray(made)).public_key.decode(), prefix
        )
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except (BadName, ValueError) as error:
        fail(f"{users}: {error}" if not isinstance(error, BadName) else f"name: {error}", 2)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", 2)
    with os.fdopen(handle, "wb") as file:
        file.write(made)
    _replace(users, text)
    console.print(
        f"worker {name} is invited; have nats-server read {users} again (SIGHUP), then start it with\n"
        f"  stoker worker --name {name} --nats-nkey {target} --nats ADDRESS",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip


@workers.command()
def revoke(name: str, users: Users = DEFAULT_USERS) -> None:
    """Take an invitation back. The worker is shut out as soon as nats-server has read the file again."""
    try:
        text = permissions.without_worker(users.read_text(), name)
    except ValueError as error:
        fail(f"{users}: {error}", 2)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", 2)
    _replace(users, text)
    console.print(
        f"worker {name} is no longer invited; have nats-server read {users} again (SIGHUP)", highlight=False
    )


def _replace(path: Path, text: str) -> None:
    """Write a file so that a reader sees the one of before or the new one."""
    written = path.with_name(path.name + ".new")
    written.write_text(text)
    written.replace(path)
