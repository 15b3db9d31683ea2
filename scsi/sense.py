"""Sense data: its two formats, what each fault of a volume is called in them, and its codes in words.

Spec: SPC-6 "Sense data".
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from scsi import errors
from scsi.errors import FieldPointer, ScsiError, StatusError
from scsi.status import SenseKey
from scsi.volume import Buffer, Fault, VolumeError

# --- Faults of volumes ------------------------------------------------------------------------------------------------

# Total over the enum. A command that may or may not have been done is ABORTED COMMAND, not HARDWARE ERROR: Linux tries
# the first again and gives up on the second, and an iSCSI path to an array that broke is back soon as a rule.
ERROR_OF_FAULT: dict[Fault, type[ScsiError] | type[StatusError]] = {
    Fault.BECOMING_READY: errors.BecomingReady,
    Fault.BLOCKED: errors.ManualInterventionRequired,
    Fault.READ_ERROR: errors.UnrecoveredReadError,
    Fault.WRITE_ERROR: errors.WriteFailed,
    Fault.NO_SPACE: errors.SpaceAllocationFailed,
    Fault.WRITE_PROTECTED: errors.WriteProtected,
    Fault.HARDWARE: errors.InternalTargetFailure,
    Fault.TIMED_OUT: errors.CommunicationTimeout,
    Fault.LINK_LOST: errors.CommunicationFailure,
    Fault.RESERVATION_CONFLICT: errors.ReservationConflict,
    Fault.BUSY: errors.Busy,
    Fault.NOT_MIRRORED: errors.NotMirrored,
}


def error_of(failure: VolumeError) -> ScsiError | StatusError:
    """Say in SCSI why an operation on a volume failed."""
    kind = ERROR_OF_FAULT[failure.fault]
    if issubclass(kind, StatusError):
        return kind(str(failure))
    return kind(str(failure), information=failure.lba)


# --- Encoding ---------------------------------------------------------------------------------------------------------

FIXED_CURRENT, FIXED_DEFERRED = 0x70, 0x71
DESCRIPTOR_CURRENT, DESCRIPTOR_DEFERRED = 0x72, 0x73

_VALID = 0x80
_KEY_SPECIFIC_VALID = 0x80
_FIELD_VALID, _FIELD_IN_CDB, _BIT_VALID = 0x80, 0x40, 0x08

_FIXED = struct.Struct(">BxBIB4xBBx3s")
_DESCRIPTOR_HEADER = struct.Struct(">BBBB3xB")
_INFORMATION_DESCRIPTOR = struct.Struct(">BBBxQ")
_SENSE_KEY_SPECIFIC_DESCRIPTOR = struct.Struct(">BB2x3sx")


def encode_sense(error: ScsiError, *, descriptor: bool = False) -> bytes:
    """Give the sense data of an error.

    Args:
        error: what to report.
        descriptor: in descriptor format, which the D_SENSE bit of the control mode page asks for.

    Spec: SPC-6 "Descriptor format sense data", "Fixed format sense data".
    """
    return _encode_descriptor(error) if descriptor else _encode_fixed(error)


def _encode_fixed(error: ScsiError) -> bytes:
    information, valid = error.information, _VALID
    if information is None or information > 0xFFFFFFFF:  # does not fit: SPC wants it not valid then, not cut
        information, valid = 0, 0
    return _FIXED.pack(
        valid | (FIXED_DEFERRED if error.deferred else FIXED_CURRENT),
        error.key,
        information,
        _FIXED.size - 8,
        error.asc,
        error.ascq,
        _encode_key_specific(error),
    )


def _encode_descriptor(error: ScsiError) -> bytes:
    descriptors = b""
    if error.information is not None:
        descriptors += _INFORMATION_DESCRIPTOR.pack(0x00, 0x0A, _VALID, error.information)
    if error.field is not None or error.progress is not None:
        descriptors += _SENSE_KEY_SPECIFIC_DESCRIPTOR.pack(0x02, 0x06, _encode_key_specific(error))
    code = DESCRIPTOR_DEFERRED if error.deferred else DESCRIPTOR_CURRENT
    return _DESCRIPTOR_HEADER.pack(code, error.key, error.asc, error.ascq, len(descriptors)) + descriptors


def _encode_key_specific(error: ScsiError) -> bytes:
    if error.progress is not None:
        return bytes((_KEY_SPECIFIC_VALID, *error.progress.to_bytes(2, "big")))
    field = error.field
    if field is None:
        return bytes(3)
    flags = _FIELD_VALID | (_FIELD_IN_CDB if field.in_cdb else 0)
    if field.bit is not None:
        flags |= _BIT_VALID | field.bit
    return bytes((flags, *field.offset.to_bytes(2, "big")))


# --- Decoding ---------------------------------------------------------------------------------------------------------


class Sense(NamedTuple):
    """Sense data as a host reads it."""

    key: int
    asc: int
    ascq: int
    information: int | None = None
    field: FieldPointer | None = None
    deferred: bool = False


NO_SENSE = Sense(SenseKey.NO_SENSE, 0, 0)


def decode_sense(data: Buffer) -> Sense:
    """Read sense data of either format; bytes that are cut off count as zero.

    Raises:
        ValueError: empty, or of a response code that is not sense data.
    """
    raw = bytes(data)
    code = raw[0] & 0x7F if raw else 0
    if code in {FIXED_CURRENT, FIXED_DEFERRED}:
        return _decode_fixed(raw.ljust(18, b"\0"))
    if code in {DESCRIPTOR_CURRENT, DESCRIPTOR_DEFERRED}:
        return _decode_descriptor(raw.ljust(8, b"\0"))
    raise ValueError(f"no sense data: response code {code:02X}h")


def _decode_fixed(raw: bytes) -> Sense:
    valid, key, information, _, asc, ascq, pointer = _FIXED.unpack_from(raw)
    return Sense(
        key & 0x0F,
        asc,
        ascq,
        information if valid & _VALID else None,
        _decode_field_pointer(pointer, key & 0x0F),
        valid & 0x7F == FIXED_DEFERRED,
    )


def _decode_descriptor(raw: bytes) -> Sense:
    code, key, asc, ascq, length = _DESCRIPTOR_HEADER.unpack_from(raw)
    information: int | None = None
    field: FieldPointer | None = None
    at, end = 8, min(8 + length, len(raw))
    while at + 2 <= end:
        kind, size = raw[at], raw[at + 1] + 2
        body = raw[at : min(at + size, end)]
        if kind == 0x00 and len(body) >= _INFORMATION_DESCRIPTOR.size and body[2] & _VALID:
            information = _INFORMATION_DESCRIPTOR.unpack_from(body)[3]
        elif kind == 0x02 and len(body) >= 7:
            field = _decode_field_pointer(body[4:7], key & 0x0F)
        at += size
    return Sense(key & 0x0F, asc, ascq, information, field, code & 0x7F == DESCRIPTOR_DEFERRED)


def _decode_field_pointer(raw: bytes, key: int) -> FieldPointer | None:
    if key != SenseKey.ILLEGAL_REQUEST or not raw[0] & _FIELD_VALID:
        return None
    bit = raw[0] & 0x07 if raw[0] & _BIT_VALID else None
    return FieldPointer(int.from_bytes(raw[1:3], "big"), bit, bool(raw[0] & _FIELD_IN_CDB))


# --- Words ------------------------------------------------------------------------------------------------------------

# Those that annex sends, and those that an external array or a Linux target is likely to send. Vendor codes (80h and
# above) are annex's own; what they mean on another array is not known.
ADDITIONAL_SENSE_WORDS: dict[tuple[int, int], str] = {
    (0x00, 0x00): "no additional information",
    (0x04, 0x00): "not ready, cause not reportable",
    (0x04, 0x01): "becoming ready",
    (0x04, 0x02): "a start command is needed",
    (0x04, 0x03): "not ready, an admin has to intervene",
    (0x04, 0x09): "self-test in progress",
    (0x04, 0x0A): "asymmetric access state transition",
    (0x04, 0x0B): "the port is in standby state",
    (0x04, 0x0C): "the port is in unavailable state",
    (0x08, 0x00): "communication failure with the storage underneath",
    (0x08, 0x01): "communication time-out with the storage underneath",
    (0x0C, 0x00): "write error",
    (0x0C, 0x0C): "unexpected unsolicited data",
    (0x0C, 0x0D): "not enough unsolicited data",
    (0x0E, 0x03): "the amount of data announced does not fit the command",
    (0x11, 0x00): "unrecovered read error",
    (0x1A, 0x00): "parameter list length error",
    (0x1D, 0x00): "miscompare during verify",
    (0x20, 0x00): "invalid command operation code",
    (0x21, 0x00): "logical block address out of range",
    (0x00, 0x16): "operation in progress",
    (0x0D, 0x01): "third party device failure",
    (0x0D, 0x02): "copy target device not reachable",
    (0x04, 0x1B): "sanitize in progress",
    (0x31, 0x03): "sanitize command failed",
    (0x24, 0x00): "invalid field in CDB",
    (0x25, 0x00): "logical unit not supported",
    (0x26, 0x00): "invalid field in parameter list",
    (0x26, 0x04): "invalid release of persistent reservation",
    (0x55, 0x04): "insufficient registration resources",
    (0x26, 0x06): "too many CSCD descriptors",
    (0x26, 0x07): "unsupported CSCD descriptor type",
    (0x26, 0x08): "too many segment descriptors",
    (0x26, 0x09): "unsupported segment descriptor type",
    (0x26, 0x0B): "inline data length exceeded",
    (0x27, 0x00): "write protected",
    (0x27, 0x02): "write protected by a mode parameter",
    (0x27, 0x07): "no space is left for the write",
    (0x29, 0x00): "power on, reset or bus device reset occurred",
    (0x29, 0x03): "bus device reset occurred",
    (0x29, 0x07): "I_T nexus loss occurred",
    (0x2A, 0x01): "mode parameters changed",
    (0x2A, 0x02): "log parameters changed",
    (0x2A, 0x03): "reservations preempted",
    (0x2A, 0x04): "reservations released",
    (0x2A, 0x05): "registrations preempted",
    (0x2A, 0x06): "asymmetric access state changed",
    (0x2A, 0x09): "capacity data has changed",
    (0x2C, 0x00): "command sequence error",
    (0x2C, 0x0C): "ORWRITE generation does not match",
    (0x2F, 0x00): "commands cleared by another initiator",
    (0x39, 0x00): "saving parameters not supported",
    (0x3A, 0x00): "medium not present",
    (0x3E, 0x03): "failed self-test",
    (0x3F, 0x03): "inquiry data has changed",
    (0x3F, 0x05): "device identifier changed",
    (0x3F, 0x0E): "reported LUNs data has changed",
    (0x44, 0x00): "internal target failure",
    (0x47, 0x05): "protocol service CRC error",
    (0x49, 0x00): "invalid message error",
    (0x55, 0x03): "insufficient resources",
    (0x67, 0x0A): "set target port groups command failed",
    (0x80, 0x01): "already paired with another logical unit",
    (0x80, 0x02): "the sizes differ",
    (0x80, 0x03): "the block lengths differ",
    (0x80, 0x04): "both sides are the same storage",
    (0x80, 0x05): "the secondary is reserved by, or mapped read-write to, another host",
    (0x80, 0x06): "a side of the pair is not ready",
    (0x80, 0x07): "the external array refused the fence for the pair",
    (0x80, 0x08): "no such pair",
    (0x80, 0x09): "not allowed in the pair's state",
    (0x80, 0x0A): "the write could not be mirrored",
    (0x80, 0x0B): "no more pairs can be formed",
    (0x80, 0x80): "the pair's state changed",
    (0x81, 0x01): "no such virtual device",
    (0x81, 0x03): "another host's acquisition has that id",
    (0x81, 0x04): "no such acquisition",
    (0x81, 0x05): "acquisition limit reached",
    (0x81, 0x06): "the external array refused the fence for the acquisition",
    (0x81, 0x07): "the acquired data is not ready yet",
    (0x81, 0x08): "the acquisition id is in use",
    (0x81, 0x09): "no such region, or it does not hold the range",
}


def describe_sense(key: int, asc: int, ascq: int) -> str:
    """Say a sense code in words: "ILLEGAL REQUEST 05/80/01: already paired with another logical unit"."""
    try:
        name = SenseKey(key).name.replace("_", " ")
    except ValueError:
        name = "RESERVED SENSE KEY"
    code = f"{name} {key:02X}/{asc:02X}/{ascq:02X}"
    words = ADDITIONAL_SENSE_WORDS.get((asc, ascq))
    return f"{code}: {words}" if words else code
