"""An array as annexhost sees it: answers each service action with what the test put in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from crc32c import crc32c
from pyscsi.pyscsi.scsi_command import SCSICommand

from config.host.address import Address
from config.host.array import Array
from config.host.scsi_device import CHECK_CONDITION, CommandFailed
from scsi import array_commands as codec
from scsi.array_commands import (
    ARRAY_IN,
    AcquisitionRow,
    AcquisitionState,
    ArrayIn,
    ArrayOutCdb,
    Capabilities,
    Feature,
    FenceLevel,
    PairFlag,
    PairRow,
    PairState,
    RegionKind,
    RegionRow,
    StateCode,
    VirtualDeviceFlag,
    VirtualDeviceRow,
)
from scsi.errors import NoSuchAcquisition, NoSuchPair, ScsiError
from scsi.sense import encode_sense

NAA = bytes.fromhex("60000000000000000000000000000001")
OTHER_NAA = bytes.fromhex("60000000000000000000000000000002")
INQUIRY = 0x12
BLOCK = 512
Row = TypeVar("Row")


def vdev_row(number: int, naa: bytes, lun: int) -> VirtualDeviceRow:
    raw_lun = bytes([0, lun]) + bytes(6)
    return VirtualDeviceRow(number, VirtualDeviceFlag.LOCAL_REGIONS, StateCode.READY, 1, raw_lun, naa, 100, BLOCK)


class FakeArray:
    """A `ScsiDevice`, and the array behind it.

    Attributes:
        refusals: an error per opcode and service action, raised instead of the answer; each is used once when `once`.
        attentions: unit attentions that are in the way of the next commands.
        orders: what ARRAY OUT brought: CDB and parameter list.
        pair_rows: what REPORT PAIRS says, one list after the other; the last one stays.
        on_order: called for each ARRAY OUT.
        data: what acquisitions hold.
    """

    def __init__(self) -> None:
        self.naa = NAA
        self.refusals: dict[tuple[int, int], ScsiError] = {}
        self.attentions: list[ScsiError] = []
        self.orders: list[tuple[ArrayOutCdb, bytes]] = []
        self.vdevs = [vdev_row(1, NAA, 0), vdev_row(2, OTHER_NAA, 5)]
        self.pair_rows: list[list[PairRow]] = [[]]
        self.acquisition_rows: list[list[AcquisitionRow]] = [[]]
        self.data = bytes(range(256)) * 2 * 20
        self.most_transfer_bytes = 8 * BLOCK
        self.on_order: Callable[[ArrayOutCdb], None] = lambda _cdb: None
        self.commands = 0
        self.opened: list[Address] = []
        self.closed = 0
        self.naa_by_address: dict[str, bytes] = {}

    @contextmanager
    def open(self, address: Address) -> Iterator[Array]:
        self.opened.append(address)
        self.naa = self.naa_by_address.get(str(address), self.naa)
        yield Array(self)
        self.closed += 1

    def close(self) -> None:
        self.closed += 1

    def execute(self, command: SCSICommand) -> None:
        self.commands += 1
        cdb = bytes(command.cdb)
        if cdb[0] == INQUIRY:
            command.datain = bytearray(self._page_83()[: len(command.datain)])
            return
        assert len(cdb) == codec.CDB_BYTES
        refusal = self.attentions.pop(0) if self.attentions else self.refusals.get((cdb[0], cdb[1]))
        if refusal is not None:
            raise CommandFailed(CHECK_CONDITION, encode_sense(refusal))
        try:
            if cdb[0] == ARRAY_IN:
                command.datain = bytearray(self._array_in(cdb))
            else:
                order = codec.decode_array_out(cdb)
                assert order.parameter_list_length == len(command.dataout)
                self.orders.append((order, bytes(command.dataout)))
                self.on_order(order)
        except ScsiError as error:
            raise CommandFailed(CHECK_CONDITION, encode_sense(error)) from None

    def _array_in(self, raw: bytes) -> bytes:
        cdb = codec.decode_array_in(raw)
        answers: dict[int, Callable[[], bytes]] = {
            ArrayIn.REPORT_CAPABILITIES: lambda: codec.encode_capabilities(
                Capabilities(1, Feature.PAIRS | Feature.ACQUISITIONS, 64, 1000, 16, 300, self.most_transfer_bytes)
            ),
            ArrayIn.REPORT_VIRTUAL_DEVICES: lambda: codec.encode_list(
                [codec.encode_virtual_device(row) for row in self.vdevs]
            ),
            ArrayIn.REPORT_REGIONS: lambda: codec.encode_list(
                [
                    codec.encode_region(
                        RegionRow(cdb.identifier, RegionKind.EXTERNAL, StateCode.READY, 100, 0, 9, 5, NAA)
                    )
                ]
            ),
            ArrayIn.REPORT_PAIRS: lambda: self._pairs(cdb.identifier),
            ArrayIn.REPORT_ACQUISITIONS: lambda: codec.encode_list(
                [codec.encode_acquisition(row) for row in _next(self.acquisition_rows)]
            ),
            ArrayIn.TRANSFER_ACQUIRED_DATA: lambda: self._transfer(cdb.identifier, cdb.offset, cdb.allocation_length),
        }
        return answers[cdb.service_action]()[: cdb.allocation_length]

    def _pairs(self, number: int) -> bytes:
        rows = [row for row in _next(self.pair_rows) if number in {0, row.number}]
        if number and not rows:
            raise NoSuchPair
        return codec.encode_list([codec.encode_pair(row) for row in rows])

    def _transfer(self, identifier: int, first: int, most_bytes: int) -> bytes:
        if not any(row.identifier == identifier for row in self.acquisition_rows[0]):
            raise NoSuchAcquisition
        most_bytes = min(most_bytes, self.most_transfer_bytes) // BLOCK * BLOCK
        return self.data[first * BLOCK :][:most_bytes]

    def _page_83(self) -> bytes:
        t10 = bytes([0x02, 0x01, 0, 8]) + b"annex   "
        port = bytes([0x01, 0x13, 0, 16]) + bytes.fromhex("6f" * 16)
        naa = bytes([0x01, 0x03, 0, 16]) + self.naa
        body = t10 + port + naa
        return bytes([0, 0x83]) + len(body).to_bytes(2, "big") + body


def _next(rows: list[list[Row]]) -> list[Row]:
    return rows.pop(0) if len(rows) > 1 else rows[0]


def pair_row(
    state: PairState = PairState.PAIR,
    percent: int = 100,
    number: int = 3,
    label: str = "",
    flags: PairFlag | None = None,
) -> PairRow:
    flags = PairFlag.FENCE_HELD if flags is None else flags
    return PairRow(number, state, FenceLevel.STATUS, flags, percent, 100, 100 - percent, NAA, OTHER_NAA, label)


def acquisition_row(
    data: bytes, identifier: int = 7, state: AcquisitionState = AcquisitionState.READY
) -> AcquisitionRow:
    failed = (0x0B, 0x81, 0x06) if state is AcquisitionState.FAILED else (0, 0, 0)
    blocks = len(data) // BLOCK
    crc = crc32c(data) if state is AcquisitionState.READY else 0
    return AcquisitionRow(identifier, state, *failed, 16, blocks, BLOCK, crc, 60, NAA, 0)
