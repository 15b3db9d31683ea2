"""One request, from its first byte to its answer: who asks, what, with which body; and nothing else is looked at first.

The order matters. Whoever may do nothing is refused before the path is looked at, so that nobody can find out what is
there; a body is read only for a request that there is, within a size and a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from config.errors import ConfigError
from daemon.control import errors
from daemon.control.authorization import Right
from daemon.control.route import Asked, Control, Fields, Raw, Route
from daemon.control.routes import ROUTES
from daemon.server_header import name_only

MAX_BODY_BYTES = 8 * 1024 * 1024
BODY_LIMIT_S = 10.0
_SAID = {404: "there is nothing here", 405: "there is no such method here"}

_log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(control: Control, right_of: Callable[[web.Request], Right], document: bytes) -> web.Application:
    """Make what answers the requests of one listener.

    Args:
        control: the daemon.
        right_of: says what an asker may do.
        document: the OpenAPI document.
    """

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            right = right_of(request)
            if right is Right.NOTHING:
                status = 401 if "Authorization" in request.headers or request.secure else 403
                remedy = "control.admin_groups, or a token"
                return _closing(errors.refusal(status, "annexd", "you may not ask it", remedy))
            request["right"] = right
            return await handler(request)
        except ConfigError as error:
            return errors.answer(error)
        except web.HTTPRequestEntityTooLarge:
            return _closing(errors.refusal(413, "body", f"is larger than {MAX_BODY_BYTES} bytes"))
        except web.HTTPException as error:
            return errors.refusal(error.status, request.path[:200], _SAID.get(error.status, error.reason))
        except TimeoutError:
            return _closing(errors.refusal(408, "body", f"did not come within {BODY_LIMIT_S:.0f} s"))
        except Exception:  # noqa: BLE001 - the outermost handler: one request fails, the daemon goes on
            _log.exception("control API: %s %s", request.method, request.path[:200].encode("unicode_escape").decode())
            return errors.refusal(500, "annexd", "a fault of its own", "see its log")

    made = web.Application(middlewares=[guard], client_max_size=MAX_BODY_BYTES)
    name_only()
    for route in ROUTES:
        made.router.add_route(route.method, route.path, _handler(control, route))

    async def openapi(request: web.Request) -> web.Response:
        return web.Response(body=document, content_type="application/json")

    made.router.add_route("GET", "/v1/openapi.json", openapi)
    return made


def _handler(control: Control, route: Route) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        right = request["right"]
        if right < route.right:
            raise errors.ForbiddenError(request.method, "needs more rights than you have", "control.admin_groups")
        body = await _body(request, route)
        answer = await route.handle(control, Asked(request.match_info, request.query, body, right))
        return web.Response(status=route.status, body=msgspec.json.encode(answer), content_type="application/json")

    return handle


async def _body(request: web.Request, route: Route) -> Any:
    """Read and decode the body.

    Raises:
        ConfigError: it is not what the route takes.
        TimeoutError: it comes too slowly.
        web.HTTPException: it is too large, or of another content type.
    """
    async with asyncio.timeout(BODY_LIMIT_S):
        data = await request.read()
    if route.body is None:
        return None
    if not data and route.body.__name__ == "Nothing":
        return route.body()
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType
    if route.body is Raw:
        return data
    wanted: Any = dict[str, Any] if route.body is Fields else route.body
    try:
        return await asyncio.to_thread(msgspec.json.decode, data, type=wanted)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at `$")
        raise ConfigError(where.rstrip("`").lstrip(".") or "body", problem) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError("body", f"is not JSON: {error}") from None


def _closing(response: web.Response) -> web.Response:
    """Answer, and end the connection: what the asker still sends is not read."""
    response.force_close()
    return response
