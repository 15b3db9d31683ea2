"""A stand-in for annexd's control API: HTTP over a Unix socket, with a configuration that it keeps in memory.

It does what the shell needs of the API, in the API's words, and notes every request.
"""

from __future__ import annotations

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

COLLECTIONS = {"devices": "name", "arrays": "name", "vdevs": "name", "targets": "name", "pairs": "number",
               "groups": "name", "acquisitions": "identifier", "sessions": "tsih", "jobs": "id"}  # fmt: skip
UNDER_TARGETS = {"luns": "lun", "acls": "initiator", "portals": "portal"}


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


class FakeApi:
    """The API over `folder`/control.sock.

    Attributes:
        path: of the socket.
        state: rows by collection, as they are answered.
        requests: (method, path, body) of each that changes something.
        refusals: (method, path) → the error to answer instead, with its status.
        answers: (method, path) → what to answer instead.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "control.sock"
        self.state: dict[str, Any] = {name: [] for name in COLLECTIONS}
        self.requests: list[tuple[str, str, Any]] = []
        self.refusals: dict[tuple[str, str], tuple[int, dict[str, str]]] = {}
        self.answers: dict[tuple[str, str], list[Any]] = {}
        self.status: dict[str, Any] = {"version": "0.1.0", "state": "serving", "problems": []}
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                status, document = api.answer(self.command, self.path, body)
                data = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do  # noqa: N815 - http.server's names

            def address_string(self) -> str:
                return "unix"

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
                pass

        self._server = _Server(str(self.path), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def answer(self, method: str, url: str, body: Any) -> tuple[int, Any]:
        """Answer one request."""
        path = urlsplit(url).path
        if method != "GET":
            self.requests.append((method, url, body))
        if (method, path) in self.refusals:
            status, error = self.refusals[method, path]
            return status, {"error": error}
        if (method, path) in self.answers:
            queue = self.answers[method, path]
            return 200, queue.pop(0) if len(queue) > 1 else queue[0]
        if path == "/v1/status":
            return 200, self.status
        rows, rest, key = self._place([unquote(part) for part in path.split("/")[2:]])
        if rows is None:
            return 404, {"error": {"place": path, "problem": "is not there", "remedy": ""}}
        return self._on_rows(method, rows, rest, key, body)

    def _place(self, parts: list[str]) -> tuple[list[Any] | None, list[str], str]:
        group, *rest = parts
        if group == "targets" and len(rest) > 1 and rest[1] in UNDER_TARGETS:
            target = next((row for row in self.state["targets"] if row["name"] == rest[0]), None)
            if target is None:
                return None, [], ""
            rows = target.setdefault(rest[1], [])
            if len(rest) > 3 and rest[3] == "luns":
                acl = next(row for row in rows if row["initiator"] == rest[2])
                acl["luns"] = acl.get("luns") or []
                return acl["luns"], rest[4:], "lun"
            return rows, rest[2:], UNDER_TARGETS[rest[1]]
        return (self.state[group], rest, COLLECTIONS[group]) if group in COLLECTIONS else (None, [], "")

    def _on_rows(self, method: str, rows: list[Any], rest: list[str], key: str, body: Any) -> tuple[int, Any]:
        if not rest:
            if method == "POST":
                rows.append(body)
            return (201, {"revision": 2, "changes": []}) if method == "POST" else (200, rows)
        row = next((row for row in rows if str(row[key]) == rest[0]), None)
        if row is None:
            return 404, {"error": {"place": rest[0], "problem": "is not there", "remedy": ""}}
        if method == "DELETE":
            rows.remove(row)
        elif method == "PATCH":
            row.update(body)
        return 200, row if method == "GET" else {"revision": 2, "changes": []}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
