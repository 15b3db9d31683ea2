"""A host that is cabled to the external array directly: libiscsi, without annex in between."""

from __future__ import annotations

import struct

from pyscsi.pyscsi.scsi_command import SCSICommand
from pyscsi.pyscsi.scsi_enum_command import sbc

from config.host.address import IscsiAddress, parse_address
from config.host.iscsi_device import IscsiDevice
from config.host.scsi_device import CommandFailed

INITIATOR_NAME = "iqn.2026-11.org.example:second-host"
STATUS_WORDS = {0x00: "GOOD", 0x02: "CHECK CONDITION", 0x08: "BUSY", 0x18: "RESERVATION CONFLICT"}


class _Write10(SCSICommand):  # type: ignore[misc]  # PyScsi has no types
    """WRITE (10) of one block of 512 bytes."""

    def __init__(self, lba: int, data: bytes) -> None:
        super().__init__(sbc.WRITE_10, len(data), 0)
        self.cdb[:] = struct.pack(">BxIxHx", 0x2A, lba, 1)
        self.dataout[:] = data


def write_one_block(url: str, lba: int) -> str:
    """Write one block of the array as the second host; give the status that the array answered, in words."""
    address = parse_address(url)
    assert isinstance(address, IscsiAddress)
    device = IscsiDevice(address, INITIATOR_NAME)
    try:
        device.execute(_Write10(lba, b"\xee" * 512))
    except CommandFailed as failed:
        return STATUS_WORDS.get(failed.status, f"status {failed.status:02X}h")
    finally:
        device.close()
    return STATUS_WORDS[0]
