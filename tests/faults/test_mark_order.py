"""I2 and I3 of a real annexd, seen from outside: a mark is stable before data goes, and costs nothing afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from scsi.array_commands import FenceLevel, PairState
from tests.support.annexd import TARGET_NAME, Annexd
from tests.support.host import GOOD, Host, write_cdb
from tests.support.pair_commands import create_pair, wait_for_pair
from tests.support.system_calls import SystemCall, SystemCalls

pytestmark = [pytest.mark.interop, pytest.mark.slow]

LEG_BYTES = 16 << 20
EXTENT_BLOCKS = (4 << 20) // 512
WRITES = 200
SYNCS = ("fsync", "fdatasync")
_BLOCK = bytes(range(256)) * 2


def of(calls: list[SystemCall], part: str, names: tuple[str, ...] = ()) -> list[SystemCall]:
    return [call for call in calls if part in call.target and (not names or call.name in names)]


def test_a_mark_is_stable_before_data_goes_to_either_leg_and_costs_nothing_for_the_next_writes(tmp_path: Path) -> None:
    local, remote = tmp_path / "local.img", tmp_path / "remote.img"
    for path in (local, remote):
        path.write_bytes(bytes(LEG_BYTES))
    (tmp_path / "array").mkdir()
    (tmp_path / "front").mkdir()
    with Annexd(tmp_path / "array", ("--local", remote)) as array:
        url = f"iscsi://127.0.0.1:{array.port}/{TARGET_NAME}/0"
        with Annexd(tmp_path / "front", ("--local", local), ("--array", url)) as annexd, Host(annexd.port) as host:
            assert create_pair(host, 1, FenceLevel.STATUS, nocopy=True).status == GOOD
            wait_for_pair(host, PairState.PAIR)
            with SystemCalls(annexd.pid, tmp_path / "first.strace") as first:
                assert host.command(write_cdb(2 * EXTENT_BLOCKS, 1), data_out=_BLOCK).status == GOOD
            with SystemCalls(annexd.pid, tmp_path / "next.strace") as following:
                for block in range(1, WRITES):
                    assert host.command(write_cdb(2 * EXTENT_BLOCKS + block, 1), data_out=_BLOCK).status == GOOD
        to_array = f"->127.0.0.1:{array.port}"
        to_host = f"127.0.0.1:{annexd.port}->"
    written = of(first.calls, ".marks", ("pwrite64",))
    (synced,) = of(first.calls, ".marks", SYNCS)
    legs = of(first.calls, str(local)) + of(first.calls, to_array)
    assert written[-1].ended < synced.begun, "the mark is written, then synced"
    assert {call.target.partition(":")[0] for call in legs} == {str(local), "TCP"}, "both legs were written"
    assert synced.ended < min(call.begun for call in legs), "before any of the data goes"
    assert synced.ended < min(call.begun for call in of(first.calls, to_host)), "and before the status"
    assert len(of(following.calls, str(local))) == WRITES - 1
    assert of(following.calls, str(tmp_path / "front" / "state")) == [], "an open extent costs nothing"
    assert of(following.calls, "", SYNCS) == []
