"""Lengths of time as people read them."""

from __future__ import annotations

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def duration_words(seconds: float) -> str:
    """Give a length of time in its largest unit, and in the next smaller one where that matters: 45 s, 5 h 20 min."""
    left = max(round(seconds), 0)
    for at, (length, word) in enumerate(_UNITS):
        if left >= length:
            count, rest = divmod(left, length)
            if count >= 10 or at >= 2:
                return f"{round(left / length)} {word}"
            smaller, smaller_word = _UNITS[at + 1]
            return f"{count} {word} {rest // smaller} {smaller_word}"
    return "0 s"
