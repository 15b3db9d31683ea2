"""annexd on a `LinuxHost`, with a pair (LUN 0, LUN 1) whose legs are disks under device-mapper of that host.

The primary's leg is a block device of annexd; the secondary's is one that the kernel's own target serves.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Self

from scsi.array_commands import FenceLevel, PairState
from tests.support.annexd import ROOT, START_LIMIT_S
from tests.support.host import GOOD, Host
from tests.support.linux_host import LinuxHost, Running
from tests.support.linux_target import TARGET as ARRAY_TARGET
from tests.support.linux_target import KernelDisk, LinuxTarget
from tests.support.mapped_disk import MappedDisk, prepare
from tests.support.pair_commands import create_pair, wait_for_pair

PORT = 3261
TARGET = "iqn.2026-11.org.example:annex"
LEG_BYTES = 16 << 20
_LIFE_S = 3600.0
_RUN = 'echo $$ >"$1/pid"; cd /; exec >>"$1/annexd.log" 2>&1; shift; exec "$@"'


class InnerAnnexd:
    """`annexd serve` as a process of a `LinuxHost`; its state, log and configuration lie there in `folder`."""

    def __init__(self, host: LinuxHost, folder: str, config: dict[str, Any], port: int = PORT) -> None:
        self._host = host
        self._folder = folder
        self._port = port
        self._running: Running | None = None
        control = {"control": {"socket": f"{folder}/control.sock"}, "state_directory": f"{folder}/state"}
        script = 'mkdir -p "$1"; cat >"$1/annex.json"; chmod 0600 "$1/annex.json"; touch "$1/annexd.log"'
        host.sh(script, folder, text=json.dumps({"version": 2} | control | config))

    def start(self) -> Self:
        """Start it, and return once hosts can log in."""
        command = [sys.executable, "-I", str(ROOT), "serve", "--config", f"{self._folder}/annex.json"]
        self._running = self._host.start("sh", "-c", _RUN, "sh", self._folder, *command, limit_s=_LIFE_S)
        deadline = time.monotonic() + START_LIMIT_S
        while not self._host.network.takes_connections(self._host.address(), self._port):
            if time.monotonic() > deadline:
                raise RuntimeError(f"annexd serve did not come up\n{self.log()}")
            time.sleep(0.05)
        return self

    def kill(self) -> None:
        """End it at once, with SIGKILL."""
        self._end("-KILL")

    def stop(self) -> None:
        """End it with SIGTERM."""
        self._end("-TERM")

    def log(self) -> str:
        """Give what it has logged so far, over all its starts."""
        return self._host.run("cat", f"{self._folder}/annexd.log")

    def connect(self) -> Host:
        """Log in, from outside."""
        network, address = self._host.network, self._host.address()
        return Host(self._port, target=TARGET, connect=lambda: network.connect(address, self._port))

    def _end(self, signal: str) -> None:
        running, self._running = self._running, None
        if running is not None:
            self._host.sh('kill "$1" "$(cat "$2/pid")"', signal, self._folder)
            self._host.wait(running)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class MappedPair:
    """The disks, the array over one of them, and annexd over both; use it as a context manager.

    Attributes:
        local: the disk under LUN 0.
        remote: the disk under the array's LU, which is LUN 1.
        annexd: the daemon.
    """

    def __init__(self, host: LinuxHost) -> None:
        prepare(host)
        self._host = host
        self.local = MappedDisk(host, "local", LEG_BYTES)
        self.remote = MappedDisk(host, "remote", LEG_BYTES)
        array = LinuxTarget(host, [KernelDisk("old", LEG_BYTES, self.remote.path)], [])
        anyone = {"addresses": [f"{host.network.address()}/32"], "array_control": True}
        target = {
            "name": TARGET,
            "portals": [f"{host.address()}:{PORT}"],
            "luns": [{"lun": 0, "virtual_device": "data"}, {"lun": 1, "virtual_device": "copy"}],
            "anyone": anyone,
        }
        config = {
            "devices": [{"name": "disk", "path": self.local.path}],
            "arrays": [{"name": "old", "portal": array.portal, "target": ARRAY_TARGET}],
            "virtual_devices": [
                {"name": "data", "regions": [{"device": "disk"}]},
                {"name": "copy", "regions": [{"array": "old", "lun": 0}]},
            ],
            "targets": [target],
        }
        self.annexd = InnerAnnexd(host, "/run/annexd", config)

    def __enter__(self) -> Self:
        self.annexd.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.mend()
        self.annexd.stop()

    def mend(self) -> None:
        """Have both disks work."""
        for disk in (self.local, self.remote):
            disk.lock(read_only=False)
            disk.work()

    def form(self, host: Host, level: FenceLevel) -> None:
        """Form the pair, and wait until it is copied."""
        assert create_pair(host, 1, level).status == GOOD
        wait_for_pair(host, PairState.PAIR, 10)

    def sha256(self, disk: MappedDisk) -> str:
        """Give the checksum of what is on a disk, below everything that can fail or keep it."""
        return self._host.run("sha256sum", disk.file).split()[0]
