"""A running annexd takes another configuration while hosts are logged in: what they see, and what a bad file does."""

from __future__ import annotations

import copy
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from scsi.array_commands import ArrayOut, FenceLevel, PairState
from tests.support.host import GOOD, Host, HostLost, read_cdb, sense_of, write_cdb
from tests.support.load import Load
from tests.support.pair_commands import array_out, create_pair, the_pair, wait_for_pair
from tests.support.ports import free_port
from tests.support.served import Served
from tests.support.tgt import Tgt

pytestmark = [pytest.mark.interop, pytest.mark.slow]

MIB = 1 << 20
TARGET = "iqn.2026-11.org.example:served"
OTHER_TARGET = "iqn.2026-11.org.example:other"
HOST = "iqn.2026-11.org.example:host"
STRANGER = "iqn.2026-11.org.example:stranger"
TEST_UNIT_READY = bytes(6)
LUNS_CHANGED = (0x6, 0x3F, 0x0E)
NOT_SUPPORTED = (0x5, 0x25, 0x00)
VPD_83 = bytes((0x12, 1, 0x83, 0, 255, 0))

Document = dict[str, Any]


def disk(path: Path, size_bytes: int = 16 * MIB) -> Path:
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


def configuration(folder: Path, port: int, *, devices: str = "a") -> Document:
    """Give a configuration with a device, a virtual device and a LUN for each letter of `devices`."""
    return {
        "version": 2,
        "state_directory": str(folder / "state"),
        "devices": [{"name": name, "path": str(folder / f"{name}.img")} for name in devices],
        "virtual_devices": [{"name": f"v{name}", "regions": [{"device": name}]} for name in devices],
        "targets": [
            {
                "name": TARGET,
                "portals": [f"127.0.0.1:{port}"],
                "luns": [{"lun": lun, "virtual_device": f"v{name}"} for lun, name in enumerate(devices)],
                "acls": [{"initiator": HOST}],
                "anyone": {"addresses": ["127.0.0.1"]},
            }
        ],
    }


@contextmanager
def served(folder: Path, *, devices: str = "a") -> Iterator[tuple[Served, Document]]:
    for name in "abc":
        disk(folder / f"{name}.img")
    config = configuration(folder, free_port(), devices=devices)
    with Served(folder, copy.deepcopy(config)) as annexd:
        yield annexd, config
        assert "Traceback" not in annexd.log()


def logged_in(annexd: Served, *, name: str = HOST, port: int | None = None, isid: int = 1) -> Host:
    """Log in, and take the unit attentions of a new session."""
    host = Host(port or annexd.port, target=TARGET, name=name, isid=b"\x80\0\0\0\0" + bytes((isid,)))
    for lun in range(3):
        host.command(TEST_UNIT_READY, lun=lun)
    return host


def answer(host: Host, lun: int = 0) -> tuple[int, int, int]:
    """Give the sense of one TEST UNIT READY."""
    answers: list[Any] = []
    host.submit(TEST_UNIT_READY, answers.append, lun=lun)
    host.wait(lambda: bool(answers))
    return sense_of(answers[0])


def luns(host: Host) -> list[int]:
    task = host.command(struct.pack(">BxBxxxIxx", 0xA0, 0, 4096), data_in_bytes=4096)
    assert task.status == GOOD
    data = bytes(task.data_in)
    (length,) = struct.unpack_from(">I", data)
    return [data[offset + 1] for offset in range(8, 8 + length, 8)]


def write(host: Host, pattern: int, lun: int = 0) -> None:
    assert host.command(write_cdb(0, 8), data_out=bytes([pattern]) * 4096, lun=lun).status == GOOD


def test_a_logged_in_host_is_told_of_a_new_lun_and_uses_it(tmp_path: Path) -> None:
    with served(tmp_path) as (annexd, config), logged_in(annexd) as host:
        assert luns(host) == [0]
        assert "reloaded: 0 changes" in annexd.reload(config)
        assert answer(host) == (0, 0, 0)
        said = annexd.reload(configuration(tmp_path, annexd.port, devices="ab"))
        assert "3 changes" in said
        assert answer(host) == LUNS_CHANGED
        assert luns(host) == [0, 1]
        write(host, 0x5A, lun=1)
        listed = subprocess.run(
            ["iscsi-ls", "-s", f"iscsi://127.0.0.1:{annexd.port}"], capture_output=True, text=True, timeout=60
        )
        assert "Lun:1" in listed.stdout, listed
    assert (tmp_path / "b.img").read_bytes()[:4096] == b"\x5a" * 4096


def test_a_lun_goes_while_a_host_writes_to_another(tmp_path: Path) -> None:
    with served(tmp_path, devices="ab") as (annexd, _), logged_in(annexd) as host:
        load = Load(64, seed=1)
        load.run(host, 300, then=lambda: annexd.reload(configuration(tmp_path, annexd.port)))
        assert load.failed == []
        assert load.check(host) == []
        assert answer(host, lun=1) == NOT_SUPPORTED
        assert luns(host) == [0]
        # Nothing has it any more: another may.
        subprocess.run(["flock", "--nonblock", str(tmp_path / "b.img"), "true"], check=True, timeout=10)


def test_a_deleted_virtual_device_comes_back_with_another_id(tmp_path: Path) -> None:
    def identity(host: Host) -> bytes:
        return bytes(host.command(VPD_83, data_in_bytes=255, lun=1).data_in)

    with served(tmp_path, devices="ab") as (annexd, config), logged_in(annexd) as host:
        before = identity(host)
        annexd.reload(configuration(tmp_path, annexd.port))
        annexd.reload(config)
        after = identity(host)
        assert before != after
        assert len(before) == len(after)
        annexd.stop()
        annexd.start()
        with logged_in(annexd) as again:
            assert identity(again) == after


def test_hosts_without_their_acl_are_thrown_out_and_others_stay(tmp_path: Path) -> None:
    with served(tmp_path) as (annexd, config), logged_in(annexd) as host, logged_in(annexd, name=STRANGER) as stranger:
        config["targets"][0]["acls"] = []
        annexd.reload(config)
        with pytest.raises(HostLost):
            host.command(TEST_UNIT_READY)
        write(stranger, 1)
        del config["targets"][0]["anyone"]
        annexd.reload(config)
        with pytest.raises(HostLost):
            stranger.command(TEST_UNIT_READY)
        with pytest.raises(HostLost):
            logged_in(annexd, name=STRANGER)


def test_a_removed_target_ends_its_sessions_and_one_of_another_name_takes_its_place(tmp_path: Path) -> None:
    with served(tmp_path) as (annexd, config), logged_in(annexd) as host:
        config["targets"][0]["name"] = OTHER_TARGET
        annexd.reload(config)
        with pytest.raises(HostLost):
            host.command(TEST_UNIT_READY)
        with Host(annexd.port, target=OTHER_TARGET, name=HOST) as other:
            assert other.command(TEST_UNIT_READY).status == GOOD


def test_a_portal_comes_and_another_goes_with_its_sessions(tmp_path: Path) -> None:
    with served(tmp_path) as (annexd, config), logged_in(annexd) as host:
        port = free_port()
        config["targets"][0]["portals"] += [f"127.0.0.1:{port}"]
        annexd.reload(config)
        with logged_in(annexd, port=port, isid=2) as newcomer:
            write(host, 1)
            del config["targets"][0]["portals"][0]
            annexd.reload(config)
            write(newcomer, 2)
            with pytest.raises(HostLost):
                host.command(TEST_UNIT_READY)
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(("127.0.0.1", annexd.port), timeout=1)


def test_a_portal_gives_way_to_one_for_all_addresses_of_its_port(tmp_path: Path) -> None:
    with served(tmp_path) as (annexd, config):
        config["targets"][0]["portals"] = [f"0.0.0.0:{annexd.port}"]
        assert "not reloaded" not in annexd.reload(config)
        with logged_in(annexd) as host:
            write(host, 1)


def test_a_portal_that_can_not_be_had_leaves_everything_as_it_was(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, served(tmp_path) as (annexd, _), logged_in(annexd) as host:
        wanted = configuration(tmp_path, annexd.port, devices="bc")
        wanted["targets"][0]["portals"] = [f"0.0.0.0:{annexd.port}", f"127.0.0.1:{taken.getsockname()[1]}"]
        said = annexd.reload(wanted)
        assert "not reloaded" in said
        assert "can not be listened on" in said
        assert answer(host) == (0, 0, 0)
        assert luns(host) == [0]
        for name in "bc":  # closed again
            subprocess.run(["flock", "--nonblock", str(tmp_path / f"{name}.img"), "true"], check=True, timeout=10)
        with logged_in(annexd, isid=2) as newcomer:
            write(newcomer, 3)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[:-3], "not JSON"),
        (lambda text: text.replace('"lun": 0', '"lun": 700'), "700 is not within"),
        (lambda text: text.replace('"path": "', '"path": "/elsewhere'), "device 'a': is part of virtual device va"),
        (lambda text: text.replace('{"device": "a"}', '{"device": "a", "first_lba": 8}'), "made otherwise"),
        (lambda text: text.replace("/state", "/elsewhere"), "state_directory"),
    ],
)
def test_a_bad_file_gives_one_line_and_the_old_one_stays_in_force(tmp_path: Path, damage: Any, words: str) -> None:
    with served(tmp_path) as (annexd, _), logged_in(annexd) as host:
        annexd.file.write_text(damage(annexd.file.read_text()))
        said = annexd.reload()
        assert "not reloaded, the old configuration stays in force" in said
        assert words in said
        write(host, 4)
        assert annexd.stop() == 0


# --- External arrays ---


ARRAY_TARGET = "iqn.2026-11.org.example:array"
BECOMING_READY = (0x2, 0x04, 0x01)
REACH_LIMIT_S = 20.0


@contextmanager
def arrays(folder: Path, *patterns: int) -> Iterator[list[Tgt]]:
    """Give an array for each pattern, with one LU full of it; all of them have the same id."""
    with ExitStack() as stack:
        tgts = []
        for number, pattern in enumerate(patterns):
            path = folder / f"far{number}.img"
            path.write_bytes(bytes([pattern]) * 16 * MIB)
            tgts.append(stack.enter_context(Tgt(folder)))
            tgts[-1].add_lun(tgts[-1].add_target(ARRAY_TARGET), path)
        yield tgts


def with_array(config: Document, port: int) -> Document:
    """Give the configuration with an array, whose LU 1 is LUN 1."""
    config = copy.deepcopy(config)
    config["arrays"] = [{"name": "far", "portal": f"127.0.0.1:{port}", "target": ARRAY_TARGET}]
    config["virtual_devices"].append({"name": "vfar", "regions": [{"array": "far", "lun": 1}]})
    config["targets"][0]["luns"].append({"lun": 1, "virtual_device": "vfar"})
    return config


def first_byte(host: Host, lun: int = 1) -> int:
    """Read from a LUN, again while its array is being reached; give the first byte."""
    deadline = time.monotonic() + REACH_LIMIT_S
    while (task := host.command(read_cdb(0, 1), data_in_bytes=512, lun=lun)).status != GOOD:
        assert sense_of(task) == BECOMING_READY
        assert time.monotonic() < deadline
    return bytes(task.data_in)[0]


def test_an_array_comes_is_reached_elsewhere_and_goes(tmp_path: Path) -> None:
    with arrays(tmp_path, 0x11, 0x22) as (one, other), served(tmp_path) as (annexd, config), logged_in(annexd) as host:
        annexd.reload(with_array(config, one.port))
        assert first_byte(host) == 0x11
        annexd.reload(with_array(config, other.port))
        assert first_byte(host) == 0x22
        assert "Initiator" not in one.sessions(1)
        assert "Initiator" in other.sessions(1)
        annexd.reload(config)
        assert answer(host, lun=1) == NOT_SUPPORTED
        assert "Initiator" not in other.sessions(1)


def test_an_array_that_is_away_may_come_and_be_found_elsewhere_later(tmp_path: Path) -> None:
    with arrays(tmp_path, 0x11) as (array,), served(tmp_path) as (annexd, config), logged_in(annexd) as host:
        assert "not reloaded" not in annexd.reload(with_array(config, free_port()))
        assert luns(host) == [0, 1]
        task = host.command(read_cdb(0, 1), data_in_bytes=512, lun=1)
        assert sense_of(task) == BECOMING_READY
        annexd.reload(with_array(config, array.port))
        assert first_byte(host) == 0x11


def test_a_leg_of_a_pair_stays_until_the_pair_is_deleted(tmp_path: Path) -> None:
    with arrays(tmp_path, 0x11) as (array,), served(tmp_path) as (annexd, config):
        with_pair = with_array(config, array.port)
        without_legs = copy.deepcopy(with_pair)
        without_legs["targets"][0]["luns"] = []
        for group in ("virtual_devices", "arrays", "devices"):
            without_legs[group] = []
        annexd.reload(with_pair)
        with logged_in(annexd) as host:
            assert first_byte(host) == 0x11
            assert create_pair(host, 1, FenceLevel.DATA).status == GOOD
            wait_for_pair(host, PairState.PAIR)
            assert "virtual device 'va': is in pair 1 (delete the pair first)" in annexd.reload(without_legs)
            write(host, 0x33)
            assert array_out(host, ArrayOut.PAIR_DELETE, the_pair(host).number).status == GOOD
            assert "reloaded: 6 changes" in annexd.reload(without_legs)
            assert luns(host) == []
    assert (tmp_path / "far0.img").read_bytes()[:4096] == b"\x33" * 4096
