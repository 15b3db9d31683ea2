"""What is counted of a run of commands: how many, how much, how long, and what went wrong.

Counting costs an addition or two per command. Latencies are sampled: whoever has a clock measures one command in many,
and that one stands for all that came since the one before it, so that the counts of a histogram keep up with the number
of commands and its sum with the time that all of them took.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

# Upper ends of the buckets, s: from a read out of memory to a command that an array has forgotten.
LATENCY_BOUNDS_S: Final = (
    0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
)  # fmt: skip

# An array may make up sense codes, and each would be counted on its own.
MOST_ERROR_KINDS: Final = 64

ErrorKind = tuple[int, int, int, int]  # SCSI status, sense key, ASC, ASCQ; zeros where there is no sense
OTHER_ERRORS: Final[ErrorKind] = (0, 0, 0, 0)


def count_error(errors: dict[ErrorKind, int], kind: ErrorKind) -> None:
    """Count errors of one kind, and of no more kinds than may be told apart."""
    if kind not in errors and len(errors) >= MOST_ERROR_KINDS:
        kind = OTHER_ERRORS
    errors[kind] = errors.get(kind, 0) + 1


class Latencies:
    """A histogram of latencies.

    Attributes:
        counts: one number for each of `LATENCY_BOUNDS_S`, and one for what took longer.
        sum_s: the time that all of them took together.
    """

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self.sum_s = 0.0
        self._stood_for = 0

    def stand_for(self, commands: int) -> int:
        """Give how many commands the one stands for that is measured now; `commands` have come until now."""
        weight = commands - self._stood_for
        self._stood_for = commands
        return weight

    def add(self, seconds: float, weight: int) -> None:
        """Take note of a command that was measured, and stands for `weight` of them."""
        self.counts[bisect_left(LATENCY_BOUNDS_S, seconds)] += weight
        self.sum_s += seconds * weight


class Counters:
    """What a logical unit has done since it was made.

    Attributes:
        commands: all that were started, reads and writes among them.
        reads, writes: commands that read and write the medium.
        read_blocks, written_blocks: what those were about.
        verified_blocks, verify_errors: what VERIFY commands were about, and how many of them could not read it.
        errors: how many commands ended with each kind of error.
        read_latencies, write_latencies: see the module.
    """

    def __init__(self) -> None:
        self.commands = 0
        self.reads = 0
        self.read_blocks = 0
        self.writes = 0
        self.written_blocks = 0
        self.verified_blocks = 0
        self.verify_errors = 0
        self.errors: dict[ErrorKind, int] = {}
        self.read_latencies = Latencies()
        self.write_latencies = Latencies()

    def count_error(self, kind: ErrorKind) -> None:
        """Count a command that ended with an error."""
        count_error(self.errors, kind)
