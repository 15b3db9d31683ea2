"""Threads for system calls that may block, so that the event loop never does.

How this works: `submit` costs the loop an append. Once the present wake-up is over, everything submitted in it is
handed to the threads; each takes one job at a time from one queue, so a slow fdatasync never holds up the jobs behind
it. A finished job is appended to a list, and only the thread that finds that list empty posts to the loop: however many
jobs end before the loop comes round, it is woken once, and then calls back for all of them in the order in which they
ended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from backends.scheduler import Scheduler

T = TypeVar("T")
# A job as the threads see it; what its function gives is known to its own callback only.
_Job = tuple[Callable[[], Any], Callable[[Any], None]]

_log = logging.getLogger(__name__)


class Workers:
    """A fixed number of daemon threads, and the batches that go to them and come back."""

    def __init__(self, scheduler: Scheduler, threads: int) -> None:
        self._scheduler = scheduler
        self._submitted: list[_Job] = []
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._ended: list[tuple[Callable[[Any], None], Any]] = []
        self._lock = threading.Lock()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"worker-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        """Run `function` on a thread; call `done` on the loop's thread with what it returned, or with its exception.

        `done` is never called before this returns. Jobs are begun in the order of submission, and may end in any.
        """
        assert not self._closed
        if not self._submitted:
            self._scheduler.call_soon(self._hand_out)
        self._submitted.append((function, done))

    def submit_now(self, function: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        """As `submit`, but not at the end of the wake-up: for those who have gathered what belongs together."""
        assert not self._closed
        self._queue.put((function, done))

    def close(self, timeout_s: float = 5.0) -> bool:
        """Finish what was submitted, then end the threads. Callbacks still come by the scheduler afterwards.

        Returns:
            False when a thread was still in a system call after `timeout_s`; it ends with the process.
        """
        if not self._closed:
            self._hand_out()
            self._closed = True
            for _ in self._threads:
                self._queue.put(None)
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _hand_out(self) -> None:
        batch, self._submitted = self._submitted, []
        for job in batch:
            self._queue.put(job)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            function, done = job
            try:
                result = function()
            except Exception as error:  # noqa: BLE001 - it is handed to the one who asked
                result = error
            with self._lock:
                first = not self._ended
                self._ended.append((done, result))
            if first:
                self._scheduler.post(self._deliver)
            # A thread that waits for its next job must not keep the buffers of its last one alive.
            del job, function, done, result

    def _deliver(self) -> None:
        with self._lock:
            ended, self._ended = self._ended, []
        for done, result in ended:
            try:
                done(result)
            except Exception:  # noqa: BLE001 - one callback's bug must not lose the completions behind it
                _log.exception("a worker's callback failed")
