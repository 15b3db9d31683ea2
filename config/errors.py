"""The errors that the configuration gives its admin."""

from __future__ import annotations

MAX_PART_CHARACTERS = 600


class ConfigError(Exception):
    """Something in the configuration can not be used; `str()` is one line for the admin.

    Whatever is quoted in it may come from anywhere: it is cut, and what a terminal or a log would act on is spelt.

    Attributes:
        place: file, JSON path or option in which it stands.
        problem: what is wrong with it, with the offending value.
        remedy: what to do about it, or "".
    """

    def __init__(self, place: str, problem: str, remedy: str = "") -> None:
        self.place, self.problem, self.remedy = _plain(place), _plain(problem), _plain(remedy)
        super().__init__(f"{self.place}: {self.problem}" + (f" ({self.remedy})" if self.remedy else ""))


class InUseError(ConfigError):
    """What is to go, or to become something else, is in use; the problem names by whom."""


class RevisionError(ConfigError):
    """The configuration has changed since the asker looked at it."""


class NotServingError(ConfigError):
    """The daemon is starting or stopping, and takes no changes."""


class ListenError(ConfigError):
    """An address can not be listened on: it is taken, or not there; that may get better by itself."""


class NotSavedError(ConfigError):
    """The change could not be saved, and so it was not made."""


def _plain(text: str) -> str:
    text = " ".join(text.split())
    if len(text) > MAX_PART_CHARACTERS:
        text = f"{text[:MAX_PART_CHARACTERS]}…"
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
