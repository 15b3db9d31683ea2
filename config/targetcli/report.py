"""What an import could not take over, or took over otherwise, in words for the admin."""

from __future__ import annotations

import msgspec

from config.errors import ConfigError

MAX_LINES = 1000  # a file of rubbish is not worth more


class Line(msgspec.Struct, frozen=True):
    """One thing of the file: where it stands, and what became of it."""

    place: str
    problem: str

    def __str__(self) -> str:
        return str(ConfigError(self.place, self.problem))


class Report:
    """Filled while a file is taken over.

    Attributes:
        left_out: what is not in the new configuration, and why.
        differences: what is in it, and behaves otherwise than before.
        unlisted: how many lines there would have been above `MAX_LINES`.
    """

    def __init__(self) -> None:
        self.left_out: list[Line] = []
        self.differences: list[Line] = []
        self.unlisted = 0

    def leave_out(self, place: str, why: str) -> None:
        """Note that something is not taken over."""
        self._add(self.left_out, place, why)

    def differ(self, place: str, how: str) -> None:
        """Note that something is taken over, and how it differs."""
        self._add(self.differences, place, how)

    def _add(self, lines: list[Line], place: str, problem: str) -> None:
        if len(lines) >= MAX_LINES:
            self.unlisted += 1
        else:
            lines.append(Line(place, problem))

    def __str__(self) -> str:
        parts = []
        for title, lines in (("Not taken over:", self.left_out), ("Taken over, but different:", self.differences)):
            if lines:
                parts += [title, *(f"  {line}" for line in lines)]
        if self.unlisted:
            parts.append(f"… and {self.unlisted} lines more")
        return "\n".join(parts) or "Everything was taken over as it was."
