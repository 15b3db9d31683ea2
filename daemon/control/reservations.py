"""The persistent reservations of a virtual device: shown, and taken away where the hosts that hold them are gone."""

from __future__ import annotations

import logging

import msgspec

from config.errors import NotSavedError
from daemon.callbacks import answered
from daemon.control.authorization import Right
from daemon.control.errors import UnknownError
from daemon.control.route import Asked, Control, Nothing, Route
from scsi import registrations
from scsi.logical_unit import LogicalUnit
from scsi.registrations import ALL_PORTS

_log = logging.getLogger(__name__)


class RegistrationRow(msgspec.Struct):
    """A registered host: its initiator port, the target port (None: all), its key, and whether it holds."""

    host: str
    target_port: str | None
    key: str
    holder: bool


class ReservationsRow(msgspec.Struct):
    """What hosts have reserved; `type` None: nothing. `kept`: across restarts. `reserved_by`: the host with RESERVE."""

    type: str | None
    kept: bool
    generation: int
    registrations: list[RegistrationRow]
    reserved_by: str | None


async def _show(control: Control, asked: Asked) -> ReservationsRow:
    unit = _unit(control, asked.names["name"])
    table, holder = unit.persistent_reservations.table, unit.reservations.holder
    return ReservationsRow(
        None if table.type is None else table.type.name.lower(),
        table.kept,
        unit.persistent_reservations.generation,
        [
            RegistrationRow(
                pair.initiator_port,
                None if pair.target_port == ALL_PORTS else pair.target_port,
                f"0x{registration.key:016x}",
                table.holds(pair),
            )
            for pair, registration in table.registrations.items()
        ],
        None if holder is None else holder.initiator_port,
    )


async def _clear(control: Control, asked: Asked) -> Nothing:
    name = asked.names["name"]
    reservations = _unit(control, name).persistent_reservations
    gone = 0

    def clear(table: registrations.Table) -> registrations.Outcome:
        nonlocal gone
        gone = len(table.registrations)
        return registrations.clear_all(table)

    error = await answered(
        lambda done: reservations.act(clear, lambda outcome: done(outcome if isinstance(outcome, Exception) else None))
    )
    if error is not None:
        raise NotSavedError(f"virtual device {name!r}", f"keeps its persistent reservations: {error}")
    if gone:
        _log.warning(
            "virtual device %s: an admin has cleared its persistent reservations; registrations that are gone: %d",
            name,
            gone,
            extra={"event": "reservations_cleared"},
        )
    return Nothing()


def _unit(control: Control, name: str) -> LogicalUnit:
    unit = control.daemon.assembly.units.by_name().get(name)
    if unit is None:
        raise UnknownError(f"/vdevs/{name}", "there is no such virtual device")
    return unit


RESERVATIONS = (
    Route("GET", "/v1/vdevs/{name}/reservations", Right.READ, "See who has a virtual device reserved",
          ReservationsRow, _show),
    Route("DELETE", "/v1/vdevs/{name}/reservations", Right.CHANGE, "Clear its persistent reservations", Nothing,
          _clear),
)  # fmt: skip
