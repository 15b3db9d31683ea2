"""Puts a pair's newest record on stable storage, one write at a time, and does not give up."""

from __future__ import annotations

import logging
from collections.abc import Callable

from backends.pairs.slot_file import SlotFile
from backends.pairs.store import PairRecord
from backends.scheduler import Scheduler
from backends.workers import Workers

RETRY_S = 1.0

Stored = Callable[[Exception | None], None]
_log = logging.getLogger(__name__)


class RecordWriter:
    """Writes the records of one pair.

    Attributes:
        stable: called whenever the newest record has become stable, before the callbacks of those who stored it.
    """

    def __init__(self, file: SlotFile, workers: Workers, scheduler: Scheduler, stable: Callable[[], None]) -> None:
        self.stable = stable
        self._file = file
        self._workers = workers
        self._scheduler = scheduler
        self._next: PairRecord | None = None
        self._waiters: list[Stored] = []
        self._busy = False
        self._closed = False

    def store(self, record: PairRecord, done: Stored) -> None:
        """Make a record stable.

        Args:
            record: the newest; one that still waits to be written is left out.
            done: called once, with the error of the first attempt if it failed. It is tried again all the same, until
                `stable` is called.
        """
        self._next = record
        self._waiters.append(done)
        self._step()

    def close(self) -> None:
        """Write nothing more; what is under way ends."""
        self._closed = True
        self._next = None
        if not self._busy:
            self._file.close()

    def _step(self) -> None:
        record = self._next
        if self._busy or record is None or self._closed:
            return
        self._busy = True
        self._next = None
        waiters, self._waiters = self._waiters, []

        def ended(result: Exception | None) -> None:
            self._busy = False
            if result is not None:
                _log.error(
                    "pair %d: its state could not be stored: %s",
                    record.number,
                    result,
                    extra={"event": "pair_not_stored"},
                )
                if self._next is None and not self._closed:
                    self._next = record
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
