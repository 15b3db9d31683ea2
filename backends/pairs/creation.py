"""Forms a pair, wholly or not at all.

How this works. Everything is checked; a number is used up and the pair's files are written; the fences are taken;
everything is checked again, since a host may have done something meanwhile; both LUs are drained; the index lists the
pair, which is the moment from which a restart finds it; then the LUs sit on the pair, and are let go. Any step that
fails undoes those before it, so that nothing is left: no pair, no reservation, no file. What a crash leaves behind is
not listed, and goes at the next start.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Protocol

from backends.external.unit import ExternalLogicalUnit
from backends.pairs.dirty_map import DirtyMap
from backends.pairs.intent_log import IntentLog
from backends.pairs.intent_sectors import IntentLayout
from backends.pairs.pair import Pair, PairParts
from backends.pairs.store import IndexEntry, PairRecord, PairStore, log_name
from backends.pairs.unit_directory import Unit
from backends.workers import Workers
from scsi.array_commands import FenceLevel, PairCreate, PairState
from scsi.errors import InternalTargetFailure, PairFenceRefused, PairSideNotReady, ScsiError, SecondaryInUse
from scsi.volume import Fault, VolumeError

IDENTITY_BYTES = 16
_AWAY = frozenset({Fault.BECOMING_READY, Fault.BLOCKED, Fault.LINK_LOST, Fault.TIMED_OUT})

_log = logging.getLogger(__name__)


class CreationBook(Protocol):
    """The book that a new pair is put into."""

    def build(self, parts: PairParts) -> Pair:
        """Make the pair's object; it serves nothing yet."""

    def admit(self, pair: Pair) -> None:
        """Put the LUs on the pair, tell the hosts, and start it."""


class PairCreation:
    """One CREATE on its way."""

    def __init__(
        self,
        book: CreationBook,
        store: PairStore,
        workers: Workers,
        units: tuple[Unit, Unit],
        parameters: PairCreate,
        check: Callable[[], object],
        done: Callable[[ScsiError | None], None],
    ) -> None:
        """Prepare.

        Args:
            book: takes the pair.
            store: keeps it.
            workers: for what blocks.
            units: the primary and the secondary.
            parameters: of the command.
            check: raises the refusal if the pair may not be formed any more.
            done: called once, at the end.
        """
        self._book = book
        self._store = store
        self._workers = workers
        self._units = units
        self._parameters = parameters
        self._check = check
        self._done = done
        self._number = 0
        self._pair: Pair | None = None

    def start(self) -> None:
        self._workers.submit(self._write_files, self._written)

    def _write_files(self) -> PairParts:
        """On a worker thread."""
        primary, secondary = self._units
        parameters = self._parameters
        device = primary.virtual_device
        self._number = self._store.take_number()
        record = PairRecord(
            number=self._number,
            identity=os.urandom(IDENTITY_BYTES).hex(),
            naas=(primary.logical_unit.naa.hex(), secondary.logical_unit.naa.hex()),
            blocks=device.blocks,
            block_bytes=device.block_bytes,
            label=parameters.label,
            fence_level=FenceLevel(parameters.fence_level),
            pace_mib_s=parameters.pace_mib_s,
            state=PairState.PAIR if parameters.nocopy else PairState.COPY,
        )
        dirty = DirtyMap(record.blocks, record.block_bytes)
        size = IntentLayout(dirty.extents).file_bytes
        file = self._store.directory.create(log_name(self._number), size)
        log = IntentLog(file, bytes.fromhex(record.identity), dirty, self._workers)
        if parameters.nocopy:
            log.format_clean()
        else:
            dirty.set_all()
        return PairParts(record, self._store.create_record(record), dirty, log)

    def _written(self, result: PairParts | Exception) -> None:
        if isinstance(result, Exception):
            self._undo(InternalTargetFailure(f"the pair's files could not be written: {result}"))
            return
        self._pair = self._book.build(result)
        self._pair.fences.take(self._fenced)

    def _fenced(self, unit: ExternalLogicalUnit | None, error: VolumeError | None) -> None:
        if error is not None:
            self._undo(self._fence_refusal(unit, error))
            return
        primary, secondary = self._units
        primary.logical_unit.drain(lambda: secondary.logical_unit.drain(self._drained))

    def _drained(self) -> None:
        assert self._pair is not None
        if self._refused():
            self._resume()
            return
        record = self._pair.record
        self._workers.submit(lambda: self._store.list_pair(IndexEntry(record.number, record.naas)), self._listed)

    def _listed(self, result: Exception | None) -> None:
        assert self._pair is not None
        if result is None:
            record = self._pair.record
            _log.info("pair %d: formed of %s and %s", record.number, *record.naas, extra={"event": "pair_formed"})
            self._book.admit(self._pair)
            self._done(None)
            self._resume()
        else:
            self._resume()
            self._undo(InternalTargetFailure(f"the pair could not be stored: {result}"))

    def _resume(self) -> None:
        for unit in self._units:
            unit.logical_unit.resume()

    def _refused(self) -> bool:
        try:
            self._check()
        except ScsiError as error:
            self._undo(error)
            return True
        return False

    def _fence_refusal(self, unit: ExternalLogicalUnit | None, error: VolumeError) -> ScsiError:
        assert self._pair is not None
        if error.fault in _AWAY:
            return PairSideNotReady(str(error))
        if error.fault is Fault.RESERVATION_CONFLICT and unit in self._pair.fences.units[1]:
            return SecondaryInUse(f"reserved at the array: {error}")
        return PairFenceRefused(str(error))

    def _undo(self, error: ScsiError) -> None:
        pair = self._pair
        _log.warning("forming a pair failed: %s", error, extra={"event": "pair_forming_failed"})
        if pair is None:
            self._remove(error)
        else:
            pair.mirror.dissolve()
            pair.close()
            pair.log.close_file()
            pair.fences.drop(lambda: self._remove(error))

    def _remove(self, error: ScsiError) -> None:
        number = self._number

        def remove() -> None:
            if number:
                self._store.remove_files(number)

        self._workers.submit(remove, lambda _result: self._done(error))
