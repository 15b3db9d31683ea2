"""The asyncio event loop, as the `Scheduler` that the backends and the protocol adapters run on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from backends.scheduler import Timer


class LoopScheduler:
    """`backends.scheduler.Scheduler` over a running asyncio (or uvloop) event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # The clock that both kinds of loop go by; uvloop's own time() stands still while callbacks run.
        self.now = time.monotonic
        self._loop = loop

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call back after `delay_s` seconds."""
        return self._loop.call_later(delay_s, callback)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call back once the present wake-up's work is done."""
        self._loop.call_soon(callback)

    def post(self, callback: Callable[[], None]) -> None:
        """From any thread: call back on the loop. A loop that has closed has no one left to tell."""
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            if not self._loop.is_closed():
                raise


def run(main: Coroutine[Any, Any, int], *, use_uvloop: bool) -> int:
    """Run `main` to its end on a new event loop; give its exit code.

    uvloop is the default where it installs (docs/ARCHITECTURE.md has the figures); plain asyncio runs the same code.
    """
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if use_uvloop:
        import uvloop  # noqa: PLC0415 - plain asyncio must run where uvloop is not installed

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)
