"""Which server a model is asked at, and by which name: for `stoker run` and `stoker chat`."""

import os
import socket
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn
from urllib.parse import quote, urlsplit

import typer

from stoker import servers
from stoker.cli import background, references
from stoker.cli.app import TIMEOUT_S, fail, key_header, no_gateway, problem_of
from stoker.cli.quick import import_httpx

CONNECT_S = 1.0
MayUrl = Annotated[
    str,
    typer.Option(
        "--url", help="The gateway's address; else STOKER_URL, else the one that is found.", show_default=False
    ),
]
Engine = Annotated[str, typer.Option(help="What runs a file or a model of the hub, where that is not plain.")]


@dataclass(frozen=True, slots=True)
class Asked:
    """A model at a server. card: what the server says of it."""

    url: str
    name: str
    card: dict[str, Any]


def say(line: str) -> None:
    """Tell the person at the terminal; the answer alone goes to the standard output."""
    typer.echo(line, err=True)


def locate(model: str, url: str, engine: str = "") -> Asked:
    """Find a server that serves a model; a file, or a model of the hub, is given to the background server."""
    try:
        reference = references.read(model)
        if reference.kind == "name":
            return _by_name(model, url, engine)
        if url:
            fail(f"{model} is not a name that {url} knows: leave --url, and the background server takes it", 2)
        return taken_in(reference, engine)
    except (references.NoModel, servers.NoSuchProfile) as error:
        fail(str(error), 2)


def _by_name(model: str, url: str, engine: str) -> Asked:
    """A name that some server knows."""
    found = url.rstrip("/") or servers.find().url
    is_running = listens(found)
    card = _card(found, model) if is_running else None
    if card is not None:
        return Asked(found, model, card)
    if not url and model in background.models():
        return _at_background(model)
    if not url and references.may_be_of_hub(model):
        return taken_in(references.Reference("hub", model, references.HUB + model), engine)
    if is_running:
        _unknown(found, model)
    return no_gateway(found, "nothing listens there")


def _unknown(found: str, model: str) -> NoReturn:
    """A server does not know a name."""
    known = ", ".join(one["id"] for one in _json(found, "/v1/models")["data"]) or "none"
    fail(f"{found} has no model {model!r}; it has {known}. A file is given by its path, as ./{model}.gguf")


def taken_in(reference: references.Reference, engine: str = "") -> Asked:
    """Have the background server serve weights. Raises NoModel."""
    return _at_background(kept(reference, engine))


def kept(reference: references.Reference, engine: str = "") -> str:
    """The name of weights in the models of the background server, added where they are not. Raises NoModel."""
    if name := background.named(reference.url, engine):
        return name
    entry = references.entry_of(reference, engine)
    if name := background.named(entry["url"], entry["engine"]):
        return name
    _check_engine(entry["engine"])
    return background.add(references.stem_of(reference), entry)


def _check_engine(engine: str) -> None:
    """Raises NoModel for an engine that is not, or not here."""
    from stoker.services.worker.engines.registry import ENGINES

    if engine not in ENGINES:
        raise references.NoModel(f"there is no engine {engine!r}; there are {', '.join(ENGINES)}")
    if remedy := ENGINES[engine].missing():
        raise references.NoModel(f"the engine {engine} is not installed: {remedy}")


def _at_background(name: str) -> Asked:
    url = background.ensure(say)
    card = _card(url, name)
    if card is None:
        fail(f"the background server does not serve {name}; its log is {background.log_file()}")
    return Asked(url, name, card)


def listens(url: str) -> bool:
    """Whether something takes connections there."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True  # whoever is behind a proxy is asked through it
    try:
        socket.create_connection((parts.hostname or "", port), CONNECT_S).close()
    except OSError:
        return False
    return True


def _json(url: str, path: str) -> Any:
    found = _get(url, path)
    if found is None:
        fail(f"{url} has nothing at {path}: is that a Stoker?", 2)
    return found


def _card(url: str, model: str) -> dict[str, Any] | None:
    """What a server says of a model; None where it has none of the name."""
    found: dict[str, Any] | None = _get(url, f"/v1/models/{quote(model)}") if model else None
    return found


def _get(url: str, path: str) -> Any:
    """A JSON answer; None for a 404. Ends the program where something else is wrong."""
    import_httpx()
    import httpx

    from stoker.services.process.http_clients import client

    try:
        with client(url, timeout=TIMEOUT_S, headers=key_header(url)) as http:
            answer = http.get(path)
    except httpx.HTTPError as error:
        no_gateway(url, error)
    if answer.status_code == 404:
        return None
    if answer.status_code >= 400:
        fail(f"{problem_of(answer)} ({answer.status_code})")
    return answer.json()
