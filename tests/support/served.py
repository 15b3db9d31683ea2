"""A real annexd that serves a configuration file: `annexd serve`."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, Self

from config.model import split_portal
from tests.support.annexd import ROOT, START_LIMIT_S, Annexd

POLL_S = 0.05
RELOAD_LIMIT_S = 20.0


class Served(Annexd):
    """`annexd serve` with `config`, which is written to `folder`; it is up once its first portal takes connections.

    Its control socket lies in `folder`, unless `config` has a section of its own.

    Attributes:
        file: the configuration.
    """

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        host, port = split_portal(config["targets"][0]["portals"][0])
        super().__init__(folder, port=port)
        self._host = host
        self.file = folder / "annex.json"
        self.write(config)

    def write(self, config: dict[str, Any]) -> None:
        """Put another configuration into the file."""
        config = {"control": {"socket": str(self.folder / "control.sock")}} | config
        self.file.write_text(json.dumps(config))
        self.file.chmod(0o600)

    def reload(self, config: dict[str, Any] | None = None) -> str:
        """Have the file read again, with `config` in it; give the line in which the daemon says what came of it."""
        if config is not None:
            self.write(config)
        before = len(_outcomes(self.log()))
        os.kill(self.pid, signal.SIGHUP)
        deadline = time.monotonic() + RELOAD_LIMIT_S
        while len(lines := _outcomes(self.log())) == before:
            assert time.monotonic() < deadline, self.log()
            time.sleep(POLL_S)
        return lines[-1]

    def _command(self) -> list[str]:
        return [sys.executable, "-I", str(ROOT), "serve", "--config", str(self.file)]

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            try:
                socket.create_connection((self._host, self.port), timeout=1).close()
            except OSError:
                if self.ended() or time.monotonic() > deadline:
                    self.kill()
                    raise RuntimeError(f"annexd serve did not come up\n{self.log()}") from None
                time.sleep(POLL_S)
            else:
                return

    def __enter__(self) -> Self:
        return self.start()


def _outcomes(log: str) -> list[str]:
    return [line for line in log.splitlines() if "reloaded" in line]
