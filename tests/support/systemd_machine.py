"""A Debian machine that systemd has booted: a container of systemd-nspawn over a root made by debootstrap.

The root is made once, and kept under build/roots in a folder named by what it was made from; what a machine changes
lies in memory, and is gone with it. It shares the network of the machine that the tests run on.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.support.annexd import ROOT

SUITE = "bookworm"
PACKAGES = ("dbus", "libiscsi7", "make", "python3", "sudo", "systemd", "systemd-sysv")
BOOT_LIMIT_S = 60.0
END_LIMIT_S = 20.0
COMMAND_LIMIT_S = 100.0
POLL_S = 0.05
_ROOTS = ROOT / "build" / "roots"
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
# Where nobody manages control groups, the container gets a place of its own: it makes others below that.
_IN_OWN_CONTROL_GROUP = """
name=$1; shift
for top in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
    if [ -e "$top/cgroup.procs" ]; then mkdir -p "$top/$name"; echo $$ >"$top/$name/cgroup.procs"; fi
done
exec "$@"
"""


def debian_root() -> Path:
    """Give a root with Debian's systemd and Python in it; the first time this takes a minute and the network."""
    key = hashlib.sha256(f"1 {SUITE} {PACKAGES}".encode()).hexdigest()[:16]
    root = _ROOTS / key
    _ROOTS.mkdir(parents=True, exist_ok=True)
    with (_ROOTS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            making = _ROOTS / "making"
            shutil.rmtree(making, ignore_errors=True)
            packages = ",".join(PACKAGES)
            # What it mounts goes with its own mount namespace, also when it is killed half-way.
            command = ("unshare", "--mount", "debootstrap", "--variant=minbase", f"--include={packages}", SUITE)
            _run(*command, str(making), limit_s=600)
            shutil.rmtree(making / "var/cache/apt")
            making.rename(root)
    return root


class SystemdMachine:
    """A booted machine; use it as a context manager.

    Args:
        folder: its log `console.log` lies there.
        devices: block devices that it has.
    """

    def __init__(self, folder: Path, devices: Sequence[Path] = ()) -> None:
        self._folder = folder
        self._devices = devices
        self._name = f"annex-test-{os.getpid()}"
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def __enter__(self) -> Self:
        root = debian_root()
        address = self._folder / "notify"
        command = ["systemd-nspawn", f"--directory={root}", f"--machine={self._name}", "--volatile=overlay", "--boot"]
        command += ["--register=no", "--console=pipe", "--notify-ready=yes", f"--bind-ro={ROOT}"]
        command += [f"--bind={device}" for device in self._devices]
        if not Path("/run/systemd/system").exists():
            command = ["sh", "-c", _IN_OWN_CONTROL_GROUP, "sh", self._name, *command, "--keep-unit"]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, self.log.open("wb") as log:
            manager.bind(str(address))
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "NOTIFY_SOCKET": str(address)},
            )
            try:
                self._wait_until_booted(manager)
            except BaseException:
                self.stop()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def log(self) -> Path:
        """What systemd-nspawn said, and the machine on its console."""
        return self._folder / "console.log"

    def run(self, *command: str, check: bool = True, limit_s: float = COMMAND_LIMIT_S, text: str = "") -> str:
        """Run a command in it as root, with `text` as its input; give what it prints.

        Raises:
            RuntimeError: it failed, with what it said; not with `check=False`.
        """
        return _run(*self.inside(), *command, check=check, limit_s=limit_s, text=text)

    def write(self, path: str, text: str, mode: str = "0644") -> None:
        """Put a file into it; one that is there keeps its owner."""
        self.run("sh", "-c", 'mkdir -p "$(dirname "$1")"; cat >"$1"; chmod "$2" "$1"', "sh", path, mode, text=text)

    def show(self, unit: str, name: str) -> str:
        """Give a property of a unit, as systemd has it."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def wait_for(self, unit: str, name: str, wanted: str, limit_s: float = 20.0) -> str:
        """Wait until `wanted` is in a property of a unit; give it whole."""
        deadline = time.monotonic() + limit_s
        while wanted not in (value := self.show(unit, name)):
            assert time.monotonic() < deadline, f"{unit}: {name} is {value!r} and not {wanted!r}\n{self.journal(unit)}"
            time.sleep(POLL_S)
        return value

    def journal(self, unit: str) -> str:
        """Give what a unit has logged."""
        return self.run("journalctl", "--no-pager", "--output=short-monotonic", "-u", unit, check=False)

    def stop(self) -> None:
        """Turn it off, in bounded time."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()  # systemd-nspawn has the machine power itself off
        try:
            process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            if self._leader:
                os.kill(self._leader, signal.SIGKILL)
            process.kill()
            process.wait()
        for top in ("systemd", "unified", "."):
            for folder in sorted(Path("/sys/fs/cgroup", top, self._name).rglob("*/"), reverse=True):
                with suppress(OSError):
                    folder.rmdir()
            with suppress(OSError):
                Path("/sys/fs/cgroup", top, self._name).rmdir()

    def inside(self) -> list[str]:
        """Give what a command begins with to run in it as root."""
        assignments = [f"{name}={value}" for name, value in _ENVIRONMENT.items()]
        return ["nsenter", f"--target={self._leader}", "--all", "--", "/usr/bin/env", "-i", *assignments]

    def _wait_until_booted(self, manager: socket.socket) -> None:
        """Wait for what systemd-nspawn says of itself: the process in the machine, and that this has booted."""
        assert self._process is not None
        manager.settimeout(1.0)
        deadline = time.monotonic() + BOOT_LIMIT_S
        said: set[str] = set()
        while "READY=1" not in said or not self._leader:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"the machine did not boot; it said {said}\n{self.log.read_text()}")
            with suppress(TimeoutError):
                said |= set(manager.recv(65536).decode().splitlines())
            for line in said:
                if line.startswith("X_NSPAWN_LEADER_PID="):
                    self._leader = int(line.partition("=")[2])


def _run(*command: str, check: bool = True, limit_s: float, text: str = "") -> str:
    with tempfile.TemporaryFile("w+") as errors:
        done = subprocess.run(
            command, input=text, stdout=subprocess.PIPE, stderr=errors, text=True, timeout=limit_s, check=False
        )
        errors.seek(0)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{errors.read()}")
    return done.stdout
