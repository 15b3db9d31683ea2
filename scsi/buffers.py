"""READ BUFFER and WRITE BUFFER: the echo buffer, by which a host tries the way to the unit and back.

Each nexus has one of its own, and reads nothing but what it wrote (CVE-2024-8178 and its like gave away memory here).

Spec: SPC-6 "READ BUFFER (10) command", "WRITE BUFFER command".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from scsi.commands import Allow, Command, Direction
from scsi.errors import CommandSequenceError, InvalidFieldInCdb, InvalidFieldInInformationUnit
from scsi.tasks import Task

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

ECHO_BYTES: Final = 4096

_ECHO, _ECHO_DESCRIPTOR = 0x0A, 0x0B
_OF_EACH_HOST = 0x01  # EBOS

Fields = tuple[int, int]


def _decode(cdb: bytes) -> Fields:
    """Mode and length; the buffer id and offset mean nothing for an echo buffer."""
    return cdb[1], int.from_bytes(cdb[6:9], "big")


def handle_read_buffer(unit: LogicalUnit, task: Task, fields: Fields) -> None:
    """READ BUFFER (10): what the nexus wrote, or how much it can write."""
    mode, allocation_length = fields
    if mode == _ECHO_DESCRIPTOR:
        data = bytes((_OF_EACH_HOST, 0)) + ECHO_BYTES.to_bytes(2, "big")
    elif mode == _ECHO:
        written = unit.echo_buffers.get(task.session.nexus)
        if written is None:
            raise CommandSequenceError("nothing was written to the echo buffer")
        data = written
    else:
        raise InvalidFieldInCdb(1, 4, f"mode {mode:02X}h")
    unit.finish(task, data[:allocation_length])


def handle_write_buffer(unit: LogicalUnit, task: Task, fields: Fields) -> None:
    """WRITE BUFFER."""
    mode, length = fields
    if mode != _ECHO:
        raise InvalidFieldInCdb(1, 4, f"mode {mode:02X}h")
    if length > ECHO_BYTES:
        raise InvalidFieldInCdb(6, None, f"{length} bytes for the echo buffer")
    data = bytes(task.data_out[:length])
    if len(data) < length:
        unit.fail(task, InvalidFieldInInformationUnit(f"{len(data)} bytes of {length}"), length)
        return
    unit.echo_buffers[task.session.nexus] = data
    unit.finish(task, data_out_used=length)


ROWS: tuple[Command, ...] = (
    Command(
        "READ BUFFER (10)",
        usage="3c 1f 00 000000 ffffff 04",
        decode=_decode,
        run=handle_read_buffer,
        direction=Direction.TO_INITIATOR,
        allow=Allow.WRITE_EXCLUSIVE,
        spec="SPC-6 READ BUFFER (10) command",
        ignored="00 00 ff ffffff",
    ),
    Command(
        "WRITE BUFFER",
        usage="3b 1f 00 000000 ffffff 04",
        decode=_decode,
        run=handle_write_buffer,
        direction=Direction.FROM_INITIATOR,
        allow=Allow.NOWHERE,
        spec="SPC-6 WRITE BUFFER command",
        ignored="00 00 ff ffffff",
    ),
)
