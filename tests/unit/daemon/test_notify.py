"""What the service manager is told, datagram by datagram."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon import notify
from tests.support.clock import VirtualScheduler


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket on which a service manager would listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
            monkeypatch.delenv(name, raising=False)
        yield listener


def heard(manager: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(manager.recv(65536).decode())
        except BlockingIOError:
            return messages


def test_ready_and_its_status_are_one_message(manager: socket.socket) -> None:
    notify.ready("serving 3 logical units")
    assert heard(manager) == ["READY=1\nSTATUS=serving 3 logical units"]


def test_a_status_is_one_assignment_whatever_is_in_it(manager: socket.socket) -> None:
    notify.status("array said\nREADY=1")
    assert heard(manager) == ["STATUS=array said READY=1"]


def test_a_long_status_is_cut(manager: socket.socket) -> None:
    notify.status("x" * 5000)
    (message,) = heard(manager)
    assert len(message) == len("STATUS=") + notify.STATUS_CHARACTERS
    assert message.endswith("x…")


def test_reloading_says_when(manager: socket.socket) -> None:
    notify.reloading()
    first, second = heard(manager)[0].split("\n")
    assert first == "RELOADING=1"
    assert second.removeprefix("MONOTONIC_USEC=").isdecimal()


def test_stopping(manager: socket.socket) -> None:
    notify.stopping()
    assert heard(manager) == ["STOPPING=1\nSTATUS=stopping"]


def test_without_a_service_manager_cysystemd_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setitem(sys.modules, "cysystemd.daemon", None)  # importing it raises
    notify.ready("fine")
    scheduler = VirtualScheduler()
    notify.Heartbeat(scheduler, lambda: "fine").start()
    scheduler.advance(60)


def test_where_cysystemd_is_missing_annexd_goes_on(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "cysystemd.daemon", None)
    notify.ready("fine")
    assert heard(manager) == []
    assert "could not be told READY=1" in caplog.text


def test_a_service_manager_that_is_gone_is_only_logged(
    manager: socket.socket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "notify").unlink()
    notify.ready("fine")
    assert "could not be told READY=1" in caplog.text


def test_the_heart_beats_twice_as_often_as_asked(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "4000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    scheduler = VirtualScheduler()
    heartbeat = notify.Heartbeat(scheduler, lambda: "fine")
    heartbeat.start()
    scheduler.advance(7)
    assert heard(manager).count("WATCHDOG=1") == 4
    heartbeat.close()
    scheduler.advance(60)
    assert heard(manager) == []


def test_a_watchdog_that_is_set_for_another_process_gets_no_beats(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "4000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    scheduler = VirtualScheduler()
    notify.Heartbeat(scheduler, lambda: "fine").start()
    scheduler.advance(60)
    assert "WATCHDOG=1" not in heard(manager)


@pytest.mark.parametrize("interval", ["", "0", "-1", "soon"])
def test_an_interval_that_is_none_is_no_watchdog(monkeypatch: pytest.MonkeyPatch, interval: str) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", interval)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert notify.watchdog_interval_s() is None


def test_the_status_line_follows_what_it_is_about(manager: socket.socket) -> None:
    texts = ["pair 1 waits for array old"]
    scheduler = VirtualScheduler()
    notify.Heartbeat(scheduler, lambda: texts[-1]).start()
    scheduler.advance(3 * notify.STATUS_EVERY_S)
    texts.append("all is well")
    scheduler.advance(3 * notify.STATUS_EVERY_S)
    assert heard(manager) == ["STATUS=pair 1 waits for array old", "STATUS=all is well"]
