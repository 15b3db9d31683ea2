"""Arithmetic on CmdSN and StatSN: 32 bit numbers that wrap.

Spec: RFC 1982 "Serial Number Arithmetic" with SERIAL_BITS = 32, as RFC 7143 4.2.2 asks.
"""

from __future__ import annotations

from typing import Final

MASK: Final = 0xFFFFFFFF
_HALF: Final = 0x80000000


def serial_less(first: int, second: int) -> bool:
    """Say whether `first` comes before `second`."""
    return first != second and ((second - first) & MASK) < _HALF


def serial_in_window(number: int, first: int, last: int) -> bool:
    """Say whether `number` lies in first … last, which is empty when `last` comes before `first`."""
    return ((number - first) & MASK) <= ((last - first) & MASK) < _HALF
