"""The errors that the configuration gives its admin."""

from __future__ import annotations


class ConfigError(Exception):
    """Something in the configuration can not be used; `str()` is one line for the admin.

    Attributes:
        place: file, JSON path or option in which it stands.
        problem: what is wrong with it, with the offending value.
        remedy: what to do about it, or "".
    """

    def __init__(self, place: str, problem: str, remedy: str = "") -> None:
        line = f"{place}: {problem}" + (f" ({remedy})" if remedy else "")
        super().__init__(" ".join(line.split()))
        self.place = place
        self.problem = problem
        self.remedy = remedy


class InUseError(ConfigError):
    """What is to go, or to become something else, is in use; the problem names by whom."""


class RevisionError(ConfigError):
    """The configuration has changed since the asker looked at it."""


class NotServingError(ConfigError):
    """The daemon is starting or stopping, and takes no changes."""


class NotSavedError(ConfigError):
    """The change could not be saved, and so it was not made."""
