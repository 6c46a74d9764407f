"""Users' functions in the OpenAPI document, as they are at the time it is asked for."""

import json
from collections.abc import Mapping
from typing import Any

from stoker.schemas.catalog import Model


def with_functions(document: dict[str, Any], models: Mapping[str, Model]) -> dict[str, Any]:
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
