"""A real external array: tgt, on a free port of 127.0.0.1, with a control port of its own."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from types import TracebackType

from tests.support.ports import free_port

START_TIMEOUT_S = 10.0
END_TIMEOUT_S = 1.0


class Tgt:
    """One tgtd, ended by its process id; use it as a context manager, or call `start` and `stop`.

    Attributes:
        port: its iSCSI port on 127.0.0.1, the same again after `stop` and `start`.
        log: the file that its messages go to.
    """

    def __init__(self, directory: Path, port: int | None = None) -> None:
        self.port = port or free_port()
        self.log = directory / f"tgtd-{self.port}.log"
        self._control = str(self.port % 32000)  # names a Unix socket; tgtd takes small numbers only
        self._process: subprocess.Popen[bytes] | None = None
        self._targets = 0

    def __enter__(self) -> Tgt:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process, for SIGSTOP and the like."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, without any target, and wait until it takes orders."""
        self._targets = 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["tgtd", "-f", "-C", self._control, "--iscsi", f"portal=127.0.0.1:{self.port}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(f"tgtd ended at once: {self.log.read_text()[-500:]}")
            if self._tgtadm("--mode", "sys", "--op", "show", check=False).returncode == 0:
                return
            if time.monotonic() > deadline:
                self.stop()
                raise RuntimeError("tgtd takes no orders")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it: with SIGKILL, because it ignores SIGTERM while it has targets; it has nothing to save."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait(END_TIMEOUT_S)
        for suffix in ("", ".lock"):
            Path(f"/var/run/tgtd/socket.{self._control}{suffix}").unlink(missing_ok=True)

    def kill(self) -> None:
        """End it without a word to anybody, as a power cut would."""
        self.stop()

    def add_target(self, name: str) -> int:
        """Make a target that every initiator may log in to, and return its number."""
        self._targets += 1
        number = self._targets
        self._tgtadm("--mode", "target", "--op", "new", "--tid", str(number), "-T", name)
        self._tgtadm("--mode", "target", "--op", "bind", "--tid", str(number), "-I", "ALL")
        return number

    def set_parameter(self, target: int, name: str, value: str) -> None:
        """Set a negotiation parameter of a target, as `("InitialR2T", "Yes")`."""
        self._tgtadm("--mode", "target", "--op", "update", "--tid", str(target), "--name", name, "--value", value)

    def add_lun(
        self, target: int, path: Path, *, lun: int = 1, store: str = "rdwr", parameters: dict[str, str] | None = None
    ) -> None:
        """Serve a file or device as a LUN (tgt keeps LUN 0 for itself).

        Args:
            target: its number.
            path: the file or device.
            lun: the LUN.
            store: tgt's backing store, rdwr or aio.
            parameters: for example scsi_id and scsi_sn, which are else the same in every tgtd.
        """
        where = ["--tid", str(target), "--lun", str(lun)]
        self._tgtadm("--mode", "logicalunit", "--op", "new", *where, "-b", str(path), "--bstype", store)
        for name, value in (parameters or {}).items():
            self.set_unit_parameter(name, value, target=target, lun=lun)

    def set_unit_parameter(self, name: str, value: str, *, target: int = 1, lun: int = 1) -> None:
        """Change what tgt says of a LUN, as `("thin_provisioning", "1")`; initiators learn it when they ask again."""
        where = ["--tid", str(target), "--lun", str(lun)]
        self._tgtadm("--mode", "logicalunit", "--op", "update", *where, "--params", f"{name}={value}")

    def remove_lun(self, target: int, lun: int = 1) -> None:
        """Take a LUN away."""
        self._tgtadm("--mode", "logicalunit", "--op", "delete", "--tid", str(target), "--lun", str(lun))

    def add_account(self, target: int, user: str, password: str, *, outgoing: bool = False) -> None:
        """Ask initiators of a target for CHAP, or with `outgoing` prove the target to them."""
        self._tgtadm("--mode", "account", "--op", "new", "--user", user, "--password", password)
        way = ["--outgoing"] if outgoing else []
        self._tgtadm("--mode", "account", "--op", "bind", "--tid", str(target), "--user", user, *way)

    def sessions(self, target: int) -> str:
        """Return tgt's own words about a target: its sessions, LUNs and reservations."""
        shown = self._tgtadm("--mode", "conn", "--op", "show", "--tid", str(target), check=False)
        return shown.stdout.decode()

    def _tgtadm(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        command = ["tgtadm", "-C", self._control, "--lld", "iscsi", *arguments]
        done = subprocess.run(command, capture_output=True, timeout=10, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode().strip()}")
        return done
