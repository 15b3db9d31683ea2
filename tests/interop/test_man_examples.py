"""The EXAMPLES of the man pages do what they say, one after the other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.annexd import ROOT
from tests.support.console import Command, Shell, examples
from tests.support.ports import free_port

pytestmark = [pytest.mark.interop, pytest.mark.slow]

TARGET = "iqn.2026-11.org.example:annex"
CONFIGURATION = "/etc/annex/annex.json"
DISK_BYTES = 16 << 20
NOT_RUN = {"annexhost acquire /dev/sdb -o copy.img": "is for a disk of a Linux host: tests/linux/test_kernel_target.py"}


def of(page: str) -> list[str]:
    """Give the commands of a page."""
    return examples((ROOT / "docs" / "man" / f"{page}.man").read_text())


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell in a folder with two files for disks, and a configuration that serves nothing."""
    for name in ("disk.img", "second.img"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(DISK_BYTES)
    state, socket = str(tmp_path / "state"), str(tmp_path / "control.sock")
    configuration = {"version": 2, "state_directory": state, "control": {"socket": socket}}
    (tmp_path / "annex.json").write_text(json.dumps(configuration))
    (tmp_path / "annex.json").chmod(0o600)
    environment = os.environ | {"HOME": str(tmp_path), "PATH": f"{ROOT / 'bin'}:{os.environ['PATH']}"}
    with Shell(tmp_path, environment) as shell:
        yield shell


def run(shell: Shell, command: str, *expected: str) -> None:
    shell.run(Command(command, list(expected), 0))


def test_the_first_example_of_annexd_serves_a_file(shell: Shell, port: int) -> None:
    portal = f"127.0.0.1:{port}"
    run(shell, f"{of('annexd.8')[0].replace('127.0.0.1:3260', portal)} &", "LUN 0: …disk.img…", "ready")
    run(shell, f"iscsi-ls -s iscsi://{portal}", "Lun:0 …DIRECT_ACCESS…")


def test_the_examples_of_annexd_and_annexcli_export_a_disk(tmp_path: Path, shell: Shell, port: int) -> None:
    check, serve = (line.replace(CONFIGURATION, str(tmp_path / "annex.json")) for line in of("annexd.8")[1:])
    run(shell, check)
    run(shell, f"{serve} &", "… serving 0 logical units…")
    printed = [
        ("/devices create disk0", "create /devices/disk0: …"),
        ("/iscsi create", f"create /iscsi/{TARGET}"),
        ("/luns create", f"create /iscsi/{TARGET}/tpg1/luns/0: virtual_device disk0"),
        ("/acls create", "create …/acls/iqn.1993-08.org.debian:01:host-a: …"),
        ("annexcli ls", f"…{TARGET} …"),
        ("--json status", '{…"state": "serving"…"vdevs": 1…}'),
    ]
    for command, (part, line) in zip(of("annexcli.8"), printed, strict=True):
        assert part in command
        placed = command.replace("annexcli ", f"annexcli --socket {tmp_path / 'control.sock'} ", 1)
        placed = placed.replace("/dev/disk/by-id/wwn-0x5000c500a1b2c3d4", str(tmp_path / "disk.img"))
        # Not on the port where hosts of this machine may really look for a target.
        placed = placed.replace(f"create {TARGET}", f"create {TARGET} 127.0.0.1:{port}")
        run(shell, placed, line)
    name = "iqn.1993-08.org.debian:01:host-a"
    run(shell, f"iscsi-ls -i {name} -s iscsi://127.0.0.1:{port}", f"Target:{TARGET} …", "Lun:0 …DIRECT_ACCESS…")


def test_the_examples_of_annexhost_pair_two_units(shell: Shell, port: int) -> None:
    run(shell, f"annexd try --portal 127.0.0.1:{port} --local disk.img --local second.img &", "ready")
    (pair,) = [command for command in of("annexhost.8") if command not in NOT_RUN]
    command = pair.replace(f"//192.0.2.1/{TARGET}/", f"//127.0.0.1:{port}/iqn.2026-11.io.annex:try/")
    run(shell, command, "1 PAIR 100 % …")
    run(shell, "cmp disk.img second.img")
