"""qemu-storage-daemon with two disks over NBD: one as it is, one with a mirror job to an LU of an array."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from bench.servers import START_LIMIT_S

STORAGE_DAEMON = "qemu-storage-daemon"


class QemuStorage:
    """`url(0)` is the plain disk, `url(1)` the one whose writes are answered when the array has them too."""

    def __init__(self, disks: list[Path], target: str, folder: Path) -> None:
        """Start it, and wait until the mirror has copied everything."""
        self.name = STORAGE_DAEMON
        folder.mkdir()
        self._nbd, control = folder / "nbd", folder / "qmp"
        portal, name, lun = target.removeprefix("iscsi://").split("/")
        array = {"driver": "iscsi", "transport": "tcp", "portal": portal, "target": name, "lun": int(lun)}
        command = [STORAGE_DAEMON, "--chardev", f"socket,id=control,path={control},server=on,wait=off"]
        command += ["--monitor", "chardev=control", "--nbd-server", f"addr.type=unix,addr.path={self._nbd}"]
        command += ["--blockdev", json.dumps(array | {"node-name": "array", "cache": {"direct": True}})]
        for number, disk in enumerate(disks):
            command += ["--blockdev", f"driver=file,node-name=disk{number},filename={disk}"]
            command += ["--export", f"type=nbd,id=export{number},node-name=disk{number},name=disk{number},writable=on"]
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            self._mirror(control)
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def url(self, lun: int) -> str:
        return f"nbd+unix:///disk{lun}?socket={self._nbd}"

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _mirror(self, control: Path) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while not control.exists() or not self._nbd.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{STORAGE_DAEMON} does not start")
            time.sleep(0.05)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(START_LIMIT_S)
            connection.connect(str(control))
            with connection.makefile("rw") as stream:
                json.loads(stream.readline())  # its greeting

                def ask(command: str, **arguments: object) -> None:
                    stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
                    stream.flush()
                    while "return" not in (answer := json.loads(stream.readline())):
                        if "error" in answer:
                            raise RuntimeError(f"{command}: {answer['error']}")

                def is_ready(event: dict[str, Any]) -> bool:
                    return event.get("event") == "BLOCK_JOB_READY"

                ask("qmp_capabilities")
                job = {"job-id": "mirror", "device": "disk1", "target": "array"}
                ask("blockdev-mirror", **job, sync="full", **{"copy-mode": "write-blocking"})
                while not is_ready(json.loads(stream.readline())):
                    pass
