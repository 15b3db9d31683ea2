"""SIGHUP: the configuration file is read again, and what differs is applied."""

from __future__ import annotations

import asyncio
import logging

from config.errors import ConfigError
from daemon.reconfiguration import Reconfiguration

_log = logging.getLogger(__name__)


class Reloads:
    """Reads the file again, once everything has started; signals that come meanwhile are one more."""

    def __init__(self, reconfiguration: Reconfiguration) -> None:
        self._reconfiguration = reconfiguration
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
            try:
                applied = await self._reconfiguration.reload()
            except ConfigError as error:
                _log.error("not reloaded, the old configuration stays in force: %s", error)
            else:
                _log.info("reloaded: %d changes", len(applied.changes))
