"""The limits of a host at a LUN, on a clock of their own."""

from __future__ import annotations

import random
import weakref

import pytest

from daemon.limits import BURST_S, HostLimit, Limits
from tests.support.clock import VirtualScheduler

HOST, TARGET = "iqn.2026-11.org.example:host", "iqn.2026-11.org.example:annex"


class Load:
    """A host that keeps `depth` commands in progress, each done as soon as it may go."""

    def __init__(self, limit: HostLimit, scheduler: VirtualScheduler, sizes: list[int], depth: int = 32) -> None:
        self.done: list[tuple[float, int]] = []
        self._limit, self._scheduler, self._sizes = limit, scheduler, iter(sizes)
        for _ in range(depth):
            self._next()

    def _next(self) -> None:
        size = next(self._sizes, None)
        if size is None:
            return

        def go() -> None:
            self.done.append((self._scheduler.now(), size))
            self._scheduler.call_soon(self._next)

        if self._limit.admit(object(), size, go):
            go()


@pytest.fixture
def scheduler() -> VirtualScheduler:
    return VirtualScheduler()


@pytest.mark.parametrize("rate", [7, 100, 5_000, 60_000])
def test_so_many_commands_a_second_go_and_no_more(scheduler: VirtualScheduler, rate: int) -> None:
    limit = HostLimit(scheduler)
    limit.set(rate, None)
    load = Load(limit, scheduler, [4096] * rate * 6, depth=max(32, rate // 10))
    scheduler.advance(5.0)
    assert len(load.done) == pytest.approx(5.0 * rate, rel=0.1, abs=BURST_S * rate + 1)
    assert len(load.done) <= 5.0 * rate + max(1, BURST_S * rate) + 1


def test_so_many_bytes_a_second_go_whatever_the_sizes(scheduler: VirtualScheduler) -> None:
    rng = random.Random(1)
    sizes = [rng.choice([512, 4096, 131072, 8 << 20]) for _ in range(3000)]
    limit = HostLimit(scheduler)
    limit.set(None, 50 << 20)
    load = Load(limit, scheduler, sizes)
    scheduler.advance(20.0)
    moved = sum(size for _, size in load.done)
    # The last command may be as large as it likes.
    assert moved == pytest.approx(20 * (50 << 20), rel=0.1)


def test_commands_go_in_the_order_they_came(scheduler: VirtualScheduler) -> None:
    limit = HostLimit(scheduler)
    limit.set(10, None)
    gone: list[int] = []
    admitted = [limit.admit(number, 512, lambda number=number: gone.append(number)) for number in range(5)]  # type: ignore[misc]  # bound
    assert admitted == [True, False, False, False, False]
    scheduler.advance(1.0)
    assert gone == [1, 2, 3, 4]


def test_a_command_larger_than_a_second_s_worth_goes_and_the_next_waits_for_it(scheduler: VirtualScheduler) -> None:
    limit = HostLimit(scheduler)
    limit.set(None, 1 << 20)
    gone: list[float] = []
    assert limit.admit("large", 4 << 20, lambda: None)
    assert not limit.admit("next", 512, lambda: gone.append(scheduler.now()))
    begun = scheduler.now()
    scheduler.advance(6.0)
    assert gone[0] - begun == pytest.approx(4.0, rel=0.1)


def test_a_limit_that_is_lifted_lets_all_go_that_wait(scheduler: VirtualScheduler) -> None:
    limit = HostLimit(scheduler)
    limit.set(1, None)
    load = Load(limit, scheduler, [512] * 10, depth=10)
    assert len(load.done) == 1
    limit.set(None, None)
    scheduler.run_until_idle()
    assert len(load.done) == 10


def test_what_is_withdrawn_never_goes_costs_nothing_and_is_forgotten(scheduler: VirtualScheduler) -> None:
    class Task:
        pass

    limit = HostLimit(scheduler)
    limit.set(1, None)
    gone: list[str] = []
    assert limit.admit("first", 512, lambda: None)
    for _ in range(1000):
        task = Task()
        left = weakref.ref(task)
        assert not limit.admit(task, 512, lambda: gone.append("withdrawn"))
        limit.withdraw(task)
        del task
        assert left() is None
    assert not limit.admit("last", 512, lambda: gone.append("last"))
    scheduler.advance(1.1)
    assert gone == ["last"]


def test_a_limit_that_is_set_again_and_again_keeps_one_timer(scheduler: VirtualScheduler) -> None:
    limit = HostLimit(scheduler)
    limit.set(1, None)
    load = Load(limit, scheduler, [512] * 10, depth=10)
    for rate in (2, 1) * 20:
        limit.set(rate, None)
    assert scheduler.pending <= 1
    scheduler.advance(3.0)
    assert len(load.done) >= 3
    assert scheduler.pending <= 1


def test_the_sessions_of_a_host_share_one_limit_and_other_hosts_have_their_own(scheduler: VirtualScheduler) -> None:
    limits = Limits(scheduler)
    assert limits.of(HOST, TARGET, 0, None, None) is None
    mine = limits.of(HOST, TARGET, 0, 10, None)
    assert limits.of(HOST, TARGET, 0, 20, 1 << 20) is mine
    assert limits.of(HOST, TARGET, 1, 10, None) is not mine
    assert limits.of(HOST + "2", TARGET, 0, 10, None) is not mine
    assert limits.of(HOST, TARGET, 0, None, None) is mine  # lifted, and the LUN map stays as it is
