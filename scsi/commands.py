"""What a command is to a logical unit: one row of a table, which everything that asks about opcodes reads.

Dispatch, the check of reserved bits, reservation rules, ordering against aborted writes and REPORT SUPPORTED OPERATION
CODES all come from the row. Each module of commands lists its rows as `ROWS`; `scsi.command_set` puts them together.

How a CDB is checked: the bits that the usage map has are the command's to look at; those of `ignored` mean nothing
here and are let pass, because a standard has made them obsolete or a hint; any other bit that is set is refused with a
field pointer to it. Hosts that set what a target does not do (RDPROTECT, for one) learn of it this way.

Spec: SPC-6 "REPORT SUPPORTED OPERATION CODES command"; SAM-6 "Command descriptor block (CDB)".
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from scsi.errors import InvalidFieldInCdb, InvalidOperationCode
from scsi.nexus import Nexus
from scsi.tasks import Task

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

CDB_BYTES: Final = 16
SERVICE_ACTION_MASK: Final = 0x1F

# CDB length by the group code, bits 7-5 of the opcode. 3 (7Fh) has its length in the CDB, 6 and 7 are vendor specific.
CDB_LENGTHS: Final = {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}

# The opcode of CDBs of variable length: CONTROL is byte 1, byte 7 tells how many bytes follow it, and the service
# action has 16 bits.
VARIABLE_LENGTH: Final = 0x7F
_ADDITIONAL_LENGTH_OFFSET: Final = 7

# CONTROL: bits 7-6 are the vendor's (annex gives them no meaning), bits 1-0 obsolete (LINK and FLAG).
CONTROL_IGNORED: Final = 0xC3
NACA: Final = 0x04

Decode = Callable[[bytes], tuple[Any, ...]]
Run = Callable[["LogicalUnit", Task, tuple[Any, ...]], None]


class Allow(enum.Enum):
    """Where a command may run although another nexus holds a reservation.

    Spec: SPC-6 "Commands that are allowed in the presence of various reservations", and for RESERVE the same in SPC-2.
    """

    ANYWHERE = "under any reservation"
    PERSISTENT = "under any persistent reservation, not under RESERVE"
    WRITE_EXCLUSIVE = "under a persistent reservation that excludes writers only"
    NOWHERE = "under no reservation of another"


class Direction(enum.Enum):
    """Which way a command's data goes."""

    NONE = "no data"
    TO_INITIATOR = "data-in"
    FROM_INITIATOR = "data-out"


class Medium(enum.Enum):
    """What a command has the volume do.

    Rows that READ or WRITE blocks decode to `(flags, lba, blocks, …)`, so that overlaps can be found.
    """

    NONE = "nothing"
    READ = "read blocks"
    WRITE = "write blocks"
    FLUSH = "flush"


@dataclass(frozen=True, eq=False)
class Command:
    """One opcode, or one service action of an opcode.

    Attributes:
        name: as the standard has it.
        usage: CDB usage map in hexadecimal: the opcode (and service action) itself, then 1-bits where annex looks.
        decode: CDB → what `run` needs; raises nothing for a CDB that passed the check.
        run: carries the command out. It ends the task with `LogicalUnit.finish` or `.fail`, now or later, or raises
            ScsiError or StatusError before it has handed the task on.
        direction: which way its data goes.
        allow: the reservation rule.
        spec: clause, with title.
        service_action: the usage map's byte 1 has a service action in bits 4-0; of a CDB of variable length, bytes 8
            and 9 have.
        ignored: like `usage`, bits that may be set and mean nothing; CONTROL's are always among them.
        medium: what it has the volume do.
        exclusive: while it runs, no other command of the unit reads or writes any of its blocks.
        attention: False: runs although a unit attention is pending, and does not report it.
        while_sanitized: may run while the unit is sanitized, or after a sanitize that failed.
        available: tells whether the unit has the command for a nexus; None: always.
        timeout_s: recommended time-out, seconds; 0 when none is recommended.
        opcode, cdb_bytes, usage_map: from `usage`.
        reserved: the bits of a 16-byte CDB, or of a longer one, that must be zero, as a big-endian number.
    """

    name: str
    usage: str
    decode: Decode
    run: Run
    direction: Direction
    allow: Allow
    spec: str
    service_action: bool = False
    ignored: str = ""
    medium: Medium = Medium.NONE
    exclusive: bool = False
    attention: bool = True
    while_sanitized: bool = False
    available: Callable[[LogicalUnit, Nexus], bool] | None = None
    timeout_s: int = 0

    opcode: int = field(init=False)
    cdb_bytes: int = field(init=False)
    usage_map: bytes = field(init=False)
    reserved: int = field(init=False)

    def __post_init__(self) -> None:
        usage = bytes.fromhex(self.usage)
        expected = CDB_LENGTHS.get(usage[0] >> 5)
        assert expected in {None, len(usage)}, f"{self.name}: {len(usage)} bytes of usage map"
        derive = object.__setattr__  # the instance is frozen
        derive(self, "opcode", usage[0])
        derive(self, "cdb_bytes", len(usage))
        derive(self, "usage_map", usage)
        looked_at = bytearray(usage)
        looked_at[0] = 0xFF
        control = len(usage) - 1
        if usage[0] == VARIABLE_LENGTH:
            assert usage[_ADDITIONAL_LENGTH_OFFSET] == len(usage) - _ADDITIONAL_LENGTH_OFFSET - 1, self.name
            control = 1
            looked_at[_ADDITIONAL_LENGTH_OFFSET:10] = b"\xff\xff\xff"
        elif self.service_action:
            looked_at[1] |= SERVICE_ACTION_MASK
        # NACA stands in the map, being looked at: only to refuse it, as no logical unit of annex has ACA.
        looked_at[control] = (looked_at[control] | CONTROL_IGNORED) & ~NACA
        for offset, bits in enumerate(bytes.fromhex(self.ignored)):
            looked_at[offset] |= bits
        reserved = bytes(~bits & 0xFF for bits in looked_at)
        derive(self, "reserved", int.from_bytes(reserved.ljust(CDB_BYTES, b"\0"), "big"))

    @property
    def key(self) -> tuple[int, int]:
        """Opcode and service action, 0 where there are none."""
        return self.opcode, service_action_of(self.usage_map) if self.service_action else 0

    def refuse_reserved(self, cdb: bytes) -> None:
        """Raise InvalidFieldInCdb with a pointer to the first bit of a CDB that is set though reserved."""
        length = max(CDB_BYTES, self.cdb_bytes)
        wrong = int.from_bytes(cdb[:length], "big") & self.reserved
        if wrong:
            place = wrong.bit_length() - 1
            raise InvalidFieldInCdb(length - 1 - place // 8, place % 8, f"{self.name}: reserved bit in {cdb.hex()}")

    def refuse_other_length(self, cdb: bytes) -> None:
        """Raise InvalidFieldInCdb for a CDB of variable length that has not the length of this command.

        CDBs of fixed length are always whole: the transport carries 16 bytes, whatever the command makes of them.
        """
        if self.opcode == VARIABLE_LENGTH:
            expected = self.usage_map[_ADDITIONAL_LENGTH_OFFSET]
            if cdb[_ADDITIONAL_LENGTH_OFFSET] != expected or len(cdb) != self.cdb_bytes:
                raise InvalidFieldInCdb(_ADDITIONAL_LENGTH_OFFSET, None, f"{self.name}: {len(cdb)} bytes of CDB")


class CommandTable:
    """The commands of a kind of logical unit.

    Attributes:
        rows: all of them, by opcode and service action.
        plain: by opcode: the row of a command that has no service actions, is there for every host, and may run beside
            any other, else None.
    """

    def __init__(self, *modules: Sequence[Command]) -> None:
        """Put rows together.

        Args:
            modules: the `ROWS` of each module.
        """
        rows = sorted((row for module in modules for row in module), key=lambda row: row.key)
        self.rows: Sequence[Command] = rows
        self._by_opcode: dict[int, dict[int, Command]] = {}
        self.plain: list[Command | None] = [None] * 256
        for row in rows:
            actions = self._by_opcode.setdefault(row.opcode, {})
            assert row.key[1] not in actions, f"{row.name}: listed twice"
            assert all(other.service_action == row.service_action for other in actions.values()), row.name
            actions[row.key[1]] = row
            if not row.service_action and row.available is None and not row.exclusive:
                self.plain[row.opcode] = row

    def visible(self, unit: LogicalUnit, nexus: Nexus) -> Iterable[Command]:
        """List the commands that a unit has for a nexus."""
        return [row for row in self.rows if row.available is None or row.available(unit, nexus)]

    def of_opcode(self, opcode: int, unit: LogicalUnit, nexus: Nexus) -> dict[int, Command]:
        """Give the rows of an opcode by service action, those that a unit has for a nexus; empty when it has none."""
        return {
            action: row
            for action, row in self._by_opcode.get(opcode, {}).items()
            if row.available is None or row.available(unit, nexus)
        }

    def find(self, cdb: bytes, unit: LogicalUnit, nexus: Nexus) -> Command:
        """Find the row of a CDB.

        Raises:
            InvalidOperationCode: the unit does not have the opcode for this nexus.
            InvalidFieldInCdb: the opcode has service actions, and not this one; or the CDB has another length.
        """
        row = self.plain[cdb[0]]
        if row is not None:
            return row
        actions = self.of_opcode(cdb[0], unit, nexus)
        if not actions:
            raise InvalidOperationCode(f"opcode {cdb[0]:02X}h")
        action = service_action_of(cdb) if next(iter(actions.values())).service_action else 0
        row = actions.get(action)
        if row is None:
            why = f"opcode {cdb[0]:02X}h, service action {action:02X}h"
            raise InvalidFieldInCdb(8, None, why) if cdb[0] == VARIABLE_LENGTH else InvalidFieldInCdb(1, 4, why)
        row.refuse_other_length(cdb)
        return row


def service_action_of(cdb: bytes) -> int:
    """Give the service action of a CDB whose opcode has them."""
    return cdb[8] << 8 | cdb[9] if cdb[0] == VARIABLE_LENGTH else cdb[1] & SERVICE_ACTION_MASK


def decode_nothing(_cdb: bytes) -> tuple[Any, ...]:
    """Decode a CDB in which there is nothing to look at."""
    return ()
