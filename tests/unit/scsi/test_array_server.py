"""ARRAY IN and ARRAY OUT at a logical unit: what is refused before the services are asked, and what they are asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from scsi import array_commands as codec
from scsi.array_commands import (
    DEFINED_FLAGS,
    PARAMETER_BYTES,
    Acquire,
    AcquisitionRow,
    AcquisitionState,
    ArrayIn,
    ArrayInCdb,
    ArrayOut,
    ArrayOutCdb,
    Capabilities,
    Feature,
    FenceLevel,
    PairCreate,
    PairFlag,
    PairRow,
    PairState,
    RegionKind,
    RegionRow,
    StateCode,
    VirtualDeviceFlag,
    VirtualDeviceRow,
)
from scsi.array_services import CommandDone, Transferred
from scsi.errors import AcquiredDataNotReady, AlreadyPaired, NoSuchVirtualDevice, ReservationConflict
from scsi.logical_unit import LogicalUnit
from scsi.nexus import Nexus
from scsi.target import TargetPort
from scsi.task_management import Function
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume

OTHER_NAA = bytes.fromhex("60000000000000000000000000001234")
IMPLEMENTED_OUT = [action for action in ArrayOut if action is not ArrayOut.COPY_IN]

ROWS = {
    ArrayIn.REPORT_VIRTUAL_DEVICES: VirtualDeviceRow(
        1, VirtualDeviceFlag.LOCAL_REGIONS, StateCode.READY, 1, bytes(8), c.NAA, 99, 512
    ),
    ArrayIn.REPORT_REGIONS: RegionRow(4, RegionKind.LOCAL, StateCode.READY, 100, 0, 99, 7),
    ArrayIn.REPORT_PAIRS: PairRow(
        3, PairState.COPY, FenceLevel.DATA, PairFlag.FENCE_HELD, 50, 99, 49, c.NAA, OTHER_NAA, "mail"
    ),
    ArrayIn.REPORT_ACQUISITIONS: AcquisitionRow(
        7, AcquisitionState.READY, 0, 0, 0, 5, 6, 512, 0x12345678, 60, c.NAA, 2
    ),
}


class FakeServices:
    """`ArrayServices` that notes its calls, and answers or refuses as the test says."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.refusal: Exception | None = None
        self.data = bytes(range(256)) * 4
        self.counted: list[int] = []
        self.hold = False
        self.waiting: list[CommandDone] = []

    def _report(self, name: str, asker: Nexus, *arguments: int) -> None:
        self.calls.append((name, asker, *arguments))
        if self.refusal is not None:
            raise self.refusal

    def _order(self, done: CommandDone, *call: Any) -> None:
        self.calls.append(call)
        if self.hold:
            self.waiting.append(done)
        else:
            done(self.refusal)  # type: ignore[arg-type]  # tests refuse with what a service may refuse with

    def capabilities(self, asker: Nexus) -> Capabilities:
        self._report("capabilities", asker)
        return Capabilities(1, Feature.PAIRS, 1, 2, 3, 4, 5)

    def virtual_devices(self, asker: Nexus) -> list[Any]:
        self._report("virtual_devices", asker)
        return [ROWS[ArrayIn.REPORT_VIRTUAL_DEVICES]]

    def regions(self, asker: Nexus, vdev_number: int) -> list[Any]:
        self._report("regions", asker, vdev_number)
        return [ROWS[ArrayIn.REPORT_REGIONS]]

    def pairs(self, asker: Nexus, pair_number: int) -> list[Any]:
        self._report("pairs", asker, pair_number)
        return [ROWS[ArrayIn.REPORT_PAIRS]]

    def acquisitions(self, asker: Nexus) -> list[Any]:
        self._report("acquisitions", asker)
        return [ROWS[ArrayIn.REPORT_ACQUISITIONS]]

    def transfer(self, asker: Nexus, identifier: int, first_block: int, allocation_bytes: int) -> Transferred:
        self._report("transfer", asker, identifier, first_block, allocation_bytes)
        return Transferred(self.data[:allocation_bytes], self.counted.append)

    def pair_create(self, asker: Nexus, addressed_naa: bytes, parameters: PairCreate, done: CommandDone) -> None:
        self._order(done, "pair_create", asker, addressed_naa, parameters)

    def pair_command(
        self, asker: Nexus, addressed_naa: bytes, action: ArrayOut, pair_number: int, flags: int, done: CommandDone
    ) -> None:
        self._order(done, "pair_command", asker, addressed_naa, action, pair_number, flags)

    def acquire(
        self, asker: Nexus, identifier: int, parameters: Acquire, *, immediate: bool, done: CommandDone
    ) -> None:
        self._order(done, "acquire", asker, identifier, parameters, immediate)

    def end_acquisition(self, asker: Nexus, identifier: int, done: CommandDone) -> None:
        self._order(done, "end_acquisition", asker, identifier)


@pytest.fixture
def services() -> FakeServices:
    return FakeServices()


@pytest.fixture
def unit(services: FakeServices) -> LogicalUnit:
    return LogicalUnit(MemoryVolume(), c.NAA, array_services=services)


@pytest.fixture
def host(unit: LogicalUnit) -> c.Host:
    return c.Host(TargetPort(), unit)


def array_in(action: int, identifier: int = 0, offset: int = 0, allocation: int = 4096) -> bytes:
    return codec.encode_array_in(ArrayInCdb(action, identifier, offset, allocation))


PARAMETERS = {
    ArrayOut.PAIR_CREATE: codec.encode_pair_create(PairCreate(FenceLevel.STATUS, True, 10, OTHER_NAA, "mail")),
    ArrayOut.ACQUIRE_EXTERNAL_DATA: codec.encode_acquire(Acquire(c.NAA, 5, 6, 7, 8)),
}
IDENTIFIERS = dict.fromkeys(ArrayOut, 9) | {ArrayOut.PAIR_CREATE: 0}


def array_out(action: int, identifier: int | None = None, flags: int = 0, length: int | None = None) -> bytes:
    length = len(PARAMETERS.get(ArrayOut(action), b"")) if length is None else length
    identifier = IDENTIFIERS[ArrayOut(action)] if identifier is None else identifier
    return codec.encode_array_out(ArrayOutCdb(action, identifier, flags, length))


def order(host: c.Host, action: ArrayOut, identifier: int | None = None, flags: int = 0) -> c.FakeCommand:
    return host.send(array_out(action, identifier, flags), PARAMETERS.get(action, b""))


# --- Reports ----------------------------------------------------------------------------------------------------------


def test_report_capabilities_has_32_bytes(host: c.Host) -> None:
    answer = host.send(array_in(ArrayIn.REPORT_CAPABILITIES))
    assert codec.decode_capabilities(answer.data) == (1, Feature.PAIRS, 1, 2, 3, 4, 5)
    assert len(answer.data) == 32


@pytest.mark.parametrize(
    ("action", "row_bytes", "decode"),
    [
        (ArrayIn.REPORT_VIRTUAL_DEVICES, 64, codec.decode_virtual_device),
        (ArrayIn.REPORT_REGIONS, 64, codec.decode_region),
        (ArrayIn.REPORT_PAIRS, 96, codec.decode_pair),
        (ArrayIn.REPORT_ACQUISITIONS, 64, codec.decode_acquisition),
    ],
)
def test_each_report_has_a_header_and_its_rows(
    host: c.Host, action: ArrayIn, row_bytes: int, decode: Callable[[bytes], object]
) -> None:
    data = host.send(array_in(action)).data
    assert len(data) == 8 + row_bytes
    assert int.from_bytes(data[:4], "big") == 4 + row_bytes
    assert decode(data[8:]) == ROWS[action]


@pytest.mark.parametrize("action", [action for action in ArrayIn if action is not ArrayIn.TRANSFER_ACQUIRED_DATA])
@pytest.mark.parametrize("allocation", [0, 1, 4, 8, 31, 71])
def test_a_report_is_cut_at_the_allocation_length_and_its_length_field_is_not_adjusted(
    host: c.Host, action: ArrayIn, allocation: int
) -> None:
    whole = host.send(array_in(action)).data
    assert host.send(array_in(action, allocation=allocation)).data == whole[:allocation]


def test_the_services_are_told_who_asks_and_for_what(host: c.Host, services: FakeServices) -> None:
    host.send(array_in(ArrayIn.REPORT_REGIONS, 12))
    host.send(array_in(ArrayIn.REPORT_PAIRS, 13))
    assert services.calls == [("regions", host.nexus, 12), ("pairs", host.nexus, 13)]


@pytest.mark.parametrize("action", ArrayIn)
def test_a_refusal_of_the_services_is_the_commands(host: c.Host, services: FakeServices, action: ArrayIn) -> None:
    services.refusal = NoSuchVirtualDevice()
    assert host.send(array_in(action)).outcome == "05/81/01"


# --- TRANSFER ---------------------------------------------------------------------------------------------------------


def test_transfer_gives_data_and_counts_it_after_good(host: c.Host, services: FakeServices) -> None:
    answer = host.send(array_in(ArrayIn.TRANSFER_ACQUIRED_DATA, 7, 3, 512))
    assert answer.data == services.data[:512]
    assert services.calls == [("transfer", host.nexus, 7, 3, 512)]
    assert services.counted == [512]


def test_transfer_counts_only_what_the_host_had_room_for(host: c.Host, services: FakeServices) -> None:
    host.send(array_in(ArrayIn.TRANSFER_ACQUIRED_DATA, 7, 0, 1024), room=600)
    assert services.counted == [600]


def test_a_refused_transfer_counts_nothing(host: c.Host, services: FakeServices) -> None:
    services.refusal = AcquiredDataNotReady()
    assert host.send(array_in(ArrayIn.TRANSFER_ACQUIRED_DATA, 7, 0, 1024)).outcome == "02/81/07"
    services.refusal = ReservationConflict()
    assert host.send(array_in(ArrayIn.TRANSFER_ACQUIRED_DATA, 7, 0, 1024)).outcome == "RESERVATION CONFLICT"
    assert services.counted == []


def test_a_transfer_whose_answer_is_dropped_counts_nothing(host: c.Host, services: FakeServices) -> None:
    command = c.FakeCommand(host.session, array_in(ArrayIn.TRANSFER_ACQUIRED_DATA, 7, 0, 512))
    command.aborted = True
    host.port.execute(command)
    assert services.counted == []


# --- ARRAY OUT --------------------------------------------------------------------------------------------------------


def test_pair_create_reaches_the_services(host: c.Host, services: FakeServices) -> None:
    assert order(host, ArrayOut.PAIR_CREATE).outcome == "GOOD"
    parameters = PairCreate(FenceLevel.STATUS, True, 10, OTHER_NAA, "mail")
    assert services.calls == [("pair_create", host.nexus, c.NAA, parameters)]


@pytest.mark.parametrize(
    ("action", "flags"),
    [
        (ArrayOut.PAIR_SPLIT, 0),
        (ArrayOut.PAIR_SPLIT, 1),
        (ArrayOut.PAIR_RESYNC, 0),
        (ArrayOut.PAIR_RESYNC, 1),
        (ArrayOut.PAIR_RESYNC, 2),
        (ArrayOut.PAIR_DELETE, 0),
        (ArrayOut.PAIR_TAKEOVER, 0),
        (ArrayOut.PAIR_VERIFY, 0),
        (ArrayOut.PAIR_VERIFY, 1),
    ],
)
@pytest.mark.parametrize("number", [0, 9])
def test_pair_commands_reach_the_services(
    host: c.Host, services: FakeServices, action: ArrayOut, flags: int, number: int
) -> None:
    assert order(host, action, number, flags).outcome == "GOOD"
    assert services.calls == [("pair_command", host.nexus, c.NAA, action, number, flags)]


@pytest.mark.parametrize("immediate", [False, True])
def test_acquire_reaches_the_services(host: c.Host, services: FakeServices, immediate: bool) -> None:
    assert order(host, ArrayOut.ACQUIRE_EXTERNAL_DATA, 9, int(immediate)).outcome == "GOOD"
    assert services.calls == [("acquire", host.nexus, 9, Acquire(c.NAA, 5, 6, 7, 8), immediate)]


def test_end_reaches_the_services(host: c.Host, services: FakeServices) -> None:
    assert order(host, ArrayOut.END_ACQUISITION, 9).outcome == "GOOD"
    assert services.calls == [("end_acquisition", host.nexus, 9)]


def test_an_order_is_answered_when_the_services_say_so(host: c.Host, services: FakeServices) -> None:
    services.hold = True
    command = order(host, ArrayOut.PAIR_DELETE)
    assert command.outcome == "running"
    services.waiting.pop()(AlreadyPaired())
    assert command.outcome == "05/80/01"


def test_an_order_aborted_meanwhile_is_not_answered_twice(host: c.Host, services: FakeServices) -> None:
    services.hold = True
    command = order(host, ArrayOut.PAIR_DELETE)
    host.manage(Function.ABORT_TASK, command)
    services.waiting.pop()(None)
    assert command.status in {0x00, 0x40}


# --- Refused before the services are asked ----------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [codec.ARRAY_IN, codec.ARRAY_OUT])
def test_an_unknown_service_action_is_an_invalid_field(host: c.Host, services: FakeServices, opcode: int) -> None:
    known = set(ArrayIn) if opcode == codec.ARRAY_IN else set(IMPLEMENTED_OUT)
    for action in set(range(32)) - {int(action) for action in known}:
        answer = host.send(bytes((opcode, action)).ljust(16, b"\0"))
        assert answer.outcome == "05/24/00"
        assert answer.sense.field is not None
        assert answer.sense.field.offset == 1
    assert services.calls == []


RESERVED_IN = {
    action: [(1, 0x20), (1, 0x80), (14, 0x01), (14, 0x80), (15, 0x04)]
    + ([] if action in {ArrayIn.REPORT_REGIONS, ArrayIn.REPORT_PAIRS, ArrayIn.TRANSFER_ACQUIRED_DATA} else [(5, 0x01)])
    + ([] if action is ArrayIn.TRANSFER_ACQUIRED_DATA else [(6, 0x80), (9, 0x01)])
    for action in ArrayIn
}


@pytest.mark.parametrize(
    ("action", "offset", "bit"), [(a, offset, bit) for a, bits in RESERVED_IN.items() for offset, bit in bits]
)
def test_a_reserved_bit_of_array_in_is_named(
    host: c.Host, services: FakeServices, action: ArrayIn, offset: int, bit: int
) -> None:
    cdb = bytearray(array_in(action))
    cdb[offset] |= bit
    answer = host.send(bytes(cdb))
    assert answer.outcome == "05/24/00"
    assert answer.sense.field == (offset, bit.bit_length() - 1, True)
    assert services.calls == []


@pytest.mark.parametrize("action", IMPLEMENTED_OUT)
def test_a_reserved_bit_of_array_out_is_named(host: c.Host, services: FakeServices, action: ArrayOut) -> None:
    reserved = [(1, 7), (1, 5), (14, 0), (14, 7), (15, 2)]
    reserved += [(9 - bit // 8, bit % 8) for bit in range(32) if not DEFINED_FLAGS[action] >> bit & 1]
    if action is ArrayOut.PAIR_CREATE:
        reserved += [(2, 7), (5, 0)]
    for offset, bit in reserved:
        cdb = bytearray(array_out(action))
        cdb[offset] |= 1 << bit
        answer = host.send(bytes(cdb), PARAMETERS.get(action, b""))
        assert answer.outcome == "05/24/00"
        assert answer.sense.field == (offset, bit, True)
    assert services.calls == []


@pytest.mark.parametrize("action", IMPLEMENTED_OUT)
@pytest.mark.parametrize("difference", [-1, 1, 1000])
def test_another_parameter_list_length_is_refused(
    host: c.Host, services: FakeServices, action: ArrayOut, difference: int
) -> None:
    length = PARAMETER_BYTES[action] + difference
    if length < 0:
        return
    answer = host.send(array_out(action, length=length), bytes(length))
    assert answer.outcome == "05/1A/00"
    assert services.calls == []


@pytest.mark.parametrize("action", PARAMETERS)
def test_less_data_than_announced_in_the_cdb_is_refused(host: c.Host, services: FakeServices, action: ArrayOut) -> None:
    answer = host.send(array_out(action), PARAMETERS[action][:-1])
    assert answer.outcome == "05/1A/00"
    assert services.calls == []


@pytest.mark.parametrize("action", PARAMETERS)
def test_more_data_than_the_parameter_list_is_left_over(host: c.Host, action: ArrayOut) -> None:
    answer = host.send(array_out(action), PARAMETERS[action] + b"more")
    assert answer.outcome == "GOOD"
    assert answer.ended.data_out_used == PARAMETER_BYTES[action]


@pytest.mark.parametrize(
    ("action", "offset", "value", "field"),
    [
        (ArrayOut.PAIR_CREATE, 0, 3, (0, None, False)),
        (ArrayOut.PAIR_CREATE, 0, 255, (0, None, False)),
        (ArrayOut.PAIR_CREATE, 1, 2, (1, 1, False)),
        (ArrayOut.PAIR_CREATE, 4, 1, (4, 0, False)),
        (ArrayOut.PAIR_CREATE, 7, 128, (7, 7, False)),
        (ArrayOut.PAIR_CREATE, 24, 255, (24, None, False)),
        (ArrayOut.PAIR_CREATE, 24, 0, (24, None, False)),
        (ArrayOut.PAIR_CREATE, 56, 1, (56, 0, False)),
        (ArrayOut.PAIR_CREATE, 63, 1, (63, 0, False)),
        (ArrayOut.ACQUIRE_EXTERNAL_DATA, 27, 0, (24, None, False)),
        (ArrayOut.ACQUIRE_EXTERNAL_DATA, 36, 1, (36, 0, False)),
        (ArrayOut.ACQUIRE_EXTERNAL_DATA, 47, 64, (47, 6, False)),
    ],
)
def test_a_bad_parameter_is_named(
    host: c.Host,
    services: FakeServices,
    action: ArrayOut,
    offset: int,
    value: int,
    field: tuple[int, int | None, bool],
) -> None:
    data = bytearray(PARAMETERS[action])
    data[offset] = value
    answer = host.send(array_out(action), data)
    assert answer.outcome == "05/26/00"
    assert answer.sense.field == field
    assert services.calls == []


def test_an_acquisition_id_of_0_is_a_bad_field_of_the_cdb(host: c.Host, services: FakeServices) -> None:
    answer = order(host, ArrayOut.ACQUIRE_EXTERNAL_DATA, 0)
    assert answer.outcome == "05/24/00"
    assert answer.sense.field == (2, None, True)
    assert services.calls == []


def test_resync_with_reverse_and_swap_is_a_bad_field_of_the_cdb(host: c.Host, services: FakeServices) -> None:
    answer = order(host, ArrayOut.PAIR_RESYNC, 0, 3)
    assert answer.outcome == "05/24/00"
    assert answer.sense.field == (9, 1, True)
    assert services.calls == []


# --- Who may ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", IMPLEMENTED_OUT)
def test_array_out_is_no_opcode_for_a_host_without_array_control(
    unit: LogicalUnit, services: FakeServices, action: ArrayOut
) -> None:
    host = c.Host(TargetPort(), unit, array_control=False)
    assert order(host, action).outcome == "05/20/00"
    assert services.calls == []


@pytest.mark.parametrize("action", ArrayIn)
def test_array_in_is_there_without_array_control(unit: LogicalUnit, action: ArrayIn) -> None:
    assert c.Host(TargetPort(), unit, array_control=False).send(array_in(action)).outcome == "GOOD"


def test_a_unit_without_services_has_neither_opcode() -> None:
    host = c.Host(TargetPort(), LogicalUnit(MemoryVolume(), c.NAA))
    assert host.send(array_in(0)).outcome == "05/20/00"
    assert order(host, ArrayOut.PAIR_DELETE).outcome == "05/20/00"


@pytest.mark.parametrize("action", ArrayIn)
def test_array_in_runs_under_anothers_reservation(unit: LogicalUnit, host: c.Host, action: ArrayIn) -> None:
    other = c.Host(host.port, unit, "iqn.2026-11.org.example:other")
    assert other.send(c.RESERVE_6).outcome == "GOOD"
    assert host.send(array_in(action)).outcome == "GOOD"


@pytest.mark.parametrize("action", IMPLEMENTED_OUT)
def test_array_out_conflicts_with_anothers_reservation(
    unit: LogicalUnit, host: c.Host, services: FakeServices, action: ArrayOut
) -> None:
    other = c.Host(host.port, unit, "iqn.2026-11.org.example:other")
    assert other.send(c.RESERVE_6).outcome == "GOOD"
    assert order(host, action).outcome == "RESERVATION CONFLICT"
    assert services.calls == []
    assert order(other, action).outcome == "GOOD"


def test_both_opcodes_report_unit_attentions_first(unit: LogicalUnit, services: FakeServices) -> None:
    host = c.Host(TargetPort(), unit, greeted=False)
    assert host.send(array_in(0)).outcome == "06/29/00"
    unit.establish_unit_attention(0x80, 0x80)
    assert order(host, ArrayOut.PAIR_DELETE).outcome == "06/80/80"
    assert services.calls == []
    assert order(host, ArrayOut.PAIR_DELETE).outcome == "GOOD"


def test_every_service_action_is_reported_with_its_usage_map(host: c.Host) -> None:
    expected = {(codec.ARRAY_IN, action) for action in ArrayIn} | {(codec.ARRAY_OUT, a) for a in IMPLEMENTED_OUT}
    for opcode, action in expected:
        data = host.send(c.report_opcodes(2, opcode, action)).data
        assert data[1] & 7 == 3
        length = int.from_bytes(data[2:4], "big")
        assert length == codec.CDB_BYTES
        usage = data[4 : 4 + length]
        assert usage[0] == opcode
        assert usage[1] & 0x1F == action
        assert usage[10:14] == b"\xff" * 4  # ALLOCATION or PARAMETER LIST LENGTH
    data = host.send(c.report_opcodes(2, codec.ARRAY_OUT, ArrayOut.COPY_IN)).data
    assert data[1] & 7 == 1


def test_the_codec_and_the_table_agree_on_flags(host: c.Host) -> None:
    for action in IMPLEMENTED_OUT:
        data = host.send(c.report_opcodes(2, codec.ARRAY_OUT, action)).data
        assert int.from_bytes(data[10:14], "big") == DEFINED_FLAGS[action]
