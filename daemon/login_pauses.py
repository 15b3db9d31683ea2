"""How long to wait before the next login to an array."""

from __future__ import annotations

import random

FIRST_S = 0.2
LONGEST_S = 10.0
AFTER_SESSION_S = 2.0  # well below the time that a pair waits for a leg whose link is lost
STABLE_S = 30.0  # a session that lived this long makes the pauses short again


class LoginPauses:
    """Pauses that grow with each failure, and are never the same twice, so that many links do not come back in step.

    After a session, however short, they begin at 2 s at the most: a link that comes and goes is used while it is there.
    """

    def __init__(self) -> None:
        self._next_s = FIRST_S

    def take_s(self) -> float:
        """Give the next pause, and make the one after it longer."""
        pause_s = self._next_s * random.uniform(0.5, 1.0)  # noqa: S311 (jitter, no secret)
        self._next_s = min(self._next_s * 2, LONGEST_S)
        return pause_s

    def session_ended(self, lived_s: float) -> None:
        """Learn that a session had come to be, and how long it lived."""
        self._next_s = FIRST_S if lived_s > STABLE_S else min(self._next_s, AFTER_SESSION_S)

    def reset(self) -> None:
        """Begin anew."""
        self._next_s = FIRST_S
