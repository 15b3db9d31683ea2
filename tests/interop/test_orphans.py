"""Virtual devices that the file has lost while annexd was down: kept, shown, given back, or forgotten by an admin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config.shell.client import Address, Client
from config.shell.errors import Refused
from scsi.array_commands import FenceLevel, PairState
from tests.support.annexd import ROOT
from tests.support.host import GOOD, Host
from tests.support.pair_commands import create_pair, wait_for_pair
from tests.support.ports import free_port
from tests.support.served import Served

pytestmark = [pytest.mark.interop, pytest.mark.slow]

MIB = 1 << 20
TARGET = "iqn.2026-11.org.example:annex"
LIMIT_S = 30.0


def configuration(folder: Path, names: str) -> dict[str, Any]:
    for name in names:
        with (folder / f"{name}.img").open("wb") as file:
            file.truncate(16 * MIB)
    return {
        "version": 2,
        "state_directory": str(folder / "state"),
        "devices": [{"name": name, "path": str(folder / f"{name}.img")} for name in names],
        "virtual_devices": [{"name": f"v{name}", "regions": [{"device": name}]} for name in names],
        "targets": [
            {
                "name": TARGET,
                "portals": [f"127.0.0.1:{free_port()}"],
                "luns": [{"lun": lun, "virtual_device": f"v{name}"} for lun, name in enumerate(names)],
                "anyone": {"addresses": ["127.0.0.1"], "array_control": True},
            }
        ],
    }


def without(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Give a configuration that has lost a device, its virtual device, and the LUN that shows it."""
    (target,) = config["targets"]
    return config | {
        "devices": [device for device in config["devices"] if device["name"] != name],
        "virtual_devices": [vdev for vdev in config["virtual_devices"] if vdev["name"] != f"v{name}"],
        "targets": [target | {"luns": [lun for lun in target["luns"] if lun["virtual_device"] != f"v{name}"]}],
    }


@pytest.fixture
def annexd(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path, configuration(tmp_path, "ab")) as annexd:
        yield annexd
        assert "Traceback" not in annexd.log()


@pytest.fixture
def client(annexd: Served) -> Client:
    return Client(Address(socket=str(annexd.folder / "control.sock")))


def restarted_with(annexd: Served, config: dict[str, Any]) -> None:
    annexd.stop()
    annexd.write(config)
    annexd.start()


def id_of(client: Client, name: str) -> str:
    return str(client.get(f"/v1/vdevs/{name}")["naa"])


def annexcli(annexd: Served, *words: str) -> str:
    command = [sys.executable, str(ROOT / "bin" / "annexcli"), "--socket", str(annexd.folder / "control.sock"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=os.environ)
    return done.stdout + done.stderr


def test_what_the_file_has_lost_is_told_and_listed_and_comes_back_as_it_was(annexd: Served, client: Client) -> None:
    config = configuration(annexd.folder, "ab")
    config["targets"][0]["portals"] = [f"127.0.0.1:{annexd.port}"]
    before = id_of(client, "vb")
    assert client.get("/v1/orphans") == []
    assert annexcli(annexd, "/vdevs", "orphans") == "none\n"
    restarted_with(annexd, without(config, "b"))
    line = f"virtual device vb (naa.{before}) is not in the configuration any more; its ids are kept for it"
    assert annexd.log().count(line) == 1
    (row,) = client.get("/v1/orphans")
    assert (row["name"], row["naa"], row["pair"]) == ("vb", before, None)
    assert str(annexd.folder / "b.img") in row["regions"][0]
    assert before in annexcli(annexd, "/vdevs", "orphans")
    assert json.loads(annexcli(annexd, "--json", "/vdevs", "orphans"))[0]["name"] == "vb"
    # It holds no blocks: another may have them.
    client.post("/v1/devices", {"name": "b", "path": str(annexd.folder / "b.img")})
    client.post("/v1/vdevs", {"name": "other", "regions": [{"device": "b"}]})
    client.delete("/v1/vdevs/other")
    client.delete("/v1/devices/b")
    annexd.reload(config)
    assert id_of(client, "vb") == before
    assert client.get("/v1/orphans") == []


def test_a_forgotten_one_leaves_its_name_and_its_id_free_for_others(annexd: Served, client: Client) -> None:
    config = configuration(annexd.folder, "ab")
    config["targets"][0]["portals"] = [f"127.0.0.1:{annexd.port}"]
    before = id_of(client, "vb")
    restarted_with(annexd, without(config, "b"))
    (annexd.folder / "c.img").write_bytes(bytes(MIB))
    client.post("/v1/devices", {"name": "c", "path": str(annexd.folder / "c.img")})
    other = {"name": "vb", "regions": [{"device": "c"}]}
    with pytest.raises(Refused, match=r"made of b .*see annexcli /vdevs orphans"):
        client.post("/v1/vdevs", other)
    with pytest.raises(Refused, match="no such orphan"):
        client.delete("/v1/orphans/va")
    assert annexcli(annexd, "/vdevs", "forget", "vb", "yes=true") == "forgot /vdevs/vb\n"
    assert "no such orphan" in annexcli(annexd, "/vdevs", "forget", "vb", "yes=true")
    client.post("/v1/vdevs", other)
    assert id_of(client, "vb") != before
    client.delete("/v1/vdevs/vb")
    client.post("/v1/vdevs", other | {"naa": before})
    assert id_of(client, "vb") == before
    annexd.stop()
    annexd.start()
    assert client.get("/v1/orphans") == []
    assert id_of(client, "vb") == before


@pytest.mark.parametrize("legs", ["b", "ab"])
def test_a_leg_of_a_pair_is_not_forgotten_before_the_pair_is_deleted(annexd: Served, client: Client, legs: str) -> None:
    config = configuration(annexd.folder, "ab")
    config["targets"][0]["portals"] = [f"127.0.0.1:{annexd.port}"]
    # Nobody else may write to what becomes a secondary.
    with Host(annexd.port, target=TARGET) as host:
        assert create_pair(host, 1, FenceLevel.DATA).status == GOOD
        wait_for_pair(host, PairState.PAIR)
    lost = without(config, "b")
    restarted_with(annexd, lost if legs == "b" else without(lost, "a"))
    assert [row["pair"] for row in client.get("/v1/orphans")] == [1] * len(legs)
    for leg in legs:
        with pytest.raises(Refused, match=rf"'v{leg}': is in pair 1 \(delete the pair first\)"):
            client.delete(f"/v1/orphans/v{leg}")
    client.delete("/v1/pairs/1")
    for leg in legs:
        client.delete(f"/v1/orphans/v{leg}")
    assert client.get("/v1/orphans") == client.get("/v1/pairs") == []
    annexd.stop()
    annexd.start()
    assert client.get("/v1/orphans") == client.get("/v1/pairs") == []
