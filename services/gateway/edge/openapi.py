"""The OpenAPI document, made from the table of routes: each names the Structs of its query, body and answer.

Imported when somebody asks for the document: it brings Litestar, whose description of OpenAPI it fills in.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any, get_type_hints

import msgspec
from litestar.openapi.spec import (
    Components,
    Info,
    OpenAPI,
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Parameter,
    PathItem,
    RequestBody,
    Schema,
    Server,
)
from litestar.openapi.spec.enums import OpenAPIType

from stoker.schemas.anthropic import AnthropicErrorAnswer
from stoker.schemas.ollama import OllamaErrorAnswer
from stoker.schemas.openai import ErrorAnswer
from stoker.services.bus.discovery import VERSION
from stoker.services.gateway.edge.problems import JSON, PROBLEM_JSON, Dialect, Problem
from stoker.services.gateway.edge.routing import Route

REFERENCE = "#/components/schemas/{name}"

READ_FAILURES = {
    400: "The request is not as it should be; the field and the remedy are named",
    401: "No API key, or a wrong one",
    403: "The API key may not use this",
    404: "There is nothing by this name",
    405: "The path takes another method",
    429: "Too many of these; Retry-After says when again",
    431: "The headers are too large",
    503: "It cannot be served now: the reason is named",
}
WORK_FAILURES = {
    409: "It contradicts what is there already",
    413: "The body is too large",
    422: "It can be read but not done",
    499: "The job was cancelled",
    500: "The engine or the function failed",
    504: "It took longer than it may",
}
"""Statuses that are no success, of routes that read and of those that ask for work besides."""


ERRORS: dict[Dialect, tuple[Any, str]] = {
    "problem": (Problem, PROBLEM_JSON),
    "openai": (ErrorAnswer, JSON),
    "anthropic": (AnthropicErrorAnswer, JSON),
    "ollama": (OllamaErrorAnswer, JSON),
}


@cache
def _content(kind: Any, media_type: str = JSON) -> dict[str, OpenAPIMediaType]:
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=REFERENCE)
    return {media_type: OpenAPIMediaType(schema=schema)}  # type: ignore[arg-type]  # plain JSON is as good


def _path_parameters(path: str) -> list[Parameter]:
    """What a template names, in order."""
    found: list[Parameter] = []
    for part in path.split("/"):
        if part.startswith("{"):
            name, _, kind = part.strip("{}").partition(":")
            schema = Schema(type=OpenAPIType.INTEGER if kind == "int" else OpenAPIType.STRING)
            found.append(Parameter(name=name, param_in="path", schema=schema, required=True))
    return found


@cache
def _query_parameters(query: type) -> list[Parameter]:
    """The fields of a query's Struct; none is required."""
    hints = get_type_hints(query, include_extras=True)
    found: list[Parameter] = []
    for field in msgspec.structs.fields(query):
        schema = msgspec.json.schema(hints[field.name]) | {"default": field.default}
        found.append(Parameter(name=field.encode_name, param_in="query", schema=schema, required=False))  # type: ignore[arg-type]  # plain JSON is as good
    return found


def _operation(route: Route, path: str) -> Operation:
    parts = [part.strip("{}").partition(":")[0] for part in (*path.split("/"), route.name)]
    words = [word for part in parts for word in part.replace("-", "_").split("_") if word]
    parameters = _path_parameters(path) + (_query_parameters(route.query) if route.query is not None else [])
    content = _content(route.answers) if route.answers is not None else {route.gives: OpenAPIMediaType()}
    operation = Operation(
        summary=route.summary,
        operation_id="".join(word[0].upper() + word[1:] for word in words),
        parameters=list(parameters) or None,
        responses={str(route.status): OpenAPIResponse("Success", content=content)},
    )
    if route.asks is not None:
        operation.request_body = RequestBody(content=_content(route.asks, route.takes), required=True)
    error = _content(*ERRORS[route.dialect])
    failures = READ_FAILURES if route.method == "GET" else READ_FAILURES | WORK_FAILURES
    assert operation.responses is not None
    for number, meaning in failures.items():
        operation.responses.setdefault(str(number), OpenAPIResponse(meaning, content=error))
    return operation


@cache
def _components(kinds: tuple[Any, ...]) -> dict[str, Any]:
    _, schemas = msgspec.json.schema_components(kinds, ref_template=REFERENCE)
    return schemas


def _shown(path: str) -> str:
    """A template as OpenAPI writes it: names without their kinds."""
    return "/".join(part.partition(":")[0] + "}" if ":" in part else part for part in path.split("/"))


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The document of these routes, but for the hidden ones, as JSON values."""
    paths: dict[str, PathItem] = {}
    kinds: list[Any] = [kind for kind, _ in ERRORS.values()]
    for route in routes:
        if route.is_hidden:
            continue
        kinds += [kind for kind in (route.asks, route.answers) if kind is not None]
        for path in route.paths:
            item = paths.setdefault(_shown(path), PathItem())
            setattr(item, route.method.lower(), _operation(route, path))
    described = OpenAPI(
        info=Info(title="Stoker", version=VERSION),
        servers=[Server(url="/")],
        paths=paths,
        components=Components(schemas=_components(tuple(kinds))),
    )
    found: dict[str, Any] = described.to_schema()
    return found
