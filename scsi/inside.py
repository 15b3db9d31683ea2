"""Commands that come from within the target: those of a copy manager, and the pieces of what takes long.

They run by rows that no host can send, through `LogicalUnit.execute_row`: reservations, read-only mappings, the order
of tasks, drains, aborts and mirrors hold for them as for a host's commands. Unit attentions are left for the host.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from scsi import block_commands
from scsi.commands import Command
from scsi.nexus import MappedUnit
from scsi.status import TaskAttribute
from scsi.volume import Buffer

READ_16, WRITE_16 = 0x88, 0x8A

_CDB = struct.Struct(">BxQI2x")


def inside_row(opcode: int, rows: Iterable[Command] = block_commands.ROWS, **changes: Any) -> Command:
    """Make the row of a command from within out of a host's.

    Args:
        opcode: of one of `rows`.
        rows: a module's.
        changes: what is different.
    """
    (row,) = (row for row in rows if row.opcode == opcode)
    return replace(row, attention=False, **changes)


def inside_cdb(opcode: int, lba: int, blocks: int) -> bytes:
    """Give the CDB of READ (16), WRITE (16) and those that are like them."""
    return _CDB.pack(opcode, lba, blocks)


class InsideTask:
    """One command from within; a `scsi.tasks.Task`.

    Attributes:
        status, sense, data_in: how it ended.
    """

    def __init__(
        self, session: Any, mapped: MappedUnit, cdb: bytes, data_out: Buffer, done: Callable[[InsideTask], None]
    ) -> None:
        """Make a command, to be handed to `LogicalUnit.execute_row`.

        Args:
            session: on whose behalf; its nexus is the one that reservations are looked at for.
            mapped: the unit, as that nexus sees it.
            cdb: 16 bytes.
            data_out: what it writes.
            done: called when it has ended, possibly before `execute_row` returns.
        """
        self.session = session
        self.lun = b""
        self.cdb = cdb
        # Not held up by the order of the host's tasks: an ORDERED one may be what it is a part of.
        self.attribute = int(TaskAttribute.HEAD_OF_QUEUE)
        self.initiator_task_tag = 0
        self.data_out = data_out
        self.data_out_bytes = len(data_out)
        self.data_in_bytes = 1 << 32
        self.logical_unit: Any = mapped
        self.aborted = False
        self.status = -1
        self.sense = b""
        self.data_in: Buffer = b""
        self._done = done

    def complete(
        self, status: int, data_in: Buffer = b"", sense: bytes = b"", data_out_used: int | None = None
    ) -> None:
        """Take the answer."""
        self.status, self.data_in, self.sense = status, data_in, sense
        self._done(self)
