"""`stoker profile`: servers by name, in a file of the user's configuration folder."""

from typing import Annotated

import typer

from stoker import servers
from stoker.cli.app import Json, app, console, fail, print_json

group = typer.Typer(no_args_is_help=True, help="Servers by name, for who has several.", rich_markup_mode=None)
app.add_typer(group, name="profile")

Name = Annotated[str, typer.Argument(help="Of the profile.")]


@group.command()
def add(
    name: Name,
    url: Annotated[str, typer.Argument(help="The gateway's address, as https://stoker.example.")],
    api_key: Annotated[str, typer.Option(envvar=servers.KEY_VARIABLE, help="Its API key.")] = "",
) -> None:
    """Make a profile, or another one of the same name."""
    if not url.startswith(("http://", "https://")):
        fail(f"the address of a gateway begins with http:// or https://, not {url!r}", 2)
    found = servers.profiles()
    found["profiles"][name] = {"url": url.rstrip("/"), **({"api_key": api_key} if api_key else {})}
    servers.write_private(servers.profiles_file(), found)
    typer.echo(f"{name} is {url}; `stoker profile use {name}`, or `stoker --profile {name} …` for one command")


@group.command()
def use(name: Annotated[str, typer.Argument(help='A profile, or "" for none.')]) -> None:
    """Have commands talk to a profile's server, unless they are told otherwise."""
    found = servers.profiles()
    try:
        url = servers.profile(name).url if name else ""
    except servers.NoSuchProfile as error:
        fail(str(error), 2)
    servers.write_private(servers.profiles_file(), found | {"use": name})
    typer.echo(f"commands talk to {url}" if name else "commands look for a server by themselves")


@group.command()
def remove(name: Name) -> None:
    """Forget a profile."""
    found = servers.profiles()
    if found["profiles"].pop(name, None) is None:
        fail(f"there is no profile {name!r}; `stoker profile list` shows them")
    used = "" if found["use"] == name else found["use"]
    servers.write_private(servers.profiles_file(), found | {"use": used})
    typer.echo(f"removed {name}")


@group.command("list")
def list_profiles(json: Json = False) -> None:
    """Every profile, and which server a command would talk to here."""
    found = servers.profiles()
    rows = [
        {"name": name, "url": one["url"], "has_key": bool(one.get("api_key")), "in_use": name == found["use"]}
        for name, one in sorted(found["profiles"].items())
    ]
    if json:
        print_json(rows)
        return
    from rich.table import Table

    table = Table("profile", "url", "API key", "")
    for row in rows:
        table.add_row(
            row["name"], row["url"], "yes" if row["has_key"] else "no", "in use" if row["in_use"] else ""
        )
    console.print(table)
    here = servers.find()
    console.print(f"here: {here.url} ({here.found_by})", markup=False, highlight=False)
