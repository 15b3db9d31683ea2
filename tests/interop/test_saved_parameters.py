"""What hosts have a unit keep: it is there after the daemon was killed, on every kind of storage, and in force."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from backends.state_directory import StateDirectory
from tests.support.annexd import Annexd
from tests.support.host import GOOD, Host, sense_of, write_cdb
from tests.support.tgt import Tgt

pytestmark = pytest.mark.interop

DISK_BYTES = 16 << 20
ARRAY = "iqn.2026-11.org.example:array"
CACHING, CONTROL = 0x08, 0x0A
WRITE_THROUGH = bytes((CACHING, 18)) + bytes(18)
WRITE_PROTECTED = bytes((CONTROL, 10, 0, 0x10, 0x08)) + bytes(7)
RACK = b"rack 7"


@pytest.fixture(params=["local", "external"])
def annexd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Annexd]:
    disk = tmp_path / "disk.img"
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    with ExitStack() as stack:
        source: tuple[str, str | Path] = ("--local", disk)
        if request.param == "external":
            array = stack.enter_context(Tgt(tmp_path))
            array.add_lun(array.add_target(ARRAY), disk)
            source = ("--array", f"iscsi://127.0.0.1:{array.port}/{ARRAY}/1")
        yield stack.enter_context(Annexd(tmp_path, source))


def select(host: Host, page: bytes) -> None:
    data = bytes(4) + page
    task = host.command(bytes((0x15, 0x11, 0, 0, len(data), 0)), data_out=data)
    assert task.status == GOOD, sense_of(task)


def page(host: Host, code: int) -> bytes:
    return bytes(host.command(bytes((0x1A, 0x08, code, 0, 64, 0)), data_in_bytes=64).data_in)[4:]


def identify(host: Host) -> bytes:
    cdb = bytes.fromhex("a305 00000000 00000040 0000")
    return bytes(host.command(cdb, data_in_bytes=64).data_in)[4:]


def test_what_a_host_has_saved_is_in_force_after_a_kill(annexd: Annexd) -> None:
    block = os.urandom(512)
    with Host(annexd.port) as host:
        assert page(host, CACHING)[2] & 0x04
        assert page(host, CACHING)[0] == 0x80 | CACHING, "it can be saved"
        select(host, WRITE_THROUGH)
        cdb = bytes.fromhex("a406 00000000") + len(RACK).to_bytes(4, "big") + bytes(2)
        assert host.command(cdb, data_out=RACK).status == GOOD
        assert host.command(write_cdb(0, 1), data_out=block).status == GOOD
    annexd.kill()
    annexd.start()
    with Host(annexd.port) as host:
        assert not page(host, CACHING)[2] & 0x04
        assert identify(host) == RACK
        assert host.command(write_cdb(1, 1), data_out=block).status == GOOD
        select(host, WRITE_PROTECTED)
    annexd.kill()
    annexd.start()
    with Host(annexd.port) as host:
        assert sense_of(host.command(write_cdb(0, 1), data_out=block)) == (7, 0x27, 2)
        assert host.command(bytes.fromhex("28000000000000000100"), data_in_bytes=512).data_in == block
    assert "Traceback" not in annexd.log()


def test_a_record_that_no_unit_has_saved_is_told_in_one_line(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    with Annexd(tmp_path, ("--local", disk)) as annexd:
        with Host(annexd.port) as host:
            select(host, WRITE_THROUGH)
        annexd.stop()
        (record,) = (annexd.folder / "state").glob("unit-*.json")
        state = StateDirectory(annexd.folder / "state")
        state.write(record.stem, {"mode_parameters": {"write_cache": 7}})
        state.close()
        with pytest.raises(RuntimeError):
            annexd.start()
        assert f"{record}: mode_parameters: " in annexd.log()
        assert "Traceback" not in annexd.log()
