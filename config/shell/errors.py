"""How a command of annexcli ends when it does not end well: one class per exit code."""

from __future__ import annotations

from typing import ClassVar

from config.errors import ConfigError


class ShellError(ConfigError):
    """One line for the admin, and the exit code that goes with it."""

    exit_code: ClassVar[int] = 1


class Refused(ShellError):
    """annexd answered, and said no.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, place: str, problem: str, remedy: str = "", status: int = 0) -> None:
        super().__init__(place, problem, remedy)
        self.status = status


class Usage(ShellError):
    """The command asks for something that can not be."""

    exit_code = 2


class NoDaemon(ShellError):
    """annexd is not there, does not answer, or does not let this user in."""

    exit_code = 3


class ScriptError(ConfigError):
    """A line of a script went wrong, and nothing after it was done.

    Attributes:
        exit_code: that of the line.
    """

    def __init__(self, line: int, error: ConfigError) -> None:
        super().__init__(f"line {line}: {error.place}", error.problem, error.remedy)
        self.exit_code = exit_code(error)


def exit_code(error: ConfigError) -> int:
    """Give what the process ends with after an error."""
    return getattr(error, "exit_code", 1)
