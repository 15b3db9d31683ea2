"""Waiting, in a coroutine, for what the layers below tell by a callback, and not for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

_log = logging.getLogger(__name__)


async def finished(begin: Callable[[Callable[[], None]], object]) -> None:
    """Begin something that calls back when it is done, and wait for that."""
    future = asyncio.get_running_loop().create_future()
    begin(resolver(future))
    await future


async def in_time(limit_s: float, what: str, work: Coroutine[Any, Any, None]) -> None:
    """Wait for `work` for so long; what it waits for goes on by itself."""
    try:
        async with asyncio.timeout(limit_s):
            await work
    except TimeoutError:
        _log.warning("%s: nothing after %d s; not waiting any longer", what, limit_s, extra={"event": "nothing_heard"})


async def answered(begin: Callable[[Callable[[Exception | None], None]], object]) -> Exception | None:
    """Begin something that calls back with its error or None, wait for that, and give it."""
    future: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def answer(error: Exception | None) -> None:
        if not future.done():
            future.set_result(error)

    begin(answer)
    return await future


def resolver(future: asyncio.Future[Any]) -> Callable[[], None]:
    """Give what ends the wait for `future`; nobody may be waiting any more."""

    def resolve() -> None:
        if not future.done():
            future.set_result(None)

    return resolve
