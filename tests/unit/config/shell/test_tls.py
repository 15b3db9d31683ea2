"""annexcli --host: TLS that is checked, and a token."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from config.shell.main import main

pytestmark = pytest.mark.slow  # it makes a key
TOKEN = "canary-0123456789abcdef0123456789"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        admitted = self.headers["Authorization"] == f"Bearer {TOKEN}"
        error = {"error": {"place": "token", "problem": "is not the right one", "remedy": ""}}
        data = json.dumps({"state": "serving"} if admitted else error).encode()
        self.send_response(200 if admitted else 401)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        pass


class Place(NamedTuple):
    port: int
    certificate: Path
    token: Path


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    certificate, key, token = tmp_path / "certificate.pem", tmp_path / "key.pem", tmp_path / "token"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key,
         "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    token.write_text(TOKEN + "\n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield Place(server.server_port, certificate, token)
        server.shutdown()
        thread.join()


def run(place: Place, *words: str) -> int:
    return main(["--host", f"127.0.0.1:{place.port}", "--token-file", str(place.token), *words, "status"])


def test_a_daemon_with_a_trusted_certificate_is_asked_with_the_token(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, "--cafile", str(place.certificate)) == 0
    assert "state: serving" in capsys.readouterr().out


def test_a_certificate_that_nobody_vouches_for_is_refused_before_the_token_is_sent(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place) == 3
    assert "certificate is not trusted" in capsys.readouterr().err


def test_a_wrong_token_is_refused_and_not_shown(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.token.write_text(TOKEN.upper())
    assert run(place, "--cafile", str(place.certificate)) == 1
    shown = capsys.readouterr()
    assert "is not the right one" in shown.err
    assert "CANARY" not in shown.err + shown.out


def test_a_file_without_certificates_is_said(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place, "--cafile", str(place.token)) == 2
    assert "holds no certificates" in capsys.readouterr().err
