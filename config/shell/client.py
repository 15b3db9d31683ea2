"""The control API as the shell asks it: HTTP over annexd's Unix socket, or over TLS with a token.

A daemon that is not there, or is there and says nothing, is found out within two seconds, before anything is asked of
it and again whenever an answer takes long.
"""

from __future__ import annotations

import http.client
import json
import select
import socket
import ssl
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from config.shell.errors import NoDaemon, Refused, Usage

PROBE_LIMIT_S = 1.3  # the start of Python comes on top
SLOWEST_LINK_BYTES_PER_S = 1_000_000
TRUSTED_S = 1.0  # a daemon that has answered is taken to be alive for this long
MAX_ANSWER_BYTES = 64 * 1024 * 1024
STATUS = "/v1/status"
_OF_THE_DAEMON = {502, 504}


class Address(NamedTuple):
    """Where annexd is reached: `socket`, or `host` with `port`, `token` and the certificates of its authority."""

    socket: str = ""
    host: str = ""
    port: int = 0
    token: str = ""
    cafile: str | None = None

    def __repr__(self) -> str:
        return f"Address({self})"  # without the token

    def __str__(self) -> str:
        return self.socket or f"{self.host} port {self.port}"


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """Asks a running annexd.

    Each call gives the decoded answer, or None when there is none.

    Raises, each of them:
        Refused: annexd said no.
        NoDaemon: nobody answers, or what answers is not annexd.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._alive_until = float("-inf")
        self._tls = _context(address.cafile) if address.host else None

    def get(self, path: str) -> Any:
        """Ask."""
        return self.request("GET", path)

    def put(self, path: str, body: object) -> Any:
        """Replace what is at a path."""
        return self.request("PUT", path, body)

    def post(self, path: str, body: object = None) -> Any:
        """Add to a path, or have something done there."""
        return self.request("POST", path, {} if body is None else body)

    def patch(self, path: str, body: object) -> Any:
        """Change some keys of what is at a path."""
        return self.request("PATCH", path, body)

    def delete(self, path: str) -> Any:
        """Remove what is at a path."""
        return self.request("DELETE", path)

    def request(self, method: str, path: str, body: object = None) -> Any:
        """Ask anything."""
        if path != STATUS and time.monotonic() > self._alive_until:
            self._exchange("GET", STATUS, None)
        status, data = self._exchange(method, path, body)
        return _decoded(str(self.address), f"{method} {path}", status, data)

    def _exchange(self, method: str, path: str, body: object) -> tuple[int, bytes]:
        headers = {"Accept": "application/json", "Connection": "close"}
        if self.address.token:
            headers["Authorization"] = f"Bearer {self.address.token}"
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(body).encode()
        connection = self._connection()
        connection.timeout = PROBE_LIMIT_S + len(content or b"") / SLOWEST_LINK_BYTES_PER_S
        try:
            connection.request(method, path, body=content, headers=headers)
            if path != STATUS:
                self._wait_for_answer(connection.sock)
            response = connection.getresponse()
            data = response.read(MAX_ANSWER_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            raise self._not_there(error) from None
        finally:
            connection.close()
        if len(data) > MAX_ANSWER_BYTES:
            raise NoDaemon(
                str(self.address), f"what answers sends more than {MAX_ANSWER_BYTES} bytes: it is not annexd"
            )
        self._alive_until = time.monotonic() + TRUSTED_S
        return response.status, data

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return _UnixConnection(self.address.socket)
        return http.client.HTTPSConnection(self.address.host, self.address.port, context=self._tls)

    def _wait_for_answer(self, sock: socket.socket) -> None:
        """Wait for as long as annexd works on it, but not for one that is dead."""
        while not select.select([sock], [], [], PROBE_LIMIT_S)[0]:
            self._exchange("GET", STATUS, None)

    def _not_there(self, error: Exception) -> NoDaemon:
        place = str(self.address)
        if isinstance(error, ssl.SSLCertVerificationError):
            return NoDaemon(place, f"its certificate is not trusted: {error.verify_message}", "--cafile FILE")
        if isinstance(error, FileNotFoundError):
            return NoDaemon(place, "annexd is not running: there is no such socket", "systemctl start annexd")
        if isinstance(error, ConnectionRefusedError):
            return NoDaemon(place, "annexd is not running: nobody listens there", "systemctl start annexd")
        if isinstance(error, PermissionError):
            return NoDaemon(place, "this user may not open it", "be root, or in one of control.admin_groups")
        if isinstance(error, (TimeoutError, BlockingIOError)):
            return NoDaemon(place, "annexd does not answer", "journalctl -u annexd")
        if isinstance(error, http.client.HTTPException) and not isinstance(error, http.client.RemoteDisconnected):
            return NoDaemon(place, "what answers is not annexd")
        return NoDaemon(place, f"annexd can not be reached: {getattr(error, 'strerror', None) or error}")


def segment(name: str | int) -> str:
    """Give a name as one part of a path of the API."""
    return quote(str(name), safe="")


def read_token(path: Path) -> str:
    """Give the token in a file.

    Raises:
        Usage: it can not be read, or holds no token.
    """
    try:
        token = path.expanduser().read_text(encoding="ascii").strip()
    except OSError as error:
        raise Usage(str(path), f"can not be read: {error.strerror}") from None
    except UnicodeDecodeError:
        token = ""
    if not token or not token.isprintable():
        raise Usage(str(path), "holds no token")
    return token


def _context(cafile: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=cafile)
    except (OSError, ssl.SSLError) as error:
        raise Usage(str(cafile), f"holds no certificates: {error.strerror or error}") from None


def _decoded(place: str, request: str, status: int, data: bytes) -> Any:
    try:
        document = json.loads(data) if data else None
    except (ValueError, RecursionError):
        if status < 400:
            raise NoDaemon(place, "what answers is not annexd: no JSON") from None
        document = None
    if status < 300:
        return document
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict) or status in _OF_THE_DAEMON:
        raise NoDaemon(place, f"answers HTTP status {status} to {request}", "is it an annexd of this version?")
    said = {key: str(error.get(key) or "") for key in ("place", "problem", "remedy")}
    raise Refused(**said, status=status)
