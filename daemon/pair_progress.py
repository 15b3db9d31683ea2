"""How the copy or the comparison of a pair gets on, for the control API, the shell and the metrics."""

from __future__ import annotations

from typing import Literal, NamedTuple

from backends.pairs.copying import Comparison
from backends.pairs.pair import Pair
from scsi.array_commands import PairState

Direction = Literal["primary → secondary", "secondary → primary"]


class PairProgress(NamedTuple):
    """What a pair does now.

    Attributes:
        direction: in which a copy goes, and the next one would by itself.
        doing: "copying", "comparing" or None.
        compared_percent: of a comparison, None when there is none.
        rate_bytes: a second, over the last ten; what had no storage and did not have to be moved counts too.
        seconds_left: at this rate, None when nothing goes on.
        stands_back: it is slower than it could be because hosts are busy.
    """

    direction: Direction
    doing: Literal["copying", "comparing"] | None
    compared_percent: int | None
    rate_bytes: float
    seconds_left: int | None
    stands_back: bool


def progress_of(pair: Pair) -> PairProgress:
    """Look at a pair."""
    record, walk = pair.record, pair.synchronizer.walk
    back = record.state is PairState.SSWS or record.current != record.primary
    direction: Direction = "secondary → primary" if back else "primary → secondary"
    progress = pair.synchronizer.progress()
    if walk is None or progress is None:
        return PairProgress(direction, None, None, 0.0, None, stands_back=False)
    comparing = isinstance(walk, Comparison)
    return PairProgress(
        direction,
        "comparing" if comparing else "copying",
        100 * walk.done_blocks // record.blocks if comparing else None,
        progress.blocks_a_second * record.block_bytes,
        None if progress.seconds_left is None else round(progress.seconds_left),
        progress.stands_back,
    )
