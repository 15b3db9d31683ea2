"""What annexd's HTTP answers say of the program that made them: its name, and no versions for strangers to look up."""

from __future__ import annotations

from aiohttp import web


def name_only(app: web.Application) -> None:
    """Have every answer of an application name annex, and not the libraries behind it."""

    async def name(_request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Server"] = "annex"

    app.on_response_prepare.append(name)
