"""Puts the newest record of a pair, or of the groups, on stable storage, one write at a time, and does not give up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from backends.scheduler import Scheduler
from backends.workers import Workers

RETRY_S = 1.0

Stored = Callable[[Exception | None], None]


class Record(Protocol):
    """What is stored."""

    def encode(self) -> dict[str, Any]:
        """Give the payload."""

    def log_not_stored(self, error: Exception) -> None:
        """Say that it could not be stored."""


class RecordFile(Protocol):
    """Where; the part of `SlotFile` that a writer uses."""

    def store(self, payload: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


class RecordWriter:
    """Writes the records of one pair, or of all groups.

    Attributes:
        stable: called whenever the newest record has become stable, before the callbacks of those who stored it.
    """

    def __init__(self, file: RecordFile, workers: Workers, scheduler: Scheduler, stable: Callable[[], None]) -> None:
        self.stable = stable
        self._file = file
        self._workers = workers
        self._scheduler = scheduler
        self._next: Record | None = None
        self._waiters: list[Stored] = []
        self._busy = False
        self._closed = False
        self._gates = 0

    def store(self, record: Record, done: Stored) -> None:
        """Make a record stable.

        Args:
            record: the newest; one that still waits to be written is left out.
            done: called once, with the error of the first attempt if it failed. It is tried again all the same, until
                `stable` is called.
        """
        self._next = record
        self._waiters.append(done)
        self._step()

    def shut(self) -> None:
        """Begin to write nothing until `open` was called as often: something else has to be stable first."""
        self._gates += 1

    def open(self) -> None:
        """Take back one `shut`."""
        self._gates -= 1
        self._step()

    def close(self) -> None:
        """Write nothing more; what is under way ends."""
        self._closed = True
        self._next = None
        if not self._busy:
            self._file.close()

    def _step(self) -> None:
        record = self._next
        if self._busy or record is None or self._closed or self._gates:
            return
        self._busy = True
        self._next = None
        waiters, self._waiters = self._waiters, []

        def ended(result: Exception | None) -> None:
            self._busy = False
            if result is not None:
                record.log_not_stored(result)
                if not self._closed:
                    self._next = self._next or record  # a newer one may have come meanwhile
                    self._scheduler.call_later(RETRY_S, self._step)
            elif self._next is None:
                self.stable()
            for done in waiters:
                done(result)
            if self._closed:
                self._file.close()
            elif result is None:
                self._step()

        payload = record.encode()
        self._workers.submit(lambda: self._file.store(payload), ended)
