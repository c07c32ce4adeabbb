"""The OpenAPI document's parts: bodies and responses as JSON Schema, without references.

tests/deployments/api/test_openapi.py sends what the document allows, and what it does not, to a running server.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from deployments.api.response_schemas import Problem

Schema = dict[str, Any]


def body(model: type[BaseModel], filters: Schema) -> Schema:
    """The request body of an operation. `filters`: schema of its field `filters`, which follows the catalogue."""
    schema = _inlined(model)
    if "filters" in schema["properties"]:
        schema["properties"]["filters"] |= filters
        for key in ("patternProperties", "propertyNames"):
            schema["properties"]["filters"].pop(key, None)
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def responses(
    status: int, model: type[BaseModel] | None = None, media_type: str = "application/json"
) -> dict[int | str, Any]:
    """The responses of an operation: `status` with a body of `model`, and problems for every other one."""
    schema = _inlined(model) if model else {}
    problem = {"application/problem+json": {"schema": _inlined(Problem)}}
    return {
        status: {"description": "The answer", "content": {media_type: {"schema": schema}}},
        "default": {"description": "An error (RFC 9457)", "content": problem},
    }


def _inlined(model: type[BaseModel]) -> Schema:
    """The model's schema without references, and with the patterns of keys where validators look for them."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inline(node: Any) -> Any:
        if isinstance(node, list):
            return [inline(value) for value in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return inline(definitions[node["$ref"].rsplit("/", 1)[1]])
        found = {key: inline(value) for key, value in node.items()}
        if "patternProperties" in found:  # pydantic's form lets every other key pass
            [(pattern, values)] = found.pop("patternProperties").items()
            found["propertyNames"] = {**found.get("propertyNames", {}), "pattern": pattern}
            found["additionalProperties"] = values
        return found

    inlined: Schema = inline(schema)
    return inlined
