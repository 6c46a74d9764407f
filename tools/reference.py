"""Reference pages of the documentation, made from the code when the site is built (mkdocs.yml names this file).

make docs        # site/index.html
"""

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import typer.cli
import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import stoker.services.autoscaler.__main__
import stoker.services.gateway.__main__
import stoker.services.scheduler.__main__
import stoker.services.worker.__main__
from stoker.cli.main import app
from stoker.schemas.fields import APIS
from stoker.schemas.subjects import Subjects
from stoker.services.bus import asyncapi
from stoker.services.catalog.load import WorkerEntry
from stoker.services.catalog.modes import LoraEntry, ModeEntry, StyleEntry
from stoker.services.catalog.multi_spec import SpecEntry
from stoker.services.catalog.profiles import ProfileEntry
from stoker.services.catalog.short_form import ModelEntry
from stoker.services.gateway.app import openapi_document
from stoker.services.process.settings import BusSettings
from stoker.services.process.telemetry import REGISTRY

SETTINGS = {
    "gateway": stoker.services.gateway.__main__.Settings,
    "scheduler": stoker.services.scheduler.__main__.Settings,
    "worker": stoker.services.worker.__main__.Settings,
    "autoscaler": stoker.services.autoscaler.__main__.Settings,
}
ENTRIES = {
    "models": ("`models.NAME`", ModelEntry),
    "workers": ("`workers[]`", WorkerEntry),
    "specs": ("`specs[]` of `kind: Model`", SpecEntry),
    "profiles": ("`resourceProfiles.NAME`, or `spec` of `kind: ResourceProfile`", ProfileEntry),
    "modes": ("`modes.NAME`", ModeEntry),
    "loras": ("`modes.NAME.loras[]`", LoraEntry),
    "styles": ("`styles[]`", StyleEntry),
}
CONFIGURATION = """# Configuration

What the keys mean: [models and workers](../operating.md), [specs and profiles](../scaling.md),
[modes](../modes.md). `stoker check FILE…` says what is wrong with a file, and where.

"""
ROUTES = """# Routes

A running gateway shows the same with every field at `/schema`. What fails is an OpenAI error on OpenAI routes,
and RFC 9457 problem details elsewhere.

"""
MESSAGES = """# Messages

`stoker schema asyncapi` prints all of it, with every field, as AsyncAPI 3.0. Who may send and receive is what
the NATS users may do; operators may do everything, clients send requests. Some messages are one of several
kinds: the document names them.

"""
METHODS = ("get", "post", "put", "patch", "delete")


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return (
        "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines) + "\n"
    )


def _shown(kind: Any) -> str:
    """A type as people write it."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return re.sub(
        r"\b(?:\w+\.)+(?=\w)", "", str(kind) if get_args(kind) else getattr(kind, "__name__", str(kind))
    )


def _default(field: Any) -> str:
    if field.default is not msgspec.NODEFAULT:
        return f"`{field.default!r}`" if field.default not in ("", 0, ()) else ""
    return "required" if field.default_factory is msgspec.NODEFAULT else ""


def configuration() -> str:
    """Every key of the configuration files."""
    page = CONFIGURATION
    for title, kind in ENTRIES.values():
        hints = get_type_hints(kind, include_extras=True)
        rows = [
            (f"`{field.encode_name}`", f"`{_shown(hints[field.name])}`", _default(field))
            for field in msgspec.structs.fields(kind)
        ]
        page += f"## {title}\n\n{inspect.getdoc(kind)}\n\n" + table(("key", "type", "default"), rows)
    return page


def settings() -> str:
    """Flags and variables of every service."""
    page = "# Settings of services\n\nFlags win over variables. The first table holds for every service.\n\n"
    page += "## all\n\n" + _settings_table(BusSettings, set())
    common = {field.name for field in msgspec.structs.fields(BusSettings)}
    for service, kind in SETTINGS.items():
        page += f"## {service}\n\n{inspect.getdoc(kind)}\n\n" + _settings_table(kind, common)
    return page


def _settings_table(kind: type[msgspec.Struct], left_out: set[str]) -> str:
    hints = get_type_hints(kind, include_extras=True)
    rows = [
        (
            f"`--{field.name.replace('_', '-')}`",
            f"`STOKER_{field.name.upper()}`",
            _default(field),
            get_args(hints[field.name])[1].description,
        )
        for field in msgspec.structs.fields(kind)
        if field.name not in left_out
    ]
    return table(("flag", "variable", "default", ""), rows) if rows else "Nothing of its own.\n\n"


def routes() -> str:
    """Every route, from the OpenAPI document."""
    document = openapi_document()
    rows = []
    for path, item in sorted(document["paths"].items()):
        for method in METHODS:
            if operation := item.get(method):
                asks = operation.get("requestBody", {}).get("content", {})
                names = [_reference(content["schema"]) for content in asks.values()]
                good = ", ".join(status for status in operation["responses"] if status < "400") or "200"
                rows.append(
                    (f"`{method.upper()} {path}`", operation.get("summary", ""), ", ".join(names), good)
                )
    return ROUTES + table(("route", "", "body", "success"), rows)


FIELDS = """# Fields of requests

What becomes of each field. *honoured*: the answer depends on it. *refused*: 400 `unsupported_value`, unless the
value asks for nothing, for an answer without it would be another one. *ignored*: the answer is the same without
it; the header `stoker-ignored` of the answer names it, and fields that stand in no table.

"""


def fields() -> str:
    """What becomes of every field, for each API."""
    page = FIELDS
    for path, rules in APIS.items():
        rows = []
        for name, rule in rules.items():
            engines = ", ".join(rule.only)
            names = ", ".join(f"{engine}: `{theirs}`" for engine, theirs in rule.names.items())
            rows.append((f"`{name}`", rule.fate, engines, names, rule.note))
        page += f"## {path}\n\n" + table(("field", "", "only", "called", ""), rows)
    return page


def _reference(schema: dict[str, Any]) -> str:
    return f"`{schema['$ref'].rpartition('/')[2]}`" if "$ref" in schema else ""


def subjects() -> str:
    """Every NATS subject."""
    own = Subjects()
    rows = []
    for name, method in inspect.getmembers(own, inspect.ismethod):
        if name == "every" or name.startswith("_"):
            continue
        parameters = [parameter.upper() for parameter in inspect.signature(method).parameters]
        rows.append((f"`{method(*parameters)}`", (inspect.getdoc(method) or "").replace("\n", " ")))
    page = "# Subjects\n\nA dot, space, `*` or `>` in a name travels as `=XX`. `stoker` is `--prefix`.\n\n"
    return page + table(("subject", "carries"), sorted(rows))


def messages() -> str:
    """Every message on NATS, who sends it and who receives it: a short form of the AsyncAPI document."""
    told = asyncapi.document("")
    users: dict[tuple[str, str], list[str]] = {}
    for operation in told["operations"].values():
        channel = operation["channel"]["$ref"].rpartition("/")[2]
        users.setdefault((channel, operation["action"]), []).append(operation["tags"][0]["name"])
    rows = []
    for name, channel in told["channels"].items():
        if channel["address"] is None:
            continue
        payload = _reference(told["components"]["messages"][name].get("payload", {}))
        by = [", ".join(users.get((name, action), ())) for action in ("send", "receive")]
        rows.append((f"`{channel['address']}`", channel["summary"], payload, *by))
    return MESSAGES + table(("subject", "", "message", "sent by", "received by"), sorted(rows))


def metrics() -> str:
    """Every Prometheus metric."""
    rows = []
    for family in REGISTRY.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = getattr(REGISTRY._names_to_collectors.get(family.name), "_labelnames", ())
        rows.append((f"`{name}`", family.type, ", ".join(labels), family.documentation))
    page = "# Metrics\n\nThe gateway has them at `/metrics`, the other services with `--metrics-port`.\n\n"
    return page + table(("metric", "type", "labels", ""), sorted(rows))


def command_line() -> str:
    """Every command, from typer."""
    command = typer.main.get_command(app)
    context = typer.Context(command)
    made = typer.cli.get_docs_for_click(obj=command, ctx=context, name="stoker", title="The stoker command")
    return made.replace("\n# ", "\n## ")


PAGES: dict[str, Callable[[], str]] = {
    "configuration": configuration,
    "settings": settings,
    "routes": routes,
    "subjects": subjects,
    "messages": messages,
    "metrics": metrics,
    "command-line": command_line,
    "fields": fields,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by mkdocs: add the pages."""
    for name, make in PAGES.items():
        files.append(File.generated(config, f"reference/{name}.md", content=make()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs: files outside of docs/ are named, not linked."""
    return re.sub(r"\[([^\]]+)\]\(\.\./((?!reference)[^)]+)\)", r"\1 (`\2`)", markdown)
