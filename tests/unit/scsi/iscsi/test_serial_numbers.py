import pytest

from scsi.iscsi.serial_numbers import serial_in_window, serial_less


@pytest.mark.parametrize(
    ("first", "second", "less"),
    [
        (1, 2, True),
        (2, 1, False),
        (5, 5, False),
        (0xFFFFFFFF, 0, True),
        (0, 0xFFFFFFFF, False),
        (0, 0x7FFFFFFF, True),
        (0x7FFFFFFF, 0, False),
    ],
)
def test_numbers_are_compared_across_the_wrap(first: int, second: int, less: bool) -> None:
    assert serial_less(first, second) is less


@pytest.mark.parametrize(
    ("number", "inside"),
    [(0xFFFFFFFD, False), (0xFFFFFFFE, True), (0, True), (2, True), (3, False), (0x80000000, False)],
)
def test_a_window_may_lie_across_the_wrap(number: int, inside: bool) -> None:
    assert serial_in_window(number, 0xFFFFFFFE, 2) is inside


@pytest.mark.parametrize("number", [0, 9, 10, 11, 0x8000000A, 0xFFFFFFFF])
def test_a_closed_window_holds_nothing(number: int) -> None:
    assert not serial_in_window(number, 10, 9)
