"""Hosts that build each write on the answer to the one before, and what must then be true of copies of one moment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scsi.iscsi.initiator_task import Task
from tests.support.host import GOOD, UNIT_ATTENTION, Host, HostLost, sense_of, write_cdb

BLOCK_BYTES = 512
SLOTS = 64  # blocks of one chain on one pair, used in turn


class Chains:
    """Several chains of writes: each goes from pair to pair, and sends the next write when the last one got GOOD.

    Attributes:
        answered: by chain, how many of its writes got GOOD.
        failed: answers other than GOOD.
    """

    def __init__(self, pairs: int, chains: int) -> None:
        assert SLOTS % pairs == 0, "or a block is used again before its turn"
        self.answered = [0] * chains
        self.failed: list[Task] = []
        self._pairs = pairs
        self._stop = threading.Event()

    @contextmanager
    def running(self, host: Host) -> Iterator[None]:
        """Write in a thread of its own; at the end nothing is in flight, unless the session has ended."""
        self._stop.clear()
        thread = threading.Thread(target=self._run, args=(host,))
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _run(self, host: Host) -> None:
        idle = set(range(len(self.answered)))
        try:
            while not self._stop.is_set() or len(idle) < len(self.answered):
                if not self._stop.is_set():
                    for chain in tuple(idle):
                        idle.discard(chain)
                        self._write(host, chain, idle)
                host.pump(0.05)
        except HostLost:
            return

    def _write(self, host: Host, chain: int, idle: set[int]) -> None:
        at = self.answered[chain]
        pair, lba = self.place(chain, at)

        def answered(task: Task) -> None:
            if task.undelivered is None and sense_of(task)[0] != UNIT_ATTENTION:
                if task.status == GOOD:
                    self.answered[chain] = at + 1
                else:
                    self.failed.append(task)
            idle.add(chain)

        data = (at + 1).to_bytes(8, "big") + bytes(BLOCK_BYTES - 8)
        host.submit(write_cdb(lba, 1), answered, data_out=data, lun=2 * pair)

    def place(self, chain: int, at: int) -> tuple[int, int]:
        """Give pair and block of a chain's write."""
        turn, pair = divmod(at, self._pairs)
        return (pair + turn + chain) % self._pairs, chain * SLOTS + turn % SLOTS

    def gaps(self, copies: list[Path]) -> list[str]:
        """Look at copies of all pairs: say which writes are there without one that was answered before."""
        wrong = []
        for chain, shown in enumerate(self._shown(copies)):
            newest = max(shown)
            first = max(0, newest + 1 - len(shown))
            missing = [at for at in range(first, newest + 1) if shown[at % len(shown)] < at]
            if missing:
                wrong.append(f"chain {chain}: write {newest} is there, and {missing[:5]} are not")
        return wrong

    def lost(self, copies: list[Path]) -> list[str]:
        """Look at copies of all pairs: say which chains lack a write that was answered."""
        newest = [max(shown) for shown in self._shown(copies)]
        return [
            f"chain {chain}: write {answered - 1} was answered, and {found} is the newest"
            for chain, (answered, found) in enumerate(zip(self.answered, newest, strict=True))
            if found < answered - 1
        ]

    def _shown(self, copies: list[Path]) -> list[list[int]]:
        """Give, by chain, the number of the write that each of its blocks shows, in the order of their use."""
        contents = [path.read_bytes() for path in copies]
        found = []
        for chain in range(len(self.answered)):
            places = [self.place(chain, at) for at in range(self._pairs * SLOTS)]
            found.append(
                [
                    int.from_bytes(contents[pair][lba * BLOCK_BYTES : lba * BLOCK_BYTES + 8], "big") - 1
                    for pair, lba in places
                ]
            )
        return found
