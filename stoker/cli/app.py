"""What all commands share: the typer application, output, and the address of the gateway.

Nothing heavy is imported here before it is used: `stoker --help` needs neither rich nor an HTTP library.
`console` and `errors` are made when a command asks for them.
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast
from urllib.parse import quote

import typer
from typer.core import TyperGroup

from stoker import servers
from stoker.cli import quick
from stoker.cli.commands import COMMANDS, GROUPS
from stoker.cli.quick import quicken

if TYPE_CHECKING:
    import httpx
    from rich.console import Console

    console: Console
    errors: Console

FOUND = ""
"""The default of --url: the server is looked for (stoker/servers.py)."""
TIMEOUT_S = 30.0
HELP_COLUMNS = 112


class Commands(TyperGroup):
    """The commands of the table; each is imported when it is asked for."""

    def list_commands(self, _: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        import_module(f"stoker.cli.{COMMANDS[cmd_name].module}")
        made = typer.main.get_group(app).commands[cmd_name]
        quicken(made)
        return made

    def make_context(self, *arguments: Any, **more: Any) -> Any:
        quicken(self)
        return super().make_context(*arguments, **more)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        self.commands = cast(Any, dict.fromkeys(COMMANDS))  # a wrong name is answered with those near to it
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, COMMANDS))
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(one.name.ljust(width), one.help) for one in commands])

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        from typer._click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            self.commands = {}
            return super(TyperGroup, self).shell_complete(ctx, incomplete)
        return [
            CompletionItem(one.name, help=one.help)
            for one in COMMANDS.values()
            if one.name.startswith(incomplete)
        ]


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": HELP_COLUMNS},
)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        typer.echo(f"stoker {version('stoker')}")
        raise typer.Exit


@app.callback()
def stoker(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    profile: Annotated[
        str,
        typer.Option("--profile", envvar=servers.PROFILE_VARIABLE, help="A server of `stoker profile`."),
    ] = "",
) -> None:
    """Stoker keeps models hot. `stoker run FILE.gguf "hi"` asks a model; `stoker up` starts a system."""
    if profile:
        os.environ[servers.PROFILE_VARIABLE] = profile


def _address(given: str) -> str:
    """The URL that a command talks to."""
    try:
        return given.rstrip("/") or servers.find().url
    except servers.NoSuchProfile as error:
        fail(str(error), 2)


Url = Annotated[
    str,
    typer.Option(
        "--url", callback=_address, help="The gateway's address; else STOKER_URL, else the one that is found.",
        show_default=False,
    ),
]  # fmt: skip


def _named(given: str) -> str:
    """An id that is part of a path."""
    if not given.strip():
        fail("an id is empty; `stoker jobs` lists them", 2)
    return quote(given, safe="")


JobId = Annotated[str, typer.Argument(callback=_named, help="Its id.")]
"""As it stands in a path."""
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def __getattr__(name: str) -> Any:
    """`console` and `errors`, made when they are first asked for."""
    if name not in ("console", "errors"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rich.console import Console

    made = globals()[name] = Console(stderr=name == "errors")
    return made


def fail(message: str, status: int = 1) -> NoReturn:
    """Print what is wrong and end with a status."""
    typer.echo(typer.style("stoker:", fg="red", bold=True) + f" {message}", err=True)
    raise typer.Exit(status)


def print_json(content: Any) -> None:
    import msgspec

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(content), indent=2).decode() + os.linesep)


def problem_of(answer: "httpx.Response") -> str:
    """What a failed answer says."""
    try:
        body = answer.json()
    except ValueError:
        return answer.text or answer.reason_phrase
    if not isinstance(body, dict):
        return str(body)
    if isinstance(body.get("error"), dict):
        return str(body["error"].get("message"))
    return str(body.get("detail", body))


def key_header(url: str) -> dict[str, str]:
    """The API key for a server, if there is one."""
    key = servers.api_key(url)
    return {"Authorization": f"Bearer {key}"} if key else {}


def no_gateway(url: str, error: object) -> NoReturn:
    """Nobody answers at an address."""
    fail(f"no gateway answers at {url} ({error}); is `stoker up` running?", 2)


def call(method: str, url: str, path: str, **options: Any) -> Any:
    """The JSON answer of the gateway; prints what went wrong and ends otherwise."""
    answer = _called(method, url, path, **options)
    return answer.json() if answer.content else None


def call_text(method: str, url: str, path: str, **options: Any) -> str:
    """The same of an answer that is text."""
    return _called(method, url, path, **options).text


def _called(method: str, url: str, path: str, **options: Any) -> "httpx.Response":
    """Prints what went wrong and ends the program otherwise."""
    quick.import_httpx()
    import httpx

    from stoker.services.process.http_clients import client

    try:
        headers = {**key_header(url), **options.pop("headers", {})}
        with client(url, timeout=TIMEOUT_S, headers=headers) as http:
            answer = http.request(method, url + path, **options)
    except httpx.HTTPError as error:
        no_gateway(url, error)
    if answer.status_code >= 400:
        fail(f"{problem_of(answer)} ({answer.status_code})")
    return answer
