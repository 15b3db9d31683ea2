"""ORWRITE: sets bits of blocks, or clears some and begins a new generation.

How this works. Hosts that share a bitmap agree on its generation, a number that the unit keeps (`Generations`): who
clears bits names the generation that he knows and the one that begins, and what an ORWRITE of an older generation does
from then on is his choice too. So that a change of generation is before or after every other command, it has all blocks
of the unit for itself; to set bits needs those that are set. Both are a `ClaimedChange`.

Spec: SBC-4 "ORWRITE commands", "ORWRITE (16) command", "ORWRITE (32) command".
"""

from __future__ import annotations

import enum
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from scsi.block_commands import check_range, data_for, refuse_unready, refuse_writing, write_row
from scsi.claimed_change import ClaimedChange, can_be_claimed
from scsi.commands import Command, Decode
from scsi.errors import InvalidFieldInCdb, OrwriteGenerationDoesNotMatch, ScsiError
from scsi.tasks import Task
from scsi.volume import Buffer

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

_SET, _CHANGE_GENERATION_AND_CLEAR = 0, 1  # BMOP
_ALL_BLOCKS: Final = 1 << 64


class _Action(enum.Enum):
    """What becomes of an ORWRITE that is to set bits, by the generation that it expects."""

    PERFORM = "PA"
    DISCARD = "DN"  # the data goes nowhere, and the status is GOOD
    REFUSE = "CCG"


# By PREVIOUS GENERATION PROCESSING: for an ORWRITE that expects the previous generation, and for one that expects
# neither that nor the current one. The other values are reserved.
_POLICIES: Final = {
    0x0: (_Action.PERFORM, _Action.REFUSE),
    0x2: (_Action.DISCARD, _Action.REFUSE),
    0x3: (_Action.PERFORM, _Action.PERFORM),
    0x5: (_Action.DISCARD, _Action.DISCARD),
    0x7: (_Action.REFUSE, _Action.REFUSE),
}


class Generations(NamedTuple):
    """The generations of a unit's bitmaps, as after power on and a hard reset; a logical unit reset leaves them."""

    current: int = 0
    previous: int = 0
    policy: int = 0x7

    def action(self, expected: int) -> _Action:
        """Say what an ORWRITE does that sets bits and expects this generation."""
        if expected == self.current:
            return _Action.PERFORM
        previous, other = _POLICIES[self.policy]
        return previous if expected == self.previous else other


class Request(NamedTuple):
    """What is in the CDB.

    Attributes:
        lba, blocks: what is changed.
        operation: BMOP.
        policy: PREVIOUS GENERATION PROCESSING.
        expected, new: generations. ORWRITE (16) expects 0, as the standard has it where there is ORWRITE (32) too.
    """

    lba: int
    blocks: int
    operation: int = _SET
    policy: int = 0
    expected: int = 0
    new: int = 0


Fields = tuple[int, int, int, Request]  # flags; the blocks that no other command may be about meanwhile

_unpack_16 = Struct(">xBQI").unpack_from
_unpack_32 = Struct(">2xBB6xBxQIII").unpack_from


def _decode_16(cdb: bytes) -> Fields:
    flags, lba, blocks = _unpack_16(cdb)
    return flags, lba, blocks, Request(lba, blocks)


def _decode_32(cdb: bytes) -> Fields:
    operation, policy, flags, lba, expected, new, blocks = _unpack_32(cdb)
    request = Request(lba, blocks, operation, policy, expected, new)
    if operation == _SET:
        return flags, lba, blocks, request
    return flags, 0, _ALL_BLOCKS, request


def handle_orwrite(unit: LogicalUnit, task: Task, fields: Fields) -> None:
    """ORWRITE (16) and (32)."""
    flags, _, _, request = fields
    refuse_writing(unit, task)
    clears = request.operation == _CHANGE_GENERATION_AND_CLEAR
    if request.operation > _CHANGE_GENERATION_AND_CLEAR:
        raise InvalidFieldInCdb(2, 2, f"BMOP {request.operation} is reserved")
    if clears and request.policy not in _POLICIES:
        raise InvalidFieldInCdb(3, 3, f"PREVIOUS GENERATION PROCESSING {request.policy:X}h is reserved")
    check_range(unit, task, request.lba, request.blocks)
    wanted_bytes = request.blocks * unit.volume.block_bytes
    generations = unit.orwrite_generations
    action = generations.action(request.expected)
    if clears and request.expected != generations.current:
        action = _Action.REFUSE
    try:
        if action is _Action.REFUSE:
            raise OrwriteGenerationDoesNotMatch(f"{request.expected}, and {generations.current} is the current one")
        data = data_for(unit, task, wanted_bytes)
    except ScsiError as error:
        unit.fail(task, error, wanted_bytes)
        return

    def set_bits(found: Buffer) -> Buffer:
        return (int.from_bytes(found, "big") | int.from_bytes(data, "big")).to_bytes(len(found), "big")

    def clear_bits(found: Buffer) -> Buffer:
        return (int.from_bytes(found, "big") & int.from_bytes(data, "big")).to_bytes(len(found), "big")

    def changed() -> None:
        if clears:
            unit.orwrite_generations = Generations(request.new, generations.current, request.policy)

    if not data or action is _Action.DISCARD:
        refuse_unready(unit)
        changed()
        unit.finish(task, data_out_used=wanted_bytes)
        return
    there = len(data) // unit.volume.block_bytes
    counters = unit.counters
    counters.writes += 1
    counters.written_blocks += there
    make = clear_bits if clears else set_bits
    ClaimedChange(unit, task, (flags, request.lba, there), wanted_bytes, make, changed).start()


def _row(name: str, usage: str, decode: Decode, ignored: str, *, service_action: bool = False) -> Command:
    return write_row(
        name,
        usage,
        decode,
        ignored,
        run=handle_orwrite,
        exclusive=True,
        service_action=service_action,
        available=can_be_claimed,
    )


# FUA and DPO are looked at, ORPROTECT refused, FUA_NV (obsolete) ignored; GROUP NUMBER may be anything.
ROWS: tuple[Command, ...] = (
    _row("ORWRITE (16)", "8b 18 ffffffffffffffff ffffffff 1f 04", _decode_16, "00 02"),
    _row(
        "ORWRITE (32)",
        "7f 04 07 0f 0000 1f 18 000e 18 00 ffffffffffffffff ffffffff ffffffff ffffffff",
        _decode_32,
        "00 00 00 00 0000 00 00 0000 02",
        service_action=True,
    ),
)
