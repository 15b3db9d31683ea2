"""When the event loop is kept awake for an array's next answers, and when it is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from daemon.answer_polling import LEFT_OUT, LOOK_S, MOST_IN_VAIN, AnswerPolling


class Machine:
    """An event loop whose rounds the test turns, its clock, and an array that owes answers."""

    def __init__(self) -> None:
        self.now = 0.0
        self.due = 0
        self._soon: list[Callable[[], None]] = []
        self.polling = AnswerPolling(self, lambda: self.due, lambda: self.now)  # type: ignore[arg-type]  # as it uses

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def awake(self) -> bool:
        return bool(self._soon)

    def round(self, seconds: float = 0.0) -> None:
        self.now += seconds
        calls, self._soon = self._soon, []
        assert len(calls) <= 1, "two chains look at once"
        for call in calls:
            call()

    def look_in_vain(self) -> None:
        """Let answers come, and then none for longer than it looks."""
        self.polling.answers_came()
        assert self.awake()
        self.round(2 * LOOK_S)
        assert not self.awake()


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_it_looks_for_a_moment_behind_the_last_answers(machine: Machine) -> None:
    machine.due = 5
    machine.polling.answers_came()
    for _ in range(3):
        machine.round(LOOK_S / 4)
        assert machine.awake()
    machine.polling.answers_came()  # the moment begins again
    for _ in range(3):
        machine.round(LOOK_S / 4)
        assert machine.awake()
    machine.round(LOOK_S / 2)
    assert not machine.awake()


def test_it_sleeps_when_nothing_is_due(machine: Machine) -> None:
    machine.polling.answers_came()
    assert not machine.awake()
    machine.due = 1
    machine.polling.answers_came()
    assert machine.awake()
    machine.due = 0
    machine.round()
    assert not machine.awake()


def test_an_array_that_is_slower_is_left_alone_for_a_long_while(machine: Machine) -> None:
    machine.due = 5
    for _ in range(MOST_IN_VAIN):
        machine.look_in_vain()
    for _ in range(LEFT_OUT):
        machine.polling.answers_came()
        assert not machine.awake()
    machine.look_in_vain()


def test_an_answer_in_time_forgives_what_was_in_vain(machine: Machine) -> None:
    machine.due = 5
    for _ in range(3):
        for _ in range(MOST_IN_VAIN - 1):
            machine.look_in_vain()
        machine.polling.answers_came()
        machine.round(LOOK_S / 2)
        machine.polling.answers_came()
        machine.due = 0
        machine.round()
        machine.due = 5
    machine.look_in_vain()
