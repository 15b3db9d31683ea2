"""RESERVE and RELEASE of SPC-2: one I_T nexus has a logical unit for itself.

The rules of who may do what meanwhile stand in the `allow` column of the command table; this module says only who holds
the reservation. It goes with RELEASE, with the loss of the nexus, and with every reset.

Spec: SPC-2 "Reservations", "RESERVE(10) command", "RELEASE(10) command".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from scsi.commands import Allow, Command, Direction, decode_nothing
from scsi.errors import ReservationConflict
from scsi.nexus import Nexus
from scsi.tasks import Task

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit


class Reservations:
    """The reservation on one logical unit.

    Attributes:
        holder: the nexus that holds it, or None.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        """Start without a reservation.

        Args:
            changed: called after each change of `holder`.
        """
        self.holder: Nexus | None = None
        self._changed = changed

    def conflicts(self, nexus: Nexus, allow: Allow) -> bool:
        """Tell whether a command of this nexus gets RESERVATION CONFLICT."""
        return self.holder is not None and self.holder is not nexus and allow is not Allow.ANYWHERE

    def reserve(self, nexus: Nexus) -> None:
        """Take the reservation; again by its holder changes nothing.

        Raises:
            ReservationConflict: another nexus holds it.
        """
        if self.holder is not None and self.holder is not nexus:
            raise ReservationConflict
        self._set(nexus)

    def release(self, nexus: Nexus) -> None:
        """Give the reservation up; of a nexus that does not hold it, nothing happens and that is no error."""
        if self.holder is nexus:
            self._set(None)

    def clear(self) -> None:
        """Drop the reservation, whoever holds it: a reset."""
        self._set(None)

    def _set(self, holder: Nexus | None) -> None:
        if self.holder is not holder:
            self.holder = holder
            self._changed()


def _is_persistent(unit: LogicalUnit, task: Task) -> bool:
    """Tell whether the sender has by a persistent reservation what it asks for, and nothing is to be done.

    Raises:
        ReservationConflict: there are persistent registrations, and it has not.

    Spec: SPC-4 5.12.3 "Exceptions to SPC-2 RESERVE and RELEASE behavior" (CRH).
    """
    persistent = unit.persistent_reservations
    if not persistent.table.registrations:
        return False
    if not persistent.admits(task.session.nexus):
        raise ReservationConflict
    return True


def handle_reserve(unit: LogicalUnit, task: Task, _fields: tuple[()]) -> None:
    """RESERVE (6) and (10), of the whole logical unit for the sender."""
    if _is_persistent(unit, task):
        unit.finish(task)
        return
    unit.reservations.reserve(task.session.nexus)
    unit.finish(task)


def handle_release(unit: LogicalUnit, task: Task, _fields: tuple[()]) -> None:
    """RELEASE (6) and (10)."""
    if _is_persistent(unit, task):
        unit.finish(task)
        return
    unit.reservations.release(task.session.nexus)
    unit.finish(task)


# Third-party reservations (3RDPTY, LONGID) and extents are obsolete since SPC-3 and refused as reserved bits; the
# reservation identification, the third party's id and the parameter list length mean nothing without them.
ROWS: Final[tuple[Command, ...]] = (
    Command(
        "RESERVE (6)",
        usage="16 00 00 00 00 04",
        decode=decode_nothing,
        run=handle_reserve,
        direction=Direction.NONE,
        allow=Allow.NOWHERE,
        spec="SPC-2 RESERVE(6) command",
        ignored="00 00 ff ff ff",
    ),
    Command(
        "RELEASE (6)",
        usage="17 00 00 00 00 04",
        decode=decode_nothing,
        run=handle_release,
        direction=Direction.NONE,
        allow=Allow.ANYWHERE,
        spec="SPC-2 RELEASE(6) command",
        ignored="00 00 ff",
    ),
    Command(
        "RESERVE (10)",
        usage="56 00 00 00 00 00 00 0000 04",
        decode=decode_nothing,
        run=handle_reserve,
        direction=Direction.NONE,
        allow=Allow.NOWHERE,
        spec="SPC-2 RESERVE(10) command",
        ignored="00 00 ff ff 00 00 00 ffff",
    ),
    Command(
        "RELEASE (10)",
        usage="57 00 00 00 00 00 00 0000 04",
        decode=decode_nothing,
        run=handle_release,
        direction=Direction.NONE,
        allow=Allow.ANYWHERE,
        spec="SPC-2 RELEASE(10) command",
        ignored="00 00 ff ff 00 00 00 ffff",
    ),
)
