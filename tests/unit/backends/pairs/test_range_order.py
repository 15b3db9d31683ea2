from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from backends.pairs.dirty_map import DirtyMap
from backends.pairs.intent_log import IntentLog
from backends.pairs.mirror import CheckedRead, Mirror
from backends.pairs.range_order import RangeOrder

NOTHING = cast("Any", None)
DIRTY = DirtyMap(1, 512)
LOG = IntentLog(NOTHING, bytes(16), DIRTY, NOTHING)


class Operation:
    """A read of a pair, and the leg that it is to be read from: it notes when it may go."""

    def __init__(self, lba: int, blocks: int, gone: list[Operation] | None = None) -> None:
        leg = cast("Any", self)
        self.place = CheckedRead(Mirror([leg, leg], DIRTY, LOG, RangeOrder(512)), 0, 0, lba, blocks, NOTHING)
        self.lba = lba
        self.end = lba + blocks
        self.gone = [] if gone is None else gone

    def read(self, *_: object) -> None:
        self.gone.append(self)


def test_operations_that_do_not_overlap_go_at_once() -> None:
    order = RangeOrder(512)
    assert order.enter(Operation(0, 8).place)
    assert order.enter(Operation(8, 8).place)
    assert order.enter(Operation(100_000, 8).place)


def test_an_overlapping_operation_goes_when_the_earlier_one_leaves() -> None:
    order = RangeOrder(512)
    first, second = Operation(0, 8), Operation(7, 8)
    assert order.enter(first.place)
    assert not order.enter(second.place)
    order.leave(first.place)
    assert second.gone == [second]


def test_a_third_one_waits_for_a_waiting_one_that_it_overlaps() -> None:
    order = RangeOrder(512)
    first, second, third = Operation(0, 8), Operation(4, 1000), Operation(900, 4)
    order.enter(first.place)
    order.enter(second.place)
    assert not order.enter(third.place)
    order.leave(first.place)
    assert third.gone == []
    order.leave(second.place)
    assert third.gone == [third]


def test_an_operation_over_several_buckets_is_seen_in_each_of_them() -> None:
    order = RangeOrder(512)
    wide = Operation(400, 1000)
    order.enter(wide.place)
    for lba in (400, 511, 512, 1024, 1399):
        assert not order.enter(Operation(lba, 1).place), lba
    assert order.enter(Operation(1400, 1).place)
    assert order.enter(Operation(399, 1).place)


def test_busy_tells_buckets_in_use_and_the_order_is_empty_at_the_end() -> None:
    order = RangeOrder(512)
    operation = Operation(0, 8)
    order.enter(operation.place)
    assert order.busy(0, 1)
    assert not order.busy(8192, 100)
    assert list(order.places()) == [operation.place]
    order.leave(operation.place)
    assert not order


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 1500)), min_size=1, max_size=12), st.randoms())
def test_overlapping_operations_run_one_at_a_time_in_the_order_of_arrival(
    ranges: list[tuple[int, int]], rng: object
) -> None:
    order = RangeOrder(512)
    gone: list[Operation] = []
    operations = [Operation(lba, blocks, gone) for lba, blocks in ranges]
    gone.extend(operation for operation in operations if order.enter(operation.place))
    ended: list[Operation] = []
    while len(ended) < len(operations):
        running = [operation for operation in gone if operation not in ended]
        for one in running:
            for other in running:
                assert one is other or one.end <= other.lba or other.end <= one.lba
        leaving = rng.choice(running)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
        for earlier in operations[: operations.index(leaving)]:
            overlaps = earlier.lba < leaving.end and leaving.lba < earlier.end
            assert not overlaps or earlier in ended
        ended.append(leaving)
        order.leave(leaving.place)
    assert not order
