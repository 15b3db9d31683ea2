"""A client of the control API that shows answers as they are: status and document."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

LIMIT_S = 30.0


class Answer(NamedTuple):
    """What came back; `document` is the decoded body."""

    status: int
    document: Any

    @property
    def error(self) -> dict[str, str]:
        found: dict[str, str] = self.document["error"]
        return found


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=LIMIT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(LIMIT_S)
        self.sock.connect(str(self._path))


class ControlClient:
    """Asks the daemon behind a Unix socket."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ask(self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, **headers: str) -> Answer:
        """Send one request; `raw` instead of `body` is sent as it is."""
        connection = _Connection(self.path)
        data = raw if raw is not None else (None if body is None else json.dumps(body).encode())
        if data is not None:
            headers.setdefault("content_type", "application/json")
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body=data, headers=named)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        return Answer(response.status, json.loads(content) if content else None)

    def get(self, path: str) -> Any:
        """Give the document at a path, which must be there."""
        answer = self.ask("GET", path)
        assert answer.status == 200, answer
        return answer.document


def part(name: str) -> str:
    """Give a name as a part of a path."""
    return quote(name, safe="")
