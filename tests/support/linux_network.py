"""A network namespace for real Linux hosts and what they log in to; it is gone when the test is, whatever happens.

It has one Ethernet, or two for hosts with two paths. On Ethernet `n` annexd's machine has the address 10.99.n.1, and
host `h` 10.99.n.(10 + h).
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

LIMIT_S = 20.0
_CLONE_NEWNET = 0x40000000  # linux/sched.h


class LinuxNetwork:
    """The namespace; use it as a context manager.

    Args:
        ethernets: how many.
    """

    def __init__(self, ethernets: int = 1) -> None:
        self.ethernets = ethernets
        self._holder: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        # It has no name that would stay behind: it lives as long as a process in it, and that one until its input ends.
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert self._holder.stdout is not None
            assert select.select([self._holder.stdout], [], [], LIMIT_S)[0], "no namespace within the time"
            self.run("ip", "link", "set", "lo", "up")
            for ethernet in range(self.ethernets):
                # An address of its own: else it has that of one of its ports, and another when that host has gone.
                mac = f"02:99:00:00:{ethernet:02x}:fe"
                self.run("ip", "link", "add", f"bridge{ethernet}", "address", mac, "type", "bridge")
                self.run("ip", "address", "add", f"{self.address(ethernet)}/24", "dev", f"bridge{ethernet}")
                self.run("ip", "link", "set", f"bridge{ethernet}", "up")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it: with the last process in it, it and its links are gone."""
        holder, self._holder = self._holder, None
        if holder is not None:
            assert holder.stdin is not None
            assert holder.stdout is not None
            holder.stdin.close()
            holder.stdout.close()
            holder.wait(LIMIT_S)

    def address(self, ethernet: int = 0) -> str:
        """Give the address of annexd's machine."""
        return f"10.99.{ethernet}.1"

    def inside(self, *command: str) -> list[str]:
        """Give the command that runs `command` in it; this keeps its process id."""
        assert self._holder is not None
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--", *command]

    def run(self, *command: str) -> str:
        """Run a command in it; give what it prints."""
        done = subprocess.run(
            self.inside(*command),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def plug_in(self, host: int, ethernet: int) -> str:
        """Make the tap of a host on an Ethernet; give its name."""
        name = f"tap{ethernet}-{host}"
        self.run("ip", "tuntap", "add", "dev", name, "mode", "tap")
        self.run("ip", "link", "set", name, "master", f"bridge{ethernet}")
        self.run("ip", "link", "set", name, "up")
        return name

    def unplug(self, host: int, ethernet: int) -> None:
        """Remove what `plug_in` made."""
        self.run("ip", "link", "delete", f"tap{ethernet}-{host}")

    def cut(self, ethernet: int) -> None:
        """Let nothing more through an Ethernet; nobody is told."""
        self.run("ip", "link", "set", f"bridge{ethernet}", "down")

    def mend(self, ethernet: int) -> None:
        """Undo `cut`."""
        self.run("ip", "link", "set", f"bridge{ethernet}", "up")

    def connect(self, address: str, port: int) -> socket.socket:
        """Connect from within it, by a thread that enters it; the socket can be used outside.

        Raises:
            OSError: nobody listens there, or it is not reached.
        """
        assert self._holder is not None
        place = Path(f"/proc/{self._holder.pid}/ns/net")

        def inside() -> socket.socket:
            with place.open() as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number))
            return socket.create_connection((address, port), timeout=LIMIT_S)

        with ThreadPoolExecutor(1) as entering:
            return entering.submit(inside).result()

    def takes_connections(self, address: str, port: int) -> bool:
        """Tell whether something listens there."""
        try:
            self.run("bash", "-c", ': <>"/dev/tcp/$0/$1"', address, str(port))
        except RuntimeError:
            return False
        return True
