"""Files of older versions: each step makes the document of one version into that of the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from config import model
from config.errors import ConfigError


def migrate(document: Any) -> Any:
    """Give `document` as the present version would have written it; what is no such document at all is given back.

    Raises:
        ConfigError: it is of a version that this annexd does not know yet.
    """
    if not isinstance(document, dict) or type(document.get("version")) is not int:
        return document
    version: int = document["version"]
    if version > model.VERSION:
        raise ConfigError("version", f"{version} is newer than this annexd knows ({model.VERSION})", "update annexd")
    while version in _STEPS:
        document = _STEPS[version](document)
        version = document["version"]
    return document


def _from_1(document: dict[str, Any]) -> dict[str, Any]:
    """Version 2 only has more: limits, addresses of an ACL, credentials, `control` and `metrics`."""
    return {**document, "version": 2}


_STEPS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}
