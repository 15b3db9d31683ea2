"""Steps of one operation, taken side by side, a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from scsi.volume import Done, VolumeError

Step = Callable[[Done], None]
MOST_AT_A_TIME = 8


class Steps:
    """Takes steps until there are no more; the first error ends the starting, and is the answer."""

    def __init__(self, steps: Iterator[Step], done: Done) -> None:
        self._steps = steps
        self._done = done
        self._out = 0
        self._starting = False
        self._error: VolumeError | None = None

    def start(self) -> None:
        """Begin; `done` is called once, possibly before this returns."""
        if self._starting:  # a step that ended at once; the loop below goes on
            return
        self._starting = True
        while self._out < MOST_AT_A_TIME and self._error is None:
            step = next(self._steps, None)
            if step is None:
                break
            self._out += 1
            step(self._ended)
        self._starting = False
        if not self._out:
            self._done(self._error)

    def _ended(self, error: VolumeError | None) -> None:
        self._out -= 1
        if self._error is None:
            self._error = error
        self.start()
