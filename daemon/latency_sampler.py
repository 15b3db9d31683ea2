"""How long commands take: one is measured in some wake-ups of a connection, for all those that came since the last.

The clock is read twice for a command that is measured, and never for the others. A busy connection is measured in one
of 64 wake-ups, a quiet one in each, so that there is a latency for every second in which there were commands. Which
command of a batch it is goes round, since the last one of a batch waits for those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scsi.counters import Counters, Latencies
from scsi.iscsi.events import Event, ScsiCommand
from scsi.iscsi.session import Session
from scsi.nexus import MappedUnit

MOST_LEFT_OUT = 63  # wake-ups between two that are measured
OFTEN_S = 0.1  # apart from each other, more or less
NEVER = 1 << 60  # until a host has logged in
_READS = frozenset({0x08, 0x28, 0xA8, 0x88})
_WRITES = frozenset({0x0A, 0x2A, 0xAA, 0x8A})


class LatencySampler:
    """Measures commands of one session.

    Args:
        session: whose.
        clock: monotonic seconds.
        reads, writes: latencies of the host's commands; those of the logical unit are its own.
    """

    def __init__(self, session: Session, clock: Callable[[], float], reads: Latencies, writes: Latencies) -> None:
        self._session = session
        self._clock = clock
        self._host_reads = reads
        self._host_writes = writes
        self._turn = 0
        self._leave_out = 0
        self._began = 0.0
        self._weight = 0
        self._host_weight = 0
        self._latencies = Latencies()
        self._host_latencies = Latencies()
        session.on_sampled = self._answered

    def begin(self, events: Sequence[Event]) -> int:
        """Measure one of the commands that have just come; give how many batches to leave out before the next."""
        session = self._session
        if not events or session.sampled is not None:
            return 0
        self._turn += 1
        command = events[self._turn % len(events)]
        if command.__class__ is not ScsiCommand:
            return 0
        mapped: MappedUnit | None = session.nexus.lun_map.get(command.lun)
        if mapped is None:
            return 0
        counters: Counters = mapped.logical_unit.counters
        opcode = command.cdb[0]
        # The command itself is among those that it stands for, and has not been counted yet.
        if opcode in _READS:
            self._latencies, commands = counters.read_latencies, counters.reads + 1
            self._host_latencies, answered = self._host_reads, session.reads + 1
        elif opcode in _WRITES:
            self._latencies, commands = counters.write_latencies, counters.writes + 1
            self._host_latencies, answered = self._host_writes, session.writes + 1
        else:
            return 0
        self._weight = self._latencies.stand_for(commands)
        self._host_weight = self._host_latencies.stand_for(answered)
        now = self._clock()
        often = now - self._began < OFTEN_S
        self._leave_out = min(2 * self._leave_out + 1, MOST_LEFT_OUT) if often else self._leave_out // 2
        self._began = now
        session.sampled = command
        return self._leave_out

    def _answered(self, command: ScsiCommand) -> None:
        seconds = self._clock() - self._began
        self._latencies.add(seconds, self._weight)
        self._host_latencies.add(seconds, self._host_weight)
