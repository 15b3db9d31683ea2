"""A host without a transport: it builds CDBs, sends commands to a target port, and looks at how they ended."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from scsi.commands import VARIABLE_LENGTH, Command
from scsi.logical_unit import LogicalUnit
from scsi.nexus import MappedUnit, Nexus
from scsi.sense import Sense, decode_sense
from scsi.status import Status, TaskAttribute
from scsi.target import TargetPort
from scsi.task_management import Function, Response
from scsi.volume import Buffer

NAA = bytes.fromhex("6000000000000000000000000000abcd")
TARGET_NAME = "iqn.2026-11.io.annex:try"
LUN_0 = bytes(8)


class Answer(NamedTuple):
    """What `Task.complete` was told."""

    status: int
    data_in: bytes
    sense: bytes
    data_out_used: int | None


class FakeCommand:
    """A `scsi.tasks.Task` that keeps its answer.

    Attributes:
        answer: None until the command has ended. An aborted one ends with TASK ABORTED here; a transport drops that.
    """

    def __init__(
        self,
        session: FakeSession,
        cdb: bytes,
        data_out: Buffer = b"",
        *,
        lun: bytes = LUN_0,
        attribute: int = TaskAttribute.SIMPLE,
        announced: int | None = None,
        room: int = 1 << 32,
    ) -> None:
        self.session = session
        self.lun = lun
        self.cdb = cdb.ljust(16, b"\0")
        self.attribute = attribute
        self.initiator_task_tag = id(self)
        self.data_out = data_out
        self.data_out_bytes = len(data_out) if announced is None else announced
        self.data_in_bytes = room
        self.logical_unit: Any = None
        self.aborted = False
        self.answer: Answer | None = None

    def complete(
        self, status: int, data_in: Buffer = b"", sense: bytes = b"", data_out_used: int | None = None
    ) -> None:
        assert self.answer is None, "completed twice"
        assert type(status) is int or isinstance(status, Status)
        self.answer = Answer(status, bytes(data_in), sense, data_out_used)

    @property
    def ended(self) -> Answer:
        assert self.answer is not None, "the command has not ended"
        return self.answer

    @property
    def status(self) -> int:
        return self.ended.status

    @property
    def data(self) -> bytes:
        """The data-in of a command that ended with GOOD."""
        assert self.ended.status == Status.GOOD, self.outcome
        return self.ended.data_in

    @property
    def sense(self) -> Sense:
        assert self.ended.status == Status.CHECK_CONDITION, self.outcome
        assert self.ended.data_in == b""
        return decode_sense(self.ended.sense)

    @property
    def outcome(self) -> str:
        """How it ended: "GOOD", "RESERVATION CONFLICT" and so on, "05/24/00" with sense data, "running" before."""
        if self.answer is None:
            return "running"
        if self.answer.status == Status.CHECK_CONDITION:
            sense = decode_sense(self.answer.sense)
            return f"{sense.key:02X}/{sense.asc:02X}/{sense.ascq:02X}"
        return Status(self.answer.status).name.replace("_", " ")


class FakeSession:
    """What carries a nexus."""

    def __init__(self, nexus: Nexus) -> None:
        self.nexus = nexus


class FakeTaskManagement:
    """A `scsi.task_management.TaskRequest` that keeps its response."""

    def __init__(self, session: FakeSession, function: int, lun: bytes, referenced: FakeCommand | None) -> None:
        self.session = session
        self.function = function
        self.lun = lun
        self.referenced = referenced
        self.response: Response | None = None

    def complete(self, response: int) -> None:
        assert self.response is None, "completed twice"
        self.response = Response(response)


class Host:
    """One I_T nexus and the commands that it sends; with `greeted` it has heard the unit attentions of a new nexus."""

    def __init__(
        self,
        port: TargetPort,
        luns: LogicalUnit | dict[bytes, MappedUnit],
        name: str = "iqn.2026-11.org.example:host",
        *,
        read_only: bool = False,
        array_control: bool = True,
        greeted: bool = True,
    ) -> None:
        self.port = port
        lun_map = {LUN_0: MappedUnit(luns, read_only)} if isinstance(luns, LogicalUnit) else luns
        self.nexus = Nexus(name, bytes.fromhex("80cafe000001"), TARGET_NAME, 1, array_control, lun_map)
        self.session = FakeSession(self.nexus)
        port.nexus_created(self.nexus)
        if greeted:
            self.nexus.attentions.clear()

    def send(
        self,
        cdb: bytes,
        data_out: Buffer = b"",
        *,
        lun: bytes = LUN_0,
        attribute: int = TaskAttribute.SIMPLE,
        announced: int | None = None,
        room: int = 1 << 32,
    ) -> FakeCommand:
        command = FakeCommand(self.session, cdb, data_out, lun=lun, attribute=attribute, announced=announced, room=room)
        self.port.execute(command)
        return command

    def manage(self, function: Function, referenced: FakeCommand | None = None, lun: bytes = LUN_0) -> Response:
        request = FakeTaskManagement(self.session, function, lun, referenced)
        self.port.manage(request)
        assert request.response is not None, "task management is answered at once"
        return request.response

    def leave(self) -> None:
        self.port.nexus_lost(self.nexus)


def lun(number: int) -> bytes:
    """A LUN below 256 in peripheral device addressing."""
    return bytes((0, number)).ljust(8, b"\0")


# --- CDBs -------------------------------------------------------------------------------------------------------------

TEST_UNIT_READY = bytes(6)
REQUEST_SENSE = bytes.fromhex("03000000ff00")
FUA, DPO = 0x08, 0x10


def empty_cdb(row: Command) -> bytearray:
    """The CDB of a command with nothing set but what tells which one it is."""
    cdb = bytearray(max(row.cdb_bytes, 16))
    cdb[0] = row.opcode
    if row.opcode == VARIABLE_LENGTH:
        cdb[7:10] = row.usage_map[7:10]
    elif row.service_action:
        cdb[1] = row.key[1]
    return cdb


def inquiry(page: int | None = None, allocation: int = 255) -> bytes:
    return struct.pack(">BBBHB", 0x12, page is not None, page or 0, allocation, 0)


def report_luns(allocation: int = 1024, select: int = 0) -> bytes:
    return struct.pack(">BxB3xIxx", 0xA0, select, allocation)


def mode_sense_6(page: int = 0x3F, subpage: int = 0, *, flags: int = 0, allocation: int = 255) -> bytes:
    return struct.pack(">BBBBBx", 0x1A, flags, page, subpage, allocation)


def mode_sense_10(page: int = 0x3F, subpage: int = 0, *, flags: int = 0, allocation: int = 1024) -> bytes:
    return struct.pack(">BBBB3xHx", 0x5A, flags, page, subpage, allocation)


def read_6(lba: int, blocks: int) -> bytes:
    return struct.pack(">IBx", 0x08 << 24 | lba, blocks & 0xFF)


def write_6(lba: int, blocks: int) -> bytes:
    return struct.pack(">IBx", 0x0A << 24 | lba, blocks & 0xFF)


def blocks_10(opcode: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    """READ, WRITE, VERIFY or SYNCHRONIZE CACHE of 10 bytes."""
    return struct.pack(">BBIxHx", opcode, flags, lba, blocks)


def blocks_12(opcode: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    return struct.pack(">BBIIxx", opcode, flags, lba, blocks)


def blocks_16(opcode: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    return struct.pack(">BBQIxx", opcode, flags, lba, blocks)


def blocks_32(action: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    """READ, WRITE or VERIFY of 32 bytes, by its service action."""
    return struct.pack(">BB5xBHBxQ8xI", 0x7F, 0, 0x18, action, flags, lba, blocks)


def read_10(lba: int, blocks: int, flags: int = 0) -> bytes:
    return blocks_10(0x28, lba, blocks, flags)


def write_10(lba: int, blocks: int, flags: int = 0) -> bytes:
    return blocks_10(0x2A, lba, blocks, flags)


def synchronize_cache_10(lba: int = 0, blocks: int = 0, flags: int = 0) -> bytes:
    return blocks_10(0x35, lba, blocks, flags)


def report_opcodes(
    options: int = 0, opcode: int = 0, action: int = 0, *, timeouts: bool = False, allocation: int = 65535
) -> bytes:
    return struct.pack(">BBBBHIxx", 0xA3, 0x0C, options | timeouts << 7, opcode, action, allocation)


RESERVE_6, RELEASE_6 = bytes.fromhex("160000000000"), bytes.fromhex("170000000000")
RESERVE_10, RELEASE_10 = bytes.fromhex("56000000000000000000"), bytes.fromhex("57000000000000000000")
READ_CAPACITY_10 = bytes.fromhex("25000000000000000000")


def read_capacity_16(allocation: int = 32) -> bytes:
    return struct.pack(">BBQIxx", 0x9E, 0x10, 0, allocation)


def start_stop_unit(flags: int, *, immediate: bool = False) -> bytes:
    return bytes((0x1B, immediate, 0, 0, flags, 0))
