"""READ DEFECT DATA: there are no defects that a host could see; the lists are there, and empty.

Spec: SBC-4 "READ DEFECT DATA (10) command", "READ DEFECT DATA (12) command", "Address descriptor formats".
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Final

from scsi.commands import Allow, Command, Decode, Direction
from scsi.errors import InvalidFieldInCdb
from scsi.tasks import Task

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

_FORMAT: Final = 0x07
_VENDOR_SPECIFIC: Final = 6  # and 7 is reserved; an empty list is the same in each of the others

_decode_10 = Struct(">xxBxxxxH").unpack_from  # REQ_PLIST, REQ_GLIST and the format in one byte, allocation length
_decode_12 = Struct(">xBxxxxI").unpack_from
_HEADER_10 = Struct(">xBH")
_HEADER_12 = Struct(">xBHI")


def handle_read_defect_data_10(unit: LogicalUnit, task: Task, fields: tuple[int, int]) -> None:
    """READ DEFECT DATA (10)."""
    wanted, allocation_length = fields
    _refuse_format(wanted, 2)
    unit.finish(task, _HEADER_10.pack(wanted, 0)[:allocation_length])


def handle_read_defect_data_12(unit: LogicalUnit, task: Task, fields: tuple[int, int]) -> None:
    """READ DEFECT DATA (12); whichever descriptor it is to begin with, there is none."""
    wanted, allocation_length = fields
    _refuse_format(wanted, 1)
    unit.finish(task, _HEADER_12.pack(wanted, 0, 0)[:allocation_length])


def _refuse_format(wanted: int, offset: int) -> None:
    if wanted & _FORMAT >= _VENDOR_SPECIFIC:
        raise InvalidFieldInCdb(offset, 2, f"DEFECT LIST FORMAT {wanted & _FORMAT}")


def _row(name: str, usage: str, decode: Decode, run: Callable[[LogicalUnit, Task, tuple[int, int]], None]) -> Command:
    return Command(
        name,
        usage,
        decode,
        run,
        direction=Direction.TO_INITIATOR,
        allow=Allow.WRITE_EXCLUSIVE,
        spec=f"SBC-4 {name} command",
    )


ROWS: tuple[Command, ...] = (
    _row("READ DEFECT DATA (10)", "37 00 1f 00000000 ffff 04", _decode_10, handle_read_defect_data_10),
    _row("READ DEFECT DATA (12)", "b7 1f ffffffff ffffffff 00 04", _decode_12, handle_read_defect_data_12),
)
