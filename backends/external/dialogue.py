"""A sequence of things that each call back when they are done, written as a generator instead of a chain of callbacks.

The generator yields functions: each is called with a callback, and the generator goes on with what the callback got.
The callback may come before the function returns; there is no recursion then.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from backends.scheduler import Scheduler

# Any: each function has its own kind of result, which the generator that yields it knows.
Step = Callable[[Callable[[Any], None]], None]
Script = Generator[Step, Any, None]


class Dialogue:
    """Runs one script to its end, unless it is cancelled."""

    def __init__(self, script: Script, ended: Callable[[], None] = lambda: None) -> None:
        """Prepare; `ended` is called when the script has run out, not when it is cancelled."""
        self._script: Script | None = script
        self._ended = ended
        self._turn = 0
        self._running = False
        self._results: list[Any] = []

    def run(self) -> None:
        """Begin."""
        self._results.append(None)
        self._go_on()

    def cancel(self) -> None:
        """Stop where it is; what it waits for is ignored when it comes."""
        script, self._script = self._script, None
        if script is not None and not self._running:
            script.close()

    def _go_on(self) -> None:
        if self._running:
            return
        self._running = True
        while self._results and self._script is not None:
            try:
                step = self._script.send(self._results.pop())
            except StopIteration:
                self._script = None
                self._running = False
                self._ended()
                return
            self._turn += 1
            step(self._answer_to(self._turn))
        self._running = False

    def _answer_to(self, turn: int) -> Callable[[Any], None]:
        def answer(result: Any) -> None:
            if turn == self._turn and self._script is not None:
                self._turn += 1  # a second answer to the same step would be answered for the next one
                self._results.append(result)
                self._go_on()

        return answer


def pause(scheduler: Scheduler, seconds: float) -> Step:
    """Return a step that only lets time pass."""
    return lambda done: _discard(scheduler.call_later(seconds, lambda: done(None)))


def _discard(_: object) -> None:
    """Make an expression of anything have no value."""
