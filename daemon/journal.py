"""The log: one line per event, to the journal with its fields when systemd started annexd, else to standard error.

What hosts and arrays call themselves ends up here, so nothing of a line is believed: what is not printable is written
as an escape, a long value is cut, a traceback is set off by a mark at the beginning of each line. What a stranger can
cause has a limit per minute; how many lines were left out is said in one.

Spec: systemd.exec(5) $JOURNAL_STREAM; systemd.journal-fields(7).
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from daemon.log_events import BY_NAME, LogEvent

LINE_CHARACTERS = 1000
VALUE_CHARACTERS = 300  # of one argument: a long name must not push the reason out of the line
TRACEBACK_LINES = 60
MINUTE_S = 60.0
TRACEBACK_MARK = "  | "
SUMMARY = "%s: %d more lines like these were left out"
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def start(level: int) -> None:
    """Log from now on, to where this process's standard error goes."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if goes_to_journal(os.environ.get("JOURNAL_STREAM", ""), sys.stderr.fileno()):
        try:
            from cysystemd.journal import send  # noqa: PLC0415 - annexd runs without it

            handler = JournalHandler(send)
        except ImportError:  # the lines are for the journal all the same
            pass
    handler.setFormatter(Lines())
    handler.addFilter(RateLimit(time.monotonic, handler.handle))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def goes_to_journal(journal_stream: str, descriptor: int) -> bool:
    """Tell whether a descriptor is the journal's stream, as $JOURNAL_STREAM names it: "device:inode"."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return journal_stream == f"{found.st_dev}:{found.st_ino}"


def plain(text: str, most_characters: int) -> str:
    """Give a text on one line: printable, and no longer than that."""
    text = text[: most_characters + 1]  # escapes make it longer only
    if not text.isprintable():
        text = "".join(
            character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
        )
    return text if len(text) <= most_characters else text[: most_characters - 1] + "…"


class Lines(logging.Formatter):
    """One line per record; a traceback follows it, each line with a mark."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line as it stands on standard error."""
        seconds = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        head = f"{seconds},{record.msecs:03.0f} {record.levelname} {record.name}"
        return f"{head}: {message(record)}{_traceback(self, record)}"


class JournalHandler(logging.Handler):
    """Gives records to the journal, with their fields.

    Args:
        send: takes fields by their names in lower case (`cysystemd.journal.send`).
    """

    def __init__(self, send: Callable[..., Any]) -> None:
        super().__init__()
        self._send = send
        self._lines = Lines()

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        try:
            self._send(**fields(record, message(record) + _traceback(self._lines, record)))
        except Exception:  # noqa: BLE001 - logging never raises
            self.handleError(record)


def message(record: logging.LogRecord) -> str:
    """Give the text of a record, on one line."""
    return plain(_filled(record), LINE_CHARACTERS)


def fields(record: logging.LogRecord, text: str) -> dict[str, Any]:
    """Give the journal's fields of a record."""
    found: dict[str, Any] = {
        "message": text,
        "priority": _PRIORITIES.get(record.levelno, 6),
        "syslog_identifier": "annexd",
        "logger": record.name,
    }
    event = event_of(record)
    if event is not None:
        found |= {"message_id": event.message_id, "annex_event": event.name}
        arguments = record.args if isinstance(record.args, tuple) and not hasattr(record, "summary") else ()
        for name, value in zip(event.fields, arguments, strict=False):
            found[f"annex_{name}"] = plain(str(value), VALUE_CHARACTERS)
    return found


def event_of(record: logging.LogRecord) -> LogEvent | None:
    """Give the row of the table that a record belongs to; what has a traceback is a fault of our own."""
    name = getattr(record, "event", "internal_fault" if record.exc_info else "")
    return BY_NAME.get(name)


class RateLimit:
    """Lets at most so many lines of an event through in a minute, and says afterwards how many it has left out.

    Args:
        clock: monotonic seconds.
        handle: takes the line that says so.
    """

    def __init__(self, clock: Callable[[], float], handle: Callable[[logging.LogRecord], Any]) -> None:
        self._clock = clock
        self._handle = handle
        self._minutes: dict[str, _Minute] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is to be logged."""
        if getattr(record, "summary", False):
            return True
        now = self._clock()
        for name in [name for name, minute in self._minutes.items() if now >= minute.end]:
            self._sum_up(name, self._minutes.pop(name))
        event = event_of(record)
        if event is None or not event.most_per_minute:
            return True
        minute = self._minutes.setdefault(event.name, _Minute(now + MINUTE_S))
        minute.lines += 1
        return minute.lines <= event.most_per_minute

    def _sum_up(self, name: str, minute: _Minute) -> None:
        event = BY_NAME[name]
        left_out = minute.lines - event.most_per_minute
        if left_out > 0:
            record = logging.LogRecord("daemon.journal", event.level, __file__, 0, SUMMARY, (name, left_out), None)
            record.event, record.summary = name, True
            self._handle(record)


class _Minute:
    """The lines of one event since the first of them."""

    __slots__ = ("end", "lines")

    def __init__(self, end: float) -> None:
        self.end = end
        self.lines = 0


def _filled(record: logging.LogRecord) -> str:
    arguments = record.args
    if isinstance(arguments, tuple):
        arguments = tuple(plain(value, VALUE_CHARACTERS) if isinstance(value, str) else value for value in arguments)
    text = str(record.msg)
    return text % arguments if arguments else text


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if not record.exc_info:
        return ""
    lines = formatter.formatException(record.exc_info).splitlines()
    if len(lines) > TRACEBACK_LINES:
        half = TRACEBACK_LINES // 2
        lines = [*lines[:half], "…", *lines[-half:]]
    return "".join(f"\n{TRACEBACK_MARK}{plain(line, LINE_CHARACTERS)}" for line in lines)
