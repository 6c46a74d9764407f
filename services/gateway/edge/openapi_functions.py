"""Users' functions in the OpenAPI document, as they are at the time it is asked for."""

import json
from pathlib import Path
from typing import Any

from litestar import Request
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin

from stoker.schemas.catalog import Model
from stoker.services.gateway.gateway import Gateway

STATIC = Path(__file__).parent.parent / "static"


def with_functions(document: dict[str, Any], models: dict[str, Model]) -> dict[str, Any]:
    """The document with one path per function; the structs of their schemas become components."""
    paths = dict(document.get("paths", {}))
    components = dict(document.get("components", {}))
    schemas = dict(components.get("schemas", {}))
    for name, model in sorted(models.items()):
        function = model.function
        if function is None:
            continue
        asks = _schema(f"{name}.input", function.input_schema, schemas)
        answers = _schema(f"{name}.output", function.output_schema, schemas)
        result = {"type": "array", "items": answers} if function.streams else answers
        paths[f"/v1/functions/{name}"] = {
            "post": {
                "summary": function.description.partition("\n")[0] or name,
                "operationId": f"function_{name}",
                "requestBody": {"required": True, "content": {"application/json": {"schema": asks}}},
                "responses": {
                    "200": {"description": "Result", "content": {"application/json": {"schema": result}}}
                },
            }
        }
    return document | {"paths": paths, "components": components | {"schemas": schemas}}


def _schema(prefix: str, schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """A schema whose own definitions are components of the document now."""
    text = json.dumps(schema).replace("#/$defs/", f"#/components/schemas/{prefix}.")
    moved: dict[str, Any] = json.loads(text)
    for name, definition in moved.pop("$defs", {}).items():
        schemas[f"{prefix}.{name}"] = definition
    return moved


def _models(request: Request[Any, Any, Any]) -> dict[str, Model]:
    gateway: Gateway = request.app.state.gateway
    return gateway.fleet.models


class FunctionsJson(JsonRenderPlugin):
    """The document itself."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        return super().render(request, with_functions(openapi_schema, _models(request)))


class FunctionsPage(OpenAPIRenderPlugin):
    """The page that shows it: its script reads the document, and all that it loads is served here."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        return (STATIC / "schema.html").read_bytes()
