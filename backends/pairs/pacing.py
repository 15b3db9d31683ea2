"""How fast a pair copies and compares: as fast as it can alone, and out of the way of hosts.

How this works. Time is looked at in slots of 0.1 s. A slot in which hosts have read or written anything on the devices
under the pair, by whatever logical unit, halves the rate; one without doubles the limit; after a second without there
is no limit. The rate never falls below the pair's least pace, however busy hosts are, and never rises above its pace.
So a busy host has the devices to itself but for the least pace after some slots, one that does something now and then
slows the copy a little, and a copy always ends.

While it stands back, pieces are smaller too: what a host waits for at worst is the piece before its own command.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from backends.scheduler import Scheduler

SLOT_S = 0.1
QUIET_SLOTS = 10  # without any I/O of hosts: no limit any more
SLOTS_OF_A_LIST = 100  # after these it is asked again which logical units lie on the same devices
SMALLER = 4  # pieces are so many times smaller while a walk stands back
LEAST_PACE_MIB_S = 16  # of a pair about which nobody said anything
MOST_PACE_MIB_S = 0xFFFF
RATE_WINDOW_S = 10.0

Operations = Callable[[], int]


class Pace(NamedTuple):
    """The limits of one pair.

    Attributes:
        most_mib_s: MiB a second at most, 0 for no limit.
        least_mib_s: so fast at least, while hosts are busy; `MOST_PACE_MIB_S` for never to stand back for them.
    """

    most_mib_s: int = 0
    least_mib_s: int = LEAST_PACE_MIB_S


class Pacer:
    """Says when the next piece of a walk may go.

    Attributes:
        pace: the limits in force.
    """

    def __init__(self, scheduler: Scheduler, pace: Pace, traffic: Callable[[], Operations]) -> None:
        """Begin without a limit but the pace.

        Args:
            scheduler: the clock.
            pace: the limits.
            traffic: gives what counts the reads and writes of hosts on the devices under the pair.
        """
        self.pace = pace
        self._scheduler = scheduler
        self._traffic = traffic
        self._operations = _no_operations
        self._seen = 0
        self._slot_began = 0.0
        self._slot_bytes = 0
        self._slots = 0
        self._quiet_slots = 0
        self._next_at = 0.0
        self._limit: float | None = None  # bytes a second, because of hosts

    def begin(self) -> None:
        """A walk begins: what hosts did before does not count."""
        self._list_again()
        self._slot_began = self._scheduler.now()
        self._slot_bytes = 0

    def set(self, pace: Pace) -> None:
        """Change the limits; what was counted against the old ones is forgotten."""
        self.pace = pace
        self._next_at = 0.0

    def delay(self) -> float:
        """Give the seconds until the next piece may go; 0 or less for at once."""
        now = self._scheduler.now()
        if now - self._slot_began >= SLOT_S:
            self._look(now)
        return self._next_at - now

    def took(self, moved_bytes: int) -> None:
        """A piece goes now."""
        self._slot_bytes += moved_bytes
        limit = self._bytes_a_second()
        if limit:
            self._next_at = max(self._next_at, self._scheduler.now()) + moved_bytes / limit

    def give_back(self, moved_bytes: int) -> None:
        """So much of what went did not have to be moved."""
        self._slot_bytes = max(self._slot_bytes - moved_bytes, 0)
        limit = self._bytes_a_second()
        if limit:
            self._next_at -= moved_bytes / limit

    def stands_back(self) -> bool:
        """Tell whether hosts are why it is not faster."""
        if self._limit is None:
            return False
        most = self.pace.most_mib_s << 20
        return not most or self._limit < most

    def _look(self, now: float) -> None:
        elapsed = now - self._slot_began
        slots = int(elapsed / SLOT_S)
        self._slots += slots
        operations = self._operations()
        if self.pace.least_mib_s >= MOST_PACE_MIB_S:
            self._limit = None
        elif operations != self._seen:
            self._quiet_slots = 0
            speed = self._slot_bytes / elapsed  # which may be far below the limit
            if self._limit is not None:
                speed = min(speed, self._limit)
            self._limit = max(speed / 2, float(self.pace.least_mib_s << 20))
        elif self._limit is not None:
            self._quiet_slots += slots
            if self._quiet_slots >= QUIET_SLOTS:
                self._limit = None
            else:
                self._limit *= 2.0**slots
        self._seen = operations
        self._slot_began = now
        self._slot_bytes = 0
        if self._slots >= SLOTS_OF_A_LIST:
            self._list_again()

    def _list_again(self) -> None:
        self._operations = self._traffic()
        self._seen = self._operations()
        self._slots = 0

    def _bytes_a_second(self) -> float:
        """Give the limit in force, 0 for none."""
        most = float(self.pace.most_mib_s << 20)
        if self._limit is None:
            return most
        return min(self._limit, most) if most else self._limit


class RateMeter:
    """How fast something goes on, seen over the last ten seconds."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._total = 0
        self._marks: deque[tuple[float, int]] = deque()  # of each second or so, what was done before it

    def begin(self) -> None:
        """Something begins: what was before it does not count."""
        self._marks.clear()
        self._marks.append((self._scheduler.now(), self._total))

    def count(self, blocks: int) -> None:
        """So much more is done."""
        now = self._scheduler.now()
        if now - self._marks[-1][0] >= 1.0:
            self._marks.append((now, self._total))
            self._forget(now)
        self._total += blocks

    def blocks_a_second(self) -> float:
        """Give the rate; 0 before the first tenth of a second is over."""
        now = self._scheduler.now()
        self._forget(now)
        then, done = self._marks[0] if self._marks else (now, self._total)
        return (self._total - done) / (now - then) if now - then >= SLOT_S else 0.0

    def _forget(self, now: float) -> None:
        while len(self._marks) > 1 and now - self._marks[1][0] >= RATE_WINDOW_S:
            self._marks.popleft()


def _no_operations() -> int:
    return 0
