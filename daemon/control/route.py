"""What a row of the table of routes is made of, and the daemon as the rows see it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from config import model
from config.changes import Change
from config.errors import ConfigError
from daemon.control.authorization import Right
from daemon.control.jobs import Jobs
from daemon.control.pair_orders import PairOrders
from daemon.daemon import Daemon

IN_CHANGE = ("dry_run", "expected_revision")  # what each change of the configuration takes in its URL


class ChangeAnswer(msgspec.Struct):
    """What a change came to."""

    revision: int
    changes: list[Change]


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """No body, or an empty object."""


class Asked(NamedTuple):
    """A request that may be made and whose body is of its type.

    Attributes:
        names: the variable parts of the path.
        query: of the URL.
        body: of the route's type; bytes for `Raw`.
        right: what the asker may do.
    """

    names: Mapping[str, str]
    query: Mapping[str, str]
    body: Any
    right: Right


class Raw(msgspec.Struct):
    """A whole configuration, which `config.store` reads with its own checks."""


class Fields(msgspec.Struct):
    """Some fields of an entry; null is the default."""


class Control:
    """A running daemon, as the routes see it.

    Attributes:
        daemon: the daemon.
        jobs: what goes on.
        pairs: orders to pairs.
    """

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.jobs = Jobs(time.time)
        self.pairs = PairOrders(daemon, self.jobs)

    async def change(self, edit: Callable[[model.Config], None], query: Mapping[str, str]) -> ChangeAnswer:
        """Change the configuration by a function that changes a copy of it."""

        def edited(config: model.Config) -> model.Config:
            edit(config)
            return config

        return await self.replace(edited, query)

    async def replace(self, edit: Callable[[model.Config], model.Config], query: Mapping[str, str]) -> ChangeAnswer:
        """Change the configuration by a function that gives another one."""
        revision = query.get("expected_revision")
        if revision is not None and not (revision.isascii() and revision.isdigit()):
            raise ConfigError("expected_revision", f"{revision[:40]!r} is not a number")
        dry_run = query.get("dry_run", "false")
        if dry_run not in {"true", "false"}:
            raise ConfigError("dry_run", f"{dry_run[:40]!r} is neither true nor false")
        applied = await self.daemon.reconfiguration.change(
            edit, dry_run=dry_run == "true", expected_revision=None if revision is None else int(revision)
        )
        return ChangeAnswer(applied.revision, applied.changes)


Handler = Callable[[Control, Asked], Awaitable[Any]]


class Route(NamedTuple):
    """One kind of request.

    Attributes:
        method, path: of HTTP; the variable parts of the path in braces.
        right: what the asker must have.
        words: what it does.
        answer: type of the answer.
        handle: does it.
        body: type of the body, None for requests without one.
        status: of the answer.
        query: names of the parameters that the URL may have.
    """

    method: str
    path: str
    right: Right
    words: str
    answer: Any
    handle: Handler
    body: type[msgspec.Struct] | None = None
    status: int = 200
    query: tuple[str, ...] = ()
