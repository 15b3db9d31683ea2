"""The two targets that are compared, each in a process of its own, on storage that both of them serve."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).resolve().parent.parent
START_LIMIT_S = 20.0
STOP_LIMIT_S = 10.0
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
TRY_TARGET = "iqn.2026-11.io.annex:try"


class Server(Protocol):
    """A running target."""

    name: str

    @property
    def pid(self) -> int: ...
    def url(self, lun: int) -> str: ...
    def stop(self) -> None: ...


def free_port() -> int:
    """Give a TCP port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def cpu_seconds(pid: int) -> float:
    """Give the processor time that a process has used, over all its threads (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


class Tgt:
    """tgtd with one target; `url(n)` is the n-th of the paths it was given."""

    TARGET = "iqn.2026-11.io.annex.bench:tgt"

    def __init__(self, paths: list[Path], log: Path) -> None:
        self.name = "tgt"
        self.port = free_port()
        # The control port is a number below 32768 in the name of a socket, one per tgtd.
        control = str(self.port % 32768 or 1)
        self._control = ["tgtadm", "-C", control, "--lld", "iscsi"]
        command = ["tgtd", "-f", "-C", control, "--iscsi", f"portal=127.0.0.1:{self.port}"]
        with log.open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            self._configure(paths)
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def url(self, lun: int) -> str:
        return f"iscsi://127.0.0.1:{self.port}/{self.TARGET}/{lun + 1}"  # its LUN 0 is a controller

    def stop(self) -> None:
        self._process.kill()  # it ignores SIGTERM while it is busy, and has nothing to lose
        self._process.wait()

    def _configure(self, paths: list[Path]) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while self._admin("--mode", "sys", "--op", "show", check=False):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("tgtd does not start")
            time.sleep(0.05)
        self._admin("--mode", "target", "--op", "new", "--tid", "1", "-T", self.TARGET)
        for lun, path in enumerate(paths, 1):
            unit = ["--mode", "logicalunit", "--tid", "1", "--lun", str(lun)]
            self._admin(*unit, "--op", "new", "-b", str(path))
            self._admin(*unit, "--op", "update", "--params", f"scsi_id=annexbench{self.port}x{lun}")
        self._admin("--mode", "target", "--op", "bind", "--tid", "1", "-I", "ALL")

    def _admin(self, *arguments: str, check: bool = True) -> int:
        command = [*self._control, *arguments]
        return subprocess.run(command, check=check, capture_output=True, timeout=START_LIMIT_S).returncode


class Annex:
    """`annexd try` over paths (as `--local`) and URLs (as `--array`), in the order of its LUNs."""

    def __init__(self, sources: list[Path | str], folder: Path, options: list[str]) -> None:
        self.name = "annex"
        self.port = free_port()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._log = folder / "annexd.log"
        command = [sys.executable, "-I", str(ROOT), "try", "--portal", f"127.0.0.1:{self.port}", *options]
        command += ["--state", str(folder / "state")]
        for source in sources:
            command += ["--array" if isinstance(source, str) else "--local", str(source)]
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=output)
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def url(self, lun: int) -> str:
        return f"iscsi://127.0.0.1:{self.port}/{TRY_TARGET}/{lun}"

    def log(self) -> str:
        """Give what it has logged so far."""
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_LIMIT_S)
        self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _wait_ready(self) -> None:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        printed = b""
        deadline = time.monotonic() + START_LIMIT_S
        while b"ready" not in printed.split(b"\n"):
            left = deadline - time.monotonic()
            more = os.read(descriptor, 65536) if left > 0 and select.select([descriptor], [], [], left)[0] else b""
            if not more:
                raise RuntimeError(f"annexd does not start:\n{self.log()}")
            printed += more
