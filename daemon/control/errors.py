"""What the control API answers when it says no: one shape for all, and the HTTP status of each error."""

from __future__ import annotations

import msgspec
from aiohttp import web

from config.errors import ConfigError, InUseError, ListenError, NotSavedError, NotServingError, RevisionError


class UnknownError(ConfigError):
    """There is nothing by that name."""


class ExistsError(ConfigError):
    """There is something by that name already."""


class ForbiddenError(ConfigError):
    """This asker may not do that."""


class RefusedError(ConfigError):
    """The state that something is in does not allow that."""


class ErrorBody(msgspec.Struct):
    """Where, what, and what to do about it; each one line."""

    place: str
    problem: str
    remedy: str


class ErrorAnswer(msgspec.Struct):
    """The body of every answer that says no."""

    error: ErrorBody


STATUS: dict[type[ConfigError], int] = {
    UnknownError: 404,
    ExistsError: 409,
    InUseError: 409,
    RefusedError: 409,
    ForbiddenError: 403,
    RevisionError: 412,
    NotServingError: 503,
    NotSavedError: 507,
    ListenError: 400,
    ConfigError: 400,
}


def answer(error: ConfigError) -> web.Response:
    """Give the answer that says why not."""
    return _response(STATUS[type(error)], error)


def refusal(status: int, place: str, problem: str, remedy: str = "") -> web.Response:
    """Give an answer with an error in it; what an asker has sent may stand in it."""
    return _response(status, ConfigError(place, problem, remedy))


def _response(status: int, error: ConfigError) -> web.Response:
    body = msgspec.json.encode(ErrorAnswer(ErrorBody(error.place, error.problem, error.remedy)))
    return web.Response(status=status, body=body, content_type="application/json")
