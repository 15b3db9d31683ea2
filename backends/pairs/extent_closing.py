"""Closes extents of the intent log that nobody writes any more, so that a crash finds few of them open.

How this works. Every use of an extent stamps it, and stamps grow by the second and with every flush. What was not
used for `idle_s`, or was used longest ago when too many are open, is closed: after both legs were flushed, if nothing
is under way in it and it was not used since the flush began. While the pair is not mirrored nothing has to be
flushed, because what is written then is dirty in the map; but an extent whose last mirrored writes no flush confirmed
is left open, or closed as wholly dirty.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from backends.pairs.mirror import Mirror
from backends.pairs.mirror_flush import Flushes
from scsi.volume import VolumeError


class ExtentCloser:
    """Closes the extents of one mirror."""

    def __init__(self, mirror: Mirror, flushes: Flushes, *, most_open: int, idle_s: int) -> None:
        self._mirror = mirror
        self._flushes = flushes
        self._most_open = most_open
        self._stamps: deque[int] = deque(maxlen=idle_s)  # of the last seconds
        self._busy = False
        self._finished = False
        self._when_free: Callable[[], None] | None = None

    def tick(self) -> None:
        """Close what is idle; to be called every second."""
        if self._finished:
            return
        log = self._mirror.log
        idle = -1
        if len(self._stamps) == self._stamps.maxlen:
            idle = self._stamps[0]
        self._stamps.append(log.stamp)
        victims = [extent for extent, stamp in log.open.items() if stamp <= idle]
        excess = len(log.open) - self._most_open
        if excess > 0:
            # A quarter more, so that not every tick of a busy pair has to flush.
            oldest = sorted(log.open, key=log.open.__getitem__)[: excess + self._most_open // 4]
            victims = list({*victims, *oldest})
        if victims:
            self.close(victims, under_pressure=excess > 0)

    def pressed(self) -> bool:
        """Tell whether too many extents are open."""
        return len(self._mirror.log.open) > self._most_open

    def close(self, victims: list[int], *, under_pressure: bool = False) -> None:
        """Close extents, those of them that can be."""
        if not self._busy:
            self._close(victims, _nothing, under_pressure=under_pressure)

    def finish(self, done: Callable[[], None]) -> None:
        """Close all that can be closed, for the last time; call back when the log knows which these are."""
        self._finished = True
        if self._busy:
            self._when_free = lambda: self.finish(done)
        else:
            self._close(list(self._mirror.log.open), done)

    def _close(self, victims: list[int], done: Callable[[], None], *, under_pressure: bool = False) -> None:
        mirror = self._mirror
        if not mirror.mirrored:
            self._close_unmirrored(victims, under_pressure=under_pressure)
            done()
            return
        if mirror.lapsed:
            done()
            return
        self._busy = True
        began = mirror.log.stamp

        def flushed(error: VolumeError | None) -> None:
            self._busy = False
            if error is None and mirror.mirrored:
                closable = [
                    at for at in victims if mirror.log.open.get(at, began + 1) <= began and not self._in_use(at)
                ]
                mirror.log.close_extents(closable)
            done()
            when_free, self._when_free = self._when_free or _nothing, None
            when_free()

        self._flushes.flush_both(flushed)

    def _close_unmirrored(self, victims: list[int], *, under_pressure: bool) -> None:
        mirror = self._mirror
        closable = []
        for extent in victims:
            if extent not in mirror.log.open or self._in_use(extent):
                continue
            if extent in mirror.unflushed:
                if not under_pressure:
                    continue
                mirror.dirty.put_mask(extent, -1)
                mirror.unflushed.discard(extent)
            closable.append(extent)
        if closable:
            mirror.log.close_extents(closable)

    def _in_use(self, extent: int) -> bool:
        mirror = self._mirror
        first = extent << mirror.dirty.extent_shift
        blocks = min(1 << mirror.dirty.extent_shift, mirror.dirty.blocks - first)
        return mirror.order.busy(first, blocks)


def _nothing() -> None:
    """Nobody waits for it."""
