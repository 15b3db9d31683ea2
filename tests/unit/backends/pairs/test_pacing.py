from __future__ import annotations

from collections.abc import Callable

import pytest

from backends.pairs.pacing import LEAST_PACE_MIB_S, MOST_PACE_MIB_S, Pace, Pacer, RateMeter
from tests.support.clock import VirtualScheduler

MIB = 1 << 20


class Run:
    """A copy that does nothing but ask the pacer, on a device of so many MiB a second."""

    def __init__(self, pace: Pace, device_mib_s: int = 1024) -> None:
        self.scheduler = VirtualScheduler()
        self.operations = 0
        self.lists = 0
        self.device_mib_s = device_mib_s
        self.pacer = Pacer(self.scheduler, pace, self.traffic)
        self.pacer.begin()

    def traffic(self) -> Callable[[], int]:
        self.lists += 1
        return lambda: self.operations

    def mib_s(self, seconds: float, *, host_iops: float = 0) -> float:
        """Let some time pass; give how fast the copy was."""
        began = self.scheduler.now()
        moved = 0
        host_before = self.operations
        while (now := self.scheduler.now()) - began < seconds:
            self.operations = host_before + int((now - began) * host_iops)
            delay = self.pacer.delay()
            if delay > 0:
                self.scheduler.advance(delay)
                continue
            piece = MIB // 4 if self.pacer.stands_back() else MIB
            self.pacer.took(piece)
            moved += piece
            self.scheduler.advance(piece / MIB / self.device_mib_s)
        return moved / MIB / seconds


def test_alone_a_copy_is_as_fast_as_the_device() -> None:
    run = Run(Pace())
    assert run.mib_s(5) == pytest.approx(1024, rel=0.02)
    assert not run.pacer.stands_back()


def test_while_hosts_are_busy_it_goes_at_the_least_pace_and_is_as_fast_as_before_soon_after() -> None:
    run = Run(Pace(0, 10))
    run.mib_s(2)
    run.mib_s(2, host_iops=500)
    assert run.mib_s(5, host_iops=500) == pytest.approx(10, rel=0.05)
    assert run.pacer.stands_back()
    run.mib_s(1.2)
    assert not run.pacer.stands_back()
    assert run.mib_s(2) == pytest.approx(1024, rel=0.02)


def test_it_backs_off_within_a_second_from_any_speed() -> None:
    run = Run(Pace(0, 10), device_mib_s=4096)
    run.mib_s(1)
    run.mib_s(1, host_iops=100)
    assert run.mib_s(0.5, host_iops=100) == pytest.approx(10, rel=0.1)


def test_a_host_that_does_something_now_and_then_costs_a_part_only() -> None:
    run = Run(Pace(0, 10))
    run.mib_s(1)
    assert 300 < run.mib_s(10, host_iops=1) < 1000


def test_hosts_never_stop_it() -> None:
    run = Run(Pace())
    assert run.mib_s(30, host_iops=100_000) >= LEAST_PACE_MIB_S


def test_a_pair_that_is_not_to_stand_back_does_not() -> None:
    run = Run(Pace(0, MOST_PACE_MIB_S))
    run.mib_s(1)
    assert run.mib_s(2, host_iops=500) == pytest.approx(1024, rel=0.02)
    assert not run.pacer.stands_back()


def test_a_pace_is_never_passed_whatever_the_least_one_says() -> None:
    run = Run(Pace(5, 100))
    assert run.mib_s(10) == pytest.approx(5, rel=0.05)
    assert run.mib_s(10, host_iops=500) == pytest.approx(5, rel=0.05)
    assert not run.pacer.stands_back(), "hosts are not what keeps it"


def test_limits_change_at_once() -> None:
    run = Run(Pace(1, 16))
    run.mib_s(2)
    run.pacer.set(Pace(50, 16))
    assert run.mib_s(4) == pytest.approx(50, rel=0.05)


def test_what_did_not_have_to_be_moved_leaves_room() -> None:
    run = Run(Pace(1, 16))
    run.pacer.took(MIB)
    assert run.pacer.delay() == pytest.approx(1)
    run.pacer.give_back(MIB)
    assert run.pacer.delay() <= 0


def test_what_hosts_did_before_it_began_does_not_count() -> None:
    run = Run(Pace())
    run.operations += 1000
    run.scheduler.advance(100)
    run.pacer.begin()
    assert run.mib_s(1) == pytest.approx(1024, rel=0.02)


def test_logical_units_that_have_come_since_are_found() -> None:
    run = Run(Pace())
    run.mib_s(25)
    assert run.lists == 3


def test_the_rate_is_that_of_the_last_ten_seconds() -> None:
    scheduler = VirtualScheduler()
    meter = RateMeter(scheduler)
    meter.begin()
    assert meter.blocks_a_second() == 0
    for blocks, seconds in ((100, 20), (10, 20)):
        for _ in range(seconds):
            scheduler.advance(1)
            meter.count(blocks)
        assert meter.blocks_a_second() == pytest.approx(blocks, rel=0.15)
    scheduler.advance(1000)
    assert meter.blocks_a_second() < 1, "it stands still"
    meter.begin()
    assert meter.blocks_a_second() == 0
