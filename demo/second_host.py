"""A host that is cabled to the external array directly: libiscsi, without annex in between."""

from __future__ import annotations

from pyscsi.pyscsi.scsi_cdb_write10 import Write10
from pyscsi.pyscsi.scsi_enum_command import sbc

from config.host.address import IscsiAddress, parse_address
from config.host.iscsi_device import IscsiDevice
from config.host.scsi_device import CommandFailed

BLOCK_BYTES = 512
MOST_UNIT_ATTENTIONS = 8
UNIT_ATTENTION = b"\x06"  # sense key, in byte 2 of fixed sense
INITIATOR_NAME = "iqn.2026-11.org.example:second-host"
STATUS_WORDS = {0x00: "GOOD", 0x02: "CHECK CONDITION", 0x08: "BUSY", 0x18: "RESERVATION CONFLICT"}


def write_one_block(url: str, lba: int) -> str:
    """Write one block of the array as the second host; give the status that the array answered, in words."""
    address = parse_address(url)
    assert isinstance(address, IscsiAddress)
    device = IscsiDevice(address, INITIATOR_NAME)
    write = Write10(sbc.WRITE_10, BLOCK_BYTES, lba, 1, bytearray(b"\xee" * BLOCK_BYTES))
    try:
        for _ in range(MOST_UNIT_ATTENTIONS):
            try:
                device.execute(write)
                return STATUS_WORDS[0]
            except CommandFailed as failed:
                # A new session is greeted with a unit attention, and a host just tries again.
                if failed.sense[2:3] != UNIT_ATTENTION:
                    return STATUS_WORDS.get(failed.status, f"status {failed.status:02X}h")
    finally:
        device.close()
    return "unit attentions without end"
