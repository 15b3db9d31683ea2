"""An external array in memory, with as many initiators as a test likes, and everything that can go wrong with one.

A `FakePath` is an `ArrayPath`; each time it connects it is a new I_T nexus. Commands run on the scheduler, in order,
unless the array stalls; what is queued when a path is cut stays queued and runs when the test says so, as at a real
array that has not noticed yet.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from backends.devices.state import DeviceState
from backends.external.array import ExternalArray
from backends.external.fence import FenceKeeper
from backends.external.path import PathListener
from backends.external.unit import ExternalLogicalUnit
from scsi.iscsi.initiator_task import Task, Undelivered
from scsi.status import Status
from scsi.volume import Buffer, Fault, VolumeError
from tests.support.clock import VirtualScheduler

POWER_ON = (0x29, 0x00)
BUS_DEVICE_RESET = (0x29, 0x03)
NAA = bytes.fromhex("60000000000000000e00000000010001")


def lun_bytes(number: int) -> bytes:
    return struct.pack(">H6x", number)


def fixed_sense(key: int, asc: int, ascq: int, information: int | None = None) -> bytes:
    valid = 0 if information is None else 0x80
    return struct.pack(">BBBIB4xBB4x", 0x70 | valid, 0, key, information or 0, 10, asc, ascq)


@dataclass
class FakeAnswer:
    status: int = 0
    data_in: Buffer = b""
    sense: bytes = b""
    residual: int = 0
    undelivered: Undelivered | None = None
    detail: str = ""


def end_with(task: Task, answer: FakeAnswer) -> None:
    """End a task as an array's answer does."""
    task.status, task.sense, task.residual = answer.status, answer.sense, answer.residual
    task.undelivered, task.detail = answer.undelivered, answer.detail
    task.data_in = answer.data_in
    if task.place is not None and answer.data_in:
        task.data_in = task.place[: len(answer.data_in)]
        task.data_in[:] = answer.data_in
    task.ended()


def check(key: int, asc: int, ascq: int, information: int | None = None) -> FakeAnswer:
    return FakeAnswer(Status.CHECK_CONDITION, sense=fixed_sense(key, asc, ascq, information))


def lost(why: Undelivered, detail: str = "") -> FakeAnswer:
    return FakeAnswer(-1, undelivered=why, detail=detail)


@dataclass
class ThinOptions:
    """What a thin LU, or one that knows WRITE SAME, can do.

    Attributes:
        management: LBPME.
        unmap, same_16, same_10: the commands of VPD page B2h that it has.
        listed: REPORT SUPPORTED OPERATION CODES lists WRITE SAME.
        zeroes: LBPRZ; else unmapped blocks read as EEh.
        granularity, first_lba: its pieces. Of those that are covered in part nothing is unmapped, as LIO does it.
        max_write_same, max_unmap: blocks of one command.
        unmapped: pieces without storage.
    """

    management: bool = True
    unmap: bool = True
    same_16: bool = True
    same_10: bool = True
    listed: bool = True
    zeroes: bool = True
    granularity: int = 8
    first_lba: int = 0
    max_write_same: int = 0
    max_unmap: int = 64
    unmapped: set[int] = field(default_factory=set)


@dataclass(eq=False)
class FakeUnit:
    """One LU; a test may change anything at any time."""

    number: int = 1
    blocks: int = 2048
    block_bytes: int = 512
    naa: bytes = NAA
    t10: bytes = b""
    serial: bytes = b"SERIAL-1"
    device_type: int = 0
    write_cache: bool | None = True  # None: MODE SENSE is not known
    force_unit_access: bool = True
    write_protected: bool = False
    max_transfer_blocks: int = 0
    sixteen: bool = True  # knows READ CAPACITY (16)
    thin: ThinOptions | None = None
    reservable: bool = True  # knows RESERVE and RELEASE
    reserved_by: int | None = None  # nexus number
    attentions: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    # Answers given instead of running a command, next first; None runs it.
    replies: list[FakeAnswer | None] = field(default_factory=list)
    # The same by opcode, for as long as it is there.
    always: dict[int, FakeAnswer] = field(default_factory=dict)
    # Operation codes that are taken and never answered.
    silent: set[int] = field(default_factory=set)
    data: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.data = self.data or bytearray(self.blocks * self.block_bytes)


@dataclass(eq=False)
class Queued:
    """A command that the array has taken."""

    path: FakePath
    nexus: int
    task: Task
    ended: bool = False

    def __post_init__(self) -> None:
        self.lun, self.cdb = self.task.lun, self.task.cdb
        self.data_out, self.data_in_bytes = self.task.data_out, self.task.data_in_bytes

    def end(self, answer: FakeAnswer) -> None:
        if not self.ended:
            self.ended = True
            end_with(self.task, answer)


class FakeArray:
    """The array.

    Attributes:
        units: by LUN number.
        stalled: commands are taken and not run.
        journal: (nexus, operation code) of every command that was run, in order.
        sessions_end: a cut path's nexus is lost at once; False is tgt, which keeps the old session and its RESERVE.
        reset_works: LOGICAL UNIT RESET is answered with "complete".
        before_answer: by operation code, what happens once such a command was run, before its answer arrives.
    """

    def __init__(self, scheduler: VirtualScheduler, *units: FakeUnit) -> None:
        self.scheduler = scheduler
        self.units = {unit.number: unit for unit in units or (FakeUnit(),)}
        self.stalled = False
        self.journal: list[tuple[int, int]] = []
        self.sessions_end = True
        self.reset_works = True
        self.before_answer: dict[int, Callable[[], None]] = {}
        self.resets = 0
        self.cdbs: list[bytes] = []
        self._queue: list[Queued] = []
        self._nexuses = itertools.count(1)

    def path(self) -> FakePath:
        return FakePath(self)

    def spy(self) -> list[bytes]:
        """Give the CDBs run from now on, in order."""
        self.cdbs = []
        return self.cdbs

    def operations(self, *codes: int) -> list[int]:
        """Give the operation codes run so far, all or only these."""
        return [code for _, code in self.journal if not codes or code in codes]

    def attention(self, unit: FakeUnit, asc: int, ascq: int, but: int | None = None) -> None:
        """Make a unit attention pending for every nexus that the unit has met."""
        for nexus, pending in unit.attentions.items():
            if nexus != but:
                pending.append((asc, ascq))

    def third_party_reset(self, number: int = 1) -> None:
        """Reset a LU as another initiator would."""
        self._reset(self.units[number])

    def resume(self) -> None:
        """Run what has queued up."""
        self.stalled = False
        self.run_queued()

    def run_queued(self) -> None:
        queue, self._queue = self._queue, []
        for command in queue:
            answer = self._execute(command)
            if (happens := self.before_answer.get(command.cdb[0])) is not None:
                happens()
            unit = self.units.get(int.from_bytes(command.lun[:2], "big"))
            if unit is not None and command.cdb[0] in unit.silent:
                continue
            if command.path.nexus == command.nexus:
                command.end(answer)

    def nexus_lost(self, nexus: int) -> None:
        for unit in self.units.values():
            unit.attentions.pop(nexus, None)
            if unit.reserved_by == nexus:
                unit.reserved_by = None
        self._queue = [command for command in self._queue if command.nexus != nexus]

    def new_nexus(self) -> int:
        nexus = next(self._nexuses)
        for unit in self.units.values():
            unit.attentions[nexus] = [POWER_ON]
        return nexus

    def take(self, command: Queued) -> None:
        self._queue.append(command)
        if not self.stalled:
            self.scheduler.call_soon(self._run_unless_stalled)

    def _run_unless_stalled(self) -> None:
        if not self.stalled:
            self.run_queued()

    def reset_by(self, path: FakePath, lun: bytes) -> bool:
        self.resets += 1
        unit = self.units.get(int.from_bytes(lun[:2], "big"))
        if unit is None or not self.reset_works:
            return False
        self._reset(unit)
        return True

    def _reset(self, unit: FakeUnit) -> None:
        unit.reserved_by = None
        dropped = [command for command in self._queue if int.from_bytes(command.lun[:2], "big") == unit.number]
        self._queue = [command for command in self._queue if command not in dropped]
        self.attention(unit, *BUS_DEVICE_RESET)
        for command in dropped:
            if command.path.nexus == command.nexus:
                command.end(lost(Undelivered.ABORTED, "reset"))

    # --- the device server ---

    def _execute(self, command: Queued) -> FakeAnswer:
        code = command.cdb[0]
        self.journal.append((command.nexus, code))
        self.cdbs.append(command.cdb)
        unit = self.units.get(int.from_bytes(command.lun[:2], "big"))
        if code == 0xA0:
            luns = b"".join(lun_bytes(number) for number in sorted(self.units))
            return FakeAnswer(data_in=struct.pack(">I4x", len(luns)) + luns)
        if unit is None:
            return FakeAnswer(data_in=b"\x7f" + bytes(35)) if code == 0x12 else check(5, 0x25, 0)
        if code in unit.always:
            return unit.always[code]
        if code == 0x12:
            return _inquiry(unit, command.cdb)
        if unit.replies:
            reply = unit.replies.pop(0)
            if reply is not None:
                return reply
        pending = unit.attentions.setdefault(command.nexus, [])
        if pending:
            return check(6, *pending.pop(0))
        if unit.reserved_by not in {None, command.nexus} and code != 0x17:
            return FakeAnswer(Status.RESERVATION_CONFLICT)
        handler = _HANDLERS.get(code)
        return handler(unit, command) if handler else check(5, 0x20, 0)


class FakePath:
    """An `ArrayPath`; connected by the test with `up()`, cut with `cut()`."""

    def __init__(self, array: FakeArray) -> None:
        self.array = array
        self.nexus: int | None = None
        self.listener: PathListener | None = None
        self.inline = False  # answer before submit returns
        self.closed = False
        self.drops: list[str] = []
        self.in_flight: list[Queued] = []

    def start(self, listener: PathListener) -> None:
        self.listener = listener

    def up(self) -> None:
        assert self.listener is not None
        self.nexus = self.array.new_nexus()
        self.listener.path_up()

    def cut(self, reason: str = "cut", refused: bool = False) -> None:
        """End the session: commands in flight are LINK_LOST, whether they ran or will run."""
        assert self.listener is not None
        nexus, self.nexus = self.nexus, None
        in_flight, self.in_flight = self.in_flight, []
        for command in in_flight:
            if command.nexus == nexus:
                command.end(lost(Undelivered.LINK_LOST, reason))
        if nexus is not None and self.array.sessions_end:
            self.array.nexus_lost(nexus)
        self.listener.path_down(reason, refused)

    def submit(self, task: Task) -> None:
        if self.nexus is None:
            task.undeliver(Undelivered.NOT_SENT, "no session")
            return
        scheduler = self.array.scheduler
        task.deadline = scheduler.now() + task.timeout_s
        command = Queued(self, self.nexus, task)
        self.in_flight = [other for other in self.in_flight if not other.ended]
        self.in_flight.append(command)
        self.array.take(command)
        if self.inline and not self.array.stalled:
            self.array.run_queued()
        elif not self.inline:
            scheduler.call_later(task.timeout_s, lambda: command.end(lost(Undelivered.TIMED_OUT, "no answer")))

    def reset_unit(self, lun: bytes, done: Callable[[bool], None]) -> None:
        if self.nexus is None:
            done(False)
        else:
            self.array.scheduler.call_soon(lambda: done(self.array.reset_by(self, lun)))

    def drop(self, reason: str) -> None:
        self.drops.append(reason)
        self.cut(reason)

    def close(self, done: Callable[[], None]) -> None:
        self.closed = True
        if self.nexus is not None:
            self.array.nexus_lost(self.nexus)
            self.nexus = None
        done()


# --- commands ---


def _inquiry(unit: FakeUnit, cdb: bytes) -> FakeAnswer:
    if not cdb[1] & 1:
        texts = b"FAKE    " + b"ARRAY".ljust(16) + b"0001"
        return FakeAnswer(data_in=bytes([unit.device_type, 0, 6, 2, 31, 0, 0, 0]) + texts)
    page = cdb[2]
    if page == 0x83:
        body = b"".join(
            bytes([1, kind, 0, len(designator)]) + designator
            for kind, designator in ((1, unit.t10), (3, unit.naa))
            if designator
        )
    elif page == 0x80:
        body = unit.serial
    elif page == 0xB0:
        thin = unit.thin or ThinOptions(granularity=0, max_unmap=0)
        alignment = 0x80000000 | thin.first_lba if thin.granularity else 0
        limits = (thin.max_unmap, 1 if thin.max_unmap else 0, thin.granularity, alignment, thin.max_write_same)
        body = struct.pack(">4xI8xIIIIQ20x", unit.max_transfer_blocks, *limits)
    elif page == 0xB2 and unit.thin:
        thin = unit.thin
        body = struct.pack(
            ">BBBB", 0, thin.unmap << 7 | thin.same_16 << 6 | thin.same_10 << 5 | thin.zeroes << 2, 0x02, 0
        )
    else:
        return check(5, 0x24, 0)
    return FakeAnswer(data_in=struct.pack(">BBH", unit.device_type, page, len(body)) + body)


def _range(unit: FakeUnit, cdb: bytes) -> slice | None:
    if cdb[0] < 0x80:
        lba, blocks = struct.unpack_from(">IxH", cdb, 2)
    else:
        lba, blocks = struct.unpack_from(">QI", cdb, 2)
    if lba + blocks > unit.blocks:
        return None
    return slice(lba * unit.block_bytes, (lba + blocks) * unit.block_bytes)


def _read(unit: FakeUnit, command: Queued) -> FakeAnswer:
    where = _range(unit, command.cdb)
    return check(5, 0x21, 0) if where is None else FakeAnswer(data_in=bytes(unit.data[where]))


def _write(unit: FakeUnit, command: Queued) -> FakeAnswer:
    where = _range(unit, command.cdb)
    if where is None:
        return check(5, 0x21, 0)
    assert len(command.data_out) == where.stop - where.start
    _put(unit, where, command.data_out)
    return FakeAnswer()


def _put(unit: FakeUnit, where: slice, data: Buffer) -> None:
    unit.data[where] = data
    if unit.thin is not None and unit.thin.granularity:
        lbas = range(where.start // unit.block_bytes, where.stop // unit.block_bytes)
        unit.thin.unmapped -= {(lba - unit.thin.first_lba) // unit.thin.granularity for lba in lbas}


def _read_capacity_10(unit: FakeUnit, command: Queued) -> FakeAnswer:
    return FakeAnswer(data_in=struct.pack(">II", min(unit.blocks - 1, 0xFFFFFFFF), unit.block_bytes))


def _read_capacity_16(unit: FakeUnit, command: Queued) -> FakeAnswer:
    if not unit.sixteen:
        return check(5, 0x20, 0)
    bits = 0
    if unit.thin is not None and unit.thin.management:
        bits = 0x8000 | unit.thin.zeroes << 14
    return FakeAnswer(data_in=struct.pack(">QIxBH16x", unit.blocks - 1, unit.block_bytes, 3, bits))


def _service_action_in(unit: FakeUnit, command: Queued) -> FakeAnswer:
    if command.cdb[1] & 0x1F != 0x12:
        return _read_capacity_16(unit, command)
    if unit.thin is None:
        return check(5, 0x20, 0)
    (lba,) = struct.unpack_from(">Q", command.cdb, 2)
    blocks = unit.blocks - lba
    size = unit.thin.granularity
    body = b""
    for at in range(lba, min(lba + blocks, lba + 8 * size)):
        gone = (at - unit.thin.first_lba) // size in unit.thin.unmapped
        body += struct.pack(">QIB3x", at, 1, gone)
    return FakeAnswer(data_in=struct.pack(">I4x", len(body) + 4) + body)


def _give_back(unit: FakeUnit, lba: int, blocks: int) -> None:
    thin = unit.thin
    assert thin is not None
    size = thin.granularity
    for piece in range(-(-(lba - thin.first_lba) // size), (lba + blocks - thin.first_lba) // size):
        thin.unmapped.add(piece)
        first = (piece * size + thin.first_lba) * unit.block_bytes
        length = size * unit.block_bytes
        unit.data[first : first + length] = (b"\0" if thin.zeroes else b"\xee") * length


def _write_same(unit: FakeUnit, command: Queued) -> FakeAnswer:
    thin = unit.thin
    sixteen = command.cdb[0] == 0x93
    if thin is None or not (thin.same_16 if sixteen else thin.same_10):
        return check(5, 0x20, 0)
    where = _range(unit, command.cdb)
    if where is None:
        return check(5, 0x21, 0)
    blocks = (where.stop - where.start) // unit.block_bytes
    if not blocks or (thin.max_write_same and blocks > thin.max_write_same):
        return check(5, 0x24, 0)
    assert len(command.data_out) == unit.block_bytes
    if command.cdb[1] & 0x08:
        if not thin.management:
            return check(5, 0x24, 0)
        assert not any(command.data_out)
        _give_back(unit, where.start // unit.block_bytes, blocks)
    else:
        _put(unit, where, bytes(command.data_out) * blocks)
    return FakeAnswer()


def _unmap(unit: FakeUnit, command: Queued) -> FakeAnswer:
    if unit.thin is None or not unit.thin.unmap:
        return check(5, 0x20, 0)
    data = bytes(command.data_out)
    assert len(data) == int.from_bytes(command.cdb[7:9], "big") == 24
    assert data[:8] == bytes([0, 22, 0, 16, 0, 0, 0, 0])
    lba, blocks = struct.unpack_from(">QI", data, 8)
    if blocks > unit.thin.max_unmap:
        return check(5, 0x26, 0)
    _give_back(unit, lba, blocks)
    return FakeAnswer()


def _supported(unit: FakeUnit, command: Queued) -> FakeAnswer:
    thin = unit.thin
    if thin is None or not thin.listed:
        return check(5, 0x20, 0)
    there = {0x93: thin.same_16, 0x41: thin.same_10}.get(command.cdb[3], False)
    return FakeAnswer(data_in=bytes([0, 3 if there else 1, 0, 0]))


def _mode_sense_6(unit: FakeUnit, command: Queued) -> FakeAnswer:
    if unit.write_cache is None:
        return check(5, 0x20, 0)
    device_specific = (0x10 if unit.force_unit_access else 0) | (0x80 if unit.write_protected else 0)
    page = bytes([0x08, 0x12, 0x04 if unit.write_cache else 0]) + bytes(17)
    return FakeAnswer(data_in=bytes([3 + len(page), 0, device_specific, 0]) + page)


def _reserve(unit: FakeUnit, command: Queued) -> FakeAnswer:
    if not unit.reservable:
        return check(5, 0x20, 0)
    unit.reserved_by = command.nexus
    return FakeAnswer()


def _release(unit: FakeUnit, command: Queued) -> FakeAnswer:
    if not unit.reservable:
        return check(5, 0x20, 0)
    if unit.reserved_by == command.nexus:
        unit.reserved_by = None
    return FakeAnswer()


def _nothing(unit: FakeUnit, command: Queued) -> FakeAnswer:
    return FakeAnswer()


_HANDLERS: dict[int, Callable[[FakeUnit, Queued], FakeAnswer]] = {
    0x00: _nothing,
    0x16: _reserve,
    0x17: _release,
    0x1A: _mode_sense_6,
    0x25: _read_capacity_10,
    0x28: _read,
    0x2A: _write,
    0x35: _nothing,
    0x41: _write_same,
    0x42: _unmap,
    0x88: _read,
    0x8A: _write,
    0x91: _nothing,
    0x93: _write_same,
    0x9E: _service_action_in,
    0xA3: _supported,
}


class Rig:
    """annex's side of a fake array: one `ExternalArray`, connected."""

    def __init__(self, *units: FakeUnit, connect: bool = True) -> None:
        self.clock = VirtualScheduler()
        self.array = FakeArray(self.clock, *units)
        self.path = self.array.path()
        self.fences = FenceKeeper(self.clock)
        self.external = ExternalArray("old", self.path, self.clock, self.fences)
        self.external.start()
        if connect:
            self.path.up()
            self.clock.run_until_idle()

    @property
    def lu(self) -> FakeUnit:
        """The array's first LU."""
        return next(iter(self.array.units.values()))

    @property
    def unit(self) -> ExternalLogicalUnit:
        """The same as annex sees it."""
        return self.external.units()[0]

    def reserved_by(self) -> int | None:
        """The nexus that has the LU reserved."""
        return self.lu.reserved_by

    def reconnect(self) -> None:
        self.path.up()
        self.clock.run_until_idle()


class Results(list[Any]):
    """Collects what callbacks get; it is a `Done`, a `ReadDone`, and so on."""

    def __call__(self, result: Any = None) -> None:
        self.append(bytes(result) if isinstance(result, bytes | bytearray | memoryview) else result)

    @property
    def faults(self) -> list[Fault]:
        return [result.fault for result in self if isinstance(result, VolumeError)]


def state_of(unit: ExternalLogicalUnit) -> DeviceState:
    """Ask afresh: a type checker takes an attribute that was compared once for constant."""
    return unit.state
