"""A host that is a real Linux kernel, with open-iscsi: User-Mode Linux, a kernel that runs as a process.

It boots in 3 s. Its root is this machine's own, read only, with memory over what is written; its network card is a tap
in a `LinuxNetwork`. `tests/support/linux_init.sh` is its first process, `linux_agent.py` runs the test's commands: a
serial line between the two is not disturbed by what a test does to the network.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

from tests.support.linux_network import LinuxNetwork

KERNEL = "linux.uml"
BOOT_LIMIT_S = 40.0
COMMAND_LIMIT_S = 30.0
END_LIMIT_S = 15.0
MOST_REQUEST_BYTES = 1 << 16  # a pipe takes as much, so that writing never waits
ANSWER_LIMIT_S = 10.0  # what the line may take on top of the command itself
_MODULES = Path("/usr/lib/uml/modules")
_SUPPORT = Path(__file__).parent


class Result(NamedTuple):
    """What a command came to."""

    status: int
    output: str
    errors: str


class Running(NamedTuple):
    """A command that has been started."""

    number: int
    command: Sequence[str]
    deadline: float


class LinuxHost:
    """A booted kernel; use it as a context manager.

    Args:
        network: where it is plugged in, on every Ethernet.
        folder: its console's log `host<number>.log` lies there.
        number: 1, 2, …: which host of the network it is.
        memory_mib: its memory.
    """

    def __init__(self, network: LinuxNetwork, folder: Path, *, number: int = 1, memory_mib: int = 512) -> None:
        self.network = network
        self.number = number
        self.name = f"iqn.2026-11.org.example:linux-host-{number}"
        self.console = folder / f"host{number}.log"
        self._folder = folder
        self._memory_mib = memory_mib
        self._process: subprocess.Popen[bytes] | None = None
        self._requests = self._answers = -1
        self._unread = b""
        self._results: dict[int, Result] = {}
        self._started = 0

    def __enter__(self) -> Self:
        try:
            self._boot()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def address(self, ethernet: int = 0) -> str:
        """Give its own address."""
        return f"10.99.{ethernet}.{10 + self.number}"

    def start(self, *command: str, text: str = "", limit_s: float = COMMAND_LIMIT_S) -> Running:
        """Start a command in it as root, with `text` as its input."""
        self._started += 1
        line = json.dumps([self._started, command, text, limit_s]).encode() + b"\n"
        assert len(line) < MOST_REQUEST_BYTES, "the serial line is slow: put it into a file"
        os.write(self._requests, line)
        return Running(self._started, command, time.monotonic() + limit_s + ANSWER_LIMIT_S)

    def wait(self, running: Running) -> Result:
        """Wait for the end of a command, in bounded time.

        Raises:
            RuntimeError: the kernel has ended, or does not answer; with the end of its console.
        """
        while running.number not in self._results:
            self._take(running.deadline, " ".join(running.command))
        return self._results.pop(running.number)

    def result(self, *command: str, text: str = "", limit_s: float = COMMAND_LIMIT_S) -> Result:
        """Run a command in it, and give what it came to."""
        return self.wait(self.start(*command, text=text, limit_s=limit_s))

    def run(self, *command: str, text: str = "", limit_s: float = COMMAND_LIMIT_S) -> str:
        """Run a command in it that must succeed; give what it prints."""
        done = self.result(*command, text=text, limit_s=limit_s)
        assert done.status == 0, f"{' '.join(command)} ended with {done.status}\n{done.output}{done.errors}"
        return done.output

    def sh(self, script: str, *arguments: str, text: str = "", limit_s: float = COMMAND_LIMIT_S) -> str:
        """Run a shell script in it that must succeed; give what it prints."""
        return self.run("bash", "-ec", script, "bash", *arguments, text=text, limit_s=limit_s)

    def stop(self) -> None:
        """Turn it off, in bounded time."""
        for descriptor in (self._requests, self._answers):
            if descriptor >= 0:
                os.close(descriptor)  # its agent ends then, and it with that
        self._requests = self._answers = -1
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for ethernet in range(self.network.ethernets):
            with suppress(RuntimeError):
                self.network.unplug(self.number, ethernet)

    def _boot(self) -> None:
        version = subprocess.run(
            [KERNEL, "--version"], capture_output=True, text=True, check=True, timeout=BOOT_LIMIT_S
        )
        modules = _MODULES / version.stdout.strip()
        ethernets = range(self.network.ethernets)
        addresses = ",".join(f"vec{ethernet}={self.address(ethernet)}/24" for ethernet in ethernets)
        for_kernel, self._requests = os.pipe()
        self._answers, from_kernel = os.pipe()
        registers = self._folder / "linux_registers.so"
        compiler = ["gcc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(registers)]
        subprocess.run([*compiler, str(_SUPPORT / "linux_registers.c")], check=True, timeout=BOOT_LIMIT_S)
        command = [
            "env",
            f"LD_PRELOAD={registers}",
            KERNEL,
            f"mem={self._memory_mib}M",
            f"umid=annex-{os.getpid()}-{id(self)}",
            "quiet",
            "ro",
        ]
        command += ["root=/dev/root", "rootfstype=hostfs", "rootflags=/", f"init={_SUPPORT / 'linux_init.sh'}"]
        command += ["con=null", "con0=null,fd:1", f"ssl0=fd:{for_kernel},fd:{from_kernel}"]
        for ethernet in ethernets:
            tap = self.network.plug_in(self.number, ethernet)
            mac = f"02:99:00:00:{ethernet:02x}:{self.number:02x}"
            command.append(f"vec{ethernet}:transport=tap,ifname={tap},depth=128,gro=1,mac={mac}")
        command += [f"annex_modules={modules}", f"annex_agent={_SUPPORT / 'linux_agent.py'}"]
        command += [f"annex_name={self.name}", f"annex_addresses={addresses}"]
        with self.console.open("ab") as log:
            self._process = subprocess.Popen(
                self.network.inside(*command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(for_kernel, from_kernel),
                start_new_session=True,
                env={**os.environ, "HOME": str(self._folder), "TMPDIR": "/dev/shm"},
            )
        os.close(for_kernel)
        os.close(from_kernel)
        self.wait(Running(0, ["boot"], time.monotonic() + BOOT_LIMIT_S))

    def _take(self, deadline: float, what: str) -> None:
        """Take an answer from the line, or a part of one."""
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not select.select([self._answers], [], [], remaining)[0]:
            raise RuntimeError(f"{what}: no answer in time\n{self._console_end()}")
        data = os.read(self._answers, 1 << 16)
        if not data:
            raise RuntimeError(f"{what}: the kernel has ended\n{self._console_end()}")
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            number, status, output, errors = json.loads(line)
            self._results[number] = Result(status, output, errors)

    def _console_end(self) -> str:
        return self.console.read_text(errors="replace")[-4000:]
