"""annex as a service of a machine that systemd has booted: installed, started, used, reloaded, watched, stopped.

The tests share one machine, and go on from each other in the order in which they stand here.
"""

from __future__ import annotations

import grp
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scsi.array_commands import FenceLevel, PairState
from tests.support.annexd import ROOT
from tests.support.host import GOOD, Host, HostLost, read_cdb, sense_of, write_cdb
from tests.support.load import Load
from tests.support.loop_device import LoopDevice
from tests.support.pair_commands import create_pair, naa_of, wait_for_pair
from tests.support.ports import lasting_port
from tests.support.systemd_machine import SystemdMachine
from tests.support.tgt import Tgt

# The first time the machine's root and the dependencies are made.
pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]

MIB = 1 << 20
DISK_BYTES = 32 * MIB
TARGET = "iqn.2026-11.org.example:served"
ARRAY_TARGET = "iqn.2026-11.org.example:array"
KNOWN, SECRET = "iqn.2026-11.org.example:known", "secret of known"
CONFIGURATION = "/etc/annex/annex.json"
UNIT = "annexd.service"
RESERVATION_CONFLICT = 0x18
TEST_UNIT_READY = bytes(6)
KEPT = ("/usr", "/etc/systemd", "/etc/sysusers.d", "/etc/tmpfiles.d", "/var/lib/systemd/linger")


@dataclass
class Installed:
    """The machine with annex on it, and what it serves: the loop device as LUN 0, the array's LUs as LUN 1 and 2."""

    machine: SystemdMachine
    array: Tgt
    disk: Path
    array_disks: list[Path]
    loop: str
    files_before: set[str]
    port: int = field(default_factory=lasting_port)

    def configuration(self, *more: str) -> dict[str, Any]:
        """Give the configuration; each of `more` is one more file, and the next LUN."""
        luns = ["near", "far", "alone", *more]
        # A pair is refused while another host may write to its units.
        known = {"initiator": KNOWN, "luns": [{"lun": 0, "virtual_device": "near", "read_only": True}]}
        return {
            "version": 2,
            "state_directory": "/var/lib/annex",
            "control": {},
            "devices": [
                {"name": "loop", "path": self.loop},
                *({"name": name, "path": f"/var/lib/annex/{name}.img"} for name in more),
            ],
            "arrays": [{"name": "old", "portal": f"127.0.0.1:{self.array.port}", "target": ARRAY_TARGET}],
            "virtual_devices": [
                {"name": "near", "regions": [{"device": "loop"}]},
                {"name": "far", "regions": [{"array": "old", "lun": 1}]},
                {"name": "alone", "regions": [{"array": "old", "lun": 2}]},
                *({"name": name, "regions": [{"device": name}]} for name in more),
            ],
            "targets": [
                {
                    "name": TARGET,
                    "portals": [f"127.0.0.1:{self.port}"],
                    "luns": [{"lun": number, "virtual_device": name} for number, name in enumerate(luns)],
                    "acls": [{**known, "chap": {"name": "known", "credential": "chap_known"}}],
                    "anyone": {"addresses": ["127.0.0.1"], "array_control": True},
                }
            ],
        }

    def configure(self, *more: str) -> None:
        self.machine.write(CONFIGURATION, json.dumps(self.configuration(*more)), "0600")

    def status(self) -> str:
        return self.machine.show(UNIT, "StatusText")

    def systemctl(self, *words: str) -> None:
        try:
            self.machine.run("systemctl", *words)
        except RuntimeError as error:
            raise AssertionError(f"{error}\n{self.machine.journal(UNIT)}") from None

    def serve_array(self) -> None:
        """Start the array; its LUs are the same each time."""
        self.array.start()
        target = self.array.add_target(ARRAY_TARGET)
        for lun, disk in enumerate(self.array_disks, 1):
            self.array.add_lun(target, disk, lun=lun)

    def host(self) -> Host:
        return Host(self.port, target=TARGET)

    def write_to_array(self) -> int:
        """Write to the array's first LU as a host that is cabled to it; give the status."""
        with Host(self.array.port, target=ARRAY_TARGET, name="iqn.2026-11.org.example:cabled") as host:
            return host.command(write_cdb(0, 0), lun=1).status

    def files(self) -> set[str]:
        return files(self.machine)


def files(machine: SystemdMachine) -> set[str]:
    return set(machine.run("find", *KEPT, check=False).splitlines())


def blank(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(DISK_BYTES)
    return path


@contextmanager
def of_group_disk(device: Path) -> Iterator[None]:
    """Give a block device the owner and the mode that udev gives it, where that runs."""
    before = device.stat()
    os.chown(device, 0, grp.getgrnam("disk").gr_gid)
    device.chmod(0o660)
    try:
        yield
    finally:
        os.chown(device, before.st_uid, before.st_gid)
        device.chmod(before.st_mode & 0o7777)


@pytest.fixture(scope="module")
def annex(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """The machine, with `make install` done in it."""
    folder = tmp_path_factory.mktemp("service")
    subprocess.run(["make", "dependencies"], cwd=ROOT, check=True, capture_output=True, timeout=300)
    disk, array_disks = blank(folder / "disk.img"), [blank(folder / f"array{lun}.img") for lun in (1, 2)]
    with LoopDevice(disk) as loop, of_group_disk(loop.path), SystemdMachine(folder, devices=[loop.path]) as machine:
        array = Tgt(folder, lasting_port())
        before = files(machine)
        machine.run("make", "-C", str(ROOT), "-o", "dependencies", "install")
        annex = Installed(machine, array, disk, array_disks, str(loop.path), before)
        annex.serve_array()
        machine.write("/etc/annex-credentials/known", SECRET + "\n", "0600")
        try:
            yield annex
        finally:
            array.stop()


def test_systemd_finds_nothing_wrong_with_the_installed_units(annex: Installed) -> None:
    units = ["annexd.service", "annexd.socket"]
    said = annex.machine.run("sh", "-c", f"systemd-analyze verify --man=no {' '.join(units)} 2>&1")
    assert said == ""


def test_the_first_start_needs_no_configuration(annex: Installed) -> None:
    annex.systemctl("enable", "--now", UNIT)
    assert annex.status() == "serving 0 logical units on 0 portals"
    assert json.loads(annex.machine.run("annexcli", "--json", "status"))
    annex.systemctl("stop", UNIT)


def test_v34_a_started_service_takes_hosts_as_its_own_user_and_its_files_are_its_own(annex: Installed) -> None:
    annex.configure()
    annex.systemctl("start", UNIT)  # it returns with READY=1
    assert annex.status() == "serving 3 logical units on 1 portal"
    process = annex.machine.show(UNIT, "MainPID")
    facts = annex.machine.run("cat", f"/proc/{process}/status")
    user, disk = annex.machine.run("id", "--user", "annex").strip(), annex.machine.run("getent", "group", "disk")
    assert re.search(rf"^Uid:(\s+{user}){{4}}$", facts, re.MULTILINE)
    assert re.search(rf"^Gid:(\s+{disk.split(':')[2]}){{4}}$", facts, re.MULTILINE)
    assert set(re.findall(r"^Cap\w+:\s+(\S+)$", facts, re.MULTILINE)) == {"0" * 16}
    assert re.search(r"^Seccomp:\s+2$", facts, re.MULTILINE)
    modes = annex.machine.run("stat", "-c", "%a %U %G", "/var/lib/annex", "/run/annex", "/etc/annex", CONFIGURATION)
    assert modes.splitlines() == ["700 annex disk", "750 annex annex", "700 annex annex", "600 annex annex"]


def test_the_journal_has_events_with_their_fields(annex: Installed) -> None:
    fields = ("ANNEX_EVENT=portal_open", f"ANNEX_PORTAL=127.0.0.1:{annex.port}", f"_SYSTEMD_UNIT={UNIT}")
    lines = annex.machine.run("journalctl", "--no-pager", "--output=cat", *fields).splitlines()
    assert set(lines) == {f"listening on 127.0.0.1:{annex.port}"}


def test_libiscsi_and_qemu_use_it(annex: Installed) -> None:
    listed = subprocess.run(
        ["iscsi-ls", "-s", f"iscsi://127.0.0.1:{annex.port}"], capture_output=True, text=True, timeout=30, check=True
    )
    assert TARGET in listed.stdout
    assert len(re.findall(r"Lun:\d", listed.stdout)) == 3
    commands = ["-c", "write -P 0x5a 16M 4M", "-c", "flush", "-c", "read -P 0x5a 16M 4M"]
    url = f"iscsi://127.0.0.1:{annex.port}/{TARGET}/0"
    subprocess.run(["qemu-io", "-f", "raw", *commands, url], capture_output=True, timeout=30, check=True)
    assert annex.disk.read_bytes()[16 * MIB : 20 * MIB] == b"\x5a" * (4 * MIB)


def test_a_credential_of_systemd_is_a_chap_secret(annex: Installed) -> None:
    options = f"driver=iscsi,transport=tcp,portal=127.0.0.1:{annex.port},target={TARGET},lun=0,initiator-name={KNOWN}"

    def read(secret: str) -> int:
        who = f",user=known,password={secret}"
        command = ["qemu-io", "-r", "-c", "read 0 4k", "--image-opts", f"{options}{who}"]
        return subprocess.run(command, capture_output=True, timeout=30).returncode

    assert read(SECRET) == 0
    assert read("secret of nobody") != 0
    assert SECRET not in annex.machine.journal(UNIT)


def test_reload_applies_the_file_and_refuses_a_bad_one(annex: Installed) -> None:
    annex.machine.run("sh", "-c", "truncate -s 16M /var/lib/annex/more.img; chown annex: /var/lib/annex/more.img")
    annex.configure("more")
    annex.systemctl("reload", UNIT)
    annex.machine.wait_for(UNIT, "StatusText", "serving 4 logical units")
    with annex.host() as host:
        assert host.command(read_cdb(0, 1), data_in_bytes=512, lun=3).status == GOOD
        annex.machine.write(CONFIGURATION, '{"version": 2', "0600")
        annex.systemctl("reload", UNIT)
        said = annex.machine.wait_for(UNIT, "StatusText", "not reloaded")
        assert "annex.json: line 1" in said
        assert annex.machine.show(UNIT, "ActiveState") == "active"
        assert host.command(read_cdb(0, 1), data_in_bytes=512, lun=3).status == GOOD
    annex.configure()
    annex.systemctl("reload", UNIT)
    annex.machine.wait_for(UNIT, "StatusText", "serving 3 logical units")


def test_a_daemon_that_stands_still_is_ended_and_started_again(annex: Installed) -> None:
    annex.machine.write(
        "/run/systemd/system/annexd.service.d/test.conf", "[Service]\nWatchdogSec=1\nTimeoutAbortSec=1\nRestartSec=0\n"
    )
    annex.systemctl("daemon-reload")
    annex.systemctl("restart", UNIT)
    time.sleep(2)  # twice the watchdog's time: one that gets its beats does nothing
    assert annex.machine.show(UNIT, "NRestarts") == "0"
    annex.systemctl("kill", "--signal=STOP", UNIT)
    annex.machine.wait_for(UNIT, "NRestarts", "1")
    annex.machine.wait_for(UNIT, "ActiveState", "active")
    assert "Watchdog timeout" in annex.machine.journal(UNIT)
    with annex.host() as host:
        assert host.command(read_cdb(0, 1), data_in_bytes=512).status == GOOD
    annex.machine.run("rm", "-r", "/run/systemd/system/annexd.service.d")
    annex.systemctl("daemon-reload")
    annex.systemctl("restart", UNIT)


def test_it_stops_under_load_in_time_and_lets_its_reserve_go(annex: Installed) -> None:
    def stop() -> float:
        begun = time.monotonic()
        annex.systemctl("stop", UNIT)
        return time.monotonic() - begun

    with annex.host() as host:
        created = create_pair(host, 1, FenceLevel.DATA)
        assert created.status == GOOD, sense_of(created)
        wait_for_pair(host, PairState.PAIR)
        assert annex.write_to_array() == RESERVATION_CONFLICT
        load = Load(64, seed=1)
        load.run(host, 200)
        with ThreadPoolExecutor(1) as pool:
            stopping = pool.submit(stop)
            with pytest.raises(HostLost):
                load.run(host, 1_000_000)
            took_s = stopping.result()
    limit_us = re.fullmatch(r"(\d+)s", annex.machine.show(UNIT, "TimeoutStopUSec"))
    assert limit_us
    assert took_s < int(limit_us[1])
    assert annex.machine.show(UNIT, "Result") == "success"
    assert annex.machine.show(UNIT, "ExecMainStatus") == "0"
    assert annex.write_to_array() == GOOD
    assert "Initiator" not in annex.array.sessions(1)
    annex.systemctl("start", UNIT)
    with annex.host() as host:
        wait_for_pair(host, PairState.PAIR)
        assert load.check(host) == []
    assert annex.disk.read_bytes() == annex.array_disks[0].read_bytes()


def test_it_is_ready_without_its_array_and_says_which_pair_waits(annex: Installed) -> None:
    annex.systemctl("stop", UNIT)
    annex.array.stop()
    annex.systemctl("start", UNIT)
    pair, alone = "pair 1 waits for array old", "logical unit alone: old/2: no connection"
    assert annex.status().startswith(f"serving 3 logical units on 1 portal; {pair}; {alone}")
    with annex.host() as host:
        assert sense_of(host.command(TEST_UNIT_READY, lun=2))[:2] == (0x2, 0x04)
        # The pair's other leg is here, and knows everything that was acknowledged.
        assert host.command(read_cdb(0, 1), data_in_bytes=512, lun=0).status == GOOD
    annex.serve_array()
    with annex.host() as host:
        wait_for_pair(host, PairState.PAIR)
    # The status line follows within 5 s.
    deadline = time.monotonic() + 20.0
    while annex.status() != "serving 3 logical units on 1 portal":
        assert time.monotonic() < deadline, annex.machine.journal(UNIT)
        time.sleep(0.1)


def test_systemd_opens_the_portal_and_hosts_wait_while_annexd_is_restarted(annex: Installed) -> None:
    unused = lasting_port()
    annex.systemctl("stop", UNIT)
    annex.machine.write(
        "/run/systemd/system/annexd.socket.d/test.conf",
        f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{annex.port}\nListenStream=127.0.0.1:{unused}\n",
    )
    annex.systemctl("daemon-reload")
    annex.systemctl("start", "annexd.socket")
    assert annex.machine.show(UNIT, "ActiveState") == "inactive"
    with annex.host() as host:  # this starts it
        assert host.command(read_cdb(0, 1), data_in_bytes=512).status == GOOD
    assert f"annexd.socket listens on 127.0.0.1:{unused}, which is the portal of no target" in annex.machine.journal(
        UNIT
    )
    with ThreadPoolExecutor(1) as pool:
        restarting = pool.submit(annex.systemctl, "restart", UNIT)
        logins = 0
        while not restarting.done() or not logins:
            # A session that the stop ends half-way through its login is one more try; a refused connection is not.
            try:
                annex.host().close()
                logins += 1
            except HostLost as lost:
                assert "refused" not in str(lost)  # noqa: PT017 - which one it was
        restarting.result()
    annex.systemctl("stop", "annexd.socket", UNIT)
    annex.machine.run("rm", "-r", "/run/systemd/system/annexd.socket.d")
    annex.systemctl("daemon-reload")


def test_v34_an_upgrade_closes_the_folder_of_the_configuration_and_keeps_the_secrets(annex: Installed) -> None:
    as_before = "mv /etc/annex-credentials /etc/annex/credentials; chown root:annex /etc/annex; chmod 0770 /etc/annex"
    annex.machine.run("sh", "-c", as_before)
    said = annex.machine.run("make", "-C", str(ROOT), "-o", "dependencies", "install")
    assert "the CHAP secrets of /etc/annex/credentials are in /etc/annex-credentials now" in said
    kept = ("/etc/annex", CONFIGURATION, "/etc/annex-credentials", "/etc/annex-credentials/known")
    modes = annex.machine.run("stat", "-c", "%a %U %G", *kept)
    assert modes.splitlines() == ["700 annex annex", "600 annex annex", "700 root root", "600 root root"]
    annex.systemctl("restart", UNIT)
    test_a_credential_of_systemd_is_a_chap_secret(annex)


def test_an_upgrade_keeps_the_state_and_leaves_nothing_of_the_version_before(annex: Installed) -> None:
    annex.systemctl("start", UNIT)
    with annex.host() as host:
        assert host.command(write_cdb(0, 1), data_out=b"\xa5" * 512).status == GOOD
        before = naa_of(host, 0)
    process = annex.machine.show(UNIT, "MainPID")
    stale = "/usr/local/lib/annex/daemon/stale.py", "/usr/local/bin/annexstale"
    annex.machine.run("sh", "-c", f"touch {' '.join(stale)}; echo {stale[1]} >>/usr/local/lib/annex/installed")
    said = annex.machine.run("make", "-C", str(ROOT), "-o", "dependencies", "install")
    assert "systemctl restart annexd" in said
    assert annex.machine.show(UNIT, "MainPID") == process
    annex.systemctl("restart", UNIT)
    assert annex.machine.run("ls", *stale, check=False) == ""
    with annex.host() as host:
        assert naa_of(host, 0) == before
        assert bytes(host.command(read_cdb(0, 1), data_in_bytes=512).data_in) == b"\xa5" * 512
        wait_for_pair(host, PairState.PAIR)


def test_uninstall_leaves_the_configuration_and_the_state_and_nothing_else(annex: Installed) -> None:
    annex.machine.run("make", "-C", str(ROOT), "uninstall")
    assert annex.machine.run("pgrep", "annexd", check=False) == ""
    assert annex.machine.show(UNIT, "LoadState") == "not-found"
    assert annex.files() == annex.files_before
    kept = annex.machine.run("find", "/etc/annex", "/etc/annex-credentials", "/var/lib/annex").splitlines()
    assert {CONFIGURATION, "/etc/annex-credentials/known", "/var/lib/annex/mapping.json"} <= set(kept)
