"""`stoker schema`: documents that describe what Stoker reads and says, made from the code that does it."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from stoker.cli.app import app, fail, print_json


def _asyncapi() -> Any:
    from stoker.services.bus.asyncapi import document
    from stoker.services.process.telemetry import stoker_version

    return document(stoker_version())


def _openapi() -> Any:
    from stoker.services.gateway.app import openapi_document

    return openapi_document()


def _explain() -> Any:
    from stoker.schemas.fleet import Explanation

    return _schema_of(Explanation)


def _job_events() -> Any:
    from stoker.services.gateway.routes.jobs import event_schema

    return event_schema()


def _platform_events() -> Any:
    from stoker.schemas.fleet import PlatformEvent

    return _schema_of(PlatformEvent)


def _schema_of(kind: Any) -> Any:
    import msgspec

    from stoker.schemas.formats import DIALECT

    return {"$schema": DIALECT} | msgspec.json.schema(kind)


def _config() -> Any:
    from stoker.services.catalog.schema import configuration_schema

    return configuration_schema()


DOCUMENTS: dict[str, tuple[str, Callable[[], Any]]] = {
    "config": ("configuration files, for editors that complete and check YAML (JSON Schema)", _config),
    "asyncapi": ("the messages on NATS, who sends and who receives them (AsyncAPI 3.0)", _asyncapi),
    "openapi": ("the routes of a gateway, without its functions (OpenAPI 3.1)", _openapi),
    "explain": ("`stoker explain JOB --json`, GET /v1/jobs/JOB/explain (JSON Schema)", _explain),
    "job-events": ("the data of GET /v1/jobs/JOB/events (JSON Schema)", _job_events),
    "events": ("an event of `stoker events --json` and GET /v1/events (JSON Schema)", _platform_events),
}


@app.command()
def schema(
    document: Annotated[str, typer.Argument(help=f"{', '.join(DOCUMENTS)}; none: say what each is.")] = "",
) -> None:
    """Print what describes the configuration, the APIs or the bus.

    It is for editors, generators of clients and other programs. Without DOCUMENT: which documents there are.
    """
    if not document:
        for name, (text, _) in DOCUMENTS.items():
            typer.echo(f"{name:<12} {text}")
        return
    if document not in DOCUMENTS:
        fail(f"there is no document {document!r}; there are {', '.join(DOCUMENTS)}", 2)
    print_json(DOCUMENTS[document][1]())
