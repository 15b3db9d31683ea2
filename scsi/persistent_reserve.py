"""PERSISTENT RESERVE IN and OUT: what hosts ask of persistent reservations, and how that becomes stable.

A service action is worked out on the table in force (`scsi.registrations`). Where it is to survive a loss of power
(APTPL), the next table is saved first; only then it is in force, others are told, and the host gets its answer. Actions
come one after the other: one that is being saved holds up those behind it, and no other command.

Spec: SPC-4 6.15 "PERSISTENT RESERVE IN command", 6.16 "PERSISTENT RESERVE OUT command", 7.6.4 "TransportID
identifiers".
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from scsi import registrations, unit_attention
from scsi.commands import Allow, Command, Direction
from scsi.errors import (
    InternalTargetFailure,
    InvalidFieldInInformationUnit,
    InvalidFieldInParameterList,
    ParameterListLengthError,
    ReservationConflict,
    ScsiError,
    StatusError,
)
from scsi.inquiry import relative_target_port
from scsi.nexus import Nexus
from scsi.registrations import ALL_PORTS, EMPTY, Outcome, PortPair, Request, ServiceAction, Table
from scsi.saved_parameters import NOT_KEPT, SavedParameters
from scsi.tasks import Task
from scsi.transport_ids import TransportIds, encode_transport_id

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

KIND: Final = "persistent_reservations"  # of what is saved

_LIST = struct.Struct(">QQ4xB3x")
_MOVE_LIST = struct.Struct(">QQxBHI")
_LENGTH = struct.Struct(">I")
_SPEC_I_PT, _ALL_TG_PT, _APTPL = 0x08, 0x04, 0x01
_UNREG = 0x02

_HEADER = struct.Struct(">II")
_FULL_STATUS = struct.Struct(">Q4xBB4xHI")
_R_HOLDER, _FULL_ALL_TG_PT = 0x01, 0x02
_TYPE_MASK = b"\xea\x01"  # every one of the six
_CRH_SIP_ATP_PTPL = 0x10 | 0x08 | 0x04 | 0x01
_TMV_ALLOW, _PTPL_ACTIVE = 0x80 | 0x10, 0x01  # TEST UNIT READY is allowed under any type


class PersistentReservations:
    """The persistent reservations of one logical unit.

    Attributes:
        table: who is registered, and who holds what.
        generation: PRGENERATION, since the daemon started.
    """

    def __init__(self, unit: LogicalUnit, saved: SavedParameters = NOT_KEPT) -> None:
        """Take up what was saved.

        Raises:
            ValueError: that is none of ours.
        """
        self._unit = unit
        self._saved = saved
        self._actions: deque[tuple[Callable[[Table], Outcome], Callable[[Outcome | Exception], None]]] = deque()
        self._busy = False
        self.generation = 0
        document = saved.get(KIND)
        self.table = EMPTY if document is None else registrations.from_document(document)

    @property
    def held(self) -> bool:
        """Whether there is a reservation, and commands have to be looked at for it."""
        return self.table.type is not None

    @property
    def can_be_kept(self) -> bool:
        """Whether APTPL can be honoured (PTPL_C)."""
        return self._saved.kept

    def conflicts(self, nexus: Nexus, allow: Allow) -> bool:
        """Tell whether a command of a nexus gets RESERVATION CONFLICT."""
        return self.table.type is not None and self.table.conflicts(pair_of(nexus), allow)

    def admits(self, nexus: Nexus) -> bool:
        """Tell whether a nexus holds the reservation, or shares what its holder may do."""
        table = self.table
        registered = table.find(pair_of(nexus))
        return registered is not None and (table.holds(registered) or table.type in registrations.SHARED)

    def act(self, action: Callable[[Table], Outcome], done: Callable[[Outcome | Exception], None]) -> None:
        """Put what an action makes of the table in force, and on stable storage where it is to be kept.

        Args:
            action: gives the outcome, or raises ScsiError or StatusError.
            done: called once with the outcome or the error, possibly before this returns.
        """
        self._actions.append((action, done))
        self._go_on()

    def _go_on(self) -> None:
        while self._actions and not self._busy:
            action, done = self._actions.popleft()
            try:
                outcome = action(self.table)
            except (ScsiError, StatusError) as error:
                done(error)
                continue
            if outcome.table == self.table or not (outcome.table.kept or self.table.kept):
                self._put_in_force(outcome)
                done(outcome)
                continue
            self._busy = True
            document = registrations.to_document(outcome.table) if outcome.table.kept else None
            self._saved.save(KIND, document, partial(self._stable, outcome, done))

    def _stable(self, outcome: Outcome, done: Callable[[Outcome | Exception], None], problem: str) -> None:
        self._busy = False
        if problem:
            done(InternalTargetFailure(problem))
        else:
            self._put_in_force(outcome)
            done(outcome)
        self._go_on()

    def _put_in_force(self, outcome: Outcome) -> None:
        # Before the table: who is told may be registered no more, and be found by its old name only.
        told = [(nexus, outcome.attentions.get(pair)) for nexus, pair in self._known(outcome.attentions)]
        self.table = outcome.table
        if outcome.counts:
            self.generation = (self.generation + 1) & 0xFFFFFFFF
        self._unit.refresh()
        for nexus, code in told:
            if code is not None:
                unit_attention.establish(nexus, self._unit, *code)

    def _known(self, pairs: Iterable[PortPair]) -> Iterator[tuple[Nexus, PortPair]]:
        """Give the nexuses that there are now by these names."""
        wanted = set(pairs)
        if wanted:
            for nexus in self._unit.nexuses:
                own = pair_of(nexus)
                for pair in (own, own._replace(target_port=ALL_PORTS)):
                    if pair in wanted:
                        yield nexus, pair

    def nexuses_of(self, pairs: Iterable[PortPair]) -> set[Nexus]:
        """Give the nexuses that there are now by these names."""
        return {nexus for nexus, _ in self._known(pairs)}


def pair_of(nexus: Nexus) -> PortPair:
    """Name an I_T nexus as registrations do."""
    return PortPair(nexus.initiator_port, nexus.target_port)


# --- PERSISTENT RESERVE OUT -------------------------------------------------------------------------------------------


def _decode_out(cdb: bytes) -> tuple[int, int]:
    return cdb[2], int.from_bytes(cdb[5:9], "big")


def _parameters(task: Task, length: int) -> bytes:
    data = bytes(task.data_out[:length])
    if len(data) < length:
        raise InvalidFieldInInformationUnit(f"{len(data)} bytes of a parameter list of {length}")
    return data


def _request(unit: LogicalUnit, task: Task, fields: tuple[int, int]) -> Request:
    """Read the parameter list of every service action but REGISTER AND MOVE."""
    scope_and_type, length = fields
    if length < _LIST.size:
        raise ParameterListLengthError(f"{length} bytes")
    data = _parameters(task, length)
    key, action_key, flags = _LIST.unpack_from(data)
    nexus: Nexus = task.session.nexus
    request = Request(pair_of(nexus), relative_target_port(nexus), scope_and_type, key, action_key)
    if not flags & _SPEC_I_PT and length != _LIST.size:
        raise ParameterListLengthError(f"{length} bytes without SPEC_I_PT")
    if task.cdb[1] & 0x1F not in {_REGISTER, _REGISTER_AND_IGNORE}:
        if flags & _SPEC_I_PT:
            raise InvalidFieldInParameterList(20, 3, "SPEC_I_PT")
        return request
    if flags & _APTPL and not unit.persistent_reservations.can_be_kept:
        raise InvalidFieldInParameterList(20, 0, "APTPL")
    others: tuple[PortPair, ...] | None = None
    if flags & _SPEC_I_PT:
        ids = data[_LIST.size :]
        if len(ids) < 4 or _LENGTH.unpack_from(ids)[0] != len(ids) - 4:
            raise ParameterListLengthError(f"{length} bytes with SPEC_I_PT")
        names = TransportIds(ids[4:], _LIST.size + 4).initiator_ports(unit.nexuses)
        pairs = dict.fromkeys(PortPair(name, nexus.target_port) for name in names)
        others = tuple(pair for pair in pairs if pair != request.nexus)
    return request._replace(kept=bool(flags & _APTPL), all_ports=bool(flags & _ALL_TG_PT), others=others)


def _move_request(unit: LogicalUnit, task: Task, fields: tuple[int, int]) -> Request:
    """Read the parameter list of REGISTER AND MOVE."""
    scope_and_type, length = fields
    if length < _MOVE_LIST.size:
        raise ParameterListLengthError(f"{length} bytes")
    data = _parameters(task, length)
    key, action_key, flags, port_number, id_bytes = _MOVE_LIST.unpack_from(data)
    if id_bytes != length - _MOVE_LIST.size:
        raise ParameterListLengthError(f"{length} bytes, and a TransportID of {id_bytes}")
    if flags & _APTPL and not unit.persistent_reservations.can_be_kept:
        raise InvalidFieldInParameterList(17, 0, "APTPL")
    nexus: Nexus = task.session.nexus
    tag = nexus.port_group.groups.tag_of(port_number)
    if tag is None:
        raise InvalidFieldInParameterList(18, None, f"no target port {port_number}")
    ports = list(TransportIds(data[_MOVE_LIST.size :], _MOVE_LIST.size).initiator_ports(unit.nexuses))
    if len(ports) != 1:
        raise InvalidFieldInParameterList(_MOVE_LIST.size, None, f"{len(ports)} initiator ports")
    return Request(
        pair_of(nexus),
        relative_target_port(nexus),
        scope_and_type,
        key,
        action_key,
        kept=bool(flags & _APTPL),
        moved_to=(PortPair(ports[0], nexus.target_port_of(tag)), port_number),
        leaves=bool(flags & _UNREG),
    )


_REGISTER, _RESERVE, _RELEASE, _CLEAR, _PREEMPT, _PREEMPT_AND_ABORT = range(6)
_REGISTER_AND_IGNORE, _REGISTER_AND_MOVE, _REPLACE_LOST = 6, 7, 8


class _Action(NamedTuple):
    """One service action of PERSISTENT RESERVE OUT."""

    name: str
    code: int
    work: ServiceAction
    decode: Callable[[LogicalUnit, Task, tuple[int, int]], Request] = _request
    aborts: bool = False
    looks_at_type: int = 0x00  # what of byte 2 of the CDB it looks at


_ACTIONS = (
    _Action("REGISTER", _REGISTER, registrations.register),
    _Action("RESERVE", _RESERVE, registrations.reserve, looks_at_type=0xFF),
    _Action("RELEASE", _RELEASE, registrations.release, looks_at_type=0xFF),
    _Action("CLEAR", _CLEAR, registrations.clear),
    _Action("PREEMPT", _PREEMPT, registrations.preempt, looks_at_type=0xFF),
    _Action("PREEMPT AND ABORT", _PREEMPT_AND_ABORT, registrations.preempt, aborts=True, looks_at_type=0xFF),
    _Action("REGISTER AND IGNORE EXISTING KEY", _REGISTER_AND_IGNORE, registrations.register_and_ignore),
    _Action("REGISTER AND MOVE", _REGISTER_AND_MOVE, registrations.register_and_move, decode=_move_request),
    _Action("REPLACE LOST RESERVATION", _REPLACE_LOST, registrations.replace_lost, looks_at_type=0xFF),
)


def _handle_out(action: _Action, unit: LogicalUnit, task: Task, fields: tuple[int, int]) -> None:
    _, length = fields
    if unit.reservations.holder is not None:
        raise ReservationConflict  # RESERVE and persistent reservations exclude each other
    try:
        request = action.decode(unit, task, fields)
    except ScsiError as error:
        unit.fail(task, error, length)
        return
    reservations = unit.persistent_reservations

    def done(outcome: Outcome | Exception) -> None:
        if isinstance(outcome, ScsiError | StatusError):
            unit.fail(task, outcome, length)
            return
        assert isinstance(outcome, Outcome)
        if action.aborts and outcome.aborted:
            gone = aborted
            unit.abort(lambda other: other is not task and other.session.nexus in gone)
        unit.finish(task, data_out_used=length)

    aborted: set[Nexus] = set()

    def work(table: Table) -> Outcome:
        outcome = action.work(table, request)
        aborted.update(reservations.nexuses_of(outcome.aborted))
        return outcome

    reservations.act(work, done)


# --- PERSISTENT RESERVE IN --------------------------------------------------------------------------------------------


def _decode_in(cdb: bytes) -> tuple[int]:
    return (int.from_bytes(cdb[7:9], "big"),)


def handle_read_keys(unit: LogicalUnit, task: Task, fields: tuple[int]) -> None:
    """READ KEYS."""
    keys = b"".join(
        registration.key.to_bytes(8, "big")
        for registration in unit.persistent_reservations.table.registrations.values()
    )
    _answer(unit, task, keys, fields)


def handle_read_reservation(unit: LogicalUnit, task: Task, fields: tuple[int]) -> None:
    """READ RESERVATION; of one that all registrants hold the key is 0."""
    table = unit.persistent_reservations.table
    data = b""
    if table.type is not None:
        key = 0 if table.holder is None else table.registrations[table.holder].key
        data = struct.pack(">Q5xB2x", key, table.type)
    _answer(unit, task, data, fields)


def handle_read_full_status(unit: LogicalUnit, task: Task, fields: tuple[int]) -> None:
    """READ FULL STATUS: every registration with the initiator port that has it."""
    table = unit.persistent_reservations.table
    data = b""
    for pair, registration in table.registrations.items():
        holds, everywhere = table.holds(pair), pair.target_port == ALL_PORTS
        transport_id = encode_transport_id(pair.initiator_port)
        data += _FULL_STATUS.pack(
            registration.key,
            (_R_HOLDER if holds else 0) | (_FULL_ALL_TG_PT if everywhere else 0),
            table.type if holds and table.type is not None else 0,
            0 if everywhere else registration.relative_target_port,
            len(transport_id),
        )
        data += transport_id
    _answer(unit, task, data, fields)


def handle_report_capabilities(unit: LogicalUnit, task: Task, fields: tuple[int]) -> None:
    """REPORT CAPABILITIES."""
    reservations = unit.persistent_reservations
    can = _CRH_SIP_ATP_PTPL if reservations.can_be_kept else _CRH_SIP_ATP_PTPL & ~_APTPL
    does = _TMV_ALLOW | (_PTPL_ACTIVE if reservations.table.kept else 0)
    data = struct.pack(">HBB2s2x", 8, can, does, _TYPE_MASK)
    unit.finish(task, data[: fields[0]])


def _answer(unit: LogicalUnit, task: Task, data: bytes, fields: tuple[int]) -> None:
    header = _HEADER.pack(unit.persistent_reservations.generation, len(data))
    unit.finish(task, (header + data)[: fields[0]])


def _out_row(action: _Action) -> Command:
    return Command(
        f"PERSISTENT RESERVE OUT ({action.name})",
        usage=f"5f {action.code:02x} {action.looks_at_type:02x} 0000 ffffffff 04",
        decode=_decode_out,
        run=partial(_handle_out, action),
        direction=Direction.FROM_INITIATOR,
        allow=Allow.PERSISTENT,
        spec=f"SPC-4 PERSISTENT RESERVE OUT command, {action.name}",
        service_action=True,
        # Which of it counts depends on the service action; hosts fill in scope and type wherever there is room.
        ignored="00 00 ff",
    )


def _in_row(name: str, code: int, run: Callable[[LogicalUnit, Task, tuple[int]], None]) -> Command:
    return Command(
        f"PERSISTENT RESERVE IN ({name})",
        usage=f"5e {code:02x} 0000000000 ffff 04",
        decode=_decode_in,
        run=run,
        direction=Direction.TO_INITIATOR,
        allow=Allow.PERSISTENT,
        spec=f"SPC-4 PERSISTENT RESERVE IN command, {name}",
        service_action=True,
    )


ROWS: tuple[Command, ...] = (
    _in_row("READ KEYS", 0, handle_read_keys),
    _in_row("READ RESERVATION", 1, handle_read_reservation),
    _in_row("REPORT CAPABILITIES", 2, handle_report_capabilities),
    _in_row("READ FULL STATUS", 3, handle_read_full_status),
    *map(_out_row, _ACTIONS),
)
