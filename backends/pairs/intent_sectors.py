"""How the intent log lies on disk: sectors of 512 bytes, each with an identity and a CRC.

    0-3 magic · 4-7 number of the sector · 8-15 sequence · 16-31 identity of the pair · 32-35 CRC32C of all the others ·
    36-511 payload

The first sectors hold a code of two bits for each extent, 1904 a sector; the others hold the fine bits, 128 bytes an
extent, three a sector. A device writes a sector wholly or not at all; one that is torn all the same fails its CRC.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Iterator
from itertools import groupby

from crc32c import crc32c

from backends.pairs.dirty_map import MASK_BYTES, DirtyMap, decode_clean, encode_clean
from backends.pairs.stable_file import StableFile
from scsi.volume import Buffer

SECTOR_BYTES = 512
_MAGIC = b"anxI"
_HEADER = struct.Struct("<4sIQ16s")
_CRC = struct.Struct("<I")
_PAYLOAD_AT = _HEADER.size + _CRC.size
PAYLOAD_BYTES = SECTOR_BYTES - _PAYLOAD_AT
CODES = PAYLOAD_BYTES * 4
FINE_EXTENTS = PAYLOAD_BYTES // MASK_BYTES
_READ_SECTORS = 2048


class Code(enum.IntEnum):
    """What is known of an extent; anything else counts as DIRTY."""

    DIRTY = 0
    CLEAN = 1
    FINE = 2


_BY_VALUE = (Code.DIRTY, Code.CLEAN, Code.FINE, Code.DIRTY)


class IntentLayout:
    """Where things are, for a number of extents."""

    codes = CODES
    payload = PAYLOAD_BYTES

    def __init__(self, extents: int) -> None:
        self.extents = extents
        self.map_sectors = -(-extents // CODES)
        self.map_bytes = self.map_sectors * SECTOR_BYTES
        self.code_bytes = self.map_sectors * PAYLOAD_BYTES
        self._fine_at = -(-self.map_bytes // 4096) * 4096
        self.file_bytes = self._fine_at + -(-extents // FINE_EXTENTS) * SECTOR_BYTES

    def map_offset(self, index: int) -> int:
        return index * SECTOR_BYTES

    def fine_offset(self, index: int) -> int:
        return self._fine_at + index * SECTOR_BYTES

    def fine_index(self, extent: int) -> int:
        return extent // FINE_EXTENTS

    def code(self, image: Buffer, extent: int) -> Code:
        return _BY_VALUE[image[extent >> 2] >> (extent & 3) * 2 & 3]

    def put_code(self, image: bytearray, extent: int, code: Code) -> None:
        shift = (extent & 3) * 2
        image[extent >> 2] = image[extent >> 2] & ~(3 << shift) | code << shift


def encode_sector(index: int, sequence: int, identity: bytes, payload: bytes) -> bytes:
    """Give a sector's 512 bytes."""
    header = _HEADER.pack(_MAGIC, index, sequence, identity)
    payload = payload.ljust(PAYLOAD_BYTES, b"\0")
    return header + _CRC.pack(crc32c(payload, crc32c(header))) + payload


def decode_sector(raw: Buffer, index: int, identity: bytes, at: int | None = None) -> bytes | None:
    """Read the payload of sector `index` out of `raw`, or None when it is not whole or another pair's.

    Args:
        raw: bytes read from the file, which may be short.
        index: number that the sector must have.
        identity: of the pair.
        at: position of the sector in `raw`, in sectors; `index` itself when it is not given.
    """
    start = (index if at is None else at) * SECTOR_BYTES
    sector = bytes(raw[start : start + SECTOR_BYTES])
    if len(sector) < SECTOR_BYTES:
        return None
    magic, found, _, owner = _HEADER.unpack_from(sector)
    if magic != _MAGIC or found != index or owner != identity:
        return None
    payload = sector[_PAYLOAD_AT:]
    if crc32c(payload, crc32c(sector[: _HEADER.size])) != _CRC.unpack_from(sector, _HEADER.size)[0]:
        return None
    return payload


def fine_payload(layout: IntentLayout, index: int, dirty: DirtyMap) -> bytes:
    """Give the fine bits of the extents of one sector."""
    first = index * FINE_EXTENTS
    return b"".join(encode_clean(dirty.mask(at)) for at in range(first, min(first + FINE_EXTENTS, layout.extents)))


def read_fine(
    file: StableFile, layout: IntentLayout, extents: Iterable[int], identity: bytes
) -> Iterator[tuple[int, int | None]]:
    """Read the dirty masks of extents (in rising order); None for those whose sector is damaged."""
    for batch, group in groupby(extents, lambda extent: extent // (FINE_EXTENTS * _READ_SECTORS)):
        first = batch * _READ_SECTORS
        raw = file.read(layout.fine_offset(first), _READ_SECTORS * SECTOR_BYTES)
        for extent in group:
            index = extent // FINE_EXTENTS
            payload = decode_sector(raw, layout.map_sectors + index, identity, index - first)
            at = extent % FINE_EXTENTS * MASK_BYTES
            yield extent, None if payload is None else decode_clean(payload[at : at + MASK_BYTES])
