"""A virtual device takes what its device has more of, when an admin says so, and hosts are told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scsi.array_commands import FenceLevel, PairState
from tests.support.annexd import ROOT
from tests.support.host import CHECK_CONDITION, GOOD, Host, read_cdb, sense_of, write_cdb
from tests.support.pair_commands import create_pair, wait_for_pair
from tests.support.ports import free_port
from tests.support.served import Served

pytestmark = [pytest.mark.interop, pytest.mark.slow]

MIB = 1 << 20
TARGET = "iqn.2026-11.org.example:grows"
CAPACITY_CHANGED = (6, 0x2A, 9)
READ_CAPACITY_10 = bytes((0x25, *bytes(9)))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    names = ("all", "fixed", "other")
    for name in names:
        truncate(tmp_path, name, 16)
    regions: dict[str, list[dict[str, Any]]] = {name: [{"device": name}] for name in names}
    regions["fixed"][0]["blocks"] = 8192
    config = {
        "version": 2,
        "state_directory": str(tmp_path / "state"),
        "devices": [{"name": name, "path": str(tmp_path / f"{name}.img")} for name in names],
        "virtual_devices": [{"name": name, "regions": regions[name]} for name in names],
        "targets": [
            {
                "name": TARGET,
                "portals": [f"127.0.0.1:{free_port()}"],
                "luns": [{"lun": lun, "virtual_device": name} for lun, name in enumerate(("all", "other", "fixed"))],
                "anyone": {"addresses": ["127.0.0.1"], "array_control": True},
            }
        ],
    }
    with Served(tmp_path, config) as annexd:
        yield annexd
        assert "Traceback" not in annexd.log()


def truncate(folder: Path, name: str, size_mib: int) -> None:
    with (folder / f"{name}.img").open("ab") as file:
        file.truncate(size_mib * MIB)


def grow(annexd: Served, name: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "bin" / "annexcli"), "--socket", str(annexd.folder / "control.sock")]
    return subprocess.run([*command, f"/vdevs/{name}", "grow"], capture_output=True, text=True, timeout=20, check=False)


def size_of(host: Host) -> int:
    data = bytes(host.command(READ_CAPACITY_10, data_in_bytes=8).data_in)
    return (int.from_bytes(data[:4], "big") + 1) * 512


def test_hosts_are_told_of_a_larger_disk_and_can_use_all_of_it_also_after_a_restart(served: Served) -> None:
    with Host(served.port, target=TARGET) as host:
        assert size_of(host) == 16 * MIB
        truncate(served.folder, "all", 24)
        assert size_of(host) == 16 * MIB
        assert host.command(read_cdb(16 * MIB // 512, 1), data_in_bytes=512).status == CHECK_CONDITION
        done = grow(served, "all")
        assert (done.returncode, done.stdout) == (0, "/vdevs/all: 16 MiB → 24 MiB\n"), done.stderr
        told: list[Any] = []
        host.submit(bytes(6), told.append)
        host.wait(lambda: bool(told))
        assert sense_of(told[0]) == CAPACITY_CHANGED
        assert size_of(host) == 24 * MIB
        assert host.command(write_cdb(24 * MIB // 512 - 1, 1), data_out=b"\x5a" * 512).status == GOOD
        assert grow(served, "all").stdout == "/vdevs/all: 24 MiB\n"
    served.kill()
    served.start()
    with Host(served.port, target=TARGET) as host:
        assert size_of(host) == 24 * MIB
        last = host.command(read_cdb(24 * MIB // 512 - 1, 1), data_in_bytes=512)
        assert bytes(last.data_in) == b"\x5a" * 512


@pytest.mark.parametrize(
    ("name", "words"),
    [("fixed", "has the size that it has"), ("nothing", "there is no /vdevs/nothing"), ("all", "is in pair 1")],
)
def test_what_can_not_grow_says_why(served: Served, name: str, words: str) -> None:
    with Host(served.port, target=TARGET) as host:
        assert create_pair(host, 1, FenceLevel.NEVER).status == GOOD
        wait_for_pair(host, PairState.PAIR)
        for grown in ("all", "fixed", "other"):
            truncate(served.folder, grown, 24)
        done = grow(served, name)
        assert done.returncode in (1, 2)
        assert words in done.stderr
        assert size_of(host) == 16 * MIB
