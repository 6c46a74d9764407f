"""The OpenAPI document: bodies that the routes decode themselves, described from their Structs.

A route names its Structs in `opt`: `asks` for the request's body, `answers` for the answer's.
"""

from typing import Any

import msgspec
from litestar import Litestar
from litestar.openapi.spec import (
    Components,
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    PathItem,
    RequestBody,
)
from litestar.routes import ASGIRoute, HTTPRoute

from schemas.openai import ErrorAnswer
from services.gateway.edge.http import JSON
from services.gateway.edge.problems import PROBLEM_JSON, Problem

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


def _content(kind: Any, media_type: str = JSON) -> dict[str, OpenAPIMediaType]:
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=REFERENCE)
    return {media_type: OpenAPIMediaType(schema=schema)}  # type: ignore[arg-type]  # plain JSON is as good


def _describe(operation: Operation, method: str, opt: dict[str, Any]) -> None:
    if "asks" in opt:
        media_type = opt.get("takes", JSON)
        operation.request_body = RequestBody(content=_content(opt["asks"], media_type), required=True)
    operation.responses = operation.responses or {}
    if "answers" in opt:
        status = next((s for s in operation.responses if s.startswith("2")), "200")
        operation.responses[status] = OpenAPIResponse("Success", content=_content(opt["answers"]))
    error = _content(ErrorAnswer) if opt.get("is_openai") else _content(Problem, PROBLEM_JSON)
    failures = READ_FAILURES if method == "GET" else READ_FAILURES | WORK_FAILURES
    for number, meaning in failures.items():
        operation.responses.setdefault(str(number), OpenAPIResponse(meaning, content=error))


def describe(app: Litestar) -> None:
    """Complete the application's OpenAPI document."""
    document = app.openapi_schema
    document.paths = document.paths or {}
    document.components = document.components or Components()
    kinds: list[Any] = [Problem, ErrorAnswer]
    for route in app.routes:
        path = route.path_format
        if isinstance(route, ASGIRoute) and "summary" in route.route_handler.opt:
            opt = route.route_handler.opt
            operation = Operation(summary=opt["summary"], operation_id=path.strip("/").replace("/", "_"))
            document.paths[path] = PathItem(post=operation)
            _describe(operation, "POST", opt)
            kinds += [opt[name] for name in ("asks", "answers") if name in opt]
        elif isinstance(route, HTTPRoute) and path in document.paths:
            for handler, _ in route.route_handler_map.values():
                kinds += [handler.opt[name] for name in ("asks", "answers") if name in handler.opt]
                for method in handler.http_methods:
                    operation = getattr(document.paths[path], method.lower())
                    if operation is not None:
                        _describe(operation, method, dict(handler.opt))
    _, schemas = msgspec.json.schema_components(kinds, ref_template=REFERENCE)
    document.components.schemas = {**(document.components.schemas or {}), **schemas}
