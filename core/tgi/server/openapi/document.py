"""Builds the OpenAPI 3.0.3 document from the records that the routes read and write."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.server.http.responses import ErrorResponse
from tgi.server.openapi.operations import (
    JSON,
    OPERATIONS,
    REFERENCE,
    REFERRED,
    REFINED,
    Operation,
)

__all__ = ["openapi_document"]

Json = dict[str, Any]

_TAG = "Text Generation Inference"
_EVENTS, _TEXT = "text/event-stream", "text/plain"
_FAILURES = {
    400: "The body is not JSON",
    401: "The API key is missing or wrong",
    404: "The model does not exist",
    413: "The body is too large",
    415: "The body is not declared as JSON",
    422: "The request violates a rule",
    424: "The backend failed",
    429: "All concurrency slots are in use",
    500: "The generation ended early",
    503: "The engine is not ready",
}
_TEXT_FAILURES = (400, 413, 415)


def openapi_document(version: str) -> Json:
    """Return the document as plain data. `version` is the version of the server."""
    types = [kind for operation in OPERATIONS for kind in operation.types]
    types += REFERRED
    schemas, components = msgspec.json.schema_components(types, ref_template=REFERENCE)
    for (record, name), refined in REFINED.items():
        components[record]["properties"][name] = refined
    found = iter(schemas)
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        own = {id(kind): _to_openapi(next(found)) for kind in operation.types}
        for member in (operation.body, operation.response, operation.streamed):
            if isinstance(member, tuple):
                own[id(member)] = {"anyOf": [own[id(kind)] for kind in member]}
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, own)
    return {
        "openapi": "3.0.3",
        "info": {
            "title": _TAG,
            "description": (
                "Serves large language models with the routes of Text Generation Inference 3 and"
                " additional routes."
            ),
            "license": {"name": "Apache 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
            "version": version,
        },
        "tags": [{"name": _TAG}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {name: _to_openapi(schema) for name, schema in sorted(components.items())},
            "securitySchemes": {"api_key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation, schemas: dict[int, Json]) -> Json:
    content: Json = {}
    if operation.response is not None:
        content[operation.media_type] = {"schema": schemas[id(operation.response)]}
    if operation.streamed is not None:
        content[_EVENTS] = {"schema": schemas[id(operation.streamed)]}
    responses: Json = {
        "200": {"description": "Success", **({"content": content} if content else {})}
    }
    for status in operation.failures:
        responses[str(status)] = _failure(
            status, schemas[id(operation.error)], operation.error is not ErrorResponse
        )
    described: Json = {
        "tags": [_TAG],
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": responses,
    }
    names = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    if names:
        described["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    if operation.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {JSON: {"schema": schemas[id(operation.body)]}},
        }
    if 401 in operation.failures:
        described["security"] = [{}, {"api_key": []}]
    return described


def _failure(status: int, error: Json, is_json_only: bool) -> Json:
    described: Json = {"description": _FAILURES.get(status, "The server is overloaded")}
    if is_json_only:
        described["content"] = {JSON: {"schema": error}}
    elif status == 422:
        described["content"] = {JSON: {"schema": error}, _TEXT: {"schema": {"type": "string"}}}
    elif status in _TEXT_FAILURES:
        described["content"] = {_TEXT: {"schema": {"type": "string"}}}
    elif status != 401:
        described["content"] = {JSON: {"schema": error}}
    return described


def _to_openapi(schema: Any) -> Any:  # noqa: ANN401 - JSON Schema is any JSON
    """Convert a JSON Schema 2020-12, as msgspec writes it, to a schema of OpenAPI 3.0. A value that
    may have the type `null` gets the property `nullable`.
    """
    if isinstance(schema, list):
        return [_to_openapi(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    converted = {key: _to_openapi(value) for key, value in schema.items()}
    if converted.get("type") == "null":
        return {"nullable": True, "enum": [None]}
    if converted.get("type") == "array":
        converted.setdefault("items", {})
    if "const" in converted:
        converted["enum"] = [converted.pop("const")]
    options = converted.get("anyOf")
    if options is not None and {"type": "null"} in schema["anyOf"]:
        del converted["anyOf"]
        rest = [
            option
            for option in options
            if not (option.get("nullable") and option.get("enum") == [None])
        ]
        converted["nullable"] = True
        if len(rest) == 1 and "$ref" not in rest[0]:
            converted = rest[0] | converted
        else:
            converted["allOf" if len(rest) == 1 else "anyOf"] = rest
    return converted
