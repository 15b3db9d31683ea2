"""Sockets handed over by the service manager: taken when they are for this process, and are what they should be."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.errors import ConfigError
from daemon import inherited


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def announce(monkeypatch: pytest.MonkeyPatch, descriptor: int, count: str = "1", process: str = "") -> None:
    monkeypatch.setattr(inherited, "FIRST_DESCRIPTOR", descriptor)
    monkeypatch.setenv("LISTEN_FDS", count)
    monkeypatch.setenv("LISTEN_PID", process or str(os.getpid()))


def test_a_portal_gets_the_socket_of_its_address_and_again_after_closing_it(listening: socket.socket) -> None:
    sockets = inherited.InheritedSockets([listening])
    for _ in range(2):
        taken = sockets.take(listening.getsockname())
        assert taken is not None
        with taken:
            assert taken.getsockname() == listening.getsockname()
            assert taken.fileno() != listening.fileno()
    assert sockets.take(("127.0.0.1", 1)) is None
    assert sockets.take(("localhost", listening.getsockname()[1])) is None


def test_one_address_may_be_spelt_in_two_ways() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        taken = inherited.InheritedSockets([server]).take(("0:0:0:0:0:0:0:1", server.getsockname()[1]))
        assert taken is not None
        taken.close()


def test_a_socket_that_is_no_portal_is_refused_in_words(listening: socket.socket) -> None:
    sockets = inherited.InheritedSockets([listening])
    host, port = listening.getsockname()
    (words,) = sockets.unmatched([("127.0.0.1", 1)])
    assert f"{host}:{port}" in words
    assert "ListenStream=" in words
    assert not list(sockets.unmatched([("127.0.0.1", port)]))


def test_what_is_announced_is_taken_over_and_hidden_from_children(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = listening.getsockname()
    descriptor = listening.detach()
    os.set_inheritable(descriptor, True)
    announce(monkeypatch, descriptor)
    monkeypatch.setenv("LISTEN_FDNAMES", "annexd.socket")
    sockets = inherited.from_environment()
    assert not os.get_inheritable(descriptor)
    assert not [name for name in os.environ if name.startswith("LISTEN_")]
    taken = sockets.take(address)
    assert taken is not None
    taken.close()
    sockets.close()


@pytest.mark.parametrize(("count", "process"), [("1", "1"), ("", ""), ("-1", ""), ("one", "")])
def test_what_is_not_announced_to_this_process_is_left_alone(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch, count: str, process: str
) -> None:
    announce(monkeypatch, listening.fileno(), count, process)
    assert inherited.from_environment().take(listening.getsockname()) is None


def test_a_descriptor_that_is_no_socket_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        announce(monkeypatch, file.fileno())
        with pytest.raises(ConfigError, match="is not a socket"):
            inherited.from_environment()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_that_does_not_listen_is_refused(monkeypatch: pytest.MonkeyPatch, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as other:
        announce(monkeypatch, other.fileno())
        with pytest.raises(ConfigError, match="is not a TCP socket that listens"):
            inherited.from_environment()


def test_a_descriptor_that_is_not_open_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    announce(monkeypatch, 999)
    with pytest.raises(ConfigError, match=r"descriptor 999 .* is not a socket: Bad file descriptor"):
        inherited.from_environment()
