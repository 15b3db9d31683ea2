"""Builds a pair from what is stored of it, or says why it can not be what it was.

A pair comes back after a restart whatever is missing. A leg without its virtual device is blocked; marks that are
damaged count as dirty; of a pair whose record is lost nothing is served, because nobody can say which leg has the
newer data (I5).
"""

from __future__ import annotations

import errno
import logging
from typing import NoReturn

from backends.pairs.dirty_map import DirtyMap
from backends.pairs.fences import FenceService
from backends.pairs.intent_log import IntentLog
from backends.pairs.intent_sectors import IntentLayout
from backends.pairs.mirror import Mirror
from backends.pairs.pair import Pair, PairListener, PairOptions, PairParts
from backends.pairs.range_order import RangeOrder
from backends.pairs.slot_file import DamagedError
from backends.pairs.store import IndexEntry, PairRecord, PairStore, log_name
from backends.pairs.unit_directory import UnitDirectory
from backends.pairs.volumes import AbsentVolume
from backends.scheduler import Scheduler
from backends.workers import Workers
from scsi.array_commands import FenceLevel, PairState
from scsi.volume import Volume

RECORD_DAMAGED = "the pair's record is damaged: which leg is newer is not known; delete the pair"

_log = logging.getLogger(__name__)


class PairBuilder:
    """Builds pairs of the LUs of one daemon."""

    def __init__(
        self,
        scheduler: Scheduler,
        workers: Workers,
        fences: FenceService,
        units: UnitDirectory,
        options: PairOptions,
        listener: PairListener,
    ) -> None:
        self._scheduler = scheduler
        self._workers = workers
        self._fences = fences
        self._units = units
        self._options = options
        self._listener = listener

    def build(self, parts: PairParts) -> Pair:
        """Make the object of a pair; it serves nothing yet."""
        record = parts.record
        units = [self._units.unit(bytes.fromhex(naa)) for naa in record.naas]
        legs: list[Volume] = []
        for unit, naa in zip(units, record.naas, strict=True):
            if parts.slot is None:
                legs.append(AbsentVolume(record.blocks, record.block_bytes, RECORD_DAMAGED))
            elif unit is None:
                _log.error(
                    "pair %d: there is no LU %s; the pair is kept, and that leg is blocked",
                    record.number,
                    naa,
                    extra={"event": "pair_unit_missing"},
                )
                legs.append(AbsentVolume(record.blocks, record.block_bytes, f"there is no LU {naa}"))
            else:
                legs.append(unit.virtual_device)
        mirror = Mirror(legs, parts.dirty, parts.log, RangeOrder(record.block_bytes))
        return Pair(parts, mirror, units, self._fences, self._scheduler, self._workers, self._options, self._listener)

    def bring_back(self, store: PairStore, entry: IndexEntry, step: PairRecord | None) -> Pair:
        """Build a pair as the store has it, or as a `step` of its group that its own record does not have yet."""
        try:
            slot, record = store.open_record(entry.number, step)
        except DamagedError as error:
            _log.error(
                "pair %d: %s; nothing of it is served until it is deleted",
                entry.number,
                error,
                extra={"event": "pair_damaged"},
            )
            return self._bring_back_damaged(entry)
        dirty = DirtyMap(record.blocks, record.block_bytes)
        log = self._open_log(store, record, dirty)
        pair = self.build(PairParts(record, slot, dirty, log))
        _log.info(
            "pair %d is back: %s, %d blocks out of sync",
            record.number,
            record.state.name,
            dirty.dirty_blocks(),
            extra={"event": "pair_back"},
        )
        return pair

    def _open_log(self, store: PairStore, record: PairRecord, dirty: DirtyMap) -> IntentLog:
        identity = bytes.fromhex(record.identity)
        name = log_name(record.number)
        try:
            log = IntentLog(store.directory.open(name), identity, dirty, self._workers)
            damaged = log.load()
        except OSError as error:
            _log.error(
                "pair %d: %s can not be used (%s); all is dirty",
                record.number,
                name,
                error,
                extra={"event": "pair_marks_unusable"},
            )
            dirty.set_all()
            file = store.directory.create(name, IntentLayout(dirty.extents).file_bytes)
            return IntentLog(file, identity, dirty, self._workers)
        if damaged and record.state is not PairState.COPY:  # in COPY most of the marks were never written
            _log.error(
                "pair %d: %d sectors of %s are damaged; they count as dirty",
                record.number,
                damaged,
                name,
                extra={"event": "pair_marks_damaged"},
            )
        return log

    def _bring_back_damaged(self, entry: IndexEntry) -> Pair:
        units = [self._units.unit(bytes.fromhex(naa)) for naa in entry.naas]
        device = next((unit.virtual_device for unit in units if unit is not None), None)
        record = PairRecord(
            number=entry.number,
            identity="",
            naas=entry.naas,
            blocks=(device.blocks if device else 0) or 1,
            block_bytes=device.block_bytes if device else 512,
            label="",
            fence_level=FenceLevel.NEVER,
            pace_mib_s=0,
            state=PairState.PSUE,
        )
        dirty = DirtyMap(record.blocks, record.block_bytes)
        dirty.set_all()
        return self.build(PairParts(record, None, dirty, IntentLog(_NoFile(), bytes(16), dirty, self._workers)))


class _NoFile:
    """The marks of a pair that is not served."""

    def read(self, offset: int, length: int) -> bytes:
        del offset, length
        return b""

    def write(self, offset: int, data: bytes) -> NoReturn:
        del offset, data
        raise OSError(errno.EIO, "the pair's record is damaged")

    def sync(self) -> NoReturn:
        raise OSError(errno.EIO, "the pair's record is damaged")

    def size(self) -> int:
        return 0

    def close(self) -> None:
        """There is nothing to close."""
