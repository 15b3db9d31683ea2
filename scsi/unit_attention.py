"""Unit attentions: what happened to a logical unit that a nexus has not heard of yet.

They queue per nexus and logical unit, in `Nexus.attentions`, which is empty while there are none: the fast path asks
only that. Each is reported once, in place of the next command's own result; some commands pass them by
(`Command.attention`). An error of an earlier command that had its status already (a deferred error) waits in the same
queue.

Spec: SAM-6 "Unit attention conditions"; SPC-6 "REPORT LUNS command".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scsi.errors import ScsiError, UnitAttention
from scsi.nexus import Nexus
from scsi.status import SenseKey

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

POWER_ON_OR_RESET = 0x29, 0x00
DEVICE_RESET = 0x29, 0x03
MODE_PARAMETERS_CHANGED = 0x2A, 0x01
LOG_PARAMETERS_CHANGED = 0x2A, 0x02
ACCESS_STATE_CHANGED = 0x2A, 0x06
CAPACITY_CHANGED = 0x2A, 0x09
COMMANDS_CLEARED = 0x2F, 0x00
INQUIRY_DATA_CHANGED = 0x3F, 0x03
DEVICE_IDENTIFIER_CHANGED = 0x3F, 0x05
REPORTED_LUNS_CHANGED = 0x3F, 0x0E

_RESET_ASC = 0x29


def establish(nexus: Nexus, unit: LogicalUnit, asc: int, ascq: int) -> None:
    """Make a unit attention pending; one that is pending already is not queued twice."""
    queue = nexus.attentions.setdefault(unit, [])
    code = (asc, ascq)
    if any((pending.asc, pending.ascq) == code and not pending.deferred for pending in queue):
        return
    attention = UnitAttention(asc, ascq)
    if asc != _RESET_ASC:
        queue.append(attention)
        return
    # Resets come first, and the least specific (29/00) says all that the others say.
    if any(_is_reset(pending) and pending.ascq < ascq for pending in queue):
        return
    queue[:] = [attention, *(pending for pending in queue if not _is_reset(pending))]


def defer(nexus: Nexus, unit: LogicalUnit, error: ScsiError) -> None:
    """Report an error of a command that had GOOD already with the next command of its nexus.

    Spec: SPC-6 "Deferred errors".
    """
    error.deferred = True
    nexus.attentions.setdefault(unit, []).append(error)


def take(nexus: Nexus, unit: LogicalUnit, *, resets_only: bool = False) -> ScsiError | None:
    """Remove what is to be reported next, or with `resets_only` only if it is a reset (ASC 29h)."""
    queue = nexus.attentions.get(unit)
    if not queue or (resets_only and not _is_reset(queue[0])):
        return None
    error = queue.pop(0)
    if not queue:
        del nexus.attentions[unit]
    return error


def forget(nexus: Nexus, unit: LogicalUnit) -> None:
    """Drop all that is pending: the nexus does not see the unit any more."""
    nexus.attentions.pop(unit, None)


def forget_reported_luns_changed(nexus: Nexus) -> None:
    """Drop REPORTED LUNS DATA HAS CHANGED on every unit: the host has just read the list."""
    for unit, queue in list(nexus.attentions.items()):
        queue[:] = [pending for pending in queue if (pending.asc, pending.ascq) != REPORTED_LUNS_CHANGED]
        if not queue:
            del nexus.attentions[unit]


def _is_reset(error: ScsiError) -> bool:
    return error.asc == _RESET_ASC and error.key == SenseKey.UNIT_ATTENTION
