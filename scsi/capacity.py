"""READ CAPACITY (10) and (16).

Spec: SBC-4 "READ CAPACITY (10) command", "READ CAPACITY (16) command".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from scsi.block_commands import refuse_unready
from scsi.commands import Allow, Command, Direction, decode_nothing
from scsi.provisioning import is_thin
from scsi.tasks import Task

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

_CAPACITY_10 = struct.Struct(">II")
_CAPACITY_16 = struct.Struct(">QIBBH16x")
_LBPME_LBPRZ = 0xC000


def handle_read_capacity_10(unit: LogicalUnit, task: Task, _fields: tuple[()]) -> None:
    """READ CAPACITY (10); an LBA that does not fit is FFFFFFFFh, and sends the host to the other one."""
    refuse_unready(unit)
    volume = unit.volume
    unit.finish(task, _CAPACITY_10.pack(min(volume.blocks - 1, 0xFFFFFFFF), volume.block_bytes))


def handle_read_capacity_16(unit: LogicalUnit, task: Task, fields: tuple[int]) -> None:
    """READ CAPACITY (16)."""
    refuse_unready(unit)
    volume = unit.volume
    data = _CAPACITY_16.pack(
        volume.blocks - 1,
        volume.block_bytes,
        0,  # no protection information
        volume.physical_block_exponent,
        _LBPME_LBPRZ if is_thin(unit) else 0,  # LOWEST ALIGNED LOGICAL BLOCK ADDRESS 0
    )
    unit.finish(task, data[: fields[0]])


# The LBA and PMI fields are obsolete.
ROWS: tuple[Command, ...] = (
    Command(
        "READ CAPACITY (10)",
        usage="25 00 00000000 0000 00 04",
        decode=decode_nothing,
        run=handle_read_capacity_10,
        direction=Direction.TO_INITIATOR,
        allow=Allow.PERSISTENT,
        spec="SBC-4 READ CAPACITY (10) command",
        ignored="00 01 ffffffff 0000 01",
    ),
    Command(
        "READ CAPACITY (16)",
        usage="9e 10 0000000000000000 ffffffff 00 04",
        decode=struct.Struct(">10xI").unpack_from,
        run=handle_read_capacity_16,
        direction=Direction.TO_INITIATOR,
        allow=Allow.PERSISTENT,
        spec="SBC-4 READ CAPACITY (16) command",
        service_action=True,
        ignored="00 00 ffffffffffffffff 00000000 01",
    ),
)
