"""The self-tests of a logical unit: it is ready, and blocks all over it can be read.

A test goes through the unit by commands from within (`scsi.inside`), one after the other, whatever hosts do meanwhile.
One test at a time; the last twenty are kept, newest first, for log page 10h.

Spec: SPC-6 "SEND DIAGNOSTIC command", "Self-Test Results log page".
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from scsi.commands import Allow
from scsi.errors import ScsiError
from scsi.inside import READ_16, InsideTask, inside_cdb, inside_row
from scsi.nexus import MappedUnit, Nexus
from scsi.sense import decode_sense, error_of
from scsi.status import SenseKey, Status

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

MOST_RESULTS: Final = 20

# How many places are read: the first and the last block, and what is evenly spread between them.
SHORT_PLACES: Final = 8
EXTENDED_PLACES: Final = 1024

_PASSED, _ABORTED_BY_HOST, _ABORTED_BY_RESET, _FAILED, _READ_FAILED, _RUNNING = 0, 1, 2, 4, 7, 15
_NO_ADDRESS: Final = (1 << 64) - 1
_NO_SENSE_DATA = (int(SenseKey.ABORTED_COMMAND), 0, 0)  # of BUSY and the like
_RESULT = struct.Struct(">BBHQBBBB")

_READ = inside_row(READ_16, allow=Allow.ANYWHERE)


class Result(NamedTuple):
    """How a self-test ended, or that it runs.

    Attributes:
        code: which test, as SEND DIAGNOSTIC has it.
        outcome: as log page 10h has it.
        lba: that could not be read, or none.
        key, asc, ascq: why.
    """

    code: int
    outcome: int = _RUNNING
    lba: int = _NO_ADDRESS
    key: int = 0
    asc: int = 0
    ascq: int = 0

    def encode(self) -> bytes:
        """Give its log parameter. What the test is numbered, and how old the unit was, is not kept."""
        return _RESULT.pack(self.code << 5 | self.outcome, 0, 0, self.lba, self.key, self.asc, self.ascq, 0)


class _Session(NamedTuple):
    """Whose the commands from within are: nobody's that could be lost."""

    nexus: Nexus


class SelfTests:
    """The self-tests of one logical unit.

    Attributes:
        results: newest first.
    """

    def __init__(self, unit: LogicalUnit) -> None:
        self.results: list[Result] = []
        self._unit = unit
        self._mapped = MappedUnit(unit)
        self._session = _Session(Nexus("", bytes(6), "", 0, False, {}))
        self._now: _Test | None = None

    @property
    def running(self) -> bool:
        """Tell whether a test is under way."""
        return self._now is not None

    def start(self, code: int, places: int, done: Callable[[Result], None]) -> None:
        """Begin a test; none is under way.

        Args:
            code: as SEND DIAGNOSTIC has it.
            places: how many are read.
            done: called once, possibly before this returns.
        """
        self.results = [Result(code), *self.results[: MOST_RESULTS - 1]]
        self._now = _Test(self._unit, self._session, self._mapped, code, places, done, self._ended)
        self._now.go_on()

    def abort(self) -> bool:
        """End the test that is under way, if there is one; its last read ends by itself."""
        if self._now is None:
            return False
        self._now.end(Result(self._now.code, _ABORTED_BY_HOST))
        return True

    def _ended(self, result: Result) -> None:
        self._now = None
        self.results[0] = result


class _Test:
    """One self-test under way: a read after the other."""

    def __init__(
        self,
        unit: LogicalUnit,
        session: _Session,
        mapped: MappedUnit,
        code: int,
        places: int,
        done: Callable[[Result], None],
        ended: Callable[[Result], None],
    ) -> None:
        self.code = code
        self._unit = unit
        self._session = session
        self._mapped = mapped
        self._done = done
        self._ended = ended
        last = max(unit.volume.blocks - 1, 0)
        self._lbas = iter(sorted({last * place // (places - 1) for place in range(places)}))
        self._over = False
        self._moving = False
        self._more = False

    def end(self, result: Result) -> None:
        """End it with a result, once."""
        if not self._over:
            self._over = True
            self._ended(result)
            self._done(result)

    def go_on(self) -> None:
        """Read the next place. A read that ends at once comes back here, where the loop that runs goes on."""
        self._more = True
        if self._moving:
            return
        self._moving = True
        while self._more and not self._over:
            self._more = False
            fault = self._unit.volume.fault()
            if fault is not None:
                error = error_of(fault)
                code = (error.key, error.asc, error.ascq) if isinstance(error, ScsiError) else _NO_SENSE_DATA
                self.end(Result(self.code, _FAILED, _NO_ADDRESS, *code))
                break
            lba = next(self._lbas, None)
            if lba is None:
                self.end(Result(self.code, _PASSED))
                break
            self._read(lba)
        self._moving = False

    def _read(self, lba: int) -> None:
        def ended(task: InsideTask) -> None:
            if task.status == Status.CHECK_CONDITION:
                key, asc, ascq, *_ = decode_sense(task.sense)
                self.end(Result(self.code, _READ_FAILED, lba, key, asc, ascq))
            elif task.status == Status.TASK_ABORTED:
                self.end(Result(self.code, _ABORTED_BY_RESET))
            elif task.status == Status.GOOD:
                self.go_on()
            else:
                self.end(Result(self.code, _READ_FAILED, lba, *_NO_SENSE_DATA))

        cdb = inside_cdb(READ_16, lba, 1)
        self._unit.execute_row(InsideTask(self._session, self._mapped, cdb, b"", ended), _READ)
