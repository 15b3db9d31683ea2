"""annexcli with a running annexd: from an empty daemon to a disk that a host uses, and what an admin does then."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config.errors import ConfigError
from config.shell.client import Address, Client
from tests.support.annexd import ROOT, START_LIMIT_S, Annexd
from tests.support.host import GOOD, Host, HostLost, read_cdb, write_cdb
from tests.support.ports import free_port

pytestmark = [pytest.mark.interop, pytest.mark.slow]

MIB = 1 << 20
TARGET = "iqn.2026-11.org.example:target"
HOST = "iqn.2026-11.org.example:test-host"
TPG = f"/iscsi/{TARGET}/tpg1"
LIMIT_S = 60.0


class Empty(Annexd):
    """`annexd serve` of a configuration with nothing in it but its control socket."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.control = folder / "control.sock"
        self.file = folder / "annex.json"
        section = {"socket": str(self.control)}
        document = {"version": 2, "state_directory": str(folder / "state"), "control": section}
        self.file.write_text(json.dumps(document))
        self.file.chmod(0o600)

    def cli(self, *words: str, lines: str = "") -> tuple[int, str, str]:
        """Run annexcli; give its exit code, stdout and stderr."""
        done = subprocess.run(
            [ROOT / "bin" / "annexcli", "--socket", self.control, *words],
            input=lines,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        return done.returncode, done.stdout, done.stderr

    def does(self, line: str) -> str:
        """Run a line that has to go well; give what it shows."""
        code, out, err = self.cli(*line.split())
        assert (code, err) == (0, ""), f"{line}: {out}{err}{self.log()}"
        return out

    def documents(self, line: str) -> list[Any]:
        """Run a line with --json; give its documents."""
        return [json.loads(document) for document in self.does(f"--json {line}").splitlines()]

    def _command(self) -> list[str]:
        return [sys.executable, "-I", str(ROOT), "serve", "--config", str(self.file)]

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        client = Client(Address(socket=str(self.control)))
        while True:
            try:
                if client.get("/v1/status")["state"] == "serving":
                    return
            except ConfigError:
                pass
            if self.ended() or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"annexd serve did not come up\n{self.log()}")
            time.sleep(0.05)


@pytest.fixture
def annexd(tmp_path: Path) -> Iterator[Empty]:
    for name in ("disk0", "disk1"):
        with (tmp_path / f"{name}.img").open("wb") as file:
            file.truncate(16 * MIB)
    with Empty(tmp_path) as daemon:
        yield daemon


def export(annexd: Empty) -> int:
    """Export disk0 to HOST with the four commands of docs/annexcli.md; give the port."""
    port = free_port()
    annexd.does(f"/devices create disk0 {annexd.folder}/disk0.img")
    annexd.does(f"/iscsi create {TARGET} 127.0.0.1:{port}")
    annexd.does(f"{TPG}/luns create /devices/disk0")
    annexd.does(f"{TPG}/acls create {HOST}")
    return port


def test_four_commands_give_a_host_its_disk_and_it_is_there_after_a_restart(annexd: Empty) -> None:
    port = export(annexd)
    with Host(port, target=TARGET, name=HOST) as host:
        assert host.command(write_cdb(0, 1), data_out=b"\x5a" * 512).status == GOOD
    assert annexd.stop() == 0
    annexd.start()
    with Host(port, target=TARGET, name=HOST) as host:
        assert bytes(host.command(read_cdb(0, 1), data_in_bytes=512).data_in) == b"\x5a" * 512


def test_a_host_without_an_acl_is_let_in_by_anyone_and_no_longer_without(annexd: Empty) -> None:
    port = export(annexd)
    other = "iqn.2026-11.org.example:other"
    with pytest.raises(HostLost):
        Host(port, target=TARGET, name=other)
    annexd.does(f"{TPG} set anyone=127.0.0.0/8")
    Host(port, target=TARGET, name=other).close()
    annexd.does(f"{TPG} set anyone=")
    with pytest.raises(HostLost):
        Host(port, target=TARGET, name=other)


def test_the_tree_shows_what_there_is(annexd: Empty) -> None:
    port = export(annexd)
    with Host(port, target=TARGET, name=HOST):
        tree = annexd.does("ls")
    for words in ("disk0.img, 16 MiB", f"o- {HOST} ", f"o- 127.0.0.1:{port} ", "[1 session]", "o- 0 ..."):
        assert words in tree
    (document,) = annexd.documents("ls /devices")
    assert [child["path"] for child in document["children"]] == ["/devices/disk0"]


def test_what_is_in_use_stays_and_the_shell_says_by_whom(annexd: Empty) -> None:
    export(annexd)
    code, _, err = annexd.cli("/devices", "delete", "disk0")
    assert code == 1
    assert "is part of virtual device disk0" in err


def test_a_session_is_shown_and_ended(annexd: Empty) -> None:
    port = export(annexd)
    with Host(port, target=TARGET, name=HOST) as host:
        (rows,) = annexd.documents("/sessions info")
        (session,) = rows["sessions"]
        assert (session["initiator"], session["target"]) == (HOST, TARGET)
        annexd.does(f"/sessions delete {session['tsih']}")
        with pytest.raises(HostLost):
            host.command(read_cdb(0, 1), data_in_bytes=512)


def test_a_pair_is_formed_waited_for_split_and_dissolved(annexd: Empty) -> None:
    port = export(annexd)
    with Host(port, target=TARGET, name=HOST) as host:
        assert host.command(write_cdb(5, 1), data_out=b"\xa5" * 512).status == GOOD
    annexd.does(f"/devices create disk1 {annexd.folder}/disk1.img")
    annexd.does("/vdevs create copy disk1")
    annexd.does("/pairs create disk0 copy --wait")
    assert "PAIR" in annexd.does("/pairs ls")
    annexd.does("/pairs/1 split")
    assert "state=PSUS" in annexd.does("/pairs/1 get state")
    annexd.does("/pairs/1 resync --wait")
    annexd.does("/pairs/1 verify --wait")
    annexd.does("/pairs delete 1")
    assert "[0 pairs]" in annexd.does("/pairs ls")
    assert annexd.stop() == 0
    assert (annexd.folder / "disk0.img").read_bytes() == (annexd.folder / "disk1.img").read_bytes()


def test_limits_and_chap_are_set_and_secrets_are_not_shown(annexd: Empty) -> None:
    export(annexd)
    annexd.does(f"{TPG}/luns/0 set max_iops=100 max_bandwidth=1MiB")
    annexd.does(f"{TPG}/acls/{HOST} set auth userid=host password=canary-secret-1")
    shown = annexd.does("ls") + annexd.does(f"{TPG}/acls/{HOST} info") + annexd.does("--json ls")
    assert "100 IOPS, 1 MiB/s" in shown
    assert "CHAP" in shown
    assert "canary" not in shown + annexd.log()
    saved = json.loads(annexd.file.read_text())
    assert saved["targets"][0]["luns"][0] == {
        "lun": 0, "virtual_device": "disk0", "max_iops": 100, "max_bytes_per_s": MIB,
    }  # fmt: skip


def test_a_region_is_as_large_as_it_was_typed(annexd: Empty) -> None:
    annexd.does(f"/devices create disk0 {annexd.folder}/disk0.img")
    annexd.does("/vdevs create part disk0,offset=1MiB,size=4M")
    (document,) = annexd.documents("/vdevs/part get size_bytes")
    assert document == {"size_bytes": 4 * MIB}


@pytest.mark.parametrize("name", ["a" * 300, "größe", "a/b", "-a"])
def test_a_bad_name_changes_nothing(annexd: Empty, name: str) -> None:
    before = annexd.file.read_bytes()
    code, _, err = annexd.cli("/devices", "create", name, f"{annexd.folder}/disk0.img")
    assert (code, err.count("\n")) == (2, 1)
    assert annexd.file.read_bytes() == before


def test_a_script_is_run_until_a_line_fails(annexd: Empty) -> None:
    lines = f"/devices create disk0 {annexd.folder}/disk0.img\n/devices create disk0 /absent\n/devices delete disk0\n"
    code, _, err = annexd.cli(lines=lines)
    assert code == 1
    assert err.startswith("annexcli: line 2: ")
    assert "disk0" in annexd.does("/devices ls")


def test_a_configuration_is_saved_cleared_and_restored(annexd: Empty) -> None:
    port = export(annexd)
    copy = annexd.folder / "copy.json"
    annexd.does(f"saveconfig {copy}")
    annexd.does("clearconfig --yes")
    assert "[0 targets]" in annexd.does("ls")
    annexd.does(f"restoreconfig {copy}")
    Host(port, target=TARGET, name=HOST).close()


def test_watch_counts_what_a_host_does(annexd: Empty) -> None:
    port = export(annexd)
    with Host(port, target=TARGET, name=HOST) as host:
        watching = subprocess.Popen(
            [ROOT / "bin" / "annexcli", "--socket", annexd.control, "--json", "watch", "count=20", "interval=0.1"],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            while watching.poll() is None:
                host.command(read_cdb(0, 8), data_in_bytes=4096)
        finally:
            watching.kill()
            out, _ = watching.communicate()
    looks = [json.loads(line) for line in out.splitlines()]
    assert len(looks) == 20
    for group in ("lus", "hosts"):
        (row,) = looks[-1][group].values()
        assert row["read_iops"] > 0
        assert row["read_mb_s"] == pytest.approx(row["read_iops"] * 4096 / 1e6)
        assert any(row["latency_ms"] for look in looks for row in look[group].values())


@pytest.mark.parametrize("stop", [Empty.stop, Empty.kill])
def test_a_daemon_that_has_ended_is_said_at_once(annexd: Empty, stop: Any) -> None:
    stop(annexd)
    begin = time.monotonic()
    code, _, err = annexd.cli("ls")
    assert code == 3
    assert "annexd is not running" in err
    assert time.monotonic() - begin < 2.0
