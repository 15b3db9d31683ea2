"""Work that goes on after its order was answered: copies and comparisons of pairs, with their progress."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Literal

import msgspec

from backends.pairs.copying import Comparison
from backends.pairs.pair import Pair
from daemon.control.errors import RefusedError, UnknownError
from scsi.array_commands import PairState

MOST_ENDED = 100  # ended jobs that are remembered

JobState = Literal["running", "done", "failed", "cancelled"]


class JobRow(msgspec.Struct):
    """A job; times are seconds since 1970, `ended` and `error` None while it runs."""

    id: str
    kind: str
    subject: str
    state: JobState
    done_blocks: int
    total_blocks: int
    started: float
    ended: float | None
    error: str | None


class Job:
    """One piece of work on a pair.

    Attributes:
        row: how it stands; `refresh` first.
        stop: ends the work before its time; None where that takes an order to the pair.
    """

    def __init__(self, identifier: str, kind: str, pair: Pair, clock: Callable[[], float]) -> None:
        self.stop: Callable[[], None] | None = None
        self.row = JobRow(
            identifier, kind, f"pair {pair.number}", "running", 0, pair.record.blocks, clock(), None, None
        )
        self._pair = pair
        self._clock = clock

    def refresh(self) -> JobRow:
        """Look at the pair; give the row."""
        row, pair = self.row, self._pair
        if row.state == "running":
            row.done_blocks = self._done_blocks()
            if pair.mirror.dissolved or (row.kind != "verify" and pair.state is not PairState.COPY):
                self.end(*self._how_it_ended())
        return row

    def end(self, state: JobState, error: str | None = None) -> None:
        """Take note that it is over."""
        if self.row.state == "running":
            self.row.state, self.row.error, self.row.ended = state, error, self._clock()
            if state == "done":
                self.row.done_blocks = self.row.total_blocks

    def cancel(self) -> None:
        """End it before its time; the row keeps how far it was.

        Raises:
            RefusedError: it has ended, or is more than a job: a copy is the state of its pair.
        """
        place, pair = f"/jobs/{self.row.id}", self._pair
        if self.refresh().state != "running":
            raise RefusedError(place, f"is {self.row.state} already", "delete it, and it is forgotten")
        if self.stop is None:
            raise RefusedError(
                place, "is a copy, which its pair can not do without", f"split it: /pairs/{pair.number} split"
            )
        self.stop()
        goes_on = "; the pair goes on comparing, since a fence of it had lapsed" if pair.record.unverified else ""
        self.end("cancelled", f"an admin has cancelled it{goes_on}")

    def _done_blocks(self) -> int:
        if self.row.kind != "verify":
            return self.row.total_blocks - self._pair.row().out_of_sync_blocks
        walk = self._pair.synchronizer.walk
        return walk.done_blocks if isinstance(walk, Comparison) else 0

    def _how_it_ended(self) -> tuple[JobState, str | None]:
        pair = self._pair
        if pair.mirror.dissolved:
            return "cancelled", "the pair was deleted"
        if pair.state is PairState.PAIR:
            return "done", None
        if pair.state is PairState.PSUE:
            return "failed", pair.last_error or "the pair is suspended by an error"
        return "cancelled", f"the pair is {pair.state.name} now"


class Jobs:
    """All jobs since the daemon's start that are remembered."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._numbers = itertools.count(1)
        self._jobs: dict[str, Job] = {}

    def begin(self, kind: str, pair: Pair) -> Job:
        """Remember a new job."""
        job = Job(str(next(self._numbers)), kind, pair, self._clock)
        self._jobs[job.row.id] = job
        ended = [other.row.id for other in self._jobs.values() if other.refresh().state != "running"]
        for identifier in ended[:-MOST_ENDED]:
            del self._jobs[identifier]
        return job

    def rows(self) -> list[JobRow]:
        """List them, the oldest first."""
        return [job.refresh() for job in self._jobs.values()]

    def row(self, identifier: str) -> JobRow:
        """Give one.

        Raises:
            UnknownError: there is none.
        """
        return self._find(identifier).refresh()

    def cancel(self, identifier: str) -> JobRow:
        """End one before its time.

        Raises:
            UnknownError: there is none.
            RefusedError: see `Job.cancel`.
        """
        job = self._find(identifier)
        job.cancel()
        return job.row

    def forget(self, identifier: str) -> None:
        """Forget one that has ended.

        Raises:
            UnknownError: there is none.
            RefusedError: it still runs.
        """
        job = self._find(identifier)
        if job.refresh().state == "running":
            raise RefusedError(
                f"/jobs/{identifier}", "still runs", "split the pair" if job.stop is None else "cancel it"
            )
        del self._jobs[identifier]

    def _find(self, identifier: str) -> Job:
        job = self._jobs.get(identifier)
        if job is None:
            raise UnknownError(f"/jobs/{identifier}", "there is no such job")
        return job
