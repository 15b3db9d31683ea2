"""How annexhost ends when it does not end well: one class per exit code."""

from __future__ import annotations

from typing import ClassVar


class HostToolError(Exception):
    """One line for the person at the terminal, and the exit code that goes with it.

    Attributes:
        exit_code: what the process ends with.
        kind: one word for `--json`.
    """

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "failed"

    def details(self) -> dict[str, object]:
        """Give what a program would want to know besides the words."""
        return {}


class Refused(HostToolError):
    """The array answered, and said no.

    Attributes:
        status: SCSI status.
        sense: key, ASC and ASCQ, or None for a status that has none.
        remedy: what the host can do about it, or "".
    """

    kind = "refused"

    def __init__(self, problem: str, status: int, sense: tuple[int, int, int] | None = None, remedy: str = "") -> None:
        super().__init__(f"{problem}. {remedy}" if remedy else problem)
        self.problem = problem
        self.status = status
        self.sense = sense
        self.remedy = remedy

    def details(self) -> dict[str, object]:
        sense = None
        if self.sense is not None:
            key, asc, ascq = self.sense
            sense = f"{key:02X}/{asc:02X}/{ascq:02X}"
        return {"status": self.status, "sense": sense, "problem": self.problem, "remedy": self.remedy}


class WrongData(HostToolError):
    """The array answered GOOD, but what it sent is not what it said: a checksum or a length does not agree."""

    kind = "wrong-data"


class Usage(HostToolError):
    """The command line asks for something that can not be."""

    exit_code = 2
    kind = "usage"


class Unreachable(HostToolError):
    """The array could not be reached, or the session or the device failed on the way."""

    exit_code = 3
    kind = "unreachable"
