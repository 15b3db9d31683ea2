"""What is remembered of pairs across restarts: an index of all pairs, and one record for each.

The index keeps the next pair number, so that none is used twice, and which two LUs each pair has; a pair is formed
when the index lists it, and gone when it does not. The record has the rest: state, roles, the current leg, what the
host chose. Should both copies of a record be damaged, the index still tells which LUs the pair had, and it is never
silently forgotten.

The functions here block (see `backends.pairs.stable_file`).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from backends.pairs.pacing import LEAST_PACE_MIB_S
from backends.pairs.slot_file import SLOT_BYTES, DamagedError, SlotFile
from backends.pairs.stable_file import StableDirectory
from scsi.array_commands import FenceLevel, PairState

INDEX = "pairs.index"
INDEX_SLOT_BYTES = 64 << 10
LAST_ERROR_BYTES = 240

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PairRecord:
    """What is stored of one pair.

    Attributes:
        number: of the pair, never used again for another.
        identity: 16 random bytes as hex; the intent log's pages carry them.
        naas: hex ids of the two LUs: leg 0 was the primary at creation, leg 1 the secondary.
        blocks: size of each, in blocks of `block_bytes`.
        label: as the host gave it.
        pace_mib_s: limit for copying, 0 for none.
        state: of the pair, never SMPL.
        primary: leg (0 or 1) whose LU is the primary.
        current: leg that the primary's host reads, and the source of a copy.
        secondary_writable: SPLIT asked for it.
        unverified: a fence lapsed, and the legs were not compared since (I10).
        failed_flushes: bit set of legs with a failed flush that no copy has made up for (I8).
        secondary_old: the secondary was taken over without the latest writes.
        least_pace_mib_s: so fast a copy goes at least, while hosts are busy.
        group_step: number of the newest step of a group that this record has in it, 0 for none.
        moment: number of the step by which the secondary's data is of one moment with that of others, 0 for none.
        last_error: what had gone wrong last when the record was stored, as `error_to_store` gives it.
    """

    number: int
    identity: str
    naas: tuple[str, str]
    blocks: int
    block_bytes: int
    label: str
    fence_level: FenceLevel
    pace_mib_s: int
    state: PairState
    primary: int = 0
    current: int = 0
    secondary_writable: bool = False
    unverified: bool = False
    secondary_old: bool = False
    failed_flushes: int = 0
    least_pace_mib_s: int = LEAST_PACE_MIB_S
    group_step: int = 0
    moment: int = 0
    last_error: str = ""

    def encode(self) -> dict[str, Any]:
        return asdict(self)

    def log_not_stored(self, error: Exception) -> None:
        _log.error("pair %d: its state could not be stored: %s", self.number, error, extra={"event": "pair_not_stored"})

    @classmethod
    def decode(cls, payload: dict[str, Any]) -> PairRecord:
        """Build a record from its payload; raises DamagedError when it does not make sense."""
        try:
            payload = payload | {
                "naas": tuple(payload["naas"]),
                "state": PairState(payload["state"]),
                "fence_level": FenceLevel(payload["fence_level"]),
            }
            record = cls(**payload)
            if record.primary not in (0, 1) or record.current not in (0, 1) or len(record.naas) != 2:
                raise ValueError("a leg is 0 or 1")
            if not isinstance(record.last_error, str):
                raise TypeError("the last error is not text")
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedError(f"the record makes no sense: {error}") from error
        return record


class IndexEntry(NamedTuple):
    """One pair in the index: enough to know which LUs it had when its record is lost."""

    number: int
    naas: tuple[str, str]


def error_to_store(words: str) -> str:
    """Give what went wrong in so few bytes that 64 records, each with such words, fit into the slot of a step."""
    return words.encode("ascii", "replace")[:LAST_ERROR_BYTES].decode("ascii")


def record_name(number: int) -> str:
    """Name the file of a pair's record."""
    return f"pair-{number:06}.state"


def log_name(number: int) -> str:
    """Name the file of a pair's intent log."""
    return f"pair-{number:06}.marks"


class PairStore:
    """The index and the records.

    Attributes:
        next_number: the number that the next pair gets.
        entries: pairs by number.
    """

    def __init__(self, directory: StableDirectory) -> None:
        self.directory = directory
        self.next_number = 1
        self.entries: dict[int, IndexEntry] = {}
        self._index: SlotFile | None = None

    def load(self) -> None:
        """Read the index, making it if there is none, and remove files of pairs that never came to be.

        Raises:
            DamagedError: the index can not be read though pairs were stored; nothing is changed.
            OSError: a file can not be read or written.
        """
        names = self.directory.names()
        if INDEX not in names:
            if any(name.endswith(".state") for name in names):
                raise DamagedError(f"{INDEX} is missing, though there are pairs")
            self._index = SlotFile(self.directory.create(INDEX, 2 * INDEX_SLOT_BYTES), INDEX_SLOT_BYTES)
            self._index.store(self._encode())
            return
        self._index = SlotFile(self.directory.open(INDEX), INDEX_SLOT_BYTES)
        try:
            payload = self._index.load()
        except DamagedError:
            if any(name.endswith(".state") for name in names):
                raise DamagedError(f"both copies of {INDEX} are damaged") from None
            payload = self._encode()  # the very first start ended half-way
        self.next_number = payload["next_number"]
        self.entries = {number: IndexEntry(number, (a, b)) for number, a, b in payload["pairs"]}
        if self._index.uneven:
            self._index.store(self._encode())
        listed = {name for number in self.entries for name in (record_name(number), log_name(number))}
        for name in names:
            if name.endswith((".state", ".marks")) and name not in listed:
                self.directory.remove(name)

    def take_number(self) -> int:
        """Use up a pair number, stably; raises OSError."""
        number = self.next_number
        self.next_number += 1
        self._store_index()
        return number

    def list_pair(self, entry: IndexEntry) -> None:
        """Form the pair: from here on a restart finds it. Raises OSError, and then it is not formed."""
        self.entries[entry.number] = entry
        try:
            self._store_index()
        except OSError:
            del self.entries[entry.number]
            raise

    def unlist_pairs(self, numbers: Iterable[int]) -> None:
        """End pairs, all at once: from here on a restart finds none. Raises OSError, and then none is ended."""
        entries = [self.entries.pop(number) for number in numbers]
        try:
            self._store_index()
        except OSError:
            self.entries |= {entry.number: entry for entry in entries}
            raise

    def remove_files(self, number: int) -> None:
        """Remove the files of a pair that is not listed; what is left over goes at the next start."""
        # Listing it may have failed half-way, with one slot written: a restart must not find it there.
        with contextlib.suppress(OSError):
            self._store_index()
        for name in (record_name(number), log_name(number)):
            with contextlib.suppress(OSError):
                self.directory.remove(name)

    def create_record(self, record: PairRecord) -> SlotFile:
        """Make the file of a record and store it; raises OSError."""
        file = SlotFile(self.directory.create(record_name(record.number), 2 * SLOT_BYTES))
        file.store(record.encode())
        return file

    def open_record(self, number: int, step: PairRecord | None = None) -> tuple[SlotFile, PairRecord]:
        """Open a pair's record.

        Args:
            number: of the pair.
            step: the record that a step of a group has given it; what is stored may be the one before that.

        Raises:
            DamagedError: it is missing, or both of its slots are damaged.
        """
        try:
            file = SlotFile(self.directory.open(record_name(number)))
            record = PairRecord.decode(file.load())
        except OSError as error:
            raise DamagedError(f"{record_name(number)}: {error.strerror}") from error
        if record.number != number:
            raise DamagedError(f"{record_name(number)} is the record of pair {record.number}")
        behind = step is not None and step.identity == record.identity and step.group_step > record.group_step
        if step is not None and behind:
            record = step
        if file.uneven or behind:
            with contextlib.suppress(OSError):  # one good slot is enough; the next change writes both
                file.store(record.encode())
        return file, record

    def close(self) -> None:
        if self._index is not None:
            self._index.close()

    def _store_index(self) -> None:
        assert self._index is not None
        self._index.store(self._encode())

    def _encode(self) -> dict[str, Any]:
        return {"next_number": self.next_number, "pairs": [[e.number, *e.naas] for e in self.entries.values()]}


def distrust_records(directory: Path) -> int:
    """Remove all records, and tell how many there were: they are from a backup, and which leg is newer is not known.

    Pairs whose record is gone are still listed, and come back blocked until they are deleted. Raises OSError.
    """
    records = list(directory.glob(record_name(0).replace("0" * 6, "*")))
    for record in records:
        record.unlink()
    return len(records)
