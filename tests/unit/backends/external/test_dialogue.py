from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backends.external.dialogue import Dialogue, Script, pause
from tests.support.clock import VirtualScheduler

Answer = Callable[[Any], None]


def test_a_script_goes_on_with_what_each_step_was_told() -> None:
    waiting: list[Answer] = []
    told: list[Any] = []

    def script() -> Script:
        told.append((yield waiting.append))
        told.append((yield lambda done: done("at once")))
        told.append((yield waiting.append))

    ended: list[bool] = []
    dialogue = Dialogue(script(), lambda: ended.append(True))
    assert waiting == []
    dialogue.run()
    waiting[0]("first")
    assert told == ["first", "at once"]
    assert not ended
    waiting[1]("last")
    assert told == ["first", "at once", "last"]
    assert ended == [True]


def test_a_second_answer_to_one_step_is_not_taken_for_the_next() -> None:
    waiting: list[Answer] = []
    told: list[Any] = []

    def script() -> Script:
        told.append((yield waiting.append))
        told.append((yield waiting.append))

    Dialogue(script()).run()
    waiting[0]("first")
    waiting[0]("first again")
    assert told == ["first"]
    waiting[1]("second")
    assert told == ["first", "second"]


def test_two_answers_at_once_are_one() -> None:
    told: list[Any] = []

    def twice(done: Answer) -> None:
        done(1)
        done(2)

    def script() -> Script:
        told.append((yield twice))
        told.append((yield lambda done: done(3)))

    Dialogue(script()).run()
    assert told == [1, 3]


def test_a_cancelled_script_hears_nothing_more() -> None:
    waiting: list[Answer] = []
    told: list[Any] = []
    ended: list[bool] = []

    def script() -> Script:
        told.append((yield waiting.append))

    dialogue = Dialogue(script(), lambda: ended.append(True))
    dialogue.run()
    dialogue.cancel()
    dialogue.cancel()
    waiting[0]("late")
    assert told == []
    assert ended == []


def test_a_script_may_cancel_itself() -> None:
    told: list[Any] = []

    def cancel(done: Answer) -> None:
        dialogue.cancel()
        done(None)

    def script() -> Script:
        told.append("begun")
        yield cancel
        told.append("not reached")

    dialogue = Dialogue(script())
    dialogue.run()
    assert told == ["begun"]


def test_a_thousand_answers_at_once_do_not_nest() -> None:
    count = 0

    def script() -> Script:
        nonlocal count
        for _ in range(5000):
            yield lambda done: done(None)
            count += 1

    Dialogue(script()).run()
    assert count == 5000


def test_a_pause_lets_time_pass() -> None:
    clock = VirtualScheduler()
    ended: list[bool] = []

    def script() -> Script:
        yield pause(clock, 2.0)

    Dialogue(script(), lambda: ended.append(True)).run()
    clock.advance(1.9)
    assert not ended
    clock.advance(0.2)
    assert ended == [True]
