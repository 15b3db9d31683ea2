"""ARRAY IN (C0h) and ARRAY OUT (C1h): checks what can be checked without knowing the array, then asks the services.

Each service action is a row of the command table, so reserved bits, unit attentions, the reservation of the addressed
logical unit and REPORT SUPPORTED OPERATION CODES are as for any other command. The IDENTIFIER, OFFSET and FLAGS bits to
which a service action gives no meaning are reserved in its row.

Reservations: ARRAY IN is allowed as INQUIRY is, ARRAY OUT conflicts as WRITE does. That ACQUIRE and TRANSFER conflict
also where a READ of the virtual device that they name would is checked by the services, which know it.

Spec: annex vendor-specific SCSI commands, version 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from scsi import array_commands as codec
from scsi.array_commands import (
    DEFINED_FLAGS,
    IMMEDIATE,
    PARAMETER_BYTES,
    RESYNC_REVERSE,
    RESYNC_SWAP,
    ArrayIn,
    ArrayInCdb,
    ArrayOut,
    ArrayOutCdb,
    FenceLevel,
)
from scsi.array_services import ArrayServices, CommandDone, Refusal
from scsi.commands import Allow, Command, Direction
from scsi.errors import InvalidFieldInCdb, InvalidFieldInParameterList, ParameterListLengthError
from scsi.nexus import Nexus
from scsi.tasks import Task
from scsi.volume import Buffer

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

IDENTIFIER_FIELD = 2
FLAGS_END_FIELD = 9

# In the parameter lists.
FENCE_LEVEL_FIELD = 0
LABEL_FIELD = 24
BLOCKS_FIELD = 24


# --- ARRAY IN ---------------------------------------------------------------------------------------------------------

Report = Callable[[ArrayServices, Nexus, ArrayInCdb], bytes]


def _capabilities(services: ArrayServices, asker: Nexus, _cdb: ArrayInCdb) -> bytes:
    return codec.encode_capabilities(services.capabilities(asker))


def _virtual_devices(services: ArrayServices, asker: Nexus, _cdb: ArrayInCdb) -> bytes:
    return codec.encode_list([codec.encode_virtual_device(row) for row in services.virtual_devices(asker)])


def _regions(services: ArrayServices, asker: Nexus, cdb: ArrayInCdb) -> bytes:
    return codec.encode_list([codec.encode_region(row) for row in services.regions(asker, cdb.identifier)])


def _pairs(services: ArrayServices, asker: Nexus, cdb: ArrayInCdb) -> bytes:
    return codec.encode_list([codec.encode_pair(row) for row in services.pairs(asker, cdb.identifier)])


def _acquisitions(services: ArrayServices, asker: Nexus, _cdb: ArrayInCdb) -> bytes:
    return codec.encode_list([codec.encode_acquisition(row) for row in services.acquisitions(asker)])


def handle_report(report: Report, unit: LogicalUnit, task: Task, fields: tuple[int, ...]) -> None:
    """REPORT CAPABILITIES, VIRTUAL DEVICES, REGIONS, PAIRS and ACQUISITIONS: cut at ALLOCATION LENGTH."""
    cdb = ArrayInCdb(*fields)
    data = report(_services(unit), task.session.nexus, cdb)
    unit.finish(task, memoryview(data)[: cdb.allocation_length])


def handle_transfer(unit: LogicalUnit, task: Task, fields: tuple[int, ...]) -> None:
    """TRANSFER ACQUIRED DATA: the data, then, once GOOD went out after it, the count of what was handed over."""
    cdb = ArrayInCdb(*fields)
    transferred = _services(unit).transfer(task.session.nexus, cdb.identifier, cdb.offset, cdb.allocation_length)
    unit.finish(task, transferred.data)
    if not task.aborted:
        transferred.status_was_good(min(len(transferred.data), task.data_in_bytes))


# --- ARRAY OUT --------------------------------------------------------------------------------------------------------

Order = Callable[[ArrayServices, Nexus, "LogicalUnit", ArrayOutCdb, Buffer, CommandDone], None]


def handle_order(order: Order, unit: LogicalUnit, task: Task, fields: tuple[int, ...]) -> None:
    """Every service action of ARRAY OUT: its parameter list is all there, then `order` goes on.

    Raises:
        ParameterListLengthError: PARAMETER LIST LENGTH is not that of the service action, or less data came.
    """
    cdb = ArrayOutCdb(*fields)
    parameter_bytes = PARAMETER_BYTES[ArrayOut(cdb.service_action)]
    if cdb.parameter_list_length != parameter_bytes or len(task.data_out) < parameter_bytes:
        raise ParameterListLengthError(f"{cdb.parameter_list_length} announced, {len(task.data_out)} here")

    def done(refusal: Refusal | None) -> None:
        if refusal is None:
            unit.finish(task, data_out_used=parameter_bytes)
        else:
            unit.fail(task, refusal, data_out_used=parameter_bytes)

    order(_services(unit), task.session.nexus, unit, cdb, memoryview(task.data_out)[:parameter_bytes], done)


def _pair_create(
    services: ArrayServices, asker: Nexus, unit: LogicalUnit, _cdb: ArrayOutCdb, data: Buffer, done: CommandDone
) -> None:
    _refuse_reserved(data, codec.PAIR_CREATE_USAGE)
    parameters = codec.decode_pair_create(data)
    if parameters.fence_level not in FenceLevel.__members__.values():
        raise InvalidFieldInParameterList(FENCE_LEVEL_FIELD, message=f"fence level {parameters.fence_level}")
    if "\0" in parameters.label or any("\udc80" <= c <= "\udcff" for c in parameters.label):
        raise InvalidFieldInParameterList(LABEL_FIELD, message="the label is not zero-padded UTF-8")
    services.pair_create(asker, unit.naa, parameters, done)


def _pair_command(
    services: ArrayServices, asker: Nexus, unit: LogicalUnit, cdb: ArrayOutCdb, _data: Buffer, done: CommandDone
) -> None:
    action = ArrayOut(cdb.service_action)
    if action is ArrayOut.PAIR_RESYNC and cdb.flags == RESYNC_REVERSE | RESYNC_SWAP:
        raise InvalidFieldInCdb(FLAGS_END_FIELD, 1, "REVERSE and SWAP exclude each other")
    services.pair_command(asker, unit.naa, action, cdb.identifier, cdb.flags, done)


def _acquire(
    services: ArrayServices, asker: Nexus, _unit: LogicalUnit, cdb: ArrayOutCdb, data: Buffer, done: CommandDone
) -> None:
    if cdb.identifier == 0:
        raise InvalidFieldInCdb(IDENTIFIER_FIELD, message="an acquisition's id is not 0")
    _refuse_reserved(data, codec.ACQUIRE_USAGE)
    parameters = codec.decode_acquire(data)
    if parameters.blocks == 0:
        raise InvalidFieldInParameterList(BLOCKS_FIELD, message="no blocks")
    services.acquire(asker, cdb.identifier, parameters, immediate=bool(cdb.flags & IMMEDIATE), done=done)


def _end_acquisition(
    services: ArrayServices, asker: Nexus, _unit: LogicalUnit, cdb: ArrayOutCdb, _data: Buffer, done: CommandDone
) -> None:
    services.end_acquisition(asker, cdb.identifier, done)


def _refuse_reserved(data: Buffer, usage: bytes) -> None:
    place = codec.first_reserved_bit(data, usage)
    if place is not None:
        raise InvalidFieldInParameterList(*place, message="reserved bit")


# --- Rows -------------------------------------------------------------------------------------------------------------


def _services(unit: LogicalUnit) -> ArrayServices:
    services = unit.array_services
    assert services is not None, "the rows are available only with services"
    return services


def _has_services(unit: LogicalUnit, _asker: Nexus) -> bool:
    return unit.array_services is not None


def _has_array_control(unit: LogicalUnit, asker: Nexus) -> bool:
    return unit.array_services is not None and asker.array_control


def _row_in(
    action: ArrayIn,
    run: Callable[[LogicalUnit, Task, tuple[int, ...]], None],
    *,
    identifier: bool = False,
    offset: bool = False,
) -> Command:
    return Command(
        action.name.replace("_", " "),
        usage=f"c0 {action:02x} {_all_or_none(identifier)} {_all_or_none(offset)} ffffffff 00 04",
        decode=codec.decode_array_in,
        run=run,
        direction=Direction.TO_INITIATOR,
        allow=Allow.ANYWHERE,
        spec=f"annex vendor-specific SCSI commands, ARRAY IN {action:02X}h",
        service_action=True,
        available=_has_services,
    )


def _row_out(action: ArrayOut, order: Order, *, identifier: bool = True) -> Command:
    return Command(
        action.name.replace("_", " "),
        usage=f"c1 {action:02x} {_all_or_none(identifier)} {DEFINED_FLAGS[action]:08x} ffffffff 00 04",
        decode=codec.decode_array_out,
        run=partial(handle_order, order),
        direction=Direction.FROM_INITIATOR if PARAMETER_BYTES[action] else Direction.NONE,
        allow=Allow.NOWHERE,
        spec=f"annex vendor-specific SCSI commands, ARRAY OUT {action:02X}h",
        service_action=True,
        available=_has_array_control,
    )


def _all_or_none(used: bool) -> str:
    return "ffffffff" if used else "00000000"


ROWS: tuple[Command, ...] = (
    _row_in(ArrayIn.REPORT_CAPABILITIES, partial(handle_report, _capabilities)),
    _row_in(ArrayIn.REPORT_VIRTUAL_DEVICES, partial(handle_report, _virtual_devices)),
    _row_in(ArrayIn.REPORT_REGIONS, partial(handle_report, _regions), identifier=True),
    _row_in(ArrayIn.REPORT_PAIRS, partial(handle_report, _pairs), identifier=True),
    _row_in(ArrayIn.REPORT_ACQUISITIONS, partial(handle_report, _acquisitions)),
    _row_in(ArrayIn.TRANSFER_ACQUIRED_DATA, handle_transfer, identifier=True, offset=True),
    _row_out(ArrayOut.PAIR_CREATE, _pair_create, identifier=False),
    _row_out(ArrayOut.PAIR_SPLIT, _pair_command),
    _row_out(ArrayOut.PAIR_RESYNC, _pair_command),
    _row_out(ArrayOut.PAIR_DELETE, _pair_command),
    _row_out(ArrayOut.PAIR_TAKEOVER, _pair_command),
    _row_out(ArrayOut.PAIR_VERIFY, _pair_command),
    _row_out(ArrayOut.ACQUIRE_EXTERNAL_DATA, _acquire),
    _row_out(ArrayOut.END_ACQUISITION, _end_acquisition),
)
