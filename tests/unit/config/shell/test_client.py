"""The client finds a dead daemon in bounded time, whatever it does instead of answering."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from config.shell import client
from config.shell.client import Address, Client, read_token
from config.shell.errors import NoDaemon, Refused, Usage
from tests.support.fake_api import FakeApi

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    with FakeApi(tmp_path) as fake:
        yield fake


@contextmanager
def listener(path: Path, serve: Callable[[socket.socket, int], None]) -> Iterator[None]:
    """Hand each connection to `serve` with its number, in a thread, until the end of the block."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(8)
        kept: list[socket.socket] = []

        def loop() -> None:
            while True:
                try:
                    connection = server.accept()[0]
                except OSError:
                    return
                kept.append(connection)
                serve(connection, len(kept))

        thread = threading.Thread(target=loop)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in kept:
                connection.close()


def test_no_socket_is_no_daemon(tmp_path: Path) -> None:
    with pytest.raises(NoDaemon, match="is not running"):
        Client(Address(socket=str(tmp_path / "absent"))).get("/v1/devices")


def test_a_socket_that_nobody_listens_on_is_no_daemon(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(NoDaemon, match="is not running"):
        Client(Address(socket=str(path))).get("/v1/devices")


@pytest.mark.slow
def test_a_daemon_that_accepts_and_says_nothing_is_found_out_within_two_seconds(tmp_path: Path) -> None:
    with listener(tmp_path / "socket", lambda connection, number: None):
        begin = time.monotonic()
        with pytest.raises(NoDaemon, match="does not answer"):
            Client(Address(socket=str(tmp_path / "socket"))).post("/v1/devices", {"name": "disk0"})
        assert time.monotonic() - begin < 2.0


@pytest.mark.slow
def test_a_daemon_that_does_not_even_accept_is_found_out_within_two_seconds(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(path))  # fills the backlog
            begin = time.monotonic()
            with pytest.raises(NoDaemon, match="does not answer"):
                Client(Address(socket=str(path))).get("/v1/devices")
            assert time.monotonic() - begin < 2.0


def test_a_daemon_that_dies_while_it_answers_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PROBE_LIMIT_S", 0.1)

    def serve(connection: socket.socket, number: int) -> None:
        if number == 1:  # the first look; then it hangs
            connection.recv(4096)
            connection.sendall(OK)

    with listener(tmp_path / "socket", serve), pytest.raises(NoDaemon, match="does not answer"):
        Client(Address(socket=str(tmp_path / "socket"))).post("/v1/devices", {})


def test_an_answer_that_takes_long_is_waited_for_as_long_as_the_daemon_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PROBE_LIMIT_S", 0.05)
    slow: list[socket.socket] = []

    def serve(connection: socket.socket, number: int) -> None:
        if number == 2:
            slow.append(connection)
            return
        connection.recv(4096)
        connection.sendall(OK)
        if number == 6:  # after some looks whether it lives
            slow[0].sendall(OK)

    with listener(tmp_path / "socket", serve):
        assert Client(Address(socket=str(tmp_path / "socket"))).post("/v1/devices", {}) == {}


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200,
    ],
)
def test_what_is_no_annexd_is_found_out(tmp_path: Path, said: bytes) -> None:
    def serve(connection: socket.socket, _: int) -> None:
        connection.recv(4096)
        connection.sendall(said)
        connection.shutdown(socket.SHUT_WR)

    with listener(tmp_path / "socket", serve), pytest.raises(NoDaemon, match="not annexd"):
        Client(Address(socket=str(tmp_path / "socket"))).get("/v1/status")


def test_a_refusal_has_place_problem_and_remedy(api: FakeApi) -> None:
    error = {"place": "devices[0].path", "problem": "is no device", "remedy": "look at lsblk"}
    api.refusals["POST", "/v1/devices"] = (400, error)
    with pytest.raises(Refused) as refused:
        Client(Address(socket=str(api.path))).post("/v1/devices", {})
    assert str(refused.value) == "devices[0].path: is no device (look at lsblk)"
    assert (refused.value.status, refused.value.exit_code) == (400, 1)


@pytest.mark.parametrize("error", [None, [], "no", 5])
def test_an_error_without_its_document_is_no_annexd(api: FakeApi, error: Any) -> None:
    api.refusals["GET", "/v1/devices"] = (404, error)
    with pytest.raises(NoDaemon, match="404"):
        Client(Address(socket=str(api.path))).get("/v1/devices")


def test_the_token_is_not_in_the_repr() -> None:
    assert "canary" not in repr(Address(host="h", port=1, token="canary"))


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"a\nb"])
def test_a_file_without_a_token_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(Usage, match="holds no token"):
        read_token(file)
