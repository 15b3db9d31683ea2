"""Persistent reservations as an admin sees them, and clears those of hosts that are gone."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from config.shell.client import Address, Client
from config.shell.errors import Refused
from scsi.iscsi.initiator_task import Task
from tests.support.annexd import ROOT
from tests.support.host import GOOD, Host, sense_of, write_cdb
from tests.support.ports import free_port
from tests.support.served import Served

pytestmark = [pytest.mark.interop, pytest.mark.slow]

TARGET = "iqn.2026-11.org.example:annex"
HOLDER, OTHER = "iqn.2026-11.org.example:holder", "iqn.2026-11.org.example:other"
REGISTER, RESERVE = 0, 1
EXCLUSIVE_ACCESS = 3
CONFLICT = 0x18
APTPL = 0x01
LIMIT_S = 30.0


def configuration(folder: Path) -> dict[str, object]:
    with (folder / "a.img").open("wb") as file:
        file.truncate(16 << 20)
    return {
        "version": 2,
        "state_directory": str(folder / "state"),
        "devices": [{"name": "a", "path": str(folder / "a.img")}],
        "virtual_devices": [{"name": "data", "regions": [{"device": "a"}]}],
        "targets": [
            {
                "name": TARGET,
                "portals": [f"127.0.0.1:{free_port()}"],
                "luns": [{"lun": 0, "virtual_device": "data"}],
                "anyone": {"addresses": ["127.0.0.1"]},
            }
        ],
    }


def host(annexd: Served, name: str) -> Host:
    return Host(annexd.port, name=name, target=TARGET)


def reserve_out(host: Host, action: int, key: int, new: int, *, kind: int = 0, flags: int = 0) -> int:
    data = struct.pack(">QQ4xB3x", key, new, flags)
    return int(host.command(struct.pack(">BBB2xIx", 0x5F, action, kind, len(data)), data_out=data).status)


def annexcli(annexd: Served, *words: str) -> str:
    command = [sys.executable, str(ROOT / "bin" / "annexcli"), "--socket", str(annexd.folder / "control.sock"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=os.environ)
    return done.stdout + done.stderr


def test_an_admin_sees_who_holds_a_unit_and_clears_it_for_good(tmp_path: Path) -> None:
    with Served(tmp_path, configuration(tmp_path)) as annexd:
        client = Client(Address(socket=str(annexd.folder / "control.sock")))
        assert annexcli(annexd, "/vdevs/data", "reservations") == "none\n"
        with host(annexd, HOLDER) as holder, host(annexd, OTHER) as other:
            assert reserve_out(holder, REGISTER, 0, 0x11, flags=APTPL) == GOOD
            assert reserve_out(other, REGISTER, 0, 0x22, flags=APTPL) == GOOD
            assert reserve_out(holder, RESERVE, 0x11, 0, kind=EXCLUSIVE_ACCESS) == GOOD
        shown = client.get("/v1/vdevs/data/reservations")
        assert (shown["type"], shown["kept"], shown["reserved_by"]) == ("exclusive_access", True, None)
        rows = [(row["host"].partition(",")[0], row["key"], row["holder"]) for row in shown["registrations"]]
        assert rows == [(HOLDER, "0x0000000000000011", True), (OTHER, "0x0000000000000022", False)]
        words = annexcli(annexd, "/vdevs/data", "reservations")
        assert "exclusive_access, kept across restarts" in words
        assert HOLDER in words
        assert json.loads(annexcli(annexd, "--json", "/vdevs/data", "reservations")) == shown
        with host(annexd, OTHER) as other:
            assert other.command(write_cdb(0, 1), data_out=bytes(512)).status == CONFLICT
            cleared = annexcli(annexd, "/vdevs/data", "clear_reservations", "yes=true")
            assert cleared == "cleared the persistent reservations of /vdevs/data\n"
            answers: list[Task] = []  # `command` would pass the unit attention over
            other.submit(write_cdb(0, 1), answers.append, data_out=bytes(512))
            other.wait(lambda: bool(answers))
            assert sense_of(answers[0]) == (0x06, 0x2A, 0x03), "RESERVATIONS PREEMPTED"
            assert other.command(write_cdb(0, 1), data_out=bytes(512)).status == GOOD
        assert annexd.log().count("an admin has cleared its persistent reservations") == 1
        annexd.kill()
        annexd.start()
        assert client.get("/v1/vdevs/data/reservations")["registrations"] == []
        with pytest.raises(Refused, match="no such virtual device"):
            client.delete("/v1/vdevs/absent/reservations")
        assert "Traceback" not in annexd.log()
