"""Random writes at a depth, each noted in a journal before it is sent and when it is acknowledged."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from scsi.iscsi.initiator_task import Task
from tests.support.host import GOOD, SYNCHRONIZE_CACHE, UNIT_ATTENTION, Host, read_cdb, sense_of, write_cdb
from tests.support.journal import Journal

SLOT_BLOCKS = 64
BLOCK_BYTES = 512
DEPTH = 16


class Load:
    """Writes to the first `slots` runs of 64 blocks of LUN 0, never two at a time to one of them.

    With `ranges` two in three of them are WRITE SAME and UNMAP.

    Attributes:
        journal: what was written.
        failed: answers other than GOOD.
    """

    def __init__(self, slots: int, seed: int, *, ranges: bool = False) -> None:
        self.journal = Journal(BLOCK_BYTES)
        self.failed: list[Task] = []
        self._random = random.Random(seed)
        self._slots = slots
        self._ranges = ranges
        self._busy: set[int] = set()

    def run(self, host: Host, writes: int, then: Callable[[], object] = lambda: None) -> None:
        """Keep `DEPTH` writes in flight until `writes` more were answered; call `then` with the last still in flight.

        Raises:
            HostLost: the session has ended; what was in flight then may have been done or not.
        """
        self._busy.clear()
        left = writes
        answered = 0

        def issue() -> None:
            nonlocal left
            left -= 1
            self._issue(host, finished)

        def finished() -> None:
            nonlocal answered
            answered += 1
            if left:
                issue()

        for _ in range(min(DEPTH, writes)):
            issue()
        host.wait(lambda: answered >= writes - DEPTH // 2)
        then()
        host.wait(lambda: answered >= writes)

    def _issue(self, host: Host, finished: Callable[[], None]) -> None:
        slot = self._random.choice([slot for slot in range(self._slots) if slot not in self._busy])
        self._busy.add(slot)
        first = self._random.randrange(SLOT_BLOCKS)
        lba, blocks = slot * SLOT_BLOCKS + first, self._random.randint(1, SLOT_BLOCKS - first)

        def answered(task: Task) -> None:
            if sense_of(task)[0] == UNIT_ATTENTION:  # it was not carried out, and a host just sends it again
                host.submit(cdb, answered, data_out=data)
                return
            self._busy.discard(slot)
            if task.undelivered is not None:
                return
            if task.status == GOOD:
                self.journal.acknowledge(lba, blocks)
            else:
                self.failed.append(task)
            finished()

        cdb, data = self._choose(lba, blocks)
        host.submit(cdb, answered, data_out=data)

    def _choose(self, lba: int, blocks: int) -> tuple[bytes, bytes]:
        kind = self._random.randrange(3) if self._ranges else 0
        if kind == 1:
            return struct.pack(">BBQIBB", 0x93, 0, lba, blocks, 0, 0), self.journal.issue_same(lba, blocks)
        if kind == 2:
            self.journal.issue_unmap(lba, blocks)
            parameters = struct.pack(">HH4xQI4x", 22, 16, lba, blocks)
            return struct.pack(">B6xHB", 0x42, len(parameters), 0), parameters
        return write_cdb(lba, blocks, fua=self._random.random() < 0.1), self.journal.issue(lba, blocks)

    def check(self, host: Host) -> list[str]:
        """Read everything back; give what is wrong with it in words."""
        assert host.command(SYNCHRONIZE_CACHE).status == GOOD
        wrong: list[str] = []
        for slot in range(self._slots):
            reply = host.command(read_cdb(slot * SLOT_BLOCKS, SLOT_BLOCKS), data_in_bytes=SLOT_BLOCKS * BLOCK_BYTES)
            assert reply.status == GOOD
            wrong += self.journal.wrong(slot * SLOT_BLOCKS, bytes(reply.data_in))
        return wrong
