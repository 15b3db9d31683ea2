"""INQUIRY: standard data and the vital product data pages.

Spec: SPC-6 "INQUIRY command", "Vital product data parameters"; SBC-4 "Vital product data parameters"; RFC 7143 4.2.7.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from scsi.atomic_writes import atomic_limit_blocks
from scsi.block_commands import transfer_limit_blocks
from scsi.commands import Allow, Command, Direction
from scsi.errors import InvalidFieldInCdb
from scsi.exclusive_commands import compare_and_write_limit_blocks
from scsi.nexus import Nexus
from scsi.provisioning import encode_provisioning_page, unmap_limits, write_same_limit_blocks
from scsi.target_port_groups import may_set
from scsi.tasks import Task

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

Fields = tuple[int, int, int]

VENDOR = "ANNEX"

DIRECT_ACCESS = 0x00
NO_LOGICAL_UNIT = 0x7F  # peripheral qualifier 3, device type 1Fh

_SPC_4 = 0x06  # the VERSION that Linux, Windows and libiscsi know; SPC-5 (07h) changes nothing of what is here
_RESPONSE_FORMAT = 0x02
_HISUP = 0x10  # LUNs are hierarchical (SAM-6)
_CMDQUE = 0x02
_IMPLICIT, _IMPLICIT_AND_EXPLICIT = 1, 3  # TPGS
_3PC = 0x08  # third-party copies: EXTENDED COPY
_STANDARD = struct.Struct(">BBBBBBBB8s16s4s22x8H22x")

# SAM-5, SPC-4, SBC-3, iSCSI, each with no version claimed.
_VERSION_DESCRIPTORS = (0x00A0, 0x0460, 0x04C0, 0x0960, 0, 0, 0, 0)


def _ascii(text: str, length: int) -> bytes:
    """Left-align a text in a field; what is not printable ASCII becomes "?" (SPC-6 "ASCII data field requirements")."""
    return bytes(ord(c) if " " <= c <= "~" else 0x3F for c in text[:length]).ljust(length)


def encode_standard(peripheral: int, product: str, revision: str, tpgs: int = 0) -> bytes:
    """Give the 96 bytes of standard INQUIRY data.

    Args:
        peripheral: peripheral qualifier and device type.
        product: cut at 16 characters.
        revision: cut at 4 characters.
        tpgs: TPGS, by whom asymmetric access states are changed.
    """
    return _STANDARD.pack(
        peripheral,
        0,  # RMB: the medium is not removable
        _SPC_4,
        _HISUP | _RESPONSE_FORMAT,
        _STANDARD.size - 5,
        tpgs << 4 | _3PC,  # extended copy, no SCC, no protection information
        0,
        _CMDQUE,
        _ascii(VENDOR, 8),
        _ascii(product, 16),
        _ascii(revision, 4),
        *_VERSION_DESCRIPTORS,
    )


# --- Vital product data -----------------------------------------------------------------------------------------------


def encode_supported_pages(pages: list[int]) -> bytes:
    """Page 00h: which pages there are, in ascending order."""
    return bytes(sorted(pages))


def _supported_pages(_unit: LogicalUnit, _nexus: Nexus) -> bytes:
    return encode_supported_pages(list(PAGES))


def _unit_serial_number(unit: LogicalUnit, _nexus: Nexus) -> bytes:
    return _ascii(unit.serial, len(unit.serial))


# Code sets, associations and designator types of page 83h.
_BINARY, _ASCII, _UTF8 = 0x1, 0x2, 0x3
_LOGICAL_UNIT, _TARGET_PORT, _TARGET_DEVICE = 0x00, 0x10, 0x20
_T10_VENDOR_ID, _NAA, _RELATIVE_TARGET_PORT, _TARGET_PORT_GROUP, _SCSI_NAME = 0x1, 0x3, 0x4, 0x5, 0x8
_PROTOCOL_ISCSI = 0x50
_PROTOCOL_VALID = 0x80


def _designator(code_set: int, association: int, kind: int, value: bytes) -> bytes:
    """One designation descriptor; those of ports and devices say that the protocol is iSCSI."""
    if association != _LOGICAL_UNIT:
        code_set |= _PROTOCOL_ISCSI
        kind |= _PROTOCOL_VALID
    return bytes((code_set, association | kind, 0, len(value))) + value


def _scsi_name(name: str) -> bytes:
    """A SCSI name string: UTF-8, NUL-terminated, padded to a multiple of four bytes."""
    raw = name.encode() + b"\0"
    return raw.ljust((len(raw) + 3) // 4 * 4, b"\0")


def relative_target_port(nexus: Nexus) -> int:
    """Number the target port, as its target port group."""
    return nexus.port_group.identifier


def logical_unit_designators(unit: LogicalUnit) -> tuple[bytes, ...]:
    """The descriptors of page 83h that name the unit itself, however it is reached."""
    return (
        _designator(_BINARY, _LOGICAL_UNIT, _NAA, unit.naa),
        _designator(_ASCII, _LOGICAL_UNIT, _T10_VENDOR_ID, _ascii(VENDOR, 8) + _ascii(unit.serial, len(unit.serial))),
    )


def _device_identification(unit: LogicalUnit, nexus: Nexus) -> bytes:
    port = relative_target_port(nexus)
    return b"".join(
        (
            *logical_unit_designators(unit),
            _designator(_BINARY, _TARGET_PORT, _RELATIVE_TARGET_PORT, struct.pack(">2xH", port)),
            _designator(_BINARY, _TARGET_PORT, _TARGET_PORT_GROUP, struct.pack(">2xH", port)),
            _designator(_UTF8, _TARGET_PORT, _SCSI_NAME, _scsi_name(nexus.target_port)),
            _designator(_UTF8, _TARGET_DEVICE, _SCSI_NAME, _scsi_name(nexus.target_name)),
        )
    )


_BLOCK_LIMITS = struct.Struct(">BBHIIIIIIIQIIIII")


def _block_limits(unit: LogicalUnit, _nexus: Nexus) -> bytes:
    limit = transfer_limit_blocks(unit)
    physical = 1 << unit.volume.physical_block_exponent
    # Linux takes an optimal length for granted (io_opt) only if it is a multiple of the physical block.
    optimal = min(limit, (1 << 20) // (unit.volume.block_bytes or 512)) // physical * physical
    return _BLOCK_LIMITS.pack(
        0x01,  # WSNZ: WRITE SAME of no blocks is none of all blocks
        compare_and_write_limit_blocks(unit),  # MAXIMUM COMPARE AND WRITE LENGTH
        physical,  # OPTIMAL TRANSFER LENGTH GRANULARITY
        limit,  # MAXIMUM TRANSFER LENGTH
        optimal,  # OPTIMAL TRANSFER LENGTH
        0,  # MAXIMUM PREFETCH LENGTH
        *unmap_limits(unit),
        write_same_limit_blocks(unit),  # MAXIMUM WRITE SAME LENGTH
        atomic_limit_blocks(unit),  # MAXIMUM ATOMIC TRANSFER LENGTH
        *(0, 0, 0, 0),  # alignment and granularity, of which there is none; no atomic boundaries
    )


def _block_device_characteristics(_unit: LogicalUnit, _nexus: Nexus) -> bytes:
    # MEDIUM ROTATION RATE 1: nothing turns, so that Linux does not sort by distance. WABEREQ 1: after a BLOCK ERASE
    # blocks can be read before they are written. VBULS: VERIFY compares unmapped blocks too; they read as zeroes.
    return struct.pack(">HxBB55x", 0x0001, 0x40, 0x01)


def _logical_block_provisioning(unit: LogicalUnit, _nexus: Nexus) -> bytes:
    return encode_provisioning_page(unit)


PAGES: dict[int, Callable[[LogicalUnit, Nexus], bytes]] = {
    0x00: _supported_pages,
    0x80: _unit_serial_number,
    0x83: _device_identification,
    0xB0: _block_limits,
    0xB1: _block_device_characteristics,
    0xB2: _logical_block_provisioning,
}


def encode_page(peripheral: int, code: int, body: bytes) -> bytes:
    """Put the header of a vital product data page in front of it."""
    return struct.pack(">BBH", peripheral, code, len(body)) + body


# --- The command ------------------------------------------------------------------------------------------------------


def decode_inquiry(cdb: bytes) -> Fields:
    """EVPD, page code, allocation length."""
    return cdb[1] & 0x01, cdb[2], cdb[3] << 8 | cdb[4]


def _tpgs(unit: LogicalUnit, nexus: Nexus) -> int:
    return _IMPLICIT_AND_EXPLICIT if may_set(unit, nexus) else _IMPLICIT


def handle_inquiry(unit: LogicalUnit, task: Task, fields: Fields) -> None:
    """INQUIRY; answered whatever the state of the volume."""
    vital, code, allocation_length = fields
    if not vital:
        if code:
            raise InvalidFieldInCdb(2, None, f"page {code:02X}h without EVPD")
        data = encode_standard(DIRECT_ACCESS, unit.product, unit.revision, _tpgs(unit, task.session.nexus))
    else:
        page = PAGES.get(code)
        if page is None:
            raise InvalidFieldInCdb(2, None, f"no page {code:02X}h")
        data = encode_page(DIRECT_ACCESS, code, page(unit, task.session.nexus))
    unit.finish(task, data[:allocation_length])


ROWS: tuple[Command, ...] = (
    Command(
        "INQUIRY",
        usage="12 01 ff ffff 04",
        decode=decode_inquiry,
        run=handle_inquiry,
        direction=Direction.TO_INITIATOR,
        allow=Allow.ANYWHERE,
        spec="SPC-6 INQUIRY command",
        attention=False,
        while_sanitized=True,
    ),
)
