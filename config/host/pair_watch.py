"""How fast pairs copy, seen from a host: the wire says how many blocks are out of sync, and two looks make a rate."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from scsi.array_commands import PairRow, PairState

WINDOW_S = 10.0


class CopyRate(NamedTuple):
    """How a copy gets on; `seconds_left` is None when it does not."""

    bytes_a_second: float
    seconds_left: float | None


class CopyRates:
    """The rates of the pairs that are looked at again and again."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._looks: dict[int, deque[tuple[float, int]]] = {}

    def look(self, rows: Iterable[PairRow], block_bytes: Callable[[PairRow], int | None]) -> dict[int, CopyRate]:
        """Take a look; give the rates of the pairs that are in COPY since an earlier one, over the last ten seconds.

        Args:
            rows: as the array reports them now.
            block_bytes: gives a pair's block length, None when it is not known; asked only for what has a rate.
        """
        now = self._now()
        before, self._looks = self._looks, {}
        rates = {}
        for row in rows:
            if row.state != PairState.COPY:
                continue
            looks = self._looks[row.number] = before.get(row.number, deque())
            looks.append((now, row.out_of_sync_blocks))
            while now - looks[1 if len(looks) > 1 else 0][0] >= WINDOW_S:
                looks.popleft()
            then, blocks_then = looks[0]
            size = block_bytes(row) if now > then else None
            if size is not None:
                # Hosts may have written more than was copied: no rate is below nothing.
                blocks_a_second = max(blocks_then - row.out_of_sync_blocks, 0) / (now - then)
                left = row.out_of_sync_blocks / blocks_a_second if blocks_a_second else None
                rates[row.number] = CopyRate(blocks_a_second * size, left)
        return rates
