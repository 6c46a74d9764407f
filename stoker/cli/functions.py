"""Functions on the command line: list them, call them, here or through a gateway."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from stoker.cli import quick
from stoker.cli.app import (
    FOUND,
    TIMEOUT_S,
    JobId,
    Json,
    Url,
    app,
    call,
    console,
    fail,
    key_header,
    no_gateway,
    print_json,
    problem_of,
)

FOLLOW_EVERY_S = 0.5
"""How often `stoker logs --follow` asks."""


@app.command()
def functions(url: Url = FOUND, json: Json = False) -> None:
    """Functions, what they take, and the models that they may be given."""
    found = call("GET", url, "/v1/functions")["functions"]
    if json:
        print_json(found)
        return
    table = Table(title="functions", title_justify="left")
    for column in ("function", "takes", "gives", "models", "what it does"):
        table.add_column(column)
    for one in found:
        gives = escape(", ".join(one["output_schema"].get("properties", {})))
        table.add_row(
            escape(one["name"]),
            ", ".join(_field(one["input_schema"], name) for name in one["input_schema"].get("properties", {})),
            f"stream of {gives}" if one["streams"] else gives,
            escape(", ".join(one["model_keys"])) or "-",
            escape(one["description"].partition("\n")[0]),
        )
    console.print(table)


@app.command()
def stubs(url: Url = FOUND) -> None:
    """A typed client as a stub file: `stoker stubs > client.pyi`."""
    from stoker.functions.payload_types import PayloadType
    from stoker.functions.stubs import Described, stub_of

    found = call("GET", url, "/v1/functions")["functions"]
    described = [
        Described(
            one["name"],
            msgspec.convert(one["input_type"], PayloadType),
            msgspec.convert(one["output_type"], PayloadType),
            one["streams"],
        )
        for one in found
        if one.get("input_type") and one.get("output_type")
    ]
    sys.stdout.write(stub_of(described))


def _field(schema: dict[str, Any], name: str) -> str:
    return escape(name) if name in schema.get("required", ()) else f"[dim]{escape(name)}[/]"


def parse_values(pairs: list[str]) -> dict[str, Any]:
    """key=value pairs; a value is JSON where it can be read as such, else text."""
    payload: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            fail(f"{pair!r} is not key=value", 2)
        try:
            payload[key] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            payload[key] = value
    return payload


@app.command("call")
def call_function(
    function: str,
    values: Annotated[list[str] | None, typer.Argument(help="key=value, a value being JSON or text.")] = None,
    url: Url = FOUND,
    json: Json = False,
    local: Annotated[
        Path | None, typer.Option("--local", help="Run it here, from this project's folder.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for files that it returns.")] = Path(),
) -> None:
    """Call a function; results and files come as they are made."""
    from rich.progress import Progress

    payload = parse_values(values or [])
    with Progress(console=console, transient=True, disable=json) as bar:
        task = bar.add_task(function, total=None)

        def report(step: int, steps: int) -> None:
            bar.update(task, completed=step, total=steps)

        if local is not None:
            result, files = _run_local(local, function, payload, report)
        else:
            result, files = _run(url, function, payload, report)
    for name, content in files:
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        console.print(f"saved {path}", highlight=False, markup=False)
    if json or not isinstance(result, list):  # the results of a stream have been printed
        print_json(result)


def _run(url: str, function: str, payload: dict[str, Any], report: Any) -> tuple[Any, list[tuple[str, bytes]]]:
    quick.import_httpx()
    import httpx

    from stoker.client import Client
    from stoker.functions.errors import CallFailed

    client = Client(url)
    try:
        job = client.submit(function, **payload)
        for event in job.events():
            if event.name == "progress":
                report(event.data["step"], event.data["steps"])
            elif event.name == "delta":
                sys.stdout.write(event.data["text"])
                sys.stdout.flush()
        result = job.result()
    except CallFailed as error:
        fail(f"{error} ({error.kind})" if error.kind else str(error))
    except httpx.HTTPError as error:
        no_gateway(url, error)
    return result, [(Path(one["name"]).name, client.get(one["url"])) for one in files_in(result)]


def files_in(value: Any) -> list[dict[str, Any]]:
    """Every file reference in a result."""
    if isinstance(value, dict):
        url = value.get("url") or value.get("ref")
        if isinstance(url, str) and url.startswith("/v1/jobs/") and value.get("name"):
            return [value | {"url": url}]
        return [found for inner in value.values() for found in files_in(inner)]
    if isinstance(value, list):
        return [found for inner in value for found in files_in(inner)]
    return []


def _run_local(
    folder: Path, function: str, payload: dict[str, Any], report: Any
) -> tuple[Any, list[tuple[str, bytes]]]:
    from stoker.functions.errors import FunctionError
    from stoker.functions.local import run_apart
    from stoker.functions.manifest import BadProject, located

    def item(one: Any) -> None:
        sys.stdout.write(msgspec.json.encode(one).decode() + "\n")

    def say(line: str) -> None:
        console.print(line, style="dim", highlight=False, markup=False)

    try:
        result, files = run_apart(located(folder), function, payload, report, item, say)
    except (BadProject, FunctionError) as error:
        fail(str(error))
    return result, [(one.name, one.content) for one in files]


@app.command()
def logs(
    job: JobId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as more is printed, to the job's end.")
    ] = False,
    url: Url = FOUND,
) -> None:
    """What a call has printed: its first and its last 32 KiB."""
    quick.import_httpx()
    import httpx

    from stoker.services.process.http_clients import client

    place, has_ended = 0, False
    try:
        with client(url, timeout=TIMEOUT_S, headers=key_header(url)) as http:
            while not has_ended:
                answer = http.get(f"{url}/v1/jobs/{job}/log", params={"after": place})
                if answer.status_code >= 400:
                    fail(f"{problem_of(answer)} ({answer.status_code})")
                place = int(answer.headers["stoker-log-bytes"])
                has_ended = not follow or answer.headers["stoker-log-ended"] == "true"
                sys.stdout.buffer.write(answer.content)
                sys.stdout.buffer.flush()
                if not has_ended:
                    time.sleep(FOLLOW_EVERY_S)
    except httpx.HTTPError as error:
        no_gateway(url, error)
