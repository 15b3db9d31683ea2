"""The timer of a protocol core: the core names a deadline, which mostly moves later, and is called when it is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Deadline:
    """One timer of the event loop.

    A timer that is set already is left alone unless it would be late; one that comes early just looks again. So a
    deadline that moves with every PDU costs a comparison, and no timer of its own.

    Args:
        loop: the event loop.
        next_deadline: the core's; when to call, on the loop's clock, or None for never.
        due: called when the timer fires; it is to call `arm` again.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, next_deadline: Callable[[], float | None], due: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._next_deadline = next_deadline
        self._due = due
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0

    def arm(self) -> None:
        """See to it that `due` is called by the deadline."""
        deadline = self._next_deadline()
        if deadline is None or (self._timer is not None and self._at <= deadline):
            return
        self.cancel()
        self._at = deadline
        self._timer = self._loop.call_at(deadline, self._fire)

    def cancel(self) -> None:
        """Call nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        self._due()
