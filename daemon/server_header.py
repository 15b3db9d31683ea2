"""What annexd's HTTP answers say of the program that made them: its name, and no versions for strangers to look up."""

from __future__ import annotations

from aiohttp import web_response

NAME = "annex"


def name_only() -> None:
    """Have every answer of this process name annex, and not the libraries behind it.

    The constant, and no hook of an application: aiohttp answers what is no HTTP at all without asking any application.
    """
    vars(web_response)["SERVER_SOFTWARE"] = NAME
