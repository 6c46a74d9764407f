"""What all commands share: the typer application, output, and the address of the gateway."""

import os
import sys
from typing import Annotated, Any, NoReturn

import httpx
import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from stoker.services.process.http_clients import client

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console()
errors = Console(stderr=True)

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_S = 30.0

Url = Annotated[str, typer.Option("--url", envvar="STOKER_URL", help="The gateway's address.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def fail(message: str, status: int = 1) -> NoReturn:
    errors.print(f"[bold red]stoker:[/] {escape(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(status)


def print_json(content: Any) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(content), indent=2).decode() + os.linesep)


def problem_of(answer: httpx.Response) -> str:
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


def key_header() -> dict[str, str]:
    """The API key of STOKER_API_KEY, if there is one."""
    key = os.environ.get("STOKER_API_KEY", "")
    return {"Authorization": f"Bearer {key}"} if key else {}


def call(method: str, url: str, path: str, **options: Any) -> Any:
    """The JSON answer of the gateway; prints what went wrong and ends otherwise."""
    try:
        headers = {**key_header(), **options.pop("headers", {})}
        with client(url, timeout=TIMEOUT_S, headers=headers) as http:
            answer = http.request(method, url + path, **options)
    except httpx.HTTPError as error:
        fail(f"no gateway answers at {url} ({error}); is `stoker up` running?", 2)
    if answer.status_code >= 400:
        fail(f"{problem_of(answer)} ({answer.status_code})")
    return answer.json() if answer.content else None
