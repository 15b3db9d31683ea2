"""A pair of 1 TiB: what it costs in memory, on a running annexd with tgt as its array. Both files are sparse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scsi.array_commands import ArrayOut, FenceLevel, PairState
from tests.support.annexd import Annexd
from tests.support.host import GOOD, Host
from tests.support.pair_commands import array_out, create_pair, the_pair, wait_until
from tests.support.paired import ARRAY_TARGET
from tests.support.tgt import Tgt

pytestmark = [pytest.mark.interop, pytest.mark.slow]

TIB = 1 << 40
BLOCKS = TIB // 512
NEARLY_ALL = BLOCKS - BLOCKS // 100  # a copy begins at once
CLEAN_BYTES, DIRTY_BYTES = 8 << 20, 80 << 20


@pytest.fixture
def annexd(tmp_path: Path) -> Iterator[Annexd]:
    local, remote = tmp_path / "local", tmp_path / "remote"
    for path in (local, remote):
        with path.open("wb") as file:
            file.truncate(TIB)
    with Tgt(tmp_path) as array:
        array.add_lun(array.add_target(ARRAY_TARGET), remote)
        url = f"iscsi://127.0.0.1:{array.port}/{ARRAY_TARGET}/1"
        with Annexd(tmp_path, ("--local", local), ("--array", url)) as annexd:
            yield annexd


def resident_bytes(annexd: Annexd) -> int:
    (line,) = (text for text in Path(f"/proc/{annexd.pid}/status").read_text().splitlines() if text.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def test_a_pair_of_one_tebibyte_takes_little_memory_clean_and_dirty_and_over_restarts(annexd: Annexd) -> None:
    alone = resident_bytes(annexd)
    with Host(annexd.port) as host:
        assert create_pair(host, 1, FenceLevel.STATUS, nocopy=True).status == GOOD
        assert the_pair(host).blocks == BLOCKS
        assert the_pair(host).state == PairState.PAIR
        assert resident_bytes(annexd) - alone < CLEAN_BYTES
    annexd.kill()
    annexd.start()
    with Host(annexd.port) as host:
        wait_until(host, lambda row: row.state == PairState.PAIR and not row.out_of_sync_blocks)
        assert array_out(host, ArrayOut.PAIR_DELETE).status == GOOD
        assert create_pair(host, 1, FenceLevel.STATUS).status == GOOD
        assert array_out(host, ArrayOut.PAIR_SPLIT).status == GOOD
        assert the_pair(host).out_of_sync_blocks > NEARLY_ALL
        assert resident_bytes(annexd) - alone < DIRTY_BYTES
    annexd.kill()
    annexd.start()
    with Host(annexd.port) as host:
        assert the_pair(host).out_of_sync_blocks > NEARLY_ALL
        assert resident_bytes(annexd) - alone < DIRTY_BYTES
