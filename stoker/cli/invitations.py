"""`stoker workers`: shown, and invited, each with a NATS user of its own."""

import os
import secrets
from pathlib import Path
from typing import Annotated

import typer

from stoker.cli.app import console, fail
from stoker.cli.look import workers

Users = Annotated[Path, typer.Option(help="nats-server's file of users.")]
DEFAULT_USERS = Path("deploy/nats/users.conf")


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
    import nkeys

    from stoker.schemas.subjects import BadName, check_name
    from stoker.services.bus import permissions

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
    from stoker.services.bus import permissions

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
