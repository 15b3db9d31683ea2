"""Persistent reservations as a value: who is registered, who holds what, and what each service action makes of it.

Everything here is pure: a `Table` is never changed, and a service action gives the next one with what is to be told to
whom (`Outcome`). `scsi.persistent_reserve` makes that stable, puts it in force and answers.

Spec: SPC-4 5.12 "Reservations", 6.16 "PERSISTENT RESERVE OUT command".
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from scsi.commands import Allow
from scsi.errors import (
    InsufficientRegistrationResources,
    InvalidFieldInCdb,
    InvalidFieldInParameterList,
    InvalidReleaseOfReservation,
    ReservationConflict,
)

MOST_REGISTRATIONS: Final = 512
ALL_PORTS: Final = ""  # stands for every target port that the unit is seen through

RESERVATIONS_PREEMPTED = 0x2A, 0x03
RESERVATIONS_RELEASED = 0x2A, 0x04
REGISTRATIONS_PREEMPTED = 0x2A, 0x05


class Type(enum.IntEnum):
    """The types of persistent reservations."""

    WRITE_EXCLUSIVE = 1
    EXCLUSIVE_ACCESS = 3
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 5
    EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 6
    WRITE_EXCLUSIVE_ALL_REGISTRANTS = 7
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 8


_WRITE_EXCLUSIVE = frozenset(
    {Type.WRITE_EXCLUSIVE, Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY, Type.WRITE_EXCLUSIVE_ALL_REGISTRANTS}
)
_ALL_REGISTRANTS = frozenset({Type.WRITE_EXCLUSIVE_ALL_REGISTRANTS, Type.EXCLUSIVE_ACCESS_ALL_REGISTRANTS})
SHARED = frozenset(Type) - {Type.WRITE_EXCLUSIVE, Type.EXCLUSIVE_ACCESS}  # with the registered


class PortPair(NamedTuple):
    """An I_T nexus by name, which outlives its sessions.

    Attributes:
        initiator_port: as `Nexus.initiator_port`.
        target_port: name of the target port, or ALL_PORTS.
    """

    initiator_port: str
    target_port: str


class Registration(NamedTuple):
    """One registered I_T nexus.

    Attributes:
        key: its reservation key, not 0.
        relative_target_port: number of its target port; means nothing with ALL_PORTS.
    """

    key: int
    relative_target_port: int


class Table(NamedTuple):
    """All that there is of persistent reservations on one logical unit.

    Attributes:
        registrations: by I_T nexus.
        type: of the reservation, None when there is none.
        holder: who holds it; None when there is none, or all who are registered do.
        kept: it survives a loss of power (APTPL).
    """

    registrations: Mapping[PortPair, Registration] = {}
    type: Type | None = None
    holder: PortPair | None = None
    kept: bool = False

    def find(self, nexus: PortPair) -> PortPair | None:
        """Give the name by which a nexus is registered: its own, or one for all target ports."""
        if nexus in self.registrations:
            return nexus
        every = nexus._replace(target_port=ALL_PORTS)
        return every if every in self.registrations else None

    def holds(self, registered: PortPair | None) -> bool:
        """Tell whether someone registered holds the reservation."""
        if self.type is None or registered is None:
            return False
        return self.type in _ALL_REGISTRANTS or self.holder == registered

    def conflicts(self, nexus: PortPair, allow: Allow) -> bool:
        """Tell whether a command of a nexus gets RESERVATION CONFLICT.

        Spec: SPC-4 table "Commands that are allowed in the presence of various reservations".
        """
        if self.type is None or allow in _ALWAYS:
            return False
        if allow is Allow.WRITE_EXCLUSIVE and self.type in _WRITE_EXCLUSIVE:
            return False
        registered = self.find(nexus)
        if registered is None:
            return True
        return self.type not in SHARED and self.holder != registered


_ALWAYS = frozenset({Allow.ANYWHERE, Allow.PERSISTENT})
EMPTY: Final = Table()


class Outcome(NamedTuple):
    """What a service action makes of a table.

    Attributes:
        table: the next one.
        counts: PRGENERATION goes up.
        attentions: who is told what, (ASC, ASCQ) by registration; those it names may be registered no more.
        aborted: whose tasks are aborted.
    """

    table: Table
    counts: bool = False
    attentions: Mapping[PortPair, tuple[int, int]] = {}
    aborted: frozenset[PortPair] = frozenset()


class Request(NamedTuple):
    """One PERSISTENT RESERVE OUT, decoded.

    Attributes:
        nexus: who sent it.
        relative_target_port: of its target port.
        scope_and_type: byte 2 of the CDB.
        key: RESERVATION KEY.
        action_key: SERVICE ACTION RESERVATION KEY.
        kept: APTPL.
        all_ports: ALL_TG_PT.
        others: of SPEC_I_PT, I_T nexuses to be registered too; None without it.
        moved_to: of REGISTER AND MOVE, the I_T nexus and the number of its target port.
        leaves: of REGISTER AND MOVE, UNREG.
    """

    nexus: PortPair
    relative_target_port: int
    scope_and_type: int
    key: int
    action_key: int
    kept: bool = False
    all_ports: bool = False
    others: tuple[PortPair, ...] | None = None
    moved_to: tuple[PortPair, int] | None = None
    leaves: bool = False

    @property
    def type(self) -> Type:
        """The type that the CDB names, of the logical unit as a whole.

        Raises:
            InvalidFieldInCdb: there is no such scope or type.
        """
        if self.scope_and_type >> 4:
            raise InvalidFieldInCdb(2, 7, f"scope {self.scope_and_type >> 4}")
        try:
            return Type(self.scope_and_type & 0x0F)
        except ValueError:
            raise InvalidFieldInCdb(2, 3, f"type {self.scope_and_type & 0x0F}") from None


def _registered(table: Table, request: Request) -> PortPair:
    """Give the sender's registration; its key must be the one it has.

    Raises:
        ReservationConflict: it is not registered, or by another key.
    """
    registered = table.find(request.nexus)
    if registered is None or table.registrations[registered].key != request.key:
        raise ReservationConflict
    return registered


def _without(table: Table, gone: Iterable[PortPair]) -> dict[PortPair, Registration]:
    out = set(gone)
    return {pair: registration for pair, registration in table.registrations.items() if pair not in out}


def _tell(pairs: Iterable[PortPair], code: tuple[int, int]) -> dict[PortPair, tuple[int, int]]:
    return dict.fromkeys(pairs, code)


def register(table: Table, request: Request) -> Outcome:
    """REGISTER."""
    registered = table.find(request.nexus)
    if request.key != (table.registrations[registered].key if registered else 0):
        raise ReservationConflict
    return _register(table, request, registered)


def register_and_ignore(table: Table, request: Request) -> Outcome:
    """REGISTER AND IGNORE EXISTING KEY."""
    if request.others is not None:
        raise InvalidFieldInParameterList(20, 3, "SPEC_I_PT")
    if request.all_ports and request.action_key:
        table = _widen(table, request.nexus)
    return _register(table, request, table.find(request.nexus))


def _widen(table: Table, nexus: PortPair) -> Table:
    """Let one registration for all target ports stand for those that an initiator port has, if it has any."""
    own = _by_any_port(table, nexus)
    if not own:
        return table
    every = nexus._replace(target_port=ALL_PORTS)
    registrations = _without(table, own) | {every: table.registrations[own[0]]}
    return table._replace(registrations=registrations, holder=every if table.holder in own else table.holder)


def _by_any_port(table: Table, nexus: PortPair) -> list[PortPair]:
    return [pair for pair in table.registrations if pair.initiator_port == nexus.initiator_port]


def _register(table: Table, request: Request, registered: PortPair | None) -> Outcome:
    if registered is not None and request.others is not None:
        raise InvalidFieldInParameterList(20, 3, "SPEC_I_PT of one that is registered")
    if not request.action_key:
        # Of one that is not registered it does nothing: what is kept of the others is not its business.
        return Outcome(table) if registered is None else _unregister(table._replace(kept=request.kept), registered)
    registrations = dict(table.registrations)
    if registered is not None:
        old = registrations[registered]
        registrations[registered] = old._replace(key=request.action_key)
    else:
        for nexus in (request.nexus, *(request.others or ())):
            pair = nexus._replace(target_port=ALL_PORTS) if request.all_ports else nexus
            there = _by_any_port(table, nexus) if request.all_ports else table.find(nexus)
            if there:
                raise ReservationConflict
            registrations[pair] = Registration(request.action_key, request.relative_target_port)
    if len(registrations) > MOST_REGISTRATIONS:
        raise InsufficientRegistrationResources(f"{len(registrations)} of {MOST_REGISTRATIONS}")
    return Outcome(table._replace(registrations=registrations, kept=request.kept), counts=True)


def _unregister(table: Table, gone: PortPair) -> Outcome:
    held = table.holds(gone)
    left = table._replace(registrations=_without(table, [gone]))
    if not held or (table.type in _ALL_REGISTRANTS and left.registrations):
        return Outcome(left, counts=True)
    attentions = _tell(left.registrations, RESERVATIONS_RELEASED) if table.type in SHARED else {}
    return Outcome(left._replace(type=None, holder=None), counts=True, attentions=attentions)


def reserve(table: Table, request: Request) -> Outcome:
    """RESERVE."""
    registered, wanted = _registered(table, request), request.type
    if table.type is None:
        return Outcome(_reserved(table, wanted, registered))
    if not table.holds(registered) or table.type is not wanted:
        raise ReservationConflict
    return Outcome(table)


def _reserved(table: Table, wanted: Type, holder: PortPair) -> Table:
    return table._replace(type=wanted, holder=None if wanted in _ALL_REGISTRANTS else holder)


def release(table: Table, request: Request) -> Outcome:
    """RELEASE; of one that does not hold the reservation it does nothing, and is no error."""
    registered = _registered(table, request)
    if not table.holds(registered):
        return Outcome(table)
    if request.scope_and_type != table.type:
        raise InvalidReleaseOfReservation
    others = _without(table, [registered])
    attentions = _tell(others, RESERVATIONS_RELEASED) if table.type in SHARED else {}
    return Outcome(table._replace(type=None, holder=None), attentions=attentions)


def clear(table: Table, request: Request) -> Outcome:
    """CLEAR."""
    others = _without(table, [_registered(table, request)])
    return Outcome(Table(kept=table.kept), counts=True, attentions=_tell(others, RESERVATIONS_PREEMPTED))


def clear_all(table: Table) -> Outcome:
    """CLEAR as an admin does it, who is registered nowhere; nothing is kept from then on."""
    if not table.registrations:
        return Outcome(table)
    return Outcome(EMPTY, counts=True, attentions=_tell(table.registrations, RESERVATIONS_PREEMPTED))


def preempt(table: Table, request: Request) -> Outcome:
    """PREEMPT."""
    registered = _registered(table, request)
    wanted = request.action_key
    if not wanted and table.type not in _ALL_REGISTRANTS:
        raise InvalidFieldInParameterList(8, None, "no key")
    everyone = not wanted  # of those who hold the reservation together
    named = {
        pair
        for pair, registration in table.registrations.items()
        if everyone or registration.key == wanted
    }  # fmt: skip
    if not named:
        raise ReservationConflict
    gone = named - {registered}
    left = table._replace(registrations=_without(table, gone))
    if not (everyone or table.holder in named):
        # The sender's own registration goes too where its key is named and it takes nothing over.
        gone = named
        left = table._replace(registrations=_without(table, gone))
        if table.type in _ALL_REGISTRANTS and not left.registrations:
            left = left._replace(type=None)
        attentions = _tell(gone - {registered}, REGISTRATIONS_PREEMPTED)
        return Outcome(left, counts=True, attentions=attentions, aborted=frozenset(gone))
    attentions = _tell(gone, REGISTRATIONS_PREEMPTED)
    taken = request.type
    if table.type is not taken:
        attentions |= _tell(_without(left, [registered]), RESERVATIONS_RELEASED)
    return Outcome(_reserved(left, taken, registered), counts=True, attentions=attentions, aborted=frozenset(gone))


def register_and_move(table: Table, request: Request) -> Outcome:
    """REGISTER AND MOVE."""
    registered = _registered(table, request)
    assert request.moved_to is not None
    target, relative_target_port = request.moved_to
    if table.type is None or table.type in _ALL_REGISTRANTS or table.holder != registered:
        raise ReservationConflict
    if not request.action_key:
        raise InvalidFieldInParameterList(8, None, "no key")
    if table.find(target) == registered:
        raise InvalidFieldInParameterList(24, None, "to itself")
    registrations = dict(table.registrations)
    there = table.find(target) or target
    registrations[there] = Registration(request.action_key, relative_target_port)
    if request.leaves:
        del registrations[registered]
    if len(registrations) > MOST_REGISTRATIONS:
        raise InsufficientRegistrationResources(f"{len(registrations)} of {MOST_REGISTRATIONS}")
    return Outcome(table._replace(registrations=registrations, holder=there, kept=request.kept), counts=True)


def replace_lost(_table: Table, _request: Request) -> Outcome:
    """REPLACE LOST RESERVATION: nothing is ever lost, as annexd does not serve what it can not read."""
    raise InvalidFieldInCdb(1, 4, "no persistent reservation was lost")


ServiceAction = Callable[[Table, Request], Outcome]


# --- On stable storage ------------------------------------------------------------------------------------------------


def to_document(table: Table) -> dict[str, object]:
    """Give a table as JSON has it."""
    pairs = list(table.registrations)
    return {
        "registrations": [
            {
                "initiator_port": pair.initiator_port,
                "target_port": pair.target_port,
                "relative_target_port": registration.relative_target_port,
                "key": f"{registration.key:016x}",
            }
            for pair, registration in table.registrations.items()
        ],
        "type": table.type,
        "holder": None if table.holder is None else pairs.index(table.holder),
    }


def from_document(document: dict[str, object]) -> Table:
    """Give the table of a document.

    Raises:
        ValueError: it is not one that `to_document` made.
    """
    try:
        registrations: dict[PortPair, Registration] = {}
        rows = document["registrations"]
        assert isinstance(rows, list)
        for row in rows:
            pair = PortPair(str(row["initiator_port"]), str(row["target_port"]))
            registrations[pair] = Registration(int(row["key"], 16), int(row["relative_target_port"]))
        kind, holder = document["type"], document["holder"]
        return Table(
            registrations,
            None if kind is None else Type(kind),  # type: ignore[arg-type]  # raises for what is none
            None if holder is None else list(registrations)[holder],  # type: ignore[call-overload]  # the same
            kept=True,
        )
    except (AssertionError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"not a record of persistent reservations: {error!r}") from None
