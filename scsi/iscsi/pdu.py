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
from typing import Any

BHS_BYTES = 48
MAX_AHS_BYTES = 255 * 4
RESERVED_TAG = 0xFFFFFFFF

# Opcodes of initiators.
NOP_OUT = 0x00
SCSI_COMMAND = 0x01
TASK_MANAGEMENT_REQUEST = 0x02
LOGIN_REQUEST = 0x03
TEXT_REQUEST = 0x04
DATA_OUT = 0x05
LOGOUT_REQUEST = 0x06
SNACK_REQUEST = 0x10
# Opcodes of targets.
NOP_IN = 0x20
SCSI_RESPONSE = 0x21
TASK_MANAGEMENT_RESPONSE = 0x22
LOGIN_RESPONSE = 0x23
TEXT_RESPONSE = 0x24
DATA_IN = 0x25
LOGOUT_RESPONSE = 0x26
R2T = 0x31
ASYNC_MESSAGE = 0x32
REJECT = 0x3F

OPCODE_MASK = 0x3F
IMMEDIATE = 0x40

# Flags (byte 1).
FINAL = 0x80
COMMAND_READ = 0x40
COMMAND_WRITE = 0x20
COMMAND_ATTRIBUTE_MASK = 0x07
RESPONSE_BIDIRECTIONAL_OVERFLOW = 0x10
RESPONSE_BIDIRECTIONAL_UNDERFLOW = 0x08
RESPONSE_OVERFLOW = 0x04
RESPONSE_UNDERFLOW = 0x02
DATA_ACKNOWLEDGE = 0x40
DATA_STATUS = 0x01
TEXT_CONTINUE = 0x40
LOGIN_TRANSIT = 0x80
LOGIN_CONTINUE = 0x40

# Task attributes of a SCSI Command (11.3.1.2).
ATTRIBUTE_UNTAGGED = 0
ATTRIBUTE_SIMPLE = 1
ATTRIBUTE_ORDERED = 2
ATTRIBUTE_HEAD_OF_QUEUE = 3
ATTRIBUTE_ACA = 4

# iSCSI's own response codes of a SCSI Response (11.4.3).
COMMAND_COMPLETED = 0x00
TARGET_FAILURE = 0x01

# Login stages (11.12.3).
SECURITY_NEGOTIATION = 0
OPERATIONAL_NEGOTIATION = 1
FULL_FEATURE_PHASE = 3

# Task management functions (11.5.1) and responses (11.6.1).
ABORT_TASK = 1
ABORT_TASK_SET = 2
CLEAR_ACA = 3
CLEAR_TASK_SET = 4
LOGICAL_UNIT_RESET = 5
TARGET_WARM_RESET = 6
TARGET_COLD_RESET = 7
TASK_REASSIGN = 8

FUNCTION_COMPLETE = 0
TASK_DOES_NOT_EXIST = 1
LUN_DOES_NOT_EXIST = 2
TASK_STILL_ALLEGIANT = 3
REASSIGN_NOT_SUPPORTED = 4
FUNCTION_NOT_SUPPORTED = 5
FUNCTION_AUTHORIZATION_FAILED = 6
FUNCTION_REJECTED = 255

# Logout reasons (11.14.1) and responses (11.15.1).
CLOSE_SESSION = 0
CLOSE_CONNECTION = 1
REMOVE_CONNECTION_FOR_RECOVERY = 2

LOGOUT_SUCCESS = 0
LOGOUT_CID_NOT_FOUND = 1
LOGOUT_RECOVERY_NOT_SUPPORTED = 2
LOGOUT_CLEANUP_FAILED = 3

# Asynchronous events (11.9.1).
ASYNC_SCSI_EVENT = 0
ASYNC_LOGOUT_REQUESTED = 1
ASYNC_CONNECTION_DROP = 2
ASYNC_SESSION_DROP = 3
ASYNC_RENEGOTIATE = 4

REQUEST = struct.Struct(">BBHI8sIIII16s")
RESPONSE = struct.Struct(">BBHI8sIIIIIIII")

# What framing hands over: one of the two structs above, unpacked. Any, because every use of an index knows its type.
Header = tuple[Any, ...]

DATA_LENGTH_MASK = 0x00FFFFFF
NO_LUN = bytes(8)


def total_ahs_bytes(header: Header) -> int:
    """Return the length of all additional header segments, bytes."""
    lengths: int = header[3]
    return (lengths >> 24) * 4


def data_segment_bytes(header: Header) -> int:
    """Return the length of the data segment without its padding, bytes."""
    lengths: int = header[3]
    return lengths & DATA_LENGTH_MASK
