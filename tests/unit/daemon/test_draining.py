import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from daemon.draining import Drain


class Connection:
    """A connection of a host that does nothing by itself."""

    def __init__(self, *, in_session: bool = True, discovering: bool = False) -> None:
        self.in_session = in_session
        self.discovering = discovering
        self.asked: list[int] = []
        self.dropped = asyncio.Event()

    def request_logout(self, within_s: int) -> None:
        self.asked.append(within_s)

    def drop(self) -> None:
        self.dropped.set()


def run(
    caplog: pytest.LogCaptureFixture, connections: list[Connection], what: Callable[[Drain], Any], within_s: int = 30
) -> list[str]:
    """Drain, do something, and give the lines of the log."""

    async def drained() -> None:
        drain = Drain("192.0.2.1:3260", lambda: connections, within_s)
        done = what(drain)
        if isinstance(done, Coroutine):
            await done
        drain.close()

    with caplog.at_level(logging.INFO):
        asyncio.run(drained())
    return [record.getMessage() for record in caplog.records if record.name == "daemon.draining"]


def test_the_log_says_when_a_drain_begins_and_when_the_last_session_has_gone(caplog: pytest.LogCaptureFixture) -> None:
    hosts = [Connection(), Connection()]
    discovery, login = Connection(in_session=False, discovering=True), Connection(in_session=False)

    def leave(drain: Drain) -> None:
        for host in hosts:
            assert not any("is drained" in record.getMessage() for record in caplog.records)
            drain.closed(host)
        drain.closed(login)

    assert run(caplog, [*hosts, discovery, login], leave) == [
        "draining 192.0.2.1:3260: sessions asked to log out within 30 s: 2",
        "192.0.2.1:3260 is drained: sessions that logged out: 2, that were dropped: 0",
    ]
    assert [host.asked for host in hosts] == [[30], [30]]


def test_who_is_still_there_when_the_time_is_up_is_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    gone, deaf = Connection(), Connection()
    discovery, login = Connection(in_session=False, discovering=True), Connection(in_session=False)

    async def time_passes(drain: Drain) -> None:
        drain.closed(gone)
        await deaf.dropped.wait()
        drain.closed(deaf)

    lines = run(caplog, [gone, deaf, discovery, login], time_passes, within_s=0)
    assert lines[1:] == ["192.0.2.1:3260 is drained: sessions that logged out: 1, that were dropped: 1"]
    assert (login.dropped.is_set(), discovery.dropped.is_set()) == (True, False)


def test_a_drain_that_is_taken_back_drops_nobody_and_says_who_stays(caplog: pytest.LogCaptureFixture) -> None:
    host = Connection()

    async def cancelled(drain: Drain) -> None:
        drain.cancel()
        later = asyncio.Event()
        asyncio.get_running_loop().call_later(0, later.set)
        await later.wait()

    lines = run(caplog, [host], cancelled, within_s=0)
    assert lines[1:] == ["192.0.2.1:3260 admits sessions again; of those before, still there: 1"]
    assert not host.dropped.is_set()


def test_a_portal_without_sessions_is_drained_at_once(caplog: pytest.LogCaptureFixture) -> None:
    lines = run(caplog, [], lambda _drain: None)
    assert lines[1:] == ["192.0.2.1:3260 is drained: sessions that logged out: 0, that were dropped: 0"]
