"""Holes that other targets had, tried on the running daemon; named after the rows of docs/conformance.md."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scsi.iscsi.initiator_task import Task
from tests.support.annexd import ROOT, TARGET_NAME, Annexd
from tests.support.host import GOOD, Host, read_cdb
from tests.support.iscsi_peer import Peer
from tests.support.ports import free_port
from tests.support.served import Served

pytestmark = [pytest.mark.interop, pytest.mark.slow]

MIB = 1 << 20
LOGIN_RESPONSE = 0x23
EVIL_NAMES = [
    "%s%n%x{0}{name}",
    "iqn.2026-11.org.example:%s%n{0}",
    "a\nERROR daemon: all is lost",
    "\x1b[2J\x1b]0;owned\x07",
    "\u202egnp.exe",
    "\x00",
]


def log_in_as(annexd: Annexd, name: str) -> bytes:
    """Send a login with any InitiatorName; give all that comes back until the other side closes."""
    peer = Peer()
    text = "".join(f"{key}={value}\0" for key, value in peer.names(TargetName=TARGET_NAME).items())
    text = text.replace("InitiatorName=iqn.2026-11.io.annex.test:host", f"InitiatorName={name}")
    with socket.create_connection(("127.0.0.1", annexd.port), timeout=10) as connection:
        connection.sendall(peer.login_pdu(text.encode("utf-8", "surrogateescape")))
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return answer


def test_v13_what_a_peer_calls_itself_is_never_a_format_nor_a_line_of_its_own(tmp_path: Path) -> None:
    with Annexd(tmp_path) as annexd:
        before = annexd.log()
        for name in [*EVIL_NAMES, "iqn." + "x" * 8000]:
            answer = log_in_as(annexd, name)
            assert answer[:1] in (b"", bytes([LOGIN_RESPONSE]))
            assert answer[36:37] != b"\0", "a name like that is no initiator's"
        said = annexd.log().removeprefix(before)
        refusals = [line for line in said.splitlines() if "login refused" in line]
        assert len(refusals) == len(EVIL_NAMES) + 1, "a line a login"
        assert all(line[:2] == "20" for line in said.splitlines()), "each line begins with its time"
        assert all(character.isprintable() for character in said.replace("\n", ""))
        assert max(map(len, said.splitlines())) < 1000
        with Host(annexd.port) as host:
            assert host.command(read_cdb(0, 1), data_in_bytes=512).status == GOOD


@pytest.mark.parametrize("size_bytes", [4096, 256 << 10])
def test_v20_reads_of_any_size_at_any_depth_all_end(tmp_path: Path, size_bytes: int) -> None:
    blocks = size_bytes // 512
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"".join(number.to_bytes(8, "big") * 64 for number in range(4 * MIB // 512)))
    content = disk.read_bytes()
    with Annexd(tmp_path, ("--local", disk)) as annexd, Host(annexd.port) as host:
        host.command(bytes(6))
        for exponent in range(11):
            lbas = [number * 7 % (4 * MIB // 512 - blocks) for number in range(1 << exponent)]
            for lba, task in read_all(host, lbas, blocks):
                assert task.status == GOOD
                assert bytes(task.data_in) == content[lba * 512 : lba * 512 + size_bytes]


def read_all(host: Host, lbas: list[int], blocks: int) -> list[tuple[int, Task]]:
    """Read at all these addresses at once; give the answers once all are there, in the order in which they came."""
    ended: list[tuple[int, Task]] = []

    def submit(lba: int) -> None:
        host.submit(read_cdb(lba, blocks), lambda task: ended.append((lba, task)), data_in_bytes=blocks * 512)

    for lba in lbas:
        submit(lba)
    host.wait(lambda: len(ended) == len(lbas))
    assert sorted(lba for lba, _ in ended) == sorted(lbas)
    return ended


@pytest.mark.parametrize(
    "name", ["iqn.2026-11.org.example:a/b", "iqn.2026-11.org.example:a b", "target", "iqn.x:", "/"]
)
def test_v44_a_target_name_that_breaks_initiators_is_refused_by_the_shell_and_in_the_file(
    tmp_path: Path, name: str
) -> None:
    good: dict[str, Any] = {
        "name": "iqn.2026-11.org.example:good",
        "portals": [f"127.0.0.1:{free_port()}"],
        "luns": [],
        "anyone": {"addresses": ["127.0.0.1"]},
    }
    config = {"version": 2, "state_directory": str(tmp_path / "state"), "targets": [good]}
    with Served(tmp_path, config) as annexd:
        shell = subprocess.run(
            [
                sys.executable,
                ROOT / "bin" / "annexcli",
                "--socket",
                tmp_path / "control.sock",
                "/iscsi",
                "create",
                name,
            ],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert shell.returncode in (1, 2)
        assert len(shell.stderr.splitlines()) == 1
        assert "name" in shell.stderr
        bad = {"name": name, "portals": [f"127.0.0.1:{free_port()}"], "luns": []}
        assert "targets" in annexd.reload(config | {"targets": [good, bad]})
        listing = subprocess.run(
            ["iscsi-ls", f"iscsi://127.0.0.1:{annexd.port}"], capture_output=True, text=True, timeout=20, check=True
        )
        assert listing.stdout.split() == [f"Target:{good['name']}", f"Portal:127.0.0.1:{annexd.port},1"]
