"""Jobs on threads: what comes back, on which thread, and how often the loop is woken for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest

from backends.workers import Workers
from tests.support.clock import VirtualScheduler


class CountingScheduler(VirtualScheduler):
    """Counts the posts, each of which wakes the event loop."""

    def __init__(self) -> None:
        super().__init__()
        self.posts = 0

    def post(self, callback: Callable[[], None]) -> None:
        self.posts += 1
        super().post(callback)


def test_results_and_exceptions_come_back_on_the_loop_thread() -> None:
    scheduler = VirtualScheduler()
    workers = Workers(scheduler, 2)
    results: list[object] = []
    where: list[threading.Thread] = []

    def done(result: object) -> None:
        where.append(threading.current_thread())
        results.append(result)

    workers.submit(lambda: 7, done)
    workers.submit(lambda: 1 // 0, done)
    assert results == []
    scheduler.run_until(lambda: len(results) == 2)
    assert 7 in results
    assert any(isinstance(result, ZeroDivisionError) for result in results)
    assert where == [threading.current_thread()] * 2
    assert workers.close()


def test_nothing_starts_before_the_wake_up_is_over() -> None:
    scheduler = VirtualScheduler()
    workers = Workers(scheduler, 1)
    started = threading.Event()
    results: list[bool | Exception | None] = []
    workers.submit(started.set, results.append)
    assert workers._queue.empty()
    scheduler.run_until(lambda: bool(results))
    assert started.is_set()
    assert workers.close()


def test_job_that_blocks_does_not_hold_up_those_behind_it() -> None:
    scheduler = VirtualScheduler()
    workers = Workers(scheduler, 2)
    gate = threading.Event()
    order: list[str] = []
    workers.submit(gate.wait, lambda _: order.append("blocked one"))
    for name in ("a", "b", "c"):
        workers.submit(name.upper, lambda result: order.append(str(result)))
    scheduler.run_until(lambda: len(order) == 3)
    gate.set()
    scheduler.run_until(lambda: len(order) == 4)
    assert order == ["A", "B", "C", "blocked one"]
    assert workers.close()


def test_jobs_that_end_before_the_loop_comes_round_wake_it_once() -> None:
    scheduler = CountingScheduler()
    workers = Workers(scheduler, 1)
    results: list[object] = []
    for number in range(50):
        workers.submit(partial(int, number), results.append)
    workers.close()
    scheduler.run_until_idle()
    assert results == list(range(50))
    assert scheduler.posts == 1


def test_callback_that_fails_does_not_lose_those_behind_it(caplog: pytest.LogCaptureFixture) -> None:
    scheduler = VirtualScheduler()
    workers = Workers(scheduler, 1)
    results: list[object] = []

    def bug(_: object) -> None:
        raise RuntimeError("a bug")

    workers.submit(lambda: 1, bug)
    workers.submit(lambda: 2, results.append)
    workers.close()
    scheduler.run_until_idle()
    assert results == [2]
    assert "a bug" in caplog.text


def test_close_tells_when_a_thread_is_stuck() -> None:
    scheduler = VirtualScheduler()
    workers = Workers(scheduler, 1)
    gate = threading.Event()
    workers.submit(gate.wait, lambda _: None)
    assert not workers.close(timeout_s=0.01)
    gate.set()
    assert workers.close()
