"""How the event loop looks for more answers of a busy array before it sleeps.

An array that has many commands answers a few of them, and the next few some microseconds later. Falling asleep in
between, and being woken again, costs more than that; on few processors, the kernel also takes the chance to put annexd
behind the array on one of them. So annexd looks for a moment whenever answers have come and more are due, with all
other sockets served meanwhile. An array that does not answer within that moment is left alone for a long while, and who
has one command at an array at a time never waits so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

LOOK_S = 100e-6  # behind the last answers
MOST_IN_VAIN = 8  # looks in a row that no answer ended
LEFT_OUT = 1000  # times that answers come, after those


class AnswerPolling:
    """The looking of one connection.

    Args:
        loop: the event loop; it does not sleep while a callback waits for it.
        due: how many answers the array owes.
        clock: monotonic seconds. (uvloop's own stands still during a round of its loop, and counts milliseconds.)
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        due: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._due = due
        self._clock = clock
        self._until = 0.0
        self._looking = False
        self._in_vain = 0
        self._leave_out = 0

    def answers_came(self) -> None:
        """Look for more of them, from now on, unless there were none lately."""
        if self._looking:
            self._in_vain = 0
        elif self._leave_out:
            self._leave_out -= 1
            return
        elif self._due():
            self._looking = True
            self._loop.call_soon(self._look)
        self._until = self._clock() + LOOK_S

    def _look(self) -> None:
        if not self._due():
            self._looking = False
        elif self._clock() < self._until:
            self._loop.call_soon(self._look)
        else:
            self._looking = False
            self._in_vain += 1
            if self._in_vain == MOST_IN_VAIN:
                self._in_vain = 0
                self._leave_out = LEFT_OUT
