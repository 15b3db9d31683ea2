"""What annexhost needs of a way to a logical unit, and how a command goes over it.

PyScsi gives the devices (`SCSIDevice` over SG_IO, `ISCSIDevice` over libiscsi) and the commands that it knows; what it
lacks for vendor commands is here and in `iscsi_device` and `disk_device`.
"""

from __future__ import annotations

from typing import Protocol

from pyscsi.pyscsi.scsi_command import SCSICommand
from pyscsi.pyscsi.scsi_opcode import OpCode

from scsi.array_commands import ARRAY_IN, ARRAY_OUT, CDB_BYTES, ArrayIn, ArrayOut

# A write of a pair is answered within 15 s; CREATE and DELETE wait for the array's fence too.
COMMAND_TIMEOUT_S = 60.0

GOOD = 0x00
CHECK_CONDITION = 0x02
BUSY = 0x08
RESERVATION_CONFLICT = 0x18
TASK_SET_FULL = 0x28

OPCODES = {
    ARRAY_IN: OpCode("ARRAY_IN", ARRAY_IN, {action.name: action.value for action in ArrayIn}),
    ARRAY_OUT: OpCode("ARRAY_OUT", ARRAY_OUT, {action.name: action.value for action in ArrayOut}),
}


class CommandFailed(Exception):
    """A command that ended with another status than GOOD; `sense` is b"" where there is none."""

    def __init__(self, status: int, sense: bytes = b"") -> None:
        super().__init__(f"status {status:02X}h, sense {sense.hex()}")
        self.status = status
        self.sense = sense


class ScsiDevice(Protocol):
    """A logical unit that commands can be sent to."""

    def execute(self, command: SCSICommand) -> None:
        """Run a command; `command.datain` then holds what came, no more.

        Raises:
            CommandFailed: any status but GOOD.
            Unreachable: no answer came.
        """

    def close(self) -> None: ...


class ArrayCommand(SCSICommand):  # type: ignore[misc]  # PyScsi has no types
    """ARRAY IN or ARRAY OUT for PyScsi's devices."""

    def __init__(
        self, cdb: bytes, data_out: bytes = b"", data_in_bytes: int = 0, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> None:
        """Make it from the whole CDB.

        PyScsi's own constructor is passed over: it asks `SCSICommand.init_cdb` for a CDB, by that class's name, and
        that one refuses every opcode of C0h and above. The CDB that it would give back is `init_cdb` below.
        """
        self.opcode = OPCODES[cdb[0]]
        self.cdb = self.init_cdb(self.opcode)
        self.cdb[:] = cdb
        self.timeout_s = timeout_s
        self.dataout = bytearray(data_out)
        self.datain = bytearray(data_in_bytes)
        self.result: dict[str, object] = {}

    @staticmethod
    def init_cdb(opcode: OpCode) -> bytearray:
        return bytearray(CDB_BYTES)
