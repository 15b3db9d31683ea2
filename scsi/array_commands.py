"""The vendor commands ARRAY IN (C0h) and ARRAY OUT (C1h): CDBs, parameter lists and the rows of reports, both ways.

One codec serves the handlers (`scsi.array_server`), the host's tool (`config.host`) and the tests. It knows the layout
and nothing else: who may send what, and what is refused with which sense, is the business of `scsi.array_server` and
below.

Decoders raise `ValueError` for bytes that are too short or hold a value this version does not define, and nothing else.
The record types are NamedTuples whose fields stand in the order of the wire. Reserved fields are written as zero;
whether a received one is zero is checked by the command table (CDBs) or with the `…_USAGE` maps below (parameter
lists).

Spec: annex vendor-specific SCSI commands, version 1.
"""

from __future__ import annotations

import enum
import struct
from typing import Any, NamedTuple

from scsi.volume import Buffer

ARRAY_IN = 0xC0
ARRAY_OUT = 0xC1
CDB_BYTES = 16
VERSION = 1
NAA_BYTES = 16
LABEL_BYTES = 32
LIST_HEADER_BYTES = 8


class ArrayIn(enum.IntEnum):
    """Service actions of ARRAY IN."""

    REPORT_CAPABILITIES = 0x00
    REPORT_VIRTUAL_DEVICES = 0x01
    REPORT_REGIONS = 0x02
    REPORT_PAIRS = 0x03
    REPORT_ACQUISITIONS = 0x04
    TRANSFER_ACQUIRED_DATA = 0x05


class ArrayOut(enum.IntEnum):
    """Service actions of ARRAY OUT."""

    PAIR_CREATE = 0x00
    PAIR_SPLIT = 0x01
    PAIR_RESYNC = 0x02
    PAIR_DELETE = 0x03
    PAIR_TAKEOVER = 0x04
    PAIR_VERIFY = 0x05
    ACQUIRE_EXTERNAL_DATA = 0x08
    END_ACQUISITION = 0x09
    COPY_IN = 0x0A


class Feature(enum.IntFlag):
    """Byte 5 of REPORT CAPABILITIES."""

    PAIRS = 0x01
    ACQUISITIONS = 0x02
    PERSISTENT_FENCE = 0x04
    REVERSE_AND_SWAP = 0x08
    VERIFY = 0x10
    COPY_IN = 0x20


class VirtualDeviceFlag(enum.IntFlag):
    """Byte 4 of a virtual device's row."""

    EXTERNAL_REGIONS = 0x01
    LOCAL_REGIONS = 0x02
    PRIMARY = 0x04
    SECONDARY = 0x08


class StateCode(enum.IntEnum):
    """Whether a virtual device or a region can serve."""

    READY = 0
    PENDING = 1
    BLOCKED = 2


class RegionKind(enum.IntEnum):
    """Byte 4 of a region's row."""

    LOCAL = 0
    EXTERNAL = 1


class PairState(enum.IntEnum):
    """Pair states of pairs.md; SMPL (not paired) never stands in a row."""

    SMPL = 0
    COPY = 1
    PAIR = 2
    PSUS = 3
    PSUE = 4
    SSWS = 5


class FenceLevel(enum.IntEnum):
    """What becomes of a host write that can not reach the secondary (pairs.md)."""

    NEVER = 0
    STATUS = 1
    DATA = 2


class PairFlag(enum.IntFlag):
    """Byte 6 of a pair's row."""

    SECONDARY_WRITABLE = 0x01
    FENCE_HELD = 0x02
    COPYING_TO_PRIMARY = 0x04
    UNVERIFIED = 0x08  # a fence lapsed and the legs are not yet verified
    SECONDARY_IS_CURRENT = 0x10  # the secondary's leg is the current one
    SECONDARY_MAY_BE_OLD = 0x20


class AcquisitionState(enum.IntEnum):
    """Byte 4 of an acquisition's row."""

    ACQUIRING = 0
    READY = 1
    FAILED = 2


# FLAGS of ARRAY OUT (bytes 6-9 of the CDB), by service action.
SPLIT_SECONDARY_WRITABLE = 0x01
RESYNC_REVERSE = 0x01
RESYNC_SWAP = 0x02
IMMEDIATE = 0x01  # PAIR VERIFY, ACQUIRE EXTERNAL DATA, COPY IN

# The flags that each service action defines; any other bit is reserved.
DEFINED_FLAGS: dict[ArrayOut, int] = {
    ArrayOut.PAIR_CREATE: 0,
    ArrayOut.PAIR_SPLIT: SPLIT_SECONDARY_WRITABLE,
    ArrayOut.PAIR_RESYNC: RESYNC_REVERSE | RESYNC_SWAP,
    ArrayOut.PAIR_DELETE: 0,
    ArrayOut.PAIR_TAKEOVER: 0,
    ArrayOut.PAIR_VERIFY: IMMEDIATE,
    ArrayOut.ACQUIRE_EXTERNAL_DATA: IMMEDIATE,
    ArrayOut.END_ACQUISITION: 0,
    ArrayOut.COPY_IN: IMMEDIATE,
}

# The PARAMETER LIST LENGTH of each service action, bytes.
PARAMETER_BYTES: dict[ArrayOut, int] = dict.fromkeys(ArrayOut, 0) | {
    ArrayOut.PAIR_CREATE: 64,
    ArrayOut.ACQUIRE_EXTERNAL_DATA: 48,
    ArrayOut.COPY_IN: 32,
}


# --- CDBs -------------------------------------------------------------------------------------------------------------

_CDB = struct.Struct(">BBIIIBB")


class ArrayInCdb(NamedTuple):
    """CDB of ARRAY IN; `offset` counts blocks, `allocation_length` bytes."""

    service_action: int
    identifier: int = 0
    offset: int = 0
    allocation_length: int = 0


def encode_array_in(cdb: ArrayInCdb) -> bytes:
    """Give the 16 bytes of an ARRAY IN CDB."""
    return _CDB.pack(ARRAY_IN, cdb.service_action, cdb.identifier, cdb.offset, cdb.allocation_length, 0, 0)


def decode_array_in(cdb: Buffer) -> ArrayInCdb:
    """Read an ARRAY IN CDB; reserved bits are not looked at."""
    _, action, identifier, offset, allocation_length, _, _ = _unpack(_CDB, cdb)
    return ArrayInCdb(action & 0x1F, identifier, offset, allocation_length)


class ArrayOutCdb(NamedTuple):
    """CDB of ARRAY OUT; `parameter_list_length` in bytes."""

    service_action: int
    identifier: int = 0
    flags: int = 0
    parameter_list_length: int = 0


def encode_array_out(cdb: ArrayOutCdb) -> bytes:
    """Give the 16 bytes of an ARRAY OUT CDB."""
    return _CDB.pack(ARRAY_OUT, cdb.service_action, cdb.identifier, cdb.flags, cdb.parameter_list_length, 0, 0)


def decode_array_out(cdb: Buffer) -> ArrayOutCdb:
    """Read an ARRAY OUT CDB; reserved bits are not looked at."""
    _, action, identifier, flags, parameter_list_length, _, _ = _unpack(_CDB, cdb)
    return ArrayOutCdb(action & 0x1F, identifier, flags, parameter_list_length)


# --- Parameter lists of ARRAY OUT -------------------------------------------------------------------------------------

NOCOPY = 0x01

_PAIR_CREATE = struct.Struct(">BBH4x16s32s8x")
PAIR_CREATE_USAGE = bytes.fromhex("ff 01 ffff 00000000" + "ff" * 16 + "ff" * 32 + "00" * 8)


class PairCreate(NamedTuple):
    """Parameter list of PAIR CREATE; `fence_level` as received, see `FenceLevel`."""

    fence_level: int
    nocopy: bool
    pace_mib_s: int  # MiB a second, 0 for no limit
    secondary_naa: bytes
    label: str = ""


def encode_pair_create(parameters: PairCreate) -> bytes:
    """Give the 64 bytes of PAIR CREATE; a label that is too long raises ValueError."""
    level, nocopy, pace, naa, label = parameters
    return _PAIR_CREATE.pack(level, NOCOPY if nocopy else 0, pace, naa, encode_label(label))


def decode_pair_create(data: Buffer) -> PairCreate:
    """Read the parameter list of PAIR CREATE."""
    level, flags, pace, naa, label = _unpack(_PAIR_CREATE, data)
    return PairCreate(level, bool(flags & NOCOPY), pace, naa, decode_label(label))


_ACQUIRE = struct.Struct(">16sQIII12x")
ACQUIRE_USAGE = bytes.fromhex("ff" * 36 + "00" * 12)


class Acquire(NamedTuple):
    """Parameter list of ACQUIRE EXTERNAL DATA; region 0 for any, lifetime 0 for the default."""

    vdev_naa: bytes
    lba: int
    blocks: int
    region: int = 0
    lifetime_s: int = 0


def encode_acquire(parameters: Acquire) -> bytes:
    """Give the 48 bytes of ACQUIRE EXTERNAL DATA."""
    return _ACQUIRE.pack(*parameters)


def decode_acquire(data: Buffer) -> Acquire:
    """Read the parameter list of ACQUIRE EXTERNAL DATA."""
    return Acquire._make(_unpack(_ACQUIRE, data))


_COPY_IN = struct.Struct(">16sII8x")
COPY_IN_USAGE = bytes.fromhex("ff" * 24 + "00" * 8)


class CopyIn(NamedTuple):
    """Parameter list of COPY IN: a region's blocks are copied into another region of the same size."""

    target_vdev_naa: bytes
    target_region: int
    source_region: int


def encode_copy_in(parameters: CopyIn) -> bytes:
    """Give the 32 bytes of COPY IN."""
    return _COPY_IN.pack(*parameters)


def decode_copy_in(data: Buffer) -> CopyIn:
    """Read the parameter list of COPY IN."""
    return CopyIn._make(_unpack(_COPY_IN, data))


# --- Answers of ARRAY IN ----------------------------------------------------------------------------------------------

_CAPABILITIES = struct.Struct(">IBBxxIIIII4x")


class Capabilities(NamedTuple):
    """What REPORT CAPABILITIES says."""

    version: int
    features: Feature
    most_pairs: int
    most_acquisition_blocks: int
    most_acquisitions_per_host: int
    default_lifetime_s: int
    most_transfer_bytes: int


def encode_capabilities(capabilities: Capabilities) -> bytes:
    """Give the 32 bytes of REPORT CAPABILITIES."""
    return _CAPABILITIES.pack(_CAPABILITIES.size - 4, *capabilities)


def decode_capabilities(data: Buffer) -> Capabilities:
    """Read the answer to REPORT CAPABILITIES."""
    _, version, features, *limits = _unpack(_CAPABILITIES, data)
    return Capabilities(version, Feature(features), *limits)


def encode_list(rows: list[bytes]) -> bytes:
    """Put the header in front of a report's rows: its length field counts bytes 4-7 too."""
    body = b"".join(rows)
    return struct.pack(">I4x", 4 + len(body)) + body


def decode_list(data: Buffer, row_bytes: int) -> list[bytes]:
    """Split a report into its rows; those cut off by the allocation length are left out (see `list_bytes`)."""
    end = min(list_bytes(data), len(data))
    view = bytes(data)
    return [view[at : at + row_bytes] for at in range(LIST_HEADER_BYTES, end - row_bytes + 1, row_bytes)]


def list_bytes(data: Buffer) -> int:
    """Say how many bytes the whole report has, of which `data` may hold only the beginning."""
    if len(data) < 4:
        raise ValueError(f"a report of {len(data)} bytes has no length field")
    return 4 + int.from_bytes(data[:4], "big")


_VIRTUAL_DEVICE = struct.Struct(">IBBH8s16sQI20x")
VIRTUAL_DEVICE_ROW_BYTES = _VIRTUAL_DEVICE.size


class VirtualDeviceRow(NamedTuple):
    """One virtual device of REPORT VIRTUAL DEVICES."""

    number: int
    flags: VirtualDeviceFlag
    state: int  # StateCode
    regions: int
    lun: bytes  # SAM format, 8 bytes
    naa: bytes
    blocks: int
    block_bytes: int


def encode_virtual_device(row: VirtualDeviceRow) -> bytes:
    """Give the 64 bytes of a virtual device's row."""
    return _VIRTUAL_DEVICE.pack(*row)


def decode_virtual_device(data: Buffer) -> VirtualDeviceRow:
    """Read a virtual device's row."""
    number, flags, state, *rest = _unpack(_VIRTUAL_DEVICE, data)
    return VirtualDeviceRow(number, VirtualDeviceFlag(flags), StateCode(state), *rest)


_REGION = struct.Struct(">IBBBxQQQ16s16x")
REGION_ROW_BYTES = _REGION.size


class RegionRow(NamedTuple):
    """One region of REPORT REGIONS; `external_id` is zero for a local one."""

    number: int
    kind: RegionKind
    state: int  # StateCode
    copied_in_percent: int
    lba: int  # first block, in the virtual device
    blocks: int
    device_lba: int  # first block, on the device or external LU underneath
    external_id: bytes = bytes(16)


def encode_region(row: RegionRow) -> bytes:
    """Give the 64 bytes of a region's row; the id is shown left-aligned and cut at 16 bytes."""
    return _REGION.pack(*row)


def decode_region(data: Buffer) -> RegionRow:
    """Read a region's row."""
    number, kind, state, *rest = _unpack(_REGION, data)
    return RegionRow(number, RegionKind(kind), StateCode(state), *rest)


_PAIR = struct.Struct(">IBBBBQQ16s16s32s8x")
PAIR_ROW_BYTES = _PAIR.size


class PairRow(NamedTuple):
    """One pair of REPORT PAIRS."""

    number: int
    state: PairState
    fence_level: FenceLevel
    flags: PairFlag
    in_sync_percent: int  # rounded down; 100 only when all is
    blocks: int
    out_of_sync_blocks: int
    primary_naa: bytes
    secondary_naa: bytes
    label: str = ""


def encode_pair(row: PairRow) -> bytes:
    """Give the 96 bytes of a pair's row."""
    return _PAIR.pack(*row[:9], encode_label(row.label))


def decode_pair(data: Buffer) -> PairRow:
    """Read a pair's row."""
    number, state, level, flags, *rest = _unpack(_PAIR, data)
    *numbers, label = rest
    return PairRow._make(
        (number, PairState(state), FenceLevel(level), PairFlag(flags), *numbers, decode_label(label)),
    )


_ACQUISITION = struct.Struct(">IBBBBQIIII16sI12x")
ACQUISITION_ROW_BYTES = _ACQUISITION.size


class AcquisitionRow(NamedTuple):
    """One acquisition of REPORT ACQUISITIONS; the sense is zero unless it failed, the CRC32C unless it is ready."""

    identifier: int
    state: AcquisitionState
    sense_key: int
    asc: int
    ascq: int
    lba: int
    blocks: int
    block_bytes: int
    crc32c: int
    left_s: int
    vdev_naa: bytes
    handed_over_blocks: int


def encode_acquisition(row: AcquisitionRow) -> bytes:
    """Give the 64 bytes of an acquisition's row."""
    return _ACQUISITION.pack(*row)


def decode_acquisition(data: Buffer) -> AcquisitionRow:
    """Read an acquisition's row."""
    identifier, state, *rest = _unpack(_ACQUISITION, data)
    return AcquisitionRow(identifier, AcquisitionState(state), *rest)


# --- Parts ------------------------------------------------------------------------------------------------------------


def encode_label(label: str) -> bytes:
    """Give a label's 32 bytes; raises ValueError when its UTF-8 is longer."""
    raw = label.encode("utf-8", "surrogateescape")
    if len(raw) > LABEL_BYTES:
        raise ValueError(f"the label has {len(raw)} bytes of UTF-8, {LABEL_BYTES} at most")
    return raw.ljust(LABEL_BYTES, b"\0")


def decode_label(raw: bytes) -> str:
    """Read a label; what is not UTF-8 comes out as lone surrogates, so that nothing is lost and anyone can tell."""
    return raw.rstrip(b"\0").decode("utf-8", "surrogateescape")


def pad_id(identifier: bytes) -> bytes:
    """Show an external LU's id in the 16 bytes that a row has for it: left-aligned, zero-padded, the rest cut off."""
    return identifier[:NAA_BYTES].ljust(NAA_BYTES, b"\0")


def first_reserved_bit(data: Buffer, usage: bytes) -> tuple[int, int] | None:
    """Find the first bit of a parameter list that is set though reserved.

    Args:
        data: the parameter list.
        usage: its usage map: 1-bits are defined.

    Returns:
        Byte offset and bit number (7 is the most significant) for a field pointer, or None.
    """
    for offset, (value, defined) in enumerate(zip(data, usage, strict=True)):
        if reserved := value & ~defined:
            return offset, reserved.bit_length() - 1
    return None


def _unpack(layout: struct.Struct, data: Buffer) -> tuple[Any, ...]:
    if len(data) < layout.size:
        raise ValueError(f"{len(data)} bytes where {layout.size} are needed")
    return layout.unpack_from(data)
