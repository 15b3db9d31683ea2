"""A kill while the configuration changes: annexd comes back with the file as it is, and no id means another disk."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from backends.state_directory import decode
from tests.support.host import GOOD, Host
from tests.support.ports import free_port
from tests.support.served import Served

pytestmark = [pytest.mark.interop, pytest.mark.slow]

TARGET = "iqn.2026-11.org.example:served"
TEST_UNIT_READY = bytes(6)
ROUNDS, RELOADS = 8, 12


class Changing(Served):
    """A daemon whose file is exchanged under it, as an editor does, and which is not waited for."""

    def exchange(self, config: dict[str, Any]) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps({"control": {"socket": str(self.folder / "control.sock")}} | config))
        new.chmod(0o600)
        new.replace(self.file)
        os.kill(self.pid, signal.SIGHUP)


def configuration(folder: Path, port: int, names: list[str]) -> dict[str, Any]:
    return {
        "version": 2,
        "state_directory": str(folder / "state"),
        "devices": [{"name": name, "path": str(folder / f"{name}.img")} for name in names],
        "virtual_devices": [{"name": f"v{name}", "regions": [{"device": name}]} for name in names],
        "targets": [
            {
                "name": TARGET,
                "portals": [f"127.0.0.1:{port}"],
                "luns": [{"lun": ord(name) - ord("a"), "virtual_device": f"v{name}"} for name in names],
                "anyone": {"addresses": ["127.0.0.1"]},
            }
        ],
    }


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long)])
def test_kill_while_the_configuration_changes(tmp_path: Path, seed: int) -> None:
    chosen = random.Random(seed)
    for name in "abcd":
        (tmp_path / f"{name}.img").write_bytes(name.encode() * (1 << 20))
    port = free_port()
    names = ["a"]
    annexd = Changing(tmp_path, configuration(tmp_path, port, names))
    ids: dict[int, tuple[str, str]] = {}
    for _ in range(ROUNDS):
        with annexd:
            with Host(port, target=TARGET) as host:
                for name in names:
                    assert host.command(TEST_UNIT_READY, lun=ord(name) - ord("a")).status == GOOD
            for row in decode((tmp_path / "state" / "mapping.json").read_bytes())["virtual_devices"]:
                assert ids.setdefault(row["number"], (row["name"], row["naa"])) == (row["name"], row["naa"])
            for _ in range(chosen.randrange(RELOADS)):
                names = sorted(chosen.sample("abcd", chosen.randrange(5)))
                annexd.exchange(configuration(tmp_path, port, names))
                if chosen.random() < 0.5:
                    with Host(port, target=TARGET, isid=b"\x80\0\0\0\0\x02") as host:
                        host.command(TEST_UNIT_READY)
            annexd.kill()
    assert "Traceback" not in annexd.log()
    assert len(ids) > 1  # how many depends on what the kills let through
