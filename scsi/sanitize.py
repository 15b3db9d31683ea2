"""SANITIZE: what a host may ask for; `scsi.sanitizer` does it.

There is no CRYPTOGRAPHIC ERASE, as nothing is encrypted.

Spec: SBC-4 "SANITIZE command".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from scsi import provisioning
from scsi.block_commands import refuse_unready
from scsi.commands import Allow, Command, Decode, Direction, Run
from scsi.errors import (
    InvalidFieldInCdb,
    InvalidFieldInInformationUnit,
    InvalidFieldInParameterList,
    ScsiError,
    SoftwareWriteProtected,
    WriteProtected,
)
from scsi.nexus import Nexus
from scsi.sanitizer import Pass
from scsi.tasks import Task

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

_IMMED, _AUSE = 0x80, 0x20
_INVERT, _TEST, _COUNT = 0x80, 0x60, 0x1F

Fields = tuple[int, int]


def _decode(cdb: bytes) -> Fields:
    return cdb[1], cdb[7] << 8 | cdb[8]


def _refuse(unit: LogicalUnit, task: Task) -> None:
    """Refuse to begin: blocks that may not be written, or a sanitize that is under way."""
    if task.logical_unit.read_only or unit.volume.read_only:
        raise WriteProtected
    if unit.modes.software_write_protect:
        raise SoftwareWriteProtected
    _refuse_while_running(unit)
    refuse_unready(unit)


def _refuse_while_running(unit: LogicalUnit) -> None:
    if unit.sanitizer.running and unit.sanitizer.error is not None:
        raise unit.sanitizer.error


def handle_overwrite(unit: LogicalUnit, task: Task, fields: Fields) -> None:
    """SANITIZE, OVERWRITE: with a pattern, as often as the host wants, inverted every other time if it wants that."""
    _, length = fields
    _refuse(unit, task)
    block_bytes = unit.volume.block_bytes
    if not 4 < length <= block_bytes + 4:
        raise InvalidFieldInCdb(7, None, f"PARAMETER LIST LENGTH {length}")
    data = bytes(task.data_out[:length])
    if len(data) < length:
        raise InvalidFieldInInformationUnit(f"{len(data)} bytes of a parameter list of {length}")
    how, pattern_bytes = struct.unpack_from(">BxH", data)
    if how & _TEST:
        raise InvalidFieldInParameterList(0, 6, "TEST")
    if not how & _COUNT:
        raise InvalidFieldInParameterList(0, 4, "OVERWRITE COUNT 0")
    if not 0 < pattern_bytes <= length - 4:
        raise InvalidFieldInParameterList(2, None, f"INITIALIZATION PATTERN LENGTH {pattern_bytes}")
    pattern = data[4 : 4 + pattern_bytes]
    block = (pattern * (block_bytes // pattern_bytes + 1))[:block_bytes]
    inverted = bytes(~byte & 0xFF for byte in block)
    blocks = [inverted if how & _INVERT and number % 2 else block for number in range(how & _COUNT)]
    _start(unit, task, fields, [Pass(block) for block in blocks])


def handle_block_erase(unit: LogicalUnit, task: Task, fields: Fields) -> None:
    """SANITIZE, BLOCK ERASE: zeroes over all that has storage, and the storage given back."""
    _refuse(unit, task)
    _refuse_parameters(fields)
    _start(unit, task, fields, [Pass(bytes(unit.volume.block_bytes), unmap=True)])


def handle_exit_failure_mode(unit: LogicalUnit, task: Task, fields: Fields) -> None:
    """SANITIZE, EXIT FAILURE MODE."""
    _refuse_parameters(fields)
    _refuse_while_running(unit)
    unit.sanitizer.leave_failure()
    unit.finish(task)


def _refuse_parameters(fields: Fields) -> None:
    if fields[1]:
        raise InvalidFieldInCdb(7, None, f"PARAMETER LIST LENGTH {fields[1]}")


def _start(unit: LogicalUnit, task: Task, fields: Fields, passes: list[Pass]) -> None:
    flags, length = fields
    unit.sanitizer.may_be_left = bool(flags & _AUSE)
    begins = False

    def begun() -> None:
        nonlocal begins
        begins = True
        if flags & _IMMED:
            unit.finish(task, data_out_used=length)

    def ended(error: ScsiError | None) -> None:
        if begins and flags & _IMMED:
            return
        if error is None:
            unit.finish(task, data_out_used=length)
        else:
            unit.fail(task, error, length)

    unit.sanitizer.start(passes, task.logical_unit, begun, ended)


def _is_thin(unit: LogicalUnit, _nexus: Nexus) -> bool:
    return provisioning.is_thin(unit)


def _row(name: str, usage: str, run: Run, direction: Direction, **changes: Any) -> Command:
    decode: Decode = _decode
    return Command(
        f"SANITIZE ({name})",
        usage,
        decode,
        run,
        direction,
        Allow.NOWHERE,
        f"SBC-4 SANITIZE command, {name} service action",
        service_action=True,
        while_sanitized=True,
        **changes,
    )


# ZNR is about zones, of which there are none.
ROWS: tuple[Command, ...] = (
    _row("OVERWRITE", "48 a1 0000000000 ffff 04", handle_overwrite, Direction.FROM_INITIATOR),
    _row("BLOCK ERASE", "48 a2 0000000000 ffff 04", handle_block_erase, Direction.NONE, available=_is_thin),
    _row("EXIT FAILURE MODE", "48 9f 0000000000 ffff 04", handle_exit_failure_mode, Direction.NONE),
)
