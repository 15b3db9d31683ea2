"""What the service manager is told: ready, reloading, stopping, alive, and in one line how annexd is.

Nothing is sent, and cysystemd is not even loaded, unless $NOTIFY_SOCKET says that somebody listens.

Spec: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from backends.scheduler import Scheduler, Timer

STATUS_CHARACTERS = 400
STATUS_EVERY_S = 5.0  # how old the status line can be, where no watchdog asks for more

_log = logging.getLogger(__name__)


def ready(text: str) -> None:
    """Say that annexd has started, or has read its configuration again."""
    _send("READY=1", _status(text))


def status(text: str) -> None:
    """Say how annexd is, for `systemctl status`."""
    _send(_status(text))


def reloading() -> None:
    """Say that the configuration is being read again; `ready` ends it."""
    # The time is what Type=notify-reload asks for: it tells this reload from the one before.
    _send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> None:
    """Say that annexd is on its way out."""
    _send("STOPPING=1", _status("stopping"))


def watchdog_interval_s() -> float | None:
    """Give within what time the service manager wants to hear `WATCHDOG=1` again; None when it does not watch."""
    try:
        interval_us = int(os.environ.get("WATCHDOG_USEC", "0"))
        watched = int(os.environ.get("WATCHDOG_PID", str(os.getpid())))
    except ValueError:
        return None
    return interval_us / 1e6 if interval_us > 0 and watched == os.getpid() else None


class Heartbeat:
    """Tells the service manager, from the event loop, that this still turns, and keeps the status line true.

    A loop that stands still sends nothing, so the service manager ends the process and starts it again.

    Args:
        scheduler: the event loop.
        text: gives the status line.
    """

    def __init__(self, scheduler: Scheduler, text: Callable[[], str]) -> None:
        self._scheduler = scheduler
        self._text = text
        self._said = ""
        self._timer: Timer | None = None
        watchdog_s = watchdog_interval_s()
        self._watched = watchdog_s is not None
        # Twice as often as asked for, as sd_watchdog_enabled(3) recommends.
        self._every_s = min(watchdog_s / 2, STATUS_EVERY_S) if watchdog_s is not None else STATUS_EVERY_S

    def start(self) -> None:
        """Begin to beat; without a service manager there is nothing to do."""
        if "NOTIFY_SOCKET" in os.environ and self._timer is None:
            self._beat()

    def close(self) -> None:
        """Beat no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        self._timer = self._scheduler.call_later(self._every_s, self._beat)
        if self._watched:
            _send("WATCHDOG=1")
        text = self._text()
        if text != self._said:
            self._said = text
            status(text)


def _status(text: str) -> str:
    line = " ".join(text.split())  # a line break would begin another assignment
    return f"STATUS={line if len(line) <= STATUS_CHARACTERS else line[: STATUS_CHARACTERS - 1] + '…'}"


def _send(*assignments: str) -> None:
    if "NOTIFY_SOCKET" not in os.environ:
        return
    try:
        # Its own notify() sends one assignment at a time, and has no name for MONOTONIC_USEC.
        from cysystemd.daemon import sd_notify  # type: ignore[attr-defined]  # noqa: PLC0415 - annexd runs without it

        sd_notify("\n".join(assignments), False)  # $NOTIFY_SOCKET stays for the next one
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        _log.warning(
            "the service manager could not be told %s: %s", assignments[0], error, extra={"event": "notify_failed"}
        )
