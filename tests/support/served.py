"""A real annexd that serves a configuration file: `annexd serve`."""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path
from typing import Any, Self

from config.model import split_portal
from tests.support.annexd import ROOT, START_LIMIT_S, Annexd

POLL_S = 0.05


class Served(Annexd):
    """`annexd serve` with `config`, which is written to `folder`; it is up once its first portal takes connections."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        host, port = split_portal(config["targets"][0]["portals"][0])
        super().__init__(folder, port=port)
        self._host = host
        self._file = folder / "annex.json"
        self._file.write_text(json.dumps(config))
        self._file.chmod(0o600)

    def _command(self) -> list[str]:
        return [sys.executable, "-I", str(ROOT), "serve", "--config", str(self._file)]

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
