"""Real initiators, libiscsi's and QEMU's, against the real annexd: data, CHAP, digests, addresses, LUN maps."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from scsi.array_commands import ArrayOut
from tests.support.annexd import Annexd
from tests.support.host import GOOD, Host, HostLost, read_cdb, sense_of, write_cdb
from tests.support.pair_commands import array_out
from tests.support.ports import free_port
from tests.support.served import Served

pytestmark = pytest.mark.interop

MIB = 1 << 20
TARGET = "iqn.2026-11.org.example:served"
KNOWN = "iqn.2026-11.org.example:known"
READER = "iqn.2026-11.org.example:reader"
SECRET, OWN_SECRET = "secret of known", "secret of annex"


def run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done


def disk(path: Path, size_bytes: int = 16 * MIB) -> Path:
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


@contextmanager
def tried(folder: Path, *options: str) -> Iterator[Annexd]:
    with Annexd(folder, ("--local", disk(folder / "disk.img")), options=options) as annexd:
        yield annexd


def configuration(folder: Path, portals: list[str]) -> dict[str, Any]:
    return {
        "version": 2,
        "state_directory": str(folder / "state"),
        "devices": [{"name": name, "path": str(disk(folder / f"{name}.img"))} for name in ("a", "b")],
        "virtual_devices": [{"name": name, "regions": [{"device": name}]} for name in ("a", "b")],
        "targets": [
            {
                "name": TARGET,
                "portals": portals,
                "luns": [{"lun": 0, "virtual_device": "a"}, {"lun": 1, "virtual_device": "b"}],
                "acls": [
                    {
                        "initiator": KNOWN,
                        "chap": {"name": "known", "secret": SECRET},
                        "mutual_chap": {"name": "annex", "secret": OWN_SECRET},
                    },
                    {
                        "initiator": READER,
                        "luns": [{"lun": 0, "virtual_device": "b", "read_only": True}],
                        "array_control": False,
                    },
                ],
            }
        ],
        "discovery": {"chap": {"name": "discoverer", "secret": "secret of discovery"}},
    }


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("digest", ["", "?header_digest=crc32c"])
def test_qemu_reads_back_what_it_wrote(tmp_path: Path, loop: str, digest: str) -> None:
    with tried(tmp_path, "--loop", loop) as annexd:
        url = annexd.url(0)
        steps = ["write -P 0x11 0 1M", "write -P 0x22 1536 512", "write -P 0x33 4M 3M", "flush", "read -P 0x33 4M 3M"]
        run("qemu-io", "-f", "raw", *(word for step in steps for word in ("-c", step)), url)
        run("qemu-io", "-f", "raw", "-c", "read -P 0x22 1536 512", "-c", "read -P 0x11 2048 4096", url)
        assert "read" in run("iscsi-inq", url + digest).stdout or run("iscsi-inq", url + digest).returncode == 0
    data = (tmp_path / "disk.img").read_bytes()
    assert data[4 * MIB : 7 * MIB] == b"\x33" * (3 * MIB)
    assert data[1536:2048] == b"\x22" * 512
    assert data[2048:MIB] == b"\x11" * (MIB - 2048)


@pytest.mark.slow
def test_qemu_img_copies_a_disk_in_and_out(tmp_path: Path) -> None:
    source, back = tmp_path / "source.img", tmp_path / "back.img"
    source.write_bytes(bytes(range(256)) * (16 * MIB // 256))
    with tried(tmp_path) as annexd:
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(source), annexd.url(0))
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(source), annexd.url(0))
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", annexd.url(0), str(back))
    assert back.read_bytes() == source.read_bytes()


@pytest.mark.slow
def test_libiscsi_s_tools_see_the_target_and_its_unit(tmp_path: Path) -> None:
    with tried(tmp_path) as annexd:
        listed = run("iscsi-ls", "-s", f"iscsi://127.0.0.1:{annexd.port}").stdout
        assert "iqn.2026-11.io.annex:try" in listed
        assert "Lun:0" in listed
        assert "Vendor:ANNEX" in run("iscsi-inq", annexd.url(0)).stdout
        for page in ("0x00", "0x80", "0x83", "0xb0", "0xb1", "0xb2"):
            assert run("iscsi-inq", "-e", "1", "-c", page, annexd.url(0)).stdout.strip()
        capacity = run("iscsi-readcapacity16", annexd.url(0)).stdout
        assert str(16 * MIB) in capacity.replace(",", "") or "32767" in capacity


@pytest.mark.slow
def test_chap_both_ways_lets_in_who_knows_the_secrets_and_nobody_else(tmp_path: Path) -> None:
    port = free_port()
    with Served(tmp_path, configuration(tmp_path, [f"127.0.0.1:{port}"])):

        def log_in(user: str, target_user: str = "") -> subprocess.CompletedProcess[str]:
            url = f"iscsi://{user}@127.0.0.1:{port}/{TARGET}/0{target_user}"
            return run("iscsi-inq", "-i", KNOWN, url, check=False)

        mutual = f"?target_user=annex&target_password={OWN_SECRET}"
        assert "ANNEX" in log_in(f"known%{SECRET}", mutual).stdout
        assert log_in(f"known%{SECRET}", mutual.replace("annex&", "other&")).returncode != 0
        assert log_in("known%not the secret at all", mutual).returncode != 0
        assert log_in(f"unknown%{SECRET}", mutual).returncode != 0
        without = run("iscsi-inq", "-i", KNOWN, f"iscsi://127.0.0.1:{port}/{TARGET}/0", check=False)
        assert without.returncode != 0


@pytest.mark.slow
def test_discovery_asks_for_chap_and_shows_a_host_only_its_targets(tmp_path: Path) -> None:
    port = free_port()
    with Served(tmp_path, configuration(tmp_path, [f"127.0.0.1:{port}"])):
        url = f"iscsi://discoverer%secret of discovery@127.0.0.1:{port}"
        assert TARGET in run("iscsi-ls", "-i", KNOWN, url).stdout
        assert TARGET not in run("iscsi-ls", "-i", "iqn.2026-11.org.example:stranger", url, check=False).stdout
        bare = run("iscsi-ls", "-i", KNOWN, f"iscsi://127.0.0.1:{port}", check=False)
        assert bare.returncode != 0
        assert TARGET not in bare.stdout


@pytest.mark.slow
def test_a_host_sees_only_its_own_luns_and_a_read_only_one_refuses_writes_and_array_control(tmp_path: Path) -> None:
    port = free_port()
    with Served(tmp_path, configuration(tmp_path, [f"127.0.0.1:{port}"])):
        with Host(port, target=TARGET, name=READER) as host:
            assert host.command(read_cdb(0, 1), data_in_bytes=512).status == GOOD
            assert sense_of(host.command(write_cdb(0, 1), data_out=bytes(512))) == (0x7, 0x27, 0x00)
            assert sense_of(host.command(read_cdb(0, 1), data_in_bytes=512, lun=1)) == (0x5, 0x25, 0x00)
            assert sense_of(array_out(host, ArrayOut.PAIR_SPLIT)) == (0x5, 0x20, 0x00)
        with pytest.raises(HostLost):
            Host(port, target=TARGET, name="iqn.2026-11.org.example:stranger")


@pytest.mark.slow
def test_a_session_on_an_ipv6_portal(tmp_path: Path) -> None:
    port = free_port()
    config = configuration(tmp_path, [f"[::1]:{port}"])
    config["targets"][0]["anyone"] = {"addresses": ["::1"]}
    with Served(tmp_path, config):
        url = f"iscsi://[::1]:{port}/{TARGET}/1"
        run("qemu-io", "-f", "raw", "-c", "write -P 7 0 64k", "-c", "read -P 7 0 64k", url)
    assert (tmp_path / "b.img").read_bytes()[:65536] == b"\x07" * 65536


@pytest.mark.slow
def test_a_second_login_of_the_same_name_and_isid_ends_the_first(tmp_path: Path) -> None:
    with tried(tmp_path) as annexd, Host(annexd.port) as first:
        assert first.command(write_cdb(0, 1), data_out=b"\x01" * 512).status == GOOD
        with Host(annexd.port) as second:
            with pytest.raises(HostLost):
                first.command(write_cdb(0, 1), data_out=b"\x02" * 512)
            assert bytes(second.command(read_cdb(0, 1), data_in_bytes=512).data_in) == b"\x01" * 512


@pytest.mark.slow
def test_twenty_sessions_at_once_each_read_their_own_writes(tmp_path: Path) -> None:
    with tried(tmp_path) as annexd, ExitStack() as sessions:
        hosts = [
            sessions.enter_context(Host(annexd.port, isid=bytes((0x80, 0, 0, 0, 1, number)))) for number in range(20)
        ]
        for number, host in enumerate(hosts):
            assert host.command(write_cdb(number * 8, 8), data_out=bytes([number + 1]) * 4096).status == GOOD
        for number, host in enumerate(hosts):
            reply = host.command(read_cdb(number * 8, 8), data_in_bytes=4096)
            assert bytes(reply.data_in) == bytes([number + 1]) * 4096


@pytest.mark.slow
def test_an_lu_on_two_regions_lands_where_the_mapping_table_says(tmp_path: Path) -> None:
    port = free_port()
    config = configuration(tmp_path, [f"127.0.0.1:{port}"])
    config["virtual_devices"] = [
        {"name": "a", "regions": [{"device": "b", "first_lba": 64, "blocks": 100}, {"device": "a", "first_lba": 8}]},
        {"name": "b", "regions": [{"device": "b", "first_lba": 200}]},
    ]
    config["targets"][0]["anyone"] = {"addresses": ["127.0.0.1"]}
    with Served(tmp_path, config), Host(port, target=TARGET) as host:
        data = b"".join(bytes([number]) * 512 for number in range(96, 104))
        assert host.command(write_cdb(96, 8), data_out=data).status == GOOD
    assert (tmp_path / "b.img").read_bytes()[(64 + 96) * 512 : (64 + 100) * 512] == data[: 4 * 512]
    assert (tmp_path / "a.img").read_bytes()[8 * 512 : 12 * 512] == data[4 * 512 :]
    table = json.loads((tmp_path / "state" / "mapping.json").read_text())
    assert [region["first_lba"] for region in table["content"]["virtual_devices"][0]["regions"]] == [64, 8]
