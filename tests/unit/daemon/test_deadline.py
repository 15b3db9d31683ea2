"""The one timer of a connection."""

from __future__ import annotations

from collections.abc import Callable

from daemon.deadline import Deadline


class Handle:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """Keeps what was asked of it; fires nothing by itself."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, Callable[[], None], Handle]] = []

    def call_at(self, when: float, callback: Callable[[], None]) -> Handle:
        self.calls.append((when, callback, Handle()))
        return self.calls[-1][2]


def test_a_deadline_that_moves_later_sets_no_timer_and_one_that_moves_earlier_does() -> None:
    loop, deadline_s = Loop(), [10.0]
    deadline = Deadline(loop, lambda: deadline_s[0], lambda: None)  # type: ignore[arg-type]  # as much as it uses
    for when in (10.0, 12.0, 15.0):
        deadline_s[0] = when
        deadline.arm()
    assert [call[0] for call in loop.calls] == [10.0]
    deadline_s[0] = 3.0
    deadline.arm()
    assert [call[0] for call in loop.calls] == [10.0, 3.0]
    assert loop.calls[0][2].cancelled


def test_it_can_be_armed_again_from_within_the_call_and_is_silent_after_cancel() -> None:
    loop = Loop()
    fired: list[int] = []

    def due() -> None:
        fired.append(1)
        deadline.arm()

    deadline = Deadline(loop, lambda: 5.0 + len(fired), due)  # type: ignore[arg-type]  # as much as it uses
    deadline.arm()
    loop.calls[0][1]()
    assert [call[0] for call in loop.calls] == [5.0, 6.0]
    deadline.cancel()
    assert loop.calls[1][2].cancelled


def test_without_a_deadline_there_is_no_timer() -> None:
    loop = Loop()
    Deadline(loop, lambda: None, lambda: None).arm()  # type: ignore[arg-type]  # as much as it uses
    assert loop.calls == []
