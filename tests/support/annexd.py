"""A real annexd in a process of its own, started with `annexd try` and ended by its own pid."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
TARGET_NAME = "iqn.2026-11.io.annex:try"
START_LIMIT_S = 30.0
STOP_LIMIT_S = 20.0


class Annexd:
    """`annexd try` over local paths and external LUs, on a free port of 127.0.0.1.

    Args:
        folder: its state directory `state` and its log `annexd.log` lie there; the same folder again is the same state.
        sources: ("--local", path) and ("--array", URL) in the order of the LUNs.
        options: further options of `annexd try`.
        port: listen there (default: a free port).
    """

    def __init__(
        self, folder: Path, *sources: tuple[str, str | Path], options: tuple[str, ...] = (), port: int | None = None
    ) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.lines: list[str] = []
        self._arguments = [word for option, value in sources for word in (option, str(value))] + list(options)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the running daemon."""
        assert self._process is not None
        return self._process.pid

    def url(self, lun: int) -> str:
        """Give the URL at which libiscsi and QEMU find a LUN."""
        return f"iscsi://127.0.0.1:{self.port}/{TARGET_NAME}/{lun}"

    def log(self) -> str:
        """Give what it has logged so far, over all its starts."""
        return (self.folder / "annexd.log").read_text(errors="replace")

    def start(self) -> Self:
        """Start it, and return once hosts can log in: it has printed `ready`.

        Raises:
            RuntimeError: it ended, or was not ready in time; with its log.
        """
        with (self.folder / "annexd.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdout=subprocess.PIPE, stderr=log, cwd="/", env=os.environ | self._environment()
            )
        self._wait_until_up()
        return self

    def ended(self) -> bool:
        """Tell whether it has ended by itself."""
        return self._process is None or self._process.poll() is not None

    def stop(self) -> int:
        """End it as a service manager would, with SIGTERM; give its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """End it at once, with SIGKILL, wherever it is."""
        return self._end(signal.SIGKILL)

    def _environment(self) -> dict[str, str]:
        """Give the variables that it gets besides this process's own."""
        return {}

    def _command(self) -> list[str]:
        command = [sys.executable, "-I", str(ROOT), "try", "--portal", f"127.0.0.1:{self.port}"]
        return [*command, "--state", str(self.folder / "state"), *self._arguments]

    def _wait_until_up(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        self.lines = []
        pending = b""
        deadline = time.monotonic() + START_LIMIT_S
        descriptor = self._process.stdout.fileno()
        while "ready" not in self.lines:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not select.select([descriptor], [], [], remaining)[0]:
                self.kill()
                raise RuntimeError(f"annexd was not ready within {START_LIMIT_S} s\n{self.log()}")
            data = os.read(descriptor, 65536)
            if not data:
                raise RuntimeError(f"annexd ended with {self._process.wait()} before it was ready\n{self.log()}")
            *lines, pending = (pending + data).split(b"\n")
            self.lines += [line.decode() for line in lines]

    def _end(self, number: signal.Signals) -> int:
        if self._process is None:
            return 0
        self._process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait until it has ended, in bounded time; give its exit code."""
        process, self._process = self._process, None
        assert process is not None
        try:
            code = process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise RuntimeError(f"annexd did not stop within {STOP_LIMIT_S} s\n{self.log()}") from None
        finally:
            assert process.stdout is not None
            process.stdout.close()
        return code

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
