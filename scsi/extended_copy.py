"""EXTENDED COPY and RECEIVE COPY RESULTS: what a host asks of the copy manager, and what it is told.

Of the first list format (LID1) there is what hosts use: logical units named by designator (CSCD descriptor E4h) and
runs of blocks between them (segment descriptor 02h). A designator is looked up among the logical units that this host
sees by this target port, and nowhere else: a copy reaches nothing that a READ or WRITE of the host would not.

Spec: SPC-4 "EXTENDED COPY(LID1) command", "RECEIVE COPY STATUS(LID1)", "RECEIVE COPY OPERATING PARAMETERS",
"RECEIVE COPY FAILURE DETAILS(LID1)".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from scsi.commands import Allow, Command, Direction
from scsi.copy_manager import Copy, Segment
from scsi.errors import (
    InlineDataLengthExceeded,
    InvalidFieldInCdb,
    InvalidFieldInParameterList,
    OperationInProgress,
    ParameterListLengthError,
    ScsiError,
    TooManyCscdDescriptors,
    TooManySegmentDescriptors,
    UnsupportedCscdDescriptor,
    UnsupportedSegmentDescriptor,
)
from scsi.inquiry import logical_unit_designators
from scsi.nexus import MappedUnit, Nexus
from scsi.sense import encode_sense
from scsi.tasks import Task

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

MOST_CSCD_DESCRIPTORS: Final = 64
MOST_SEGMENTS: Final = 256

_HEADER = struct.Struct(">BBH4xII")
_CSCD = struct.Struct(">BBH4s20s4s")  # type, LU id type and device type, relative initiator port, designator, device
_SEGMENT = struct.Struct(">BBHHH2xHQQ")
MOST_DESCRIPTOR_BYTES: Final = MOST_CSCD_DESCRIPTORS * _CSCD.size + MOST_SEGMENTS * _SEGMENT.size
_IDENTIFICATION_CSCD: Final = 0xE4
_BLOCK_TO_BLOCK: Final = 0x02
_NUL = 0x20  # of byte 1; LU ID TYPE, bits 7-6, means nothing where a designator names the unit
_DC, _CAT = 0x02, 0x01
_NO_LIST_IDENTIFIER: Final = 3  # LIST ID USAGE
_LIST_ID_HELD: Final = (0, 2)

_IN_PROGRESS, _COMPLETED, _COMPLETED_WITH_ERRORS = 0, 1, 2
_KIB: Final = 1
_MOST_BLOCKS: Final = 0xFFFF  # of a segment

Units = dict[bytes, MappedUnit]


def handle_extended_copy(unit: LogicalUnit, task: Task, fields: tuple[int]) -> None:
    """EXTENDED COPY(LID1)."""
    (length,) = fields
    if not length:
        unit.finish(task)
        return
    if len(task.data_out) < length or length < _HEADER.size:
        raise ParameterListLengthError(f"{len(task.data_out)} bytes of {length}")
    data = bytes(task.data_out[:length])
    list_identifier, usage, cscd_bytes, segment_bytes, inline_bytes = _HEADER.unpack_from(data)
    usage = usage >> 3 & 3
    if usage == 1:
        raise InvalidFieldInParameterList(1, 4, "LIST ID USAGE 1 is reserved")
    if usage == _NO_LIST_IDENTIFIER and list_identifier:
        raise InvalidFieldInParameterList(0, None, "a list identifier that is not to be used")
    if inline_bytes:
        raise InlineDataLengthExceeded(f"{inline_bytes} bytes")
    if _HEADER.size + cscd_bytes + segment_bytes > length or cscd_bytes + segment_bytes > MOST_DESCRIPTOR_BYTES:
        raise ParameterListLengthError(f"{cscd_bytes} + {segment_bytes} bytes of descriptors in {length}")
    nexus: Nexus = task.session.nexus
    cscds = _decode_cscds(data[: _HEADER.size + cscd_bytes], nexus)
    segments = _decode_segments(data[: _HEADER.size + cscd_bytes + segment_bytes], _HEADER.size + cscd_bytes, cscds)
    identifier = list_identifier if usage in _LIST_ID_HELD else None
    if identifier is not None and unit.copy_manager.running(nexus, identifier):
        raise OperationInProgress(f"list identifier {identifier}")

    def end(error: ScsiError | None) -> None:
        if error is None:
            unit.finish(task)
        else:
            unit.fail(task, error)

    unit.copy_manager.start(Copy(task, segments, end), identifier)


def _decode_cscds(data: bytes, nexus: Nexus) -> list[MappedUnit | None]:
    """Find the logical units that are named; None for one that the host does not see."""
    length = len(data) - _HEADER.size
    if length // _CSCD.size > MOST_CSCD_DESCRIPTORS:
        raise TooManyCscdDescriptors(f"{length // _CSCD.size}")
    seen = _units_by_designator(nexus)
    found: list[MappedUnit | None] = []
    for at in range(_HEADER.size, len(data), _CSCD.size):
        if data[at] != _IDENTIFICATION_CSCD:
            raise UnsupportedCscdDescriptor(f"type {data[at]:02X}h")
        if at + _CSCD.size > len(data):
            raise ParameterListLengthError("a part of a CSCD descriptor")
        _, how, _, head, designator, _ = _CSCD.unpack_from(data, at)
        if how & 0x1F:
            raise UnsupportedCscdDescriptor(f"device type {how & 0x1F:02X}h")
        size = head[3]
        if size > len(designator):
            raise InvalidFieldInParameterList(at + 7, None, f"a designator of {size} bytes")
        found.append(None if how & _NUL else seen.get(head[:2] + designator[:size]))
    return found


def _units_by_designator(nexus: Nexus) -> Units:
    """Index what a host sees by code set, association, type and value of each designator of VPD page 83h."""
    return {
        designator[:2] + designator[4:]: mapped
        for mapped in nexus.lun_map.values()
        for designator in logical_unit_designators(mapped.logical_unit)
    }


def _decode_segments(data: bytes, begin: int, cscds: list[MappedUnit | None]) -> list[Segment]:
    segments: list[Segment] = []
    at = begin
    while at < len(data):
        if len(segments) == MOST_SEGMENTS:
            raise TooManySegmentDescriptors(f"more than {MOST_SEGMENTS}")
        if data[at] != _BLOCK_TO_BLOCK:
            raise UnsupportedSegmentDescriptor(f"type {data[at]:02X}h")
        if at + _SEGMENT.size > len(data):
            raise ParameterListLengthError("a part of a segment descriptor")
        _, flags, size, source, destination, blocks, source_lba, destination_lba = _SEGMENT.unpack_from(data, at)
        if size != _SEGMENT.size - 4:
            raise InvalidFieldInParameterList(at + 2, None, f"a segment descriptor of {size} bytes")
        if flags & ~(_DC | _CAT):
            raise InvalidFieldInParameterList(at + 1, 7, "reserved bits")
        segments.append(Segment(_cscd(cscds, source), _cscd(cscds, destination), blocks, source_lba, destination_lba))
        at += _SEGMENT.size
    return segments


def _cscd(cscds: list[MappedUnit | None], index: int) -> MappedUnit | None:
    return cscds[index] if index < len(cscds) else None


# --- RECEIVE COPY RESULTS ---------------------------------------------------------------------------------------------


def handle_copy_status(unit: LogicalUnit, task: Task, fields: tuple[int, int]) -> None:
    """RECEIVE COPY STATUS(LID1): how far a copy is, or how it went; a result is told once."""
    list_identifier, allocation_length = fields
    nexus: Nexus = task.session.nexus
    running = unit.copy_manager.running(nexus, list_identifier)
    if running is not None:
        status, segments, copied_bytes = _IN_PROGRESS, running.done_segments, running.copied_bytes
    else:
        result = unit.copy_manager.take_result(nexus, list_identifier)
        if result is None:
            raise InvalidFieldInCdb(2, None, f"no copy by the list identifier {list_identifier}")
        status = _COMPLETED if result.error is None else _COMPLETED_WITH_ERRORS
        segments, copied_bytes = result.segments, result.copied_bytes
    data = struct.pack(">IBHBI", 8, status, segments, _KIB, copied_bytes >> 10)
    unit.finish(task, data[:allocation_length])


def handle_failure_details(unit: LogicalUnit, task: Task, fields: tuple[int, int]) -> None:
    """RECEIVE COPY FAILURE DETAILS(LID1): the sense data that a copy ended with; told once."""
    list_identifier, allocation_length = fields
    result = unit.copy_manager.take_result(task.session.nexus, list_identifier)
    if result is None or result.error is None:
        raise InvalidFieldInCdb(2, None, f"no failed copy by the list identifier {list_identifier}")
    sense = encode_sense(result.error)
    data = struct.pack(">52xBxH", 0x02, len(sense)) + sense
    unit.finish(task, (struct.pack(">I", len(data)) + data)[:allocation_length])


def handle_operating_parameters(unit: LogicalUnit, task: Task, fields: tuple[int, int]) -> None:
    """RECEIVE COPY OPERATING PARAMETERS: what EXTENDED COPY may ask for."""
    _, allocation_length = fields
    kinds = bytes((_BLOCK_TO_BLOCK, _IDENTIFICATION_CSCD))
    data = (
        struct.pack(
            ">B3xHHIIIII2xHBBBB3xB",
            0x01,  # SNLID: a list without an identifier is taken
            MOST_CSCD_DESCRIPTORS,
            MOST_SEGMENTS,
            MOST_DESCRIPTOR_BYTES,
            _MOST_BLOCKS * unit.volume.block_bytes,
            0,  # MAXIMUM INLINE DATA LENGTH
            0,  # HELD DATA LIMIT
            0,  # MAXIMUM STREAM DEVICE TRANSFER SIZE
            255,  # TOTAL CONCURRENT COPIES
            255,  # MAXIMUM CONCURRENT COPIES
            9,  # DATA SEGMENT GRANULARITY: 512 bytes
            0,  # INLINE DATA GRANULARITY
            0,  # HELD DATA GRANULARITY
            len(kinds),
        )
        + kinds
    )
    unit.finish(task, (struct.pack(">I", len(data)) + data)[:allocation_length])


def _decode_extended_copy(cdb: bytes) -> tuple[int]:
    return (int.from_bytes(cdb[10:14], "big"),)


def _decode_results(cdb: bytes) -> tuple[int, int]:
    return cdb[2], int.from_bytes(cdb[10:14], "big")


ROWS: tuple[Command, ...] = (
    Command(
        "EXTENDED COPY (LID1)",
        usage="83 00 0000000000000000 ffffffff 00 04",
        decode=_decode_extended_copy,
        run=handle_extended_copy,
        direction=Direction.FROM_INITIATOR,
        allow=Allow.NOWHERE,
        spec="SPC-4 EXTENDED COPY(LID1) command",
        service_action=True,
        timeout_s=60,
    ),
    Command(
        "RECEIVE COPY STATUS (LID1)",
        usage="84 00 ff 00000000000000 ffffffff 00 04",
        decode=_decode_results,
        run=handle_copy_status,
        direction=Direction.TO_INITIATOR,
        allow=Allow.PERSISTENT,
        spec="SPC-4 RECEIVE COPY STATUS(LID1) command",
        service_action=True,
    ),
    Command(
        "RECEIVE COPY OPERATING PARAMETERS",
        usage="84 03 00 00000000000000 ffffffff 00 04",
        decode=_decode_results,
        run=handle_operating_parameters,
        direction=Direction.TO_INITIATOR,
        allow=Allow.PERSISTENT,
        spec="SPC-4 RECEIVE COPY OPERATING PARAMETERS command",
        service_action=True,
    ),
    Command(
        "RECEIVE COPY FAILURE DETAILS (LID1)",
        usage="84 04 ff 00000000000000 ffffffff 00 04",
        decode=_decode_results,
        run=handle_failure_details,
        direction=Direction.TO_INITIATOR,
        allow=Allow.PERSISTENT,
        spec="SPC-4 RECEIVE COPY FAILURE DETAILS(LID1) command",
        service_action=True,
    ),
)
