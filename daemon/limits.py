"""What each host may do through a LUN: so many commands, and so many bytes, a second.

How this works. Each limit is a bucket that fills at its rate, up to a tenth of a second's worth. A command goes when
no bucket is empty, and takes its whole cost even if that leaves less than nothing: so a command larger than the bucket
goes too, and the next one waits the longer. Over time the rate is met exactly, whatever the sizes are.

What waits is still a command in progress of its host: it counts against its window, so that no more than that can wait,
and `scsi.logical_unit` keeps it where aborts and resets find it. One that is aborted is withdrawn here: its place in
the window is free again, and whoever sends and aborts for ever may not fill the memory with what waits for its turn.

A write waits with its data in memory, within the session's memory. To hold back its R2T instead would bound the network
too, but a limit is about the LU behind it, the window bounds the burst, and a host that has been asked for data may
take as long as it likes to send it: the tokens taken for it would be lost to the commands after it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple
from weakref import WeakValueDictionary

from backends.scheduler import Scheduler, Timer

BURST_S = 0.1
SHORTEST_PAUSE_S = 0.001


class Bucket:
    """One rate.

    Args:
        rate: a second.
        now: seconds.
    """

    __slots__ = ("_level", "_most", "_since", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._most = max(1.0, rate * BURST_S)
        self._level = self._most
        self._since = now

    def fill(self, now: float) -> None:
        """Let time have passed."""
        self._level = min(self._most, self._level + (now - self._since) * self.rate)
        self._since = now

    def pause_s(self) -> float:
        """Give how long nothing may go, 0 when something may."""
        return 0.0 if self._level > 0 else -self._level / self.rate + SHORTEST_PAUSE_S

    def take(self, cost: float) -> None:
        """Take what a command costs."""
        self._level -= cost


class Waiting(NamedTuple):
    """A command that waits: its size, and what carries it out."""

    size_bytes: int
    go: Callable[[], None]


class HostLimit:
    """The limits of one host at one LUN; a `scsi.nexus.Limit`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._commands: Bucket | None = None
        self._bytes: Bucket | None = None
        self._waiting: OrderedDict[object, Waiting] = OrderedDict()
        self._timer: Timer | None = None

    def set(self, max_iops: int | None, max_bytes_per_s: int | None) -> None:
        """Limit it to other rates from now on; None is no limit."""
        now = self._scheduler.now()
        self._commands = _changed(self._commands, max_iops, now)
        self._bytes = _changed(self._bytes, max_bytes_per_s, now)
        self._release()

    def admit(self, task: object, size_bytes: int, go: Callable[[], None]) -> bool:
        """Ask for a command; see `scsi.nexus.Limit`."""
        if not self._waiting and self._pause_s() == 0.0:
            self._take(size_bytes)
            return True
        self._waiting[task] = Waiting(size_bytes, go)
        self._arm()
        return False

    def withdraw(self, task: object) -> None:
        """Forget a command that waits; it costs nothing."""
        del self._waiting[task]

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and self._pause_s() == 0.0:
            _, waiting = self._waiting.popitem(last=False)
            self._take(waiting.size_bytes)
            waiting.go()
        self._arm()

    def _arm(self) -> None:
        if self._waiting and self._timer is None:
            self._timer = self._scheduler.call_later(max(self._pause_s(), SHORTEST_PAUSE_S), self._release)

    def _pause_s(self) -> float:
        now = self._scheduler.now()
        pause_s = 0.0
        for bucket in (self._commands, self._bytes):
            if bucket is not None:
                bucket.fill(now)
                pause_s = max(pause_s, bucket.pause_s())
        return pause_s

    def _take(self, size_bytes: int) -> None:
        if self._commands is not None:
            self._commands.take(1)
        if self._bytes is not None:
            self._bytes.take(size_bytes)


class Limits:
    """The limits of all hosts that are logged in: one for each host and LUN, which its sessions share."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._limits: WeakValueDictionary[tuple[str, str, int], HostLimit] = WeakValueDictionary()

    def of(
        self, initiator_name: str, target_name: str, lun: int, max_iops: int | None, max_bytes_per_s: int | None
    ) -> HostLimit | None:
        """Give the limit of a host at a LUN, with these rates; None where it never had one."""
        key = (initiator_name, target_name, lun)
        limit = self._limits.get(key)
        if limit is None:
            if max_iops is None and max_bytes_per_s is None:
                return None
            limit = self._limits[key] = HostLimit(self._scheduler)
        limit.set(max_iops, max_bytes_per_s)
        return limit


def _changed(bucket: Bucket | None, rate: int | None, now: float) -> Bucket | None:
    if rate is None:
        return None
    assert rate > 0
    assert math.isfinite(now)
    return bucket if bucket is not None and bucket.rate == rate else Bucket(rate, now)
