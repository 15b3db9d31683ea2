"""Persistent reservations with APTPL: in force again after kill -9, before the first command is answered."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.support.annexd import Annexd
from tests.support.host import GOOD, Host, read_cdb, write_cdb

pytestmark = [pytest.mark.interop, pytest.mark.slow]

HOLDER, OTHER = "iqn.2026-11.org.example:holder", "iqn.2026-11.org.example:other"
KEY, OTHER_KEY = 0x1111, 0x2222
REGISTER, RESERVE, PREEMPT = 0, 1, 4
EXCLUSIVE_ACCESS = 3
CONFLICT = 0x18
KILLS = 6


def reserve_out(host: Host, action: int, key: int, new: int, *, kind: int = 0, kept: bool = True) -> int:
    data = struct.pack(">QQ4xB3x", key, new, int(kept and action == REGISTER))
    return host.command(struct.pack(">BBB2xIx", 0x5F, action, kind, len(data)), data_out=data).status


def keys(host: Host) -> list[int]:
    data = bytes(host.command(struct.pack(">BB5xHx", 0x5E, 0, 256), data_in_bytes=256).data_in)
    return [int.from_bytes(data[at : at + 8], "big") for at in range(8, len(data), 8)]


def test_a_reservation_is_in_force_after_a_kill_before_anything_is_answered(tmp_path: Path) -> None:
    with Annexd(tmp_path) as annexd:
        with Host(annexd.port, name=HOLDER) as holder, Host(annexd.port, name=OTHER) as other:
            assert reserve_out(holder, REGISTER, 0, KEY) == GOOD
            assert reserve_out(other, REGISTER, 0, OTHER_KEY) == GOOD
            assert reserve_out(holder, RESERVE, KEY, 0, kind=EXCLUSIVE_ACCESS) == GOOD
        annexd.kill()
        annexd.start()
        with Host(annexd.port, name=OTHER) as other, Host(annexd.port, name=HOLDER) as holder:
            assert other.command(write_cdb(0, 1), data_out=bytes(512)).status == CONFLICT
            assert other.command(read_cdb(0, 1), data_in_bytes=512).status == CONFLICT
            assert holder.command(write_cdb(0, 1), data_out=bytes(512)).status == GOOD
            assert keys(other) == [KEY, OTHER_KEY]
            assert reserve_out(other, PREEMPT, OTHER_KEY, KEY, kind=EXCLUSIVE_ACCESS) == GOOD
        annexd.kill()
        annexd.start()
        with Host(annexd.port, name=HOLDER) as holder, Host(annexd.port, name=OTHER) as other:
            assert holder.command(read_cdb(0, 1), data_in_bytes=512).status == CONFLICT
            assert other.command(write_cdb(0, 1), data_out=bytes(512)).status == GOOD
            assert keys(holder) == [OTHER_KEY]
        assert "Traceback" not in annexd.log()


def test_what_was_answered_before_a_kill_is_there_after_it(tmp_path: Path) -> None:
    with Annexd(tmp_path) as annexd:
        key = 0
        for number in range(KILLS):
            with Host(annexd.port, name=HOLDER) as host:
                assert keys(host) == ([key] if key else [])
                for new in range(number * 100 + 1, number * 100 + 20):
                    assert reserve_out(host, REGISTER, key, new) == GOOD
                    key = new
                annexd.kill()  # at once after the last answer
            annexd.start()
        with Host(annexd.port, name=HOLDER) as host:
            assert keys(host) == [key]
            assert reserve_out(host, REGISTER, key, key, kept=False) == GOOD
        annexd.kill()
        annexd.start()
        with Host(annexd.port, name=HOLDER) as host:
            assert keys(host) == [], "from then on nothing was to be kept"
