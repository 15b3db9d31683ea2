"""READ (32) and its like: commands in CDBs of variable length, which iSCSI carries in an additional header segment.

They are what their shorter forms are, with fields of their own for protection information (type 2). There is none, so
that RDPROTECT and WRPROTECT are refused, and reference and application tags mean nothing.

Spec: SPC-6 "Variable type CDB format"; SBC-4 "READ (32) command" and those like it.
"""

from __future__ import annotations

from struct import Struct

from scsi.block_commands import read_row, verify_row, write_row
from scsi.commands import Command

# Flags, LBA and length; between these two, the tags.
decode_32 = Struct(">10xBxQ8xI").unpack_from

TAGS_IGNORED = "0000000000000000 ffffffff ffff ffff"


def usage_32(service_action: int, flags: int) -> str:
    """Give the usage map of a command in 32 bytes; `flags` are the bits of byte 10 that are looked at."""
    return f"7f 04 00000000 1f 18 {service_action:04x} {flags:02x} 00 ffffffffffffffff 00000000 0000 0000 ffffffff"


def ignored_32(flags: int) -> str:
    """Give the bits that mean nothing: `flags` of byte 10, and the tags."""
    return f"00 00 00000000 00 00 0000 {flags:02x} 00 {TAGS_IGNORED}"


ROWS: tuple[Command, ...] = (
    read_row("READ (32)", usage_32(0x0009, 0x18), decode_32, ignored_32(0x07), service_action=True),
    verify_row("VERIFY (32)", usage_32(0x000A, 0x16), decode_32, ignored_32(0x00), service_action=True),
    write_row("WRITE (32)", usage_32(0x000B, 0x18), decode_32, ignored_32(0x03), service_action=True),
)
