"""What all PDUs of iSCSI share: opcodes, flags, codes, and the two layouts of a header.

`task_pdus` and `session_pdus` have, for each PDU, its encoder next to its decoder.

A received header is a tuple, unpacked once by `framing` with `REQUEST` or `RESPONSE`; the first nine fields are the
same in both:

    0 opcode with the immediate bit    1 flags     2 bytes 2-3     3 TotalAHSLength << 24 | DataSegmentLength
    4 LUN, 8 raw bytes    5 InitiatorTaskTag    6 word at 20    7 word at 24    8 word at 28
    then 9 bytes 32-47 (REQUEST), or 9-12 four words (RESPONSE)

Whoever is in a hurry takes the fields out of the tuple; the decoders make named records for the rest. An encoder
returns the 48 bytes of the header; the data segment, its padding and the digests are `framing`'s. DataSegmentLength is
counted in bytes, without the padding. All numbers are big-endian.

Spec: RFC 7143 11 "iSCSI PDU Formats".
"""

from __future__ import annotations

import struct
from typing import Any, Final

BHS_BYTES: Final = 48
MAX_AHS_BYTES: Final = 255 * 4
RESERVED_TAG: Final = 0xFFFFFFFF

# Opcodes of initiators.
NOP_OUT: Final = 0x00
SCSI_COMMAND: Final = 0x01
TASK_MANAGEMENT_REQUEST: Final = 0x02
LOGIN_REQUEST: Final = 0x03
TEXT_REQUEST: Final = 0x04
DATA_OUT: Final = 0x05
LOGOUT_REQUEST: Final = 0x06
SNACK_REQUEST: Final = 0x10
# Opcodes of targets.
NOP_IN: Final = 0x20
SCSI_RESPONSE: Final = 0x21
TASK_MANAGEMENT_RESPONSE: Final = 0x22
LOGIN_RESPONSE: Final = 0x23
TEXT_RESPONSE: Final = 0x24
DATA_IN: Final = 0x25
LOGOUT_RESPONSE: Final = 0x26
R2T: Final = 0x31
ASYNC_MESSAGE: Final = 0x32
REJECT: Final = 0x3F

OPCODE_MASK: Final = 0x3F
IMMEDIATE: Final = 0x40

# Flags (byte 1).
FINAL: Final = 0x80
COMMAND_READ: Final = 0x40
COMMAND_WRITE: Final = 0x20
COMMAND_ATTRIBUTE_MASK: Final = 0x07
RESPONSE_BIDIRECTIONAL_OVERFLOW: Final = 0x10
RESPONSE_BIDIRECTIONAL_UNDERFLOW: Final = 0x08
RESPONSE_OVERFLOW: Final = 0x04
RESPONSE_UNDERFLOW: Final = 0x02
DATA_ACKNOWLEDGE: Final = 0x40
DATA_STATUS: Final = 0x01
TEXT_CONTINUE: Final = 0x40
LOGIN_TRANSIT: Final = 0x80
LOGIN_CONTINUE: Final = 0x40

# Task attributes of a SCSI Command (11.3.1.2).
ATTRIBUTE_UNTAGGED: Final = 0
ATTRIBUTE_SIMPLE: Final = 1
ATTRIBUTE_ORDERED: Final = 2
ATTRIBUTE_HEAD_OF_QUEUE: Final = 3
ATTRIBUTE_ACA: Final = 4

# iSCSI's own response codes of a SCSI Response (11.4.3).
COMMAND_COMPLETED: Final = 0x00
TARGET_FAILURE: Final = 0x01

# Login stages (11.12.3).
SECURITY_NEGOTIATION: Final = 0
OPERATIONAL_NEGOTIATION: Final = 1
FULL_FEATURE_PHASE: Final = 3

# Task management functions (11.5.1) and responses (11.6.1).
ABORT_TASK: Final = 1
ABORT_TASK_SET: Final = 2
CLEAR_ACA: Final = 3
CLEAR_TASK_SET: Final = 4
LOGICAL_UNIT_RESET: Final = 5
TARGET_WARM_RESET: Final = 6
TARGET_COLD_RESET: Final = 7
TASK_REASSIGN: Final = 8

FUNCTION_COMPLETE: Final = 0
TASK_DOES_NOT_EXIST: Final = 1
LUN_DOES_NOT_EXIST: Final = 2
TASK_STILL_ALLEGIANT: Final = 3
REASSIGN_NOT_SUPPORTED: Final = 4
FUNCTION_NOT_SUPPORTED: Final = 5
FUNCTION_AUTHORIZATION_FAILED: Final = 6
FUNCTION_REJECTED: Final = 255

# Logout reasons (11.14.1) and responses (11.15.1).
CLOSE_SESSION: Final = 0
CLOSE_CONNECTION: Final = 1
REMOVE_CONNECTION_FOR_RECOVERY: Final = 2

LOGOUT_SUCCESS: Final = 0
LOGOUT_CID_NOT_FOUND: Final = 1
LOGOUT_RECOVERY_NOT_SUPPORTED: Final = 2
LOGOUT_CLEANUP_FAILED: Final = 3

# Asynchronous events (11.9.1).
ASYNC_SCSI_EVENT: Final = 0
ASYNC_LOGOUT_REQUESTED: Final = 1
ASYNC_CONNECTION_DROP: Final = 2
ASYNC_SESSION_DROP: Final = 3
ASYNC_RENEGOTIATE: Final = 4

REQUEST: Final = struct.Struct(">BBHI8sIIII16s")
RESPONSE: Final = struct.Struct(">BBHI8sIIIIIIII")

# What framing hands over: one of the two structs above, unpacked. Any, because every use of an index knows its type.
Header = tuple[Any, ...]

DATA_LENGTH_MASK: Final = 0x00FFFFFF
NO_LUN: Final = bytes(8)


def total_ahs_bytes(header: Header) -> int:
    """Return the length of all additional header segments, bytes."""
    lengths: int = header[3]
    return (lengths >> 24) * 4


def data_segment_bytes(header: Header) -> int:
    """Return the length of the data segment without its padding, bytes."""
    lengths: int = header[3]
    return lengths & DATA_LENGTH_MASK
