"""`annexcli import targetcli` of what a live kernel target saved: annexd takes its place on the same machine."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.annexd import ROOT, START_LIMIT_S
from tests.support.linux_host import LinuxHost
from tests.support.linux_network import LinuxNetwork
from tests.support.linux_target import PORT, SAVED, TARGET, KernelDisk, LinuxTarget

pytestmark = [pytest.mark.linux, pytest.mark.interop, pytest.mark.slow]

DISK_BYTES = 2 << 20
HOST, STRANGER = "iqn.2026-11.org.example:host", "iqn.2026-11.org.example:stranger"
USER, SECRET = "user", "canary-of-the-host"
CONFIGURATION = "/run/annex.json"
PATTERNS = {"disk0": 0x5A, "disk1": 0xA5}
_SERVE = 'echo $$ >/run/annexd.pid; exec "$1" serve --config "$2"'
_CLEAR = "from rtslib_fb import RTSRoot; RTSRoot().clear_existing(confirm=True)"


@pytest.fixture
def machine(network: LinuxNetwork, linux_folder: Path) -> Iterator[LinuxHost]:
    with LinuxHost(network, linux_folder, number=8) as machine:
        yield machine


def can_read(
    portal: str, network: LinuxNetwork, lun: int, pattern: int, name: str = HOST, secret: str = SECRET
) -> bool:
    """Tell whether a host reads the pattern from a LUN."""
    where = f"driver=iscsi,transport=tcp,portal={portal},target={TARGET},lun={lun},initiator-name={name}"
    command = ["qemu-io", "-r", "-c", f"read -P {pattern} 0 {DISK_BYTES}", "--image-opts"]
    command.append(f"{where},user={USER},password={secret}")
    done = subprocess.run(network.inside(*command), capture_output=True, text=True, timeout=30)
    return done.returncode == 0 and f"read {DISK_BYTES}/{DISK_BYTES}" in done.stdout


def test_annexd_serves_what_the_kernel_served_to_the_same_hosts_and_to_nobody_else(
    tmp_path: Path, network: LinuxNetwork, machine: LinuxHost
) -> None:
    kernel = LinuxTarget(machine, [KernelDisk(name, DISK_BYTES) for name in PATTERNS], [HOST], chap=(USER, SECRET))
    for name, pattern in PATTERNS.items():
        (tmp_path / name).write_bytes(bytes([pattern]) * DISK_BYTES)
        kernel.fill(name, tmp_path / name)

    def reads() -> dict[str, bool]:
        luns = {f"LUN {lun}": can_read(kernel.portal, network, lun, each) for lun, each in enumerate(PATTERNS.values())}
        first = PATTERNS["disk0"]
        return luns | {
            "another pattern": can_read(kernel.portal, network, 0, 0),
            "another host": can_read(kernel.portal, network, 0, first, name=STRANGER),
            "another secret": can_read(kernel.portal, network, 0, first, secret="canary-of-nobody"),
        }

    before = reads()
    assert before == dict.fromkeys(["LUN 0", "LUN 1"], True) | dict.fromkeys(
        ["another pattern", "another host", "another secret"], False
    )
    kernel.saved()
    said = machine.run(str(ROOT / "bin/annexcli"), "import", "targetcli", SAVED, f"output={CONFIGURATION}")
    assert SECRET not in said
    assert len(re.findall(r"/backstores/fileio/disk\d: its serial number '[0-9a-f-]+' can not be kept", said)) == 2
    assert "left out" not in said

    kernel.python(_CLEAR)
    assert can_read(kernel.portal, network, 0, PATTERNS["disk0"]) is False
    serving = machine.start("sh", "-c", _SERVE, "sh", str(ROOT / "bin/annexd"), CONFIGURATION, limit_s=100)
    deadline = time.monotonic() + 3 * START_LIMIT_S
    while not network.takes_connections(machine.address(), PORT):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert reads() == before
    machine.sh("kill $(cat /run/annexd.pid)")
    assert machine.wait(serving).status == 0
