"""One logical unit of an external array, as a volume.

How this works. `ExternalArray` finds the LU, checks that it is the one that was recorded, and moves the unit between
its states; hosts' reads and writes come here and become SCSI commands, cut to the size that the array takes.

A unit outlives every connection. It has its identity, array + id, for good; where the LU is (its LUN) and the link may
change under it. While it is not READY every operation fails at once; nothing is queued but the reads that were in
flight when the link died. When the array says that its LUs or their INQUIRY data are others than before, the unit is
in doubt: what touches the medium is held until the LU at its LUN has said who it is (pairs.md F17).

What goes out before READY (inquiries, LOGICAL UNIT RESET, RESERVE, the steps in `before_ready`) is sent by whoever
brings the unit up; a write can not slip in between.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, Protocol

from backends.devices.state import DeviceState
from backends.external.claim import FenceClaim, Fences
from backends.external.lba_status import ask_allocation
from backends.external.operation import (
    DataOperation,
    FlushOperation,
    Operation,
    ReadOperation,
    WriteOperation,
)
from backends.external.path import Answer, ArrayPath
from backends.external.pieces import ReadPieces, WritePieces
from backends.external.provisioning import Provisioning, same_steps, unmap_steps
from backends.scheduler import Scheduler, Timer
from scsi.counters import Counters
from scsi.steps import Steps
from scsi.volume import (
    Allocation,
    AllocationDone,
    Buffer,
    ClaimDone,
    Deallocation,
    Done,
    Fault,
    ReadDone,
    VolumeError,
    write_then_read,
)

COMMAND_TIMEOUT_S: Final = 10.0
PARK_S: Final = 10.0  # how long a read waits for a lost link
MAX_COMMAND_BYTES: Final = 4 << 20  # of one command to the array, whatever it would take
_TEN_BYTE_BLOCKS: Final = 1 << 32  # what READ (10) can reach
_TEN_BYTE_LENGTH: Final = 0xFFFF

_READ_10: Final = 0x28
_READ_16: Final = 0x88
_WRITE_10: Final = 0x2A
_WRITE_16: Final = 0x8A
_SYNCHRONIZE_10: Final = 0x35
_SYNCHRONIZE_16: Final = 0x91
_FUA: Final = 0x08
_pack_10: Final = struct.Struct(">HII").pack  # fields side by side are packed as one: this is the fast path
_pack_16: Final = struct.Struct(">BBQIBB").pack
_RESERVE_6: Final = bytes.fromhex("160000000000")
RELEASE_6: Final = bytes.fromhex("170000000000")

POWER_ON_ASC: Final = 0x29
_RESERVATION_ASCQS: Final = {
    0x03: "reservations preempted",
    0x04: "reservations released",
    0x05: "registrations preempted",
}
_CHANGES: Final = {(0x2A, 0x01): "mode parameters changed", (0x2A, 0x09): "capacity changed"}
_DOUBTS: Final = {(0x3F, 0x03): "inquiry data changed", (0x3F, 0x0E): "reported LUNs changed"}


class ExternalListener(Protocol):
    """Who must know when a unit comes, goes, or may have lost its reservation."""

    def unit_ready(self, unit: ExternalLogicalUnit) -> None:
        """Learn that the unit serves from now on."""

    def unit_lost(self, unit: ExternalLogicalUnit) -> None:
        """Learn that the unit was ready and is not any more; `unit.state` and `unit.fault()` say why."""

    def unit_lapsed(self, unit: ExternalLogicalUnit, why: str) -> None:
        """Learn that a reservation annex should be holding may be gone: a reset, a preemption, a conflict.

        It is told while the unit is READY too, before the command that found out is repeated, and once per finding.
        """


class ArrayHooks(Protocol):
    """What a unit tells the array that it belongs to."""

    def unit_changed(self, unit: ExternalLogicalUnit, why: str) -> None:
        """Learn that the LU or the array's set of LUs may be another than before: look again."""

    def unit_doubted(self, unit: ExternalLogicalUnit) -> None:
        """Ask the LU who it is, and call `unit.confirmed()` or take the unit out of service."""


class ExternalLogicalUnit:
    """A `Volume` on a LU of an external array.

    Attributes:
        array_name: the array's name in the configuration.
        lun: where the LU was seen last, 8 raw bytes.
        id: its VPD 83 designator (see `array_replies.choose_identifier`); b"" until the first contact with a LU that
            the configuration names by LUN alone. Identity is (array_name, id).
        state: READY, PENDING or BLOCKED.
        vendor, product, revision: of its standard INQUIRY data, for the admin; "" before first contact.
        block_bytes, blocks, physical_block_exponent, write_cache, read_only, max_transfer_blocks, deallocation,
            claimable: see `Volume`. A LU without RESERVE has no way of keeping others out that ends with annexd.
        other_size: the number of blocks and the block length that it was found to have and that are not the recorded
            ones; None when it has not changed.
        split_blocks: the most blocks of one command that brings its data with it.
        provisioning: what it can do for `write_same`, `unmap` and `allocation`.
        force_unit_access: the LU knows the FUA bit; without it a FUA write is a write and a flush.
        cache_known: the LU said whether it has a write cache.
        reservations_known: the array was asked whether it knows RESERVE and RELEASE; until then `claimable` is hope.
        command_timeout_s: after this a command is aborted.
        before_ready: steps, run in order after each (re)connect and id check, before READY and before any data
            command; each calls its `Done`. One that fails keeps the unit PENDING, and all are tried again later.
        reachable: the LU was found and checked on the present session, so that `reserve`, `release` and `reset` work,
            READY or not.
        reset_needed: something of an older session may still be queued at the array, or hold a reservation there.
        doubted: another LU may have come to its LUN; nothing that touches the medium is sent.
        operations: how many it has begun that touch the medium; one in some of them is measured.
        fences: who takes its fence for a claim.
        counters: what it has done; `commands` are those that are neither reads nor writes.
    """

    def __init__(
        self,
        array_name: str,
        lun: bytes,
        identifier: bytes,
        path: ArrayPath,
        scheduler: Scheduler,
        command_timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> None:
        """Begin as PENDING; `ExternalArray` makes these."""
        self.array_name = array_name
        self.lun = lun
        self.id = identifier
        self.path = path
        self.scheduler = scheduler
        self.command_timeout_s = command_timeout_s
        self.vendor = self.product = self.revision = ""
        self.block_bytes = 512
        self.blocks = 0
        self.physical_block_exponent = 0
        self.write_cache = True
        self.read_only = False
        self.max_transfer_blocks = 0
        self.force_unit_access = False
        self.cache_known = False
        self.state = DeviceState.PENDING
        self.before_ready: list[Callable[[Done], None]] = []
        self.reachable = False
        self.reset_needed = False
        self.doubted = False
        self.hooks: ArrayHooks | None = None
        self.fences: Fences | None = None
        self.counters = Counters()
        self._fault: VolumeError | None = VolumeError(Fault.BECOMING_READY, f"{self.name}: not connected yet")
        self.claimable = True
        self.reservations_known = False
        self.split_blocks = 1
        self.provisioning = Provisioning()
        self.other_size: tuple[int, int] | None = None
        self.operations = 0
        self._fencing = False  # a RESERVE was sent, and neither refused nor released
        self._listeners: list[ExternalListener] = []
        self._parked: list[tuple[DataOperation, Fault]] = []
        self._park_timer: Timer | None = None
        self._held: list[DataOperation] = []  # until the unit is in doubt no more

    @property
    def name(self) -> str:
        """Name the unit for logs and error texts."""
        return f"{self.array_name}/{self.lun_number}"

    @property
    def lun_number(self) -> int:
        """Give the LUN as people write it: of the single-level peripheral and flat formats, else all 8 bytes."""
        if not any(self.lun[2:]) and self.lun[0] < 0x80:
            return (self.lun[0] & 0x3F) << 8 | self.lun[1]
        return int.from_bytes(self.lun, "big")

    def listen(self, listener: ExternalListener) -> None:
        """Tell `listener` from now on."""
        if listener not in self._listeners:
            self._listeners.append(listener)

    def unlisten(self, listener: ExternalListener) -> None:
        """Tell `listener` nothing more."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    # --- Volume ---

    def fault(self) -> VolumeError | None:
        """Say why the unit can not serve, or None."""
        return self._fault

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        """Read whole blocks."""
        if self._fault is not None:
            done(self._fault)
        elif blocks <= self.split_blocks:
            cdb = self._cdb(_READ_10, _READ_16, 0, lba, blocks)
            ReadOperation(self, cdb, done, b"", blocks * self.block_bytes).start()
        else:
            ReadPieces(self, lba, blocks, self.split_blocks, done).start()

    def read_into(self, lba: int, place: memoryview, done: ReadDone) -> None:
        """Read whole blocks into `place`, which is no longer than one command may be."""
        if self._fault is not None:
            done(self._fault)
            return
        cdb = self._cdb(_READ_10, _READ_16, 0, lba, len(place) // self.block_bytes)
        ReadOperation(self, cdb, done, b"", len(place), place).start()

    def write(self, lba: int, data: Buffer, fua: bool, done: Done) -> None:
        """Write whole blocks."""
        if self._fault is not None:
            done(self._fault)
            return
        flags = 0
        if fua and self.write_cache:
            if not self.force_unit_access:
                self.write(lba, data, False, self._then_flush(done))
                return
            flags = _FUA
        blocks = len(data) // self.block_bytes
        if blocks <= self.split_blocks:
            WriteOperation(self, self._cdb(_WRITE_10, _WRITE_16, flags, lba, blocks), done, data).start()
        else:
            WritePieces(self, lba, data, self.split_blocks, fua, done).start()

    def write_and_read(self, lba: int, data: Buffer, done: ReadDone) -> None:
        """Write whole blocks, have them stable, and read them again."""
        write_then_read(self, lba, data, done)

    def write_same(self, lba: int, block: Buffer, blocks: int, done: Done) -> None:
        """Write one block's data to many blocks."""
        if self._fault is not None:
            done(self._fault)
        else:
            Steps(same_steps(self, lba, block, blocks), done).start()

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        """Have blocks read as zeroes, and give their storage back where the array does that."""
        if self._fault is not None:
            done(self._fault)
        else:
            Steps(unmap_steps(self, lba, blocks), done).start()

    def allocation(self, lba: int, blocks: int, done: AllocationDone) -> None:
        """Say which blocks have storage, as far as the array tells."""
        if self._fault is not None:
            done(self._fault)
        elif self.provisioning.lba_status:
            ask_allocation(self, lba, blocks, done)
        else:
            done([Allocation(blocks, mapped=True)])

    def claim(self, lba: int, blocks: int, done: ClaimDone) -> None:
        """Keep other initiators of the array from writing: all of the LU, for as long as it takes."""
        del lba, blocks
        if self._fault is not None:
            done(self._fault)
        else:
            assert self.fences is not None
            FenceClaim(self, self.fences).take(done)

    @property
    def deallocation(self) -> Deallocation | None:
        """In what pieces the array gives storage back."""
        return self.provisioning.deallocation

    def flush(self, done: Done) -> None:
        """Make every write acknowledged so far stable."""
        if self._fault is not None:
            done(self._fault)
        else:
            FlushOperation(self, self._cdb(_SYNCHRONIZE_10, _SYNCHRONIZE_16, 0, 0, 0), done).start()

    def _then_flush(self, done: Done) -> Done:
        def written(error: VolumeError | None) -> None:
            if error is None:
                self.flush(done)
            else:
                done(error)

        return written

    def _cdb(self, ten: int, sixteen: int, flags: int, lba: int, blocks: int) -> bytes:
        # The 10 byte commands wherever they reach: the oldest arrays know no others.
        if self.blocks <= _TEN_BYTE_BLOCKS:
            return _pack_10(ten << 8 | flags, lba, blocks << 8)
        return _pack_16(sixteen, flags, lba, blocks, 0, 0)

    # --- Reservation and reset: these work while `reachable`, READY or not ---

    def reserve(self, done: Done) -> None:
        """Send RESERVE; `done(None)` when the array says that annex holds the LU.

        Again by the holder it is GOOD too, so this also verifies. Spec: SPC-2 "RESERVE(6) command".
        """
        if not self.reachable:
            done(self._away())
            return

        def reserved(result: Answer | VolumeError) -> None:
            error = result if isinstance(result, VolumeError) else None
            if error is not None and error.fault is Fault.RESERVATION_CONFLICT:
                self._fencing = False
            done(error)

        self._fencing = True
        ReserveOperation(self, _RESERVE_6, reserved).start()

    def release(self, done: Done) -> None:
        """Send RELEASE; `done(None)` when the array has answered. Spec: SPC-2 "RELEASE(6) command"."""
        if not self.reachable:
            done(self._away())
            return

        def released(result: Answer | VolumeError) -> None:
            error = result if isinstance(result, VolumeError) else None
            if error is None:
                self._fencing = False
            elif error.fault in {Fault.LINK_LOST, Fault.BECOMING_READY}:
                self.reset_needed = True  # the old session may outlive its connection and keep the reservation
            done(error)

        Operation(self, RELEASE_6, released).start()

    def reset(self, done: Done) -> None:
        """Send LOGICAL UNIT RESET, which ends every task of the LU, whoever sent it, and every RESERVE."""
        if not self.reachable:
            done(self._away())
            return

        def answered(complete: bool) -> None:
            if complete and self._fencing:
                self._fencing = False  # until whoever is told now reserves again
                self._tell_lapsed("reset by annex itself")
            done(None if complete else VolumeError(Fault.HARDWARE, f"{self.name}: LOGICAL UNIT RESET failed"))

        self.path.reset_unit(self.lun, answered)

    def command(self, cdb: bytes, data_in_bytes: int, done: Callable[[Answer | VolumeError], None]) -> None:
        """Send a command that does not touch the medium, READY or not."""
        Operation(self, cdb, done, b"", data_in_bytes).start()

    def _away(self) -> VolumeError:
        return self._fault or VolumeError(Fault.BECOMING_READY, f"{self.name}: not connected")

    # --- What operations find out ---

    def attention(self, asc: int, ascq: int) -> None:
        """Interpret a unit attention."""
        if asc == POWER_ON_ASC:
            self._lapsed(f"unit attention {asc:02X}/{ascq:02X}, reset or power on")
        elif asc == 0x2A and ascq in _RESERVATION_ASCQS:
            self._lapsed(_RESERVATION_ASCQS[ascq])
        elif (asc, ascq) in _CHANGES:
            self.changed(_CHANGES[asc, ascq])
        elif (asc, ascq) in _DOUBTS:
            self.changed(_DOUBTS[asc, ascq])
            self._doubt()

    def conflicted(self) -> None:
        """Learn that a command got RESERVATION CONFLICT."""
        self._lapsed("reservation conflict")

    def changed(self, why: str) -> None:
        """Learn that the LU may be another than before."""
        if self.hooks is not None:
            self.hooks.unit_changed(self, why)

    def gone(self) -> None:
        """Learn that there is no LU at the LUN: nothing more goes there before it is known which one is there next."""
        if self.state is DeviceState.READY:
            self.set_pending("LOGICAL UNIT NOT SUPPORTED")
        self.changed("LOGICAL UNIT NOT SUPPORTED")

    def _doubt(self) -> None:
        if self.hooks is not None:
            self.doubted = True
            self.hooks.unit_doubted(self)

    def hold(self, operation: DataOperation) -> None:
        """Keep an operation until the unit is in doubt no more, however that ends."""
        self._held.append(operation)

    def confirmed(self) -> None:
        """Learn that the LU is the one that it was: what was held goes out."""
        self.doubted = False
        self._resume_held()

    def _resume_held(self) -> None:
        held, self._held = self._held, []
        for operation in held:
            operation.resume()

    def _lapsed(self, why: str) -> None:
        if self._fencing:
            self._tell_lapsed(why)

    def _tell_lapsed(self, why: str) -> None:
        for listener in tuple(self._listeners):
            listener.unit_lapsed(self, why)

    def park(self, operation: DataOperation, fault: Fault, detail: str) -> None:
        """Keep a read until the unit is back, once for `PARK_S` at the longest."""
        now = self.scheduler.now()
        if not operation.parked:
            operation.parked = True
            operation.deadline = now + PARK_S
        if self.state is DeviceState.BLOCKED or operation.deadline <= now:
            operation.fail(Fault.BLOCKED if self.state is DeviceState.BLOCKED else fault, detail)
            return
        self._parked.append((operation, fault))
        if self._park_timer is None:
            self._park_timer = self.scheduler.call_later(operation.deadline - now, self._parked_too_long)

    def _parked_too_long(self) -> None:
        self._park_timer = None
        now = self.scheduler.now()
        parked, self._parked = self._parked, []
        for operation, fault in parked:
            if operation.deadline <= now:
                operation.fail(fault, f"the array was away for more than {PARK_S:.0f} s")
            else:
                self.park(operation, fault, "")

    def _unpark(self, error: VolumeError | None) -> None:
        parked, self._parked = self._parked, []
        if self._park_timer is not None:
            self._park_timer.cancel()
            self._park_timer = None
        for operation, _ in parked:
            if error is None:
                operation.resume()
            else:
                operation.fail(error.fault, error.detail)

    # --- Life, moved along by ExternalArray ---

    def set_ready(self) -> None:
        """Serve from now on."""
        assert self.reachable
        assert self.blocks
        largest = min(MAX_COMMAND_BYTES // self.block_bytes, _TEN_BYTE_LENGTH)
        self.split_blocks = min(self.max_transfer_blocks or largest, largest)
        self._fault = None
        self.state = DeviceState.READY
        self._unpark(None)
        for listener in tuple(self._listeners):
            listener.unit_ready(self)

    def set_pending(self, reason: str, reachable: bool = False) -> None:
        """Stop serving until `set_ready`; what is in flight ends by itself."""
        self._leave(DeviceState.PENDING, Fault.BECOMING_READY, reason, reachable)

    def set_blocked(self, reason: str) -> None:
        """Stop serving until an admin, or the array, changes something."""
        self._leave(DeviceState.BLOCKED, Fault.BLOCKED, reason, False)
        self._unpark(self._fault)

    def _leave(self, state: DeviceState, fault: Fault, reason: str, reachable: bool) -> None:
        was_ready = self.state is DeviceState.READY
        self.state = state
        self._fault = VolumeError(fault, f"{self.name}: {reason}")
        self.reachable = reachable
        if not reachable:
            self.doubted = False  # before it is reachable again it is asked who it is
            if self._fencing:
                self._fencing = False
                self.reset_needed = True
        if was_ready:
            for listener in tuple(self._listeners):
                listener.unit_lost(self)
        self._resume_held()


class ReserveOperation(Operation):
    """A RESERVE: to be refused is its answer, not a sign that an older one lapsed."""

    __slots__ = ()

    def conflicted(self) -> None:
        """End with the array's refusal."""
        self.fail(Fault.RESERVATION_CONFLICT, "the array says that another initiator holds the LU")
