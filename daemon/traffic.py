"""Commands in numbers: the rows that statistics of logical units, hosts, arrays, paths and pairs have in common."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from scsi.counters import LATENCY_BOUNDS_S, MOST_ERROR_KINDS, ErrorKind, Latencies
from scsi.status import Status

OTHER = "OTHER"


class Latency(msgspec.Struct):
    """A histogram: `counts` has one number for each bucket up to `bounds_s`, and one for what took longer."""

    bounds_s: tuple[float, ...] = LATENCY_BOUNDS_S
    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_S) + 1))
    sum_s: float = 0.0

    def add(self, more: Latency | Latencies) -> None:
        """Add what another one has, of the same bounds."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, more.counts, strict=True)]
        self.sum_s += more.sum_s


class Traffic(msgspec.Struct, kw_only=True):
    """Commands, and what they were about.

    Attributes:
        reads, writes, others: commands.
        read_bytes, written_bytes: of the reads and writes.
        busy_s: see `daemon.statistics`; of reads and writes.
        queue: commands in progress now.
        errors: how many ended otherwise than well, by "key/asc/ascq" (hexadecimal), or by the status's name.
        read_latency, write_latency: how long they took.
    """

    reads: int = 0
    writes: int = 0
    others: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    busy_s: float = 0.0
    queue: int = 0
    errors: dict[str, int] = {}
    read_latency: Latency = msgspec.field(default_factory=Latency)
    write_latency: Latency = msgspec.field(default_factory=Latency)

    def add(self, more: Traffic) -> None:
        """Add what another row has; but not its queue, which says what goes on now."""
        self.reads += more.reads
        self.writes += more.writes
        self.others += more.others
        self.read_bytes += more.read_bytes
        self.written_bytes += more.written_bytes
        self.busy_s += more.busy_s
        self.add_errors(more.errors)
        self.read_latency.add(more.read_latency)
        self.write_latency.add(more.write_latency)

    def add_errors(self, errors: Mapping[str, int]) -> None:
        """Add errors, told apart as long as there are not too many kinds."""
        for kind, count in errors.items():
            known = kind in self.errors or len(self.errors) < MOST_ERROR_KINDS
            name = kind if known else OTHER
            self.errors[name] = self.errors.get(name, 0) + count


def named_errors(kinds: Mapping[ErrorKind, int]) -> dict[str, int]:
    """Give the counts of errors by name; several kinds may have the same."""
    errors: dict[str, int] = {}
    for kind, count in kinds.items():
        name = _name(*kind)
        errors[name] = errors.get(name, 0) + count
    return errors


def _name(status: int, key: int, asc: int, ascq: int) -> str:
    if status == Status.CHECK_CONDITION:
        return f"{key:X}/{asc:02X}/{ascq:02X}"
    try:
        return Status(status).name if status else OTHER
    except ValueError:  # an array may say anything
        return OTHER
