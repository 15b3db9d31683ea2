"""Time and the event loop as the backends see them, so that a test can run them on a virtual clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A pending `call_later`."""

    def cancel(self) -> None:
        """Forget the call; harmless when it was made already."""


class Scheduler(Protocol):
    """The event loop's clock and queue. Only `post` may be called from another thread."""

    def now(self) -> float:
        """Monotonic seconds."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call back on the loop's thread after `delay_s` seconds."""

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call back on the loop's thread once the present wake-up's work is done."""

    def post(self, callback: Callable[[], None]) -> None:
        """From any thread: call back on the loop's thread."""
