"""A scheduler whose clock only moves when the test says so."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue

DEADLINE_S = 20.0  # for work on real threads; a test that gets there has failed


class VirtualTimer:
    """A pending `call_later` of a `VirtualScheduler`."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class VirtualScheduler:
    """`backends.scheduler.Scheduler` on a virtual clock; calls at the same time run in the order they were made."""

    def __init__(self, start_s: float = 1000.0) -> None:
        self._now = start_s
        self._soon: deque[Callable[[], None]] = deque()
        self._later: list[tuple[float, int, VirtualTimer]] = []
        self._numbers = itertools.count()
        self._posted: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def now(self) -> float:
        return self._now

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> VirtualTimer:
        timer = VirtualTimer(callback)
        heapq.heappush(self._later, (self._now + max(delay_s, 0.0), next(self._numbers), timer))
        return timer

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def post(self, callback: Callable[[], None]) -> None:
        self._posted.put(callback)

    def run_until_idle(self) -> None:
        """Run all that is due now, and all that follows from it without time passing.

        Raises:
            RuntimeError: it goes on for 1,000,000 calls, so something calls itself for ever.
        """
        for _ in range(1_000_000):
            self._take_posted()
            self._take_due()
            if not self._soon:
                return
            self._soon.popleft()()
        raise RuntimeError("never idle: something calls call_soon or call_later(0) for ever")

    def advance(self, seconds: float) -> None:
        """Let time pass; timers run at their own times, in order, and see `now()` as theirs."""
        end = self._now + seconds
        self.run_until_idle()
        while (due := self.next_deadline()) is not None and due <= end:
            self._now = max(self._now, due)
            self.run_until_idle()
        self._now = end
        self.run_until_idle()

    def next_deadline(self) -> float | None:
        """Give the time of the first timer that is not cancelled, None when there is none."""
        while self._later and self._later[0][2].callback is None:
            heapq.heappop(self._later)
        return self._later[0][0] if self._later else None

    @property
    def pending(self) -> int:
        """How many timers there are."""
        return sum(timer.callback is not None for _, _, timer in self._later)

    def run_until(self, condition: Callable[[], bool]) -> None:
        """Run until `condition()` holds, waiting for posts of real threads; the virtual clock stands still.

        Raises:
            AssertionError: no thread posted for `DEADLINE_S` real seconds.
        """
        self.run_until_idle()
        while not condition():
            try:
                self._soon.append(self._posted.get(timeout=DEADLINE_S))
            except Empty:
                raise AssertionError("no thread posted anything, and the condition does not hold") from None
            self.run_until_idle()

    def _take_posted(self) -> None:
        while not self._posted.empty():
            self._soon.append(self._posted.get())

    def _take_due(self) -> None:
        while self._later and (self._later[0][2].callback is None or self._later[0][0] <= self._now):
            _, _, timer = heapq.heappop(self._later)
            if timer.callback is not None:
                self._soon.append(timer_call(timer))


def timer_call(timer: VirtualTimer) -> Callable[[], None]:
    """Give a call that makes the timer's, unless it is cancelled before its turn."""

    def call() -> None:
        callback, timer.callback = timer.callback, None
        if callback is not None:
            callback()

    return call
