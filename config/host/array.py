"""The array as a host speaks to it: one method per service action, over any `ScsiDevice`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pyscsi.pyscsi.scsi_cdb_inquiry import Inquiry
from pyscsi.pyscsi.scsi_command import SCSICommand
from pyscsi.pyscsi.scsi_enum_command import spc

from config.host.errors import Refused, WrongData
from config.host.refusals import refusal, sense_of
from config.host.scsi_device import CHECK_CONDITION, COMMAND_TIMEOUT_S, ArrayCommand, CommandFailed, ScsiDevice
from scsi import array_commands as codec
from scsi.array_commands import (
    AcquisitionRow,
    ArrayIn,
    ArrayInCdb,
    ArrayOut,
    ArrayOutCdb,
    Capabilities,
    PairRow,
    RegionRow,
    VirtualDeviceRow,
)

Row = TypeVar("Row")

UNIT_ATTENTION = 0x6  # sense key
# A nexus has one unit attention pending per reason at most; a log-in, a changed map and some pair states are a handful.
MOST_UNIT_ATTENTIONS = 16
FIRST_ALLOCATION_BYTES = 16 * 1024
MOST_REPORT_BYTES = 64 * 1024 * 1024
DEVICE_IDENTIFICATION_PAGE = 0x83
NAA_DESIGNATOR = 0x3


class Array:
    """A logical unit of annex, and through it the array.

    Every method raises `Refused` when the array says no, `WrongData` when its answer can not be read, and `Unreachable`
    when there is none.
    """

    def __init__(self, device: ScsiDevice) -> None:
        self._device = device

    def capabilities(self) -> Capabilities:
        return _decoded(codec.decode_capabilities, self._array_in(ArrayInCdb(ArrayIn.REPORT_CAPABILITIES), 32))

    def virtual_devices(self) -> list[VirtualDeviceRow]:
        cdb = ArrayInCdb(ArrayIn.REPORT_VIRTUAL_DEVICES)
        return self._report(cdb, codec.VIRTUAL_DEVICE_ROW_BYTES, codec.decode_virtual_device)

    def regions(self, vdev_number: int) -> list[RegionRow]:
        cdb = ArrayInCdb(ArrayIn.REPORT_REGIONS, vdev_number)
        return self._report(cdb, codec.REGION_ROW_BYTES, codec.decode_region)

    def pairs(self, number: int = 0) -> list[PairRow]:
        return self._report(ArrayInCdb(ArrayIn.REPORT_PAIRS, number), codec.PAIR_ROW_BYTES, codec.decode_pair)

    def acquisitions(self) -> list[AcquisitionRow]:
        cdb = ArrayInCdb(ArrayIn.REPORT_ACQUISITIONS)
        return self._report(cdb, codec.ACQUISITION_ROW_BYTES, codec.decode_acquisition)

    def transfer(self, identifier: int, first_block: int, most_bytes: int) -> bytes:
        """Fetch acquired data; the array may send less than asked for, in whole blocks."""
        return self._array_in(ArrayInCdb(ArrayIn.TRANSFER_ACQUIRED_DATA, identifier, first_block), most_bytes)

    def order(
        self,
        action: ArrayOut,
        identifier: int = 0,
        flags: int = 0,
        parameters: bytes = b"",
        timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> None:
        """Send ARRAY OUT, and wait for its end."""
        cdb = codec.encode_array_out(ArrayOutCdb(action, identifier, flags, len(parameters)))
        self._execute(lambda: ArrayCommand(cdb, data_out=parameters, timeout_s=timeout_s))

    def own_naa(self) -> bytes:
        """Give the NAA id of the addressed logical unit, from its device identification page.

        Raises:
            WrongData: the page has none of 16 bytes for the logical unit.
        Spec: SPC-6 "Device Identification VPD page".
        """
        page = self._execute(
            lambda: Inquiry(spc.INQUIRY, evpd=1, page_code=DEVICE_IDENTIFICATION_PAGE, alloclen=0xFFFF)
        )
        at, end = 4, min(len(page), 4 + int.from_bytes(page[2:4], "big"))
        while at + 4 <= end:
            designator = page[at + 4 : at + 4 + page[at + 3]]
            is_of_unit, is_naa = not page[at + 1] & 0x30, page[at + 1] & 0x0F == NAA_DESIGNATOR
            if is_of_unit and is_naa and len(designator) == codec.NAA_BYTES:
                return designator
            at += 4 + page[at + 3]
        raise WrongData("the logical unit shows no NAA id of 16 bytes, so it is none of annex")

    def _report(self, cdb: ArrayInCdb, row_bytes: int, decode: Callable[[bytes], Row]) -> list[Row]:
        allocation_bytes = FIRST_ALLOCATION_BYTES
        while True:
            data = self._array_in(cdb, allocation_bytes)
            whole_bytes = _decoded(codec.list_bytes, data)
            if whole_bytes <= allocation_bytes:
                return [_decoded(decode, row) for row in codec.decode_list(data, row_bytes)]
            if whole_bytes > MOST_REPORT_BYTES:
                raise WrongData(f"the array announces a report of {whole_bytes} bytes")
            allocation_bytes = whole_bytes

    def _array_in(self, cdb: ArrayInCdb, allocation_bytes: int) -> bytes:
        raw = codec.encode_array_in(cdb._replace(allocation_length=allocation_bytes))
        return self._execute(lambda: ArrayCommand(raw, data_in_bytes=allocation_bytes))

    def _execute(self, make: Callable[[], SCSICommand]) -> bytes:
        """Run a command, again for as long as it met a unit attention instead: then it was not carried out."""
        for _ in range(MOST_UNIT_ATTENTIONS):
            command = make()
            try:
                self._device.execute(command)
            except CommandFailed as failed:
                if sense_of(failed).key != UNIT_ATTENTION:
                    raise refusal(failed) from None
            else:
                return bytes(command.datain)
        raise Refused("the array answers every command with a unit attention", CHECK_CONDITION)


def _decoded(decode: Callable[[bytes], Row], data: bytes) -> Row:
    try:
        return decode(data)
    except ValueError as error:
        raise WrongData(f"the array's answer can not be read: {error}") from error
