"""Workers without threads: jobs run on the virtual scheduler, one after the other, in the order submitted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from backends.workers import Workers
from tests.support.clock import VirtualScheduler

T = TypeVar("T")


class VirtualWorkers(Workers):
    """As `Workers`, but deterministic: `scheduler.run_until_idle()` runs the jobs and their callbacks.

    Attributes:
        held: while True, jobs wait; setting it False and calling `run_held()` lets them go.
    """

    def __init__(self, scheduler: VirtualScheduler) -> None:
        super().__init__(scheduler, threads=0)
        self.held = False
        self._waiting: list[Callable[[], None]] = []

    def submit(self, function: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        def job() -> None:
            result: T | Exception
            try:
                result = function()
            except Exception as error:  # noqa: BLE001 - as Workers does
                result = error
            self._scheduler.call_soon(lambda: done(result))

        if self.held:
            self._waiting.append(job)
        else:
            self._scheduler.call_soon(job)

    def submit_now(self, function: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        self.submit(function, done)

    def run_held(self) -> None:
        """Let the jobs that waited run, on the scheduler's next turn."""
        self.held = False
        waiting, self._waiting = self._waiting, []
        for job in waiting:
            self._scheduler.call_soon(job)

    def close(self, timeout_s: float = 5.0) -> bool:
        return True
