"""The models of the background server, as who knows Ollama expects: pull, list, ps, rm, serve, stop."""

import os
from typing import Annotated, Any

import typer

from stoker import servers
from stoker.cli import background, finding, references
from stoker.cli.app import FOUND, Json, Url, app, call, console, fail, print_json
from stoker.cli.memory import over_limit
from stoker.cli.watching import Line, bar

MB = 1e6


@app.command()
def pull(
    model: Annotated[str, typer.Argument(help="hf://owner/name, owner/name[/file], or a file or folder.")],
    engine: finding.Engine = "",
) -> None:
    """Get a model from the hub, or take in a file.

    The background server serves it from then on, by the name that is printed; a file stays where it is.
    """
    try:
        reference = references.read(model)
        if reference.kind == "name" and references.may_be_of_hub(model):
            reference = references.Reference("hub", model, references.HUB + model)
        if reference.kind == "name":
            fail(f"{model} is neither a file nor a name of the hub, as owner/name", 2)
        _fetch(reference)
        name = finding.kept(reference, engine)
    except references.NoModel as error:
        fail(str(error), 2)
    typer.echo(f"{name}: ask it with `stoker run {name} …`")


def _fetch(reference: references.Reference) -> None:
    """Download what is of the hub into the cache that workers read, with a bar."""
    if reference.kind != "hub":
        return
    from stoker.services.worker.engines.base import EngineError
    from stoker.services.worker.models.weights.resolve import WeightsError, resolve

    line = Line()

    def report(percent: float) -> None:
        line.show("getting", f"getting {reference.url} {bar(percent / 100)} {percent:.0f} %")

    try:
        resolve(reference.url, report)
    except (WeightsError, EngineError) as error:
        fail(str(error))
    finally:
        line.clear()


@app.command("list")
def list_models(url: Url = FOUND, json: Json = False) -> None:
    """Models that can be asked, and where they come from."""
    kept = background.models()
    is_there = finding.listens(url)
    served = [one["id"] for one in call("GET", url, "/v1/models")["data"]] if is_there else []
    rows: list[dict[str, Any]] = [{"name": name, "server": url, "url": ""} for name in served]
    rows += [
        {"name": name, "server": "background", "url": entry["url"]}
        for name, entry in kept.items()
        if name not in served or url != _background_url()
    ]
    for row in rows:
        if row["server"] == _background_url() and row["name"] in kept:
            row["url"] = kept[row["name"]]["url"]
    if json:
        print_json(rows)
        return
    from rich.table import Table

    table = Table("model", "server", "weights")
    for row in rows:
        table.add_row(row["name"], row["server"], row["url"] or "-")
    console.print(table)


def _background_url() -> str:
    """Where the background server is; "" where it does not run."""
    running = servers.announced(servers.background_data())
    return running[0] if running else ""


@app.command()
def ps(url: Url = FOUND, json: Json = False) -> None:
    """Models that are in memory, and where."""
    workers = call("GET", url, "/v1/fleet")["workers"]
    found = [
        {"model": model, "worker": worker["worker"], "device": worker["device"], "tier": tier}
        for worker in workers
        for tier, key in (("hot", "vram_models"), ("parked", "ram_models"))
        for model in worker.get(key, ())
    ]
    if json:
        print_json(found)
        return
    from rich.table import Table

    table = Table("model", "worker", "device", "where")
    for one in found:
        where = "memory of the device" if one["tier"] == "hot" else "parked in RAM"
        table.add_row(one["model"], one["worker"], one["device"], where)
    console.print(table)
    for larger in filter(None, map(over_limit, workers)):
        console.print(larger, style="yellow", markup=False)


@app.command()
def rm(model: Annotated[str, typer.Argument(help="A model of `stoker list`.")]) -> None:
    """Forget a model of the background server; its file stays."""
    background.remove(model)
    typer.echo(f"removed {model}")


@app.command()
def stop(
    model: Annotated[str, typer.Argument(help="Take this model out of memory; none: stop the server.")] = "",
    url: Url = FOUND,
    json: Json = False,
) -> None:
    """Take a model out of memory, or stop the background server.

    What runs is finished first. A model that is asked again is loaded again; without this its memory is freed
    when another needs it.
    """
    if not model:
        typer.echo("stopped" if background.stop() else "the background server does not run")
        return
    found = call("POST", url, "/v1/unload", json={"model": model})
    kept = [one for one in found["workers"] if one.get("reason")]
    if json:
        print_json(found)
    else:
        for one in found["workers"]:
            typer.echo(f"{one['worker']}: {one.get('reason') or 'unloaded'}")
        if not found["workers"]:
            typer.echo(f"{model} is not in memory")
    if kept:
        raise typer.Exit(1)


@app.command()
def serve(
    port: Annotated[int, typer.Option(help="Port of the gateway.")] = 8000,
) -> None:
    """Start the background server here; Ctrl-C stops it.

    It does not end by itself then. `stoker pull` says what it serves; `stoker up` takes a configuration.
    """
    if running := _background_url():
        fail(f"the background server runs already, at {running}; `stoker stop` stops it", 2)
    command = background.command(port, 0.0)
    os.environ |= background.environment()
    os.execv(command[0], command)
