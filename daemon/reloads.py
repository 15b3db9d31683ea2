"""SIGHUP: the configuration file is read again, and what differs is applied."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from config.errors import ConfigError
from daemon import notify
from daemon.reconfiguration import Reconfiguration

_log = logging.getLogger(__name__)


class Reloads:
    """Reads the file again, once everything has started; signals that come meanwhile are one more.

    Args:
        reconfiguration: applies it.
        status: says how annexd is, for the service manager.
    """

    def __init__(self, reconfiguration: Reconfiguration, status: Callable[[], str]) -> None:
        self._reconfiguration = reconfiguration
        self._status = status
        self._allowed = False
        self._wanted = False
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Read the file again, now or after what is under way."""
        self._wanted = True
        self._go_on()

    def allow(self) -> None:
        """Learn that everything has started."""
        self._allowed = True
        self._go_on()

    def _go_on(self) -> None:
        if self._wanted and self._allowed and (self._task is None or self._task.done()):
            self._task = asyncio.ensure_future(self._reload())

    async def _reload(self) -> None:
        while self._wanted:
            self._wanted = False
            notify.reloading()
            try:
                applied = await self._reconfiguration.reload()
            except ConfigError as error:
                _log.error(
                    "not reloaded, the old configuration stays in force: %s", error, extra={"event": "not_reloaded"}
                )
                notify.ready(f"not reloaded, the old configuration stays in force: {error}")
            else:
                _log.info("reloaded: %d changes", len(applied.changes), extra={"event": "reloaded"})
                notify.ready(self._status())
