"""Sizes as people write them: 10G, 512MiB, 1.5T, 4096."""

from __future__ import annotations

import re
from decimal import Decimal

from config.shell.errors import Usage

# As in targetcli, lvcreate and truncate: one letter is binary. With a B it is what the standards say.
_BINARY = {letter: 1024**power for power, letter in enumerate("KMGTPE", 1)}
_UNITS = (
    {"": 1, "B": 1}
    | _BINARY
    | {f"{letter}IB": factor for letter, factor in _BINARY.items()}
    | {f"{letter}B": 1000**power for power, letter in enumerate("KMGTPE", 1)}
)
_SIZE = re.compile(r"(\d{1,20}(?:\.\d{1,6})?) ?([A-Za-z]{0,3})", re.ASCII)
_WORDS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def parse_size(place: str, text: str) -> int:
    """Give a size in bytes.

    Raises:
        Usage: it is not a size, or not a whole number of bytes.
    """
    match = _SIZE.fullmatch(text)
    factor = _UNITS.get(match[2].upper()) if match else None
    if match is None or factor is None:
        raise Usage(place, f"{text[:80]!r} is not a size", "such as 512MiB, 10G or 1.5TB")
    size = Decimal(match[1]) * factor
    if size != size.to_integral_value():
        raise Usage(place, f"{text[:80]!r} is not a whole number of bytes")
    return int(size)


def size_words(size_bytes: int) -> str:
    """Give a size in the largest binary unit in which it is at least one; what is rounded begins with ≈."""
    power = min((max(size_bytes, 1).bit_length() - 1) // 10, len(_WORDS) - 1)
    words = f"{size_bytes / 1024**power:.3f}".rstrip("0").rstrip(".")
    exact = Decimal(words) * 1024**power == size_bytes
    return f"{'' if exact else '≈'}{words} {_WORDS[power]}"


def count_words(count: float) -> str:
    """Give a rate or a count with at most four figures: 950, 12.3k, 4.56M."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if count >= factor:
            return f"{count / (1e3 if letter == 'k' else factor):.3g}{letter}"
    return f"{count:.0f}"
