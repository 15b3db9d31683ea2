"""The API's own description, OpenAPI 3.1, made of the table of routes and of the types in it."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from config import __version__, model
from daemon.control.authorization import Right
from daemon.control.errors import ErrorAnswer
from daemon.control.out_of_sync import MOST_RANGES
from daemon.control.route import Fields, Raw, Route
from daemon.control.routes import ROUTES

_REFERENCE = "#/components/schemas/{name}"
_OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": True}
_QUERY: dict[str, dict[str, Any]] = {
    "dry_run": {"type": "boolean", "description": "Say what would change, and change nothing"},
    "expected_revision": {"type": "integer", "minimum": 0, "description": "Refuse when another one is in force"},
    "first_lba": {"type": "integer", "minimum": 0, "description": "Where to begin"},
    "limit": {"type": "integer", "minimum": 1, "maximum": MOST_RANGES, "description": "How many at most"},
    "secrets": {"type": "boolean", "description": "With CHAP secrets; for root and annexd's own user only"},
}
# What each may answer that is no success; 500 is a fault of annexd's and stands nowhere.
_REFUSALS = {
    "400": "The request, or what it asks for, is not valid",
    "401": "The token is missing or wrong",
    "403": "This asker may not do that",
    "404": "There is no such thing",
    "405": "There is no such method here",
    "408": "The body came too slowly",
    "409": "What is there does not allow that: it is in use, exists already, or is in another state",
    "412": "Another revision is in force",
    "413": "The body is too large",
    "415": "The body is not application/json",
    "503": "annexd is starting or stopping",
    "507": "The change could not be saved, and was not made",
}


def document() -> dict[str, Any]:
    """Give the document."""
    types: list[Any] = [ErrorAnswer, model.Config]
    for route in ROUTES:
        types += [route.answer, *([route.body] if route.body not in {None, Raw, Fields} else [])]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    by_type = {_key(of): schema for of, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, by_type)
    return {
        "openapi": "3.1.0",
        "info": {"title": "annexd's control API", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, by_type: dict[str, Any]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    for name in route.query:
        schema = {key: value for key, value in _QUERY[name].items() if key != "description"}
        parameters.append(
            {"name": name, "in": "query", "required": False, "description": _QUERY[name]["description"],
             "schema": schema}
        )  # fmt: skip
    answers = {str(route.status): _content("It is done", by_type[_key(route.answer)])}
    answers |= {status: _content(words, by_type[_key(ErrorAnswer)]) for status, words in _REFUSALS.items()}
    operation = {
        "summary": route.words,
        "description": f"Right: {route.right.name.lower()}" if route.right is not Right.NOTHING else "",
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_"),
        "parameters": parameters,
        "responses": answers,
        "security": [{}, {"token": []}],
    }
    if route.body is not None:
        whole = by_type[_key(model.Config)] if route.body is Raw else _OBJECT
        schema = whole if route.body in {Raw, Fields} else by_type[_key(route.body)]
        required = route.body.__name__ != "Nothing"
        operation["requestBody"] = {"required": required, "content": {"application/json": {"schema": schema}}}
    return operation


def _content(words: str, schema: Any) -> dict[str, Any]:
    return {"description": words, "content": {"application/json": {"schema": schema}}}


def _key(of: Any) -> str:
    return of.__name__ if isinstance(of, type) and not hasattr(of, "__origin__") else str(of)
