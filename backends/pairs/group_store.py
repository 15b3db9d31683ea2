"""What is remembered of groups across restarts: their names and pairs, and the steps that change several pairs at once.

How this works. All of it is one record in one file (`backends.pairs.slot_file`), so that any change of it is there
after a crash, or is not. A step that changes several pairs, such as a split, first puts the new records of all of them
here; that is the moment from which it is done. Then each pair's own record follows. What a crash leaves behind is made
up for at the next start: a pair whose own record has an older `group_step` than the one here gets the one here. So a
step is found on all of its pairs or on none (I7).

The file is made when there is the first group, and stays.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import Any, NamedTuple

from backends.pairs.slot_file import DamagedError, SlotFile
from backends.pairs.stable_file import StableDirectory
from backends.pairs.store import PairRecord

FILE = "groups.index"
SLOT_BYTES = 128 << 10  # 64 groups, and 64 pairs with their records

_log = logging.getLogger(__name__)


class PairGroup(NamedTuple):
    """A group.

    Attributes:
        name: of the group.
        pairs: numbers, in order.
        together: when one pair of it loses its secondary by an error, all of them stop.
    """

    name: str
    pairs: tuple[int, ...]
    together: bool


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """All that is stored.

    Attributes:
        last_step: number of the newest step, so that none is used twice.
        groups: all of them.
        changed: the newest records that steps gave to pairs whose own record may be older.
    """

    last_step: int
    groups: tuple[PairGroup, ...]
    changed: tuple[PairRecord, ...]

    def encode(self) -> dict[str, Any]:
        return {
            "last_step": self.last_step,
            "groups": [[group.name, list(group.pairs), group.together] for group in self.groups],
            "changed": [record.encode() for record in self.changed],
        }

    @classmethod
    def decode(cls, payload: dict[str, Any]) -> GroupRecord:
        """Build it from a payload; raises DamagedError when it does not make sense."""
        try:
            groups = tuple(
                PairGroup(str(name), tuple(int(pair) for pair in pairs), bool(together))
                for name, pairs, together in payload["groups"]
            )
            changed = tuple(PairRecord.decode(record) for record in payload["changed"])
            return cls(int(payload["last_step"]), groups, changed)
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedError(f"the record makes no sense: {error}") from error

    def log_not_stored(self, error: Exception) -> None:
        _log.error("groups: their state could not be stored: %s", error, extra={"event": "groups_not_stored"})


class GroupFile:
    """The file, which is made when something is stored in it; blocks."""

    def __init__(self, directory: StableDirectory) -> None:
        self._directory = directory
        self._slot: SlotFile | None = None

    def load(self) -> GroupRecord:
        """Read what is stored; what is damaged is told, and is as if there were no groups: each pair is well by itself.

        Raises:
            OSError: the file can not be read.
        """
        nothing = GroupRecord(0, (), ())
        if FILE not in self._directory.names():
            return nothing
        slot = SlotFile(self._directory.open(FILE), SLOT_BYTES)
        try:
            record = GroupRecord.decode(slot.load())
        except DamagedError as error:
            _log.error("groups: %s: %s; there are none now", FILE, error, extra={"event": "groups_damaged"})
            slot.close()
            return nothing
        self._slot = slot
        if slot.uneven:
            with contextlib.suppress(OSError):  # one good slot is enough; the next change writes both
                slot.store(record.encode())
        return record

    def store(self, payload: dict[str, Any]) -> None:
        """Make a payload stable; raises OSError."""
        if self._slot is None:
            self._slot = SlotFile(self._directory.create(FILE, 2 * SLOT_BYTES), SLOT_BYTES)
        self._slot.store(payload)

    def close(self) -> None:
        if self._slot is not None:
            self._slot.close()
