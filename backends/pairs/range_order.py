"""Keeps overlapping writes in one order: whoever came first goes first, on both legs, and copying waits its turn too.

How this works: an operation that is under way or waiting has a place here. A new one counts the earlier ones that it
overlaps; when the last of those has left, it is told to go. Operations that overlap nothing never wait, and since
each waits for earlier ones only, nothing can wait in a circle.

Places are found by buckets of 64 KiB, so that entering costs a dict lookup per bucket, however many are under way
elsewhere; and since a host that writes small blocks one after the other has most of them in one bucket, a bucket is
not larger than that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

BUCKET_BYTES = 64 << 10


class Place(ABC):
    """One operation's claim on a run of blocks.

    Attributes:
        lba: first block.
        end: the block behind the last one.
        waits_for: how many earlier operations it still has to wait for.
        followers: operations that wait for this one.
    """

    __slots__ = ("end", "followers", "lba", "waits_for")

    def __init__(self, lba: int, blocks: int) -> None:
        self.lba = lba
        self.end = lba + blocks
        self.waits_for = 0
        self.followers: list[Place] | None = None

    @abstractmethod
    def go(self) -> None:
        """Called once, when the last earlier operation in the way has left."""


class RangeOrder:
    """The operations under way on one pair."""

    __slots__ = ("_buckets", "_shift")

    def __init__(self, block_bytes: int) -> None:
        self._shift = (BUCKET_BYTES // block_bytes).bit_length() - 1
        self._buckets: dict[int, list[Place]] = {}

    def enter(self, place: Place) -> bool:
        """Take a place: True to go on now, False when `place.go()` will be called."""
        lba, end = place.lba, place.end
        shift = self._shift
        bucket = lba >> shift
        last = (end - 1) >> shift
        buckets = self._buckets
        if bucket == last:  # nearly every write
            there = buckets.get(bucket)
            if there is None:
                buckets[bucket] = [place]
                return True
            for earlier in there:
                if earlier.lba < end and lba < earlier.end:
                    _wait(place, earlier)
            there.append(place)
            return not place.waits_for
        met: set[Place] = set()
        for at in range(bucket, last + 1):
            there = buckets.setdefault(at, [])
            met.update(earlier for earlier in there if earlier.lba < end and lba < earlier.end)
            there.append(place)
        for earlier in met:
            _wait(place, earlier)
        return not met

    def leave(self, place: Place) -> None:
        """Give a place up; whoever waited for it alone goes."""
        shift = self._shift
        buckets = self._buckets
        for at in range(place.lba >> shift, ((place.end - 1) >> shift) + 1):
            there = buckets[at]
            if len(there) == 1:
                del buckets[at]
            else:
                there.remove(place)
        followers = place.followers
        if followers is not None:
            place.followers = None
            for follower in followers:
                follower.waits_for -= 1
                if not follower.waits_for:
                    follower.go()

    def busy(self, lba: int, blocks: int) -> bool:
        """Tell whether any operation is under way or waiting in the buckets that the range touches."""
        shift = self._shift
        return any(at in self._buckets for at in range(lba >> shift, ((lba + blocks - 1) >> shift) + 1))

    def places(self) -> Iterator[Place]:
        """List every place once."""
        shift = self._shift
        for at, there in self._buckets.items():
            for place in there:
                if place.lba >> shift == at:
                    yield place

    def __bool__(self) -> bool:
        return bool(self._buckets)


def _wait(place: Place, earlier: Place) -> None:
    place.waits_for += 1
    if earlier.followers is None:
        earlier.followers = [place]
    else:
        earlier.followers.append(place)
