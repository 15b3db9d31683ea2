"""What the array's refusals mean, in words, and what a host can do about each.

The words of each sense code are `scsi.sense`'s; the remedies are here, because they speak of annexhost's own commands.

Spec: annex vendor-specific SCSI commands, "Refusals".
"""

from __future__ import annotations

from config.host.errors import Refused
from config.host.scsi_device import BUSY, CHECK_CONDITION, RESERVATION_CONFLICT, TASK_SET_FULL, CommandFailed
from scsi.sense import NO_SENSE, Sense, decode_sense, describe_sense

# (sense key, ASC, ASCQ) → what to do about it
REMEDIES: dict[tuple[int, int, int], str] = {
    (
        0x5,
        0x20,
        0x00,
    ): "Array commands are for hosts whose ACL has array_control; check --initiator.",
    (0x5, 0x21, 0x00): "See its size with `annexhost vdevs`.",
    (0x5, 0x25, 0x00): "See the LUNs with `annexhost vdevs`.",
    (0x7, 0x27, 0x00): "CREATE, RESYNC and TAKEOVER need both mapped read-write.",
    (0x5, 0x80, 0x01): "See `annexhost pair display`; delete that pair first.",
    (0x5, 0x80, 0x02): "Both need the same number of blocks; see `annexhost vdevs`.",
    (0x5, 0x80, 0x03): "See `annexhost vdevs`.",
    (0x5, 0x80, 0x04): "Choose a secondary on other regions, and one external LU under one name only.",
    (0x5, 0x80, 0x05): "Have that host release its reservation, or the admin take away its read-write mapping.",
    (0x2, 0x80, 0x06): "See `annexhost vdevs` and `annexhost regions`; try again when it is ready.",
    (0xB, 0x80, 0x07): "Another host holds a reservation there; have it released, then try again.",
    (0x5, 0x80, 0x08): "See `annexhost pair display`.",
    (0x5, 0x80, 0x09): "See its state with `annexhost pair display`.",
    (0x4, 0x80, 0x0A): "See `annexhost pair display`; RESYNC once both sides are ready.",
    (0x5, 0x80, 0x0B): "Delete one; the limit is in `annexhost capabilities`.",
    (0x5, 0x81, 0x01): "See the list with `annexhost vdevs`.",
    (0x5, 0x81, 0x03): "Only the host that acquired the data gets it; acquire it yourself.",
    (0x5, 0x81, 0x04): "It may have ended: all handed over, lifetime over, or the host's last session gone.",
    (0x5, 0x81, 0x05): "Ask for fewer blocks or end another acquisition; the limits are in `annexhost capabilities`.",
    (0xB, 0x81, 0x06): "Another host holds a reservation there; have it released, then acquire again.",
    (0x2, 0x81, 0x07): "Try again shortly.",
    (0x5, 0x81, 0x08): "Choose another --id, or end the old one.",
    (0x5, 0x81, 0x09): "See `annexhost regions`.",
    (0x2, 0x04, 0x01): "The path to the external array is being made; try again shortly.",
    (0x2, 0x04, 0x03): "The storage admin has to look at it.",
}

# status → what it means, and what to do about it
STATUSES: dict[int, tuple[str, str]] = {
    BUSY: ("BUSY", "Try again shortly."),
    RESERVATION_CONFLICT: (
        "RESERVATION CONFLICT: another host holds a reservation on the logical unit",
        "Have it released first.",
    ),
    TASK_SET_FULL: ("TASK SET FULL", "Try again shortly."),
}


def sense_of(failed: CommandFailed) -> Sense:
    """Read a failed command's sense data; NO_SENSE when there is none, or it can not be read."""
    if failed.status != CHECK_CONDITION:
        return NO_SENSE
    try:
        return decode_sense(failed.sense)
    except ValueError:
        return NO_SENSE


def refusal(failed: CommandFailed) -> Refused:
    """Put a command's failure in words."""
    if failed.status != CHECK_CONDITION:
        problem, remedy = STATUSES.get(failed.status, (f"status {failed.status:02X}h", ""))
        return Refused(f"the array refused: {problem}", failed.status, None, remedy)
    sense = sense_of(failed)
    if sense is NO_SENSE:
        return Refused("the array refused, and its sense data can not be read", failed.status)
    code = (sense.key, sense.asc, sense.ascq)
    problem = f"the array refused: {describe_sense(*code)}{_place(sense)}"
    return Refused(problem, failed.status, code, REMEDIES.get(code, ""))


def _place(sense: Sense) -> str:
    if sense.field is None:
        return ""
    part = "CDB" if sense.field.in_cdb else "parameter list"
    bit = "" if sense.field.bit is None else f", bit {sense.field.bit}"
    return f" (byte {sense.field.offset}{bit} of the {part})"
