"""What an external array says of itself and its LUs. All of it is untrusted: every decoder takes any bytes.

A decoder returns None where a reply does not say what it should.

Spec: SPC-6 "REPORT LUNS", "Standard INQUIRY data", "Device Identification VPD page", "Unit Serial Number VPD page";
SBC-4 "READ CAPACITY", "Caching mode page", "Block Limits VPD page", "Logical Block Provisioning VPD page".
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from scsi.volume import Buffer

MAX_LUNS = 4096
REPORT_LUNS_BYTES = 8 + 8 * MAX_LUNS
INQUIRY_BYTES = 96
VPD_BYTES = 1024
READ_CAPACITY_10_BYTES = 8
READ_CAPACITY_16_BYTES = 32
MODE_SENSE_BYTES = 192
SUPPORTED_BYTES = 64

TEST_UNIT_READY = bytes(6)
REPORT_LUNS = struct.pack(">BBBBBBIBB", 0xA0, 0, 0, 0, 0, 0, REPORT_LUNS_BYTES, 0, 0)
INQUIRY = struct.pack(">BBBHB", 0x12, 0, 0, INQUIRY_BYTES, 0)
READ_CAPACITY_10 = b"\x25" + bytes(9)
READ_CAPACITY_16 = struct.pack(">BBQIBB", 0x9E, 0x10, 0, READ_CAPACITY_16_BYTES, 0, 0)
# DBD: the block descriptor would only be in the way.
MODE_SENSE_6 = bytes([0x1A, 0x08, 0x08, 0, MODE_SENSE_BYTES, 0])
MODE_SENSE_10 = struct.pack(">BBBBBBBHB", 0x5A, 0x08, 0x08, 0, 0, 0, 0, MODE_SENSE_BYTES, 0)

SERIAL_NUMBER_PAGE = 0x80
IDENTIFICATION_PAGE = 0x83
BLOCK_LIMITS_PAGE = 0xB0
PROVISIONING_PAGE = 0xB2

DISK = 0
_BLOCK_LENGTHS = frozenset({512, 4096})
_MAX_IDENTIFIER_BYTES = 255
# Designator types, best first.
_NAA, _EUI, _T10 = 3, 2, 1
_PREFERENCE = (_NAA, _EUI, _T10)


def encode_vpd_inquiry(page: int) -> bytes:
    """Return the CDB that asks for a vital product data page."""
    return struct.pack(">BBBHB", 0x12, 1, page, VPD_BYTES, 0)


def decode_report_luns(data: Buffer) -> list[bytes] | None:
    """Return the LUNs, 8 raw bytes each, each once."""
    if len(data) < 8:
        return None
    length = min(int.from_bytes(data[:4], "big"), len(data) - 8)
    luns = [bytes(data[8 + at : 16 + at]) for at in range(0, length - length % 8, 8)]
    return list(dict.fromkeys(luns))[:MAX_LUNS]


class Inquiry(NamedTuple):
    """Standard INQUIRY data; the texts are printable ASCII without padding."""

    device_type: int
    connected: bool
    vendor: str
    product: str
    revision: str


def decode_inquiry(data: Buffer) -> Inquiry | None:
    """Take standard INQUIRY data apart."""
    if len(data) < 5:
        return None
    padded = bytes(data[:36]).ljust(36, b" ")
    texts = (_text(padded[8:16]), _text(padded[16:32]), _text(padded[32:36]))
    return Inquiry(padded[0] & 0x1F, padded[0] >> 5 == 0, *texts)


def choose_identifier(data: Buffer) -> bytes:
    """Return the best designator of the logical unit: NAA, else EUI-64, else T10 vendor id; b"" for none.

    Of several of one type the longest, then the first in order of its bytes, so that their order does not matter.
    """
    page = _vpd(data, IDENTIFICATION_PAGE)
    best: dict[int, list[bytes]] = {}
    while len(page) >= 4:
        length = page[3]
        designator = page[4 : 4 + length]
        association, kind = page[1] >> 4 & 3, page[1] & 0x0F
        if association == 0 and 0 < length == len(designator) <= _MAX_IDENTIFIER_BYTES and any(designator):
            best.setdefault(kind, []).append(designator)
        page = page[4 + length :]
    for kind in _PREFERENCE:
        if kind in best:
            return min(best[kind], key=lambda designator: (-len(designator), designator))
    return b""


def decode_serial_number(data: Buffer) -> bytes:
    """Return the unit serial number without padding; b"" for none."""
    return _vpd(data, SERIAL_NUMBER_PAGE).strip(b" \0")[:_MAX_IDENTIFIER_BYTES]


class Capacity(NamedTuple):
    """The size of a LU; `thin` is the bit LBPME, it has provisioning management."""

    blocks: int
    block_bytes: int
    physical_block_exponent: int
    thin: bool = False


def decode_read_capacity_10(data: Buffer) -> Capacity | None:
    """Take READ CAPACITY (10) data apart; None too when the LU is larger than it can say."""
    if len(data) < READ_CAPACITY_10_BYTES:
        return None
    last, length = struct.unpack(">II", data[:8])
    return None if last == 0xFFFFFFFF or length not in _BLOCK_LENGTHS else Capacity(last + 1, length, 0)


def decode_read_capacity_16(data: Buffer) -> Capacity | None:
    """Take READ CAPACITY (16) data apart."""
    if len(data) < 12:
        return None
    last, length = struct.unpack(">QI", data[:12])
    if length not in _BLOCK_LENGTHS or last >= 1 << 62:
        return None
    exponent, thin = (data[13] & 0x0F, bool(data[14] & 0x80)) if len(data) > 14 else (0, False)
    return Capacity(last + 1, length, exponent, thin)


class Caching(NamedTuple):
    """What MODE SENSE says of the cache; `write_cache` is None when it says nothing of it."""

    write_cache: bool | None
    force_unit_access: bool
    write_protected: bool


def decode_caching_6(data: Buffer) -> Caching | None:
    """Take MODE SENSE (6) data with the caching page apart."""
    if len(data) < 4:
        return None
    return _caching(data[2], bytes(data[4 + data[3] : 1 + data[0]]))


def decode_caching_10(data: Buffer) -> Caching | None:
    """Take MODE SENSE (10) data with the caching page apart."""
    if len(data) < 8:
        return None
    descriptor_bytes = int.from_bytes(data[6:8], "big")
    return _caching(data[3], bytes(data[8 + descriptor_bytes : 2 + int.from_bytes(data[:2], "big")]))


class BlockLimits(NamedTuple):
    """The block limits page; 0 for what it does not say.

    Attributes:
        max_transfer_blocks, max_write_same_blocks: of one command.
        max_unmap_blocks, max_unmap_descriptors: of one UNMAP.
        unmap_granularity, unmap_alignment: in blocks; how unmapping goes best.
    """

    max_transfer_blocks: int = 0
    max_write_same_blocks: int = 0
    max_unmap_blocks: int = 0
    max_unmap_descriptors: int = 0
    unmap_granularity: int = 0
    unmap_alignment: int = 0


def decode_block_limits(data: Buffer) -> BlockLimits:
    """Take the block limits page apart."""
    page = _vpd(data, BLOCK_LIMITS_PAGE)[:60].ljust(60, b"\0")
    transfer, unmap_blocks, descriptors, granularity, alignment, same = struct.unpack(">4xI8xIIIIQ20x", page)
    aligned = alignment & 0x7FFFFFFF if alignment & 0x80000000 and granularity else 0
    return BlockLimits(transfer, same, unmap_blocks, descriptors, granularity, aligned % granularity if aligned else 0)


class ThinProvisioning(NamedTuple):
    """The logical block provisioning page: which commands give storage back, and whether zeroes are read then."""

    unmap: bool
    same_16: bool
    same_10: bool
    zeroes: bool


def decode_provisioning(data: Buffer) -> ThinProvisioning | None:
    """Take the logical block provisioning page apart."""
    page = _vpd(data, PROVISIONING_PAGE)
    if len(page) < 2:
        return None
    bits = page[1]
    return ThinProvisioning(bool(bits & 0x80), bool(bits & 0x40), bool(bits & 0x20), zeroes=bool(bits & 0x04))


def encode_is_supported(operation_code: int) -> bytes:
    """Return the CDB that asks whether a LU has an operation code."""
    return struct.pack(">BBBBHIBB", 0xA3, 0x0C, 0x01, operation_code, 0, SUPPORTED_BYTES, 0, 0)


def decode_is_supported(data: Buffer) -> bool:
    """Tell whether the answer is that it has, as the standard says."""
    return len(data) >= 2 and data[1] & 0x07 == 0x03


def _caching(device_specific: int, page: bytes) -> Caching:
    write_cache = None
    if len(page) >= 3 and page[0] & 0x7F == 0x08:
        write_cache = bool(page[2] & 0x04)
    return Caching(write_cache, bool(device_specific & 0x10), bool(device_specific & 0x80))


def _vpd(data: Buffer, page: int) -> bytes:
    if len(data) < 4 or data[1] != page:
        return b""
    return bytes(data[4 : 4 + int.from_bytes(data[2:4], "big")])


def _text(data: bytes) -> str:
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "?" for byte in data).strip(" ?")
