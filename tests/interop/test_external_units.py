"""An external LU that has another size, or is only now said who it is: what an admin does, and what hosts see."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from config.shell.client import Address, Client
from config.shell.errors import Refused
from scsi.array_commands import FenceLevel, PairState
from tests.support.annexd import ROOT
from tests.support.host import GOOD, Host, read_cdb, sense_of, write_cdb
from tests.support.pair_commands import create_pair, wait_for_pair
from tests.support.ports import free_port
from tests.support.served import Served
from tests.support.tgt import Tgt

pytestmark = [pytest.mark.interop, pytest.mark.slow]

MIB = 1 << 20
BLOCKS = 16 * MIB // 512
TARGET = "iqn.2026-11.org.example:annex"
ARRAY_TARGET = "iqn.2026-11.org.example:array"
READ_CAPACITY = b"\x9e\x10" + bytes(11) + b"\x20" + bytes(2)
TEST_UNIT_READY = bytes(6)
CAPACITY_CHANGED = (0x6, 0x2A, 0x09)
LIMIT_S = 30.0
POLL_S = 0.05


def sized(path: Path, mib: int) -> Path:
    with path.open("ab") as file:
        file.truncate(mib * MIB)
    return path


def configuration(folder: Path, array_port: int) -> dict[str, Any]:
    """Give a configuration in which LUN 0 is local, LUN 1 the array's LU 1, LUN 2 a local device and the LU 2."""
    whole = [{"array": "old", "lun": 1}]
    joined = [{"array": "old", "lun": 2}, {"device": "end"}]
    return {
        "version": 2,
        "state_directory": str(folder / "state"),
        "devices": [{"name": name, "path": str(sized(folder / f"{name}.img", 16))} for name in ("near", "end")],
        "arrays": [{"name": "old", "portal": f"127.0.0.1:{array_port}", "target": ARRAY_TARGET}],
        "virtual_devices": [
            {"name": "near", "regions": [{"device": "near"}]},
            {"name": "far", "regions": whole},
            {"name": "joined", "regions": joined},
        ],
        "targets": [
            {
                "name": TARGET,
                "portals": [f"127.0.0.1:{free_port()}"],
                "luns": [{"lun": lun, "virtual_device": name} for lun, name in enumerate(("near", "far", "joined"))],
                "anyone": {"addresses": ["127.0.0.1"], "array_control": True},
            }
        ],
    }


def serve(tgt: Tgt, folder: Path, *sizes_mib: int) -> None:
    """Have the array show files of these sizes as its LUs 1, 2 and so on."""
    target = tgt.add_target(ARRAY_TARGET)
    for lun, mib in enumerate(sizes_mib, 1):
        tgt.add_lun(target, sized(folder / f"array{lun}.img", mib), lun=lun)


@pytest.fixture
def tgt(tmp_path: Path) -> Iterator[Tgt]:
    with Tgt(tmp_path) as tgt:
        yield tgt


@pytest.fixture
def config(tmp_path: Path, tgt: Tgt) -> dict[str, Any]:
    return configuration(tmp_path, tgt.port)


@pytest.fixture
def annexd(tmp_path: Path, tgt: Tgt, config: dict[str, Any]) -> Iterator[Served]:
    serve(tgt, tmp_path, 16, 16)
    with Served(tmp_path, copy.deepcopy(config)) as annexd:
        wait_until(lambda: state(annexd, "far") == state(annexd, "joined") == "ready")
        yield annexd
        assert "Traceback" not in annexd.log()


def client(annexd: Served) -> Client:
    return Client(Address(socket=str(annexd.folder / "control.sock")))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(POLL_S)


def state(annexd: Served, name: str) -> str:
    return str(client(annexd).get(f"/v1/vdevs/{name}")["state"])


def annexcli(annexd: Served, *words: str) -> str:
    command = [sys.executable, str(ROOT / "bin" / "annexcli"), "--socket", str(annexd.folder / "control.sock"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=os.environ)
    return done.stdout + done.stderr


def become(annexd: Served, tgt: Tgt, *sizes_mib: int) -> None:
    """Have the array come back with other sizes, and wait until annexd has found that out."""
    tgt.stop()
    serve_again(tgt, annexd.folder, *sizes_mib)
    wait_until(lambda: "blocked" in {state(annexd, "far"), state(annexd, "joined")})


def serve_again(tgt: Tgt, folder: Path, *sizes_mib: int) -> None:
    tgt.start()
    serve(tgt, folder, *sizes_mib)


def sense(host: Host, lun: int) -> tuple[int, int, int] | None:
    """Give the sense of one TEST UNIT READY, unit attentions too; None for GOOD."""
    answers: list[Any] = []
    host.submit(TEST_UNIT_READY, answers.append, lun=lun)
    host.wait(lambda: bool(answers))
    return None if answers[0].status == GOOD else sense_of(answers[0])


def heard(host: Host, lun: int) -> list[tuple[int, int, int]]:
    """Ask a LUN until it is ready; give what it said until then."""
    said = []
    while (answer := sense(host, lun)) is not None:
        said.append(answer)
        assert len(said) < 10_000
    return said


def blocks_of(host: Host, lun: int) -> int:
    return int.from_bytes(host.command(READ_CAPACITY, data_in_bytes=32, lun=lun).data_in[:8], "big") + 1


def test_an_accepted_size_is_that_of_the_disk_and_hosts_are_told(annexd: Served, tgt: Tgt) -> None:
    with Host(annexd.port, target=TARGET) as host:
        assert blocks_of(host, 1) == BLOCKS
        become(annexd, tgt, 24, 16)
        assert sense(host, 1) == (0x2, 0x04, 0x03)
        (fault,) = {unit["fault"] for unit in client(annexd).get("/v1/arrays/old")["luns"] if unit["fault"]}
        assert "49152 of 512 are there; if that is meant: annexcli /arrays/old accept_size 1" in fault
        assert annexcli(annexd, "/arrays/old", "accept_size", "1") == "accepted the size of old/1\n"
        wait_until(lambda: state(annexd, "far") == "ready")
        assert heard(host, 1) == [CAPACITY_CHANGED]
        assert blocks_of(host, 1) == 24 * MIB // 512
        last = 24 * MIB // 512 - 1
        assert host.command(write_cdb(last, 1), data_out=b"\x5a" * 512, lun=1).status == GOOD
    assert (annexd.folder / "array1.img").read_bytes()[-512:] == b"\x5a" * 512
    assert "old/1: its size is 49152 blocks of 512 bytes from now on" in annexd.log()
    annexd.stop()
    annexd.start()
    wait_until(lambda: state(annexd, "far") == "ready")
    with Host(annexd.port, target=TARGET) as host:
        heard(host, 1)
        assert blocks_of(host, 1) == 24 * MIB // 512
    assert "there is nothing to accept" in annexcli(annexd, "/arrays/old", "accept_size", "1")
    assert "there is no such LU" in annexcli(annexd, "/arrays/old", "accept_size", "7")


def test_a_region_in_the_middle_keeps_its_blocks_where_they_are(annexd: Served, tgt: Tgt) -> None:
    with Host(annexd.port, target=TARGET) as host:
        assert host.command(write_cdb(BLOCKS, 1), data_out=b"\x77" * 512, lun=2).status == GOOD
        become(annexd, tgt, 16, 24)
        annexcli(annexd, "/arrays/old", "accept_size", "2")
        wait_until(lambda: state(annexd, "joined") == "ready")
        assert CAPACITY_CHANGED not in heard(host, 2)
        assert blocks_of(host, 2) == 2 * BLOCKS
        assert bytes(host.command(read_cdb(BLOCKS, 1), data_in_bytes=512, lun=2).data_in) == b"\x77" * 512


def test_a_lu_that_grew_while_annexd_was_down_is_taken_as_it_was_until_its_size_is_accepted(
    annexd: Served, tgt: Tgt
) -> None:
    annexd.stop()
    tgt.stop()
    serve_again(tgt, annexd.folder, 24, 16)
    annexd.start()
    wait_until(lambda: state(annexd, "far") == "ready")
    with Host(annexd.port, target=TARGET) as host:
        heard(host, 1)
        assert blocks_of(host, 1) == BLOCKS
        assert annexcli(annexd, "/arrays/old", "accept_size", "1") == "accepted the size of old/1\n"
        assert heard(host, 1) == [CAPACITY_CHANGED]
        assert blocks_of(host, 1) == 24 * MIB // 512


def test_a_lu_that_has_become_too_small_is_refused_until_it_is_large_again(annexd: Served, tgt: Tgt) -> None:
    become(annexd, tgt, 8, 16)
    said = annexcli(annexd, "/arrays/old", "accept_size", "1")
    assert "virtual device 'far': has the blocks of old/1 up to 32768, and there are 16384 now" in said
    assert state(annexd, "far") == "blocked"
    tgt.stop()
    serve_again(tgt, annexd.folder, 16, 16)
    wait_until(lambda: state(annexd, "far") == "ready")


def test_the_size_of_the_leg_of_a_pair_is_not_accepted(annexd: Served, tgt: Tgt) -> None:
    with Host(annexd.port, target=TARGET) as host:
        assert create_pair(host, 1, FenceLevel.NEVER).status == GOOD
        wait_for_pair(host, PairState.PAIR)
        become(annexd, tgt, 24, 16)
        said = annexcli(annexd, "/arrays/old", "accept_size", "1")
        assert "virtual device 'far': is in pair 1 (delete the pair first)" in said
        client(annexd).delete("/v1/pairs/1")
        assert annexcli(annexd, "/arrays/old", "accept_size", "1") == "accepted the size of old/1\n"
        wait_until(lambda: state(annexd, "far") == "ready")


# --- Which LU it is ---


def with_id(config: dict[str, Any], identifier: str) -> dict[str, Any]:
    config = copy.deepcopy(config)
    config["virtual_devices"][1]["regions"][0]["id"] = identifier
    return config


@pytest.mark.long
def test_a_lu_that_was_never_seen_is_given_an_id_and_only_that_one_is_taken(
    tmp_path: Path, tgt: Tgt, config: dict[str, Any]
) -> None:
    serve(tgt, tmp_path, 16, 16)
    with Served(tmp_path, copy.deepcopy(config)) as annexd:
        wait_until(lambda: state(annexd, "far") == "ready")
        ids = [unit["id"] for unit in client(annexd).get("/v1/arrays/old")["luns"] if unit["lun"]]
    tgt.stop()
    config["state_directory"] = str(tmp_path / "another")
    with Served(tmp_path, copy.deepcopy(config)) as annexd:
        assert "reloaded: 1 changes" in annexd.reload(with_id(config, "beef"))
        serve_again(tgt, tmp_path, 16, 16)
        wait_until(lambda: "instead of beef" in (client(annexd).get("/v1/vdevs/far")["fault"] or ""))
        # Not even now was it found, so it may be another.
        client(annexd).put("/v1/config", in_force(annexd, ids[0]))
        wait_until(lambda: state(annexd, "far") == "ready")
        with pytest.raises(Refused, match="the configuration now says"):
            client(annexd).put("/v1/config", in_force(annexd, "dead"))
        annexd.stop()
        annexd.start()
        wait_until(lambda: state(annexd, "far") == "ready")


def test_the_id_of_a_lu_that_another_has_is_refused(annexd: Served, config: dict[str, Any]) -> None:
    (other,) = [unit["id"] for unit in client(annexd).get("/v1/arrays/old")["luns"] if unit["lun"] == 2]
    never_seen = {"name": "third", "regions": [{"array": "old", "lun": 3}]}
    client(annexd).post("/v1/vdevs", never_seen)
    document = client(annexd).get("/v1/config?secrets=true")["config"]
    document["virtual_devices"][-1]["regions"][0]["id"] = other
    with pytest.raises(Refused, match=f"LU {other} of the array is part of virtual device 'joined'"):
        client(annexd).put("/v1/config", document)
    assert state(annexd, "joined") == "ready"


def in_force(annexd: Served, identifier: str) -> dict[str, Any]:
    document: dict[str, Any] = client(annexd).get("/v1/config?secrets=true")["config"]
    return with_id(document, identifier)
