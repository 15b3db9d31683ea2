"""Commands of pairs against writes under way, a second annexd, and a leg that is slow; on a real annexd."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scsi.array_commands import ArrayOut, FenceLevel, PairState
from scsi.iscsi.initiator_task import Task
from tests.support.annexd import Annexd
from tests.support.host import GOOD, Host, read_cdb, sense_of, write_cdb
from tests.support.load import BLOCK_BYTES, SLOT_BLOCKS, Load
from tests.support.pair_commands import array_out, create_pair, the_pair, wait_for_pair
from tests.support.paired import ARRAY_TARGET, LEG_BYTES, SLOTS, Paired, paired, paired_with_annexd

pytestmark = [pytest.mark.interop, pytest.mark.slow]

CONFLICT, TASK_SET_FULL = 0x18, 0x28
FLOOD = 128
OTHERS_S = 5.0
MOST_GROWTH_BYTES = 64 << 20


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Paired]:
    with paired(tmp_path) as running:
        yield running


def resident_bytes(pid: int) -> int:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) << 10


def test_f27_no_write_after_the_status_of_a_split_reaches_the_secondary(pair: Paired) -> None:
    load = Load(SLOTS, seed=27)
    admin_isid = b"\x80\0\0\0\0\x02"
    with Host(pair.annexd.port) as host, Host(pair.annexd.port, isid=admin_isid) as admin:
        for _ in range(6):
            at_split = b""

            def split() -> None:
                nonlocal at_split
                assert array_out(admin, ArrayOut.PAIR_SPLIT).status == GOOD
                at_split = pair.remote.read_bytes()

            load.run(host, 100, then=split)
            load.run(host, 50)
            assert pair.remote.read_bytes() == at_split
            assert pair.local.read_bytes() != at_split
            assert array_out(admin, ArrayOut.PAIR_RESYNC).status == GOOD
            load.run(host, 50)
            wait_for_pair(host, PairState.PAIR)
    assert load.failed == []
    pair.compare(load)


def test_f27_takeovers_under_load_lose_nothing(pair: Paired) -> None:
    load = Load(SLOTS, seed=28)
    refused = {(0x7, 0x27, 0x00)}  # what LUN 0 answers while it is the secondary
    admin_isid = b"\x80\0\0\0\0\x02"
    with Host(pair.annexd.port) as host, Host(pair.annexd.port, isid=admin_isid) as admin:

        def there_and_back() -> None:
            for lun in (1, 0):
                assert array_out(admin, ArrayOut.PAIR_TAKEOVER, lun=lun).status == GOOD

        for _ in range(6):
            load.run(host, 100, then=there_and_back)
    assert {sense_of(task) for task in load.failed} <= refused
    pair.compare(load)


def test_f23_a_second_annexd_can_neither_write_nor_pair_what_the_first_has_fenced(pair: Paired, tmp_path: Path) -> None:
    folder = tmp_path / "second"
    folder.mkdir()
    local = folder / "local.img"
    local.write_bytes(bytes(LEG_BYTES))
    load = Load(SLOTS, seed=24)
    url = f"iscsi://127.0.0.1:{pair.array.port}/{ARRAY_TARGET}/1"
    with (
        Annexd(folder, ("--local", local), ("--array", url)) as second,
        Host(pair.annexd.port) as host,
        Host(second.port) as other,
    ):
        load.run(host, 50)
        assert other.command(write_cdb(0, 1), data_out=bytes(512), lun=1).status == CONFLICT
        assert create_pair(other, 1, FenceLevel.STATUS).status != GOOD
        load.run(host, 50)
        assert the_pair(host).state == PairState.PAIR
    assert load.failed == []
    pair.compare(load)


@pytest.mark.long
def test_f31_a_slow_leg_takes_bounded_memory_and_slows_no_other_unit(pair: Paired) -> None:
    load = Load(SLOTS, seed=31)
    with Host(pair.annexd.port) as host, Host(pair.annexd.port, isid=b"\x80\0\0\0\0\x02") as other:
        load.run(host, 200)
        before = resident_bytes(pair.annexd.pid)
        pair.link.delay_s = 0.05
        slowest = 0.0

        def others_are_served() -> None:
            nonlocal slowest
            for _ in range(20):
                started = time.monotonic()
                assert other.command(read_cdb(0, 8), data_in_bytes=4096, lun=2).status == GOOD
                slowest = max(slowest, time.monotonic() - started)

        for _ in range(4):
            load.run(host, 40, then=others_are_served)
        pair.link.delay_s = 0.0
        assert slowest < OTHERS_S
        assert resident_bytes(pair.annexd.pid) - before < MOST_GROWTH_BYTES
        assert the_pair(host).state == PairState.PAIR
    assert load.failed == []
    pair.compare(load)


@pytest.mark.long
def test_f31_an_array_that_takes_five_seconds_a_command_is_waited_for(tmp_path: Path) -> None:
    load = Load(SLOTS, seed=310)
    answers: list[Task] = []
    with (
        paired_with_annexd(tmp_path) as pair,
        Host(pair.annexd.port) as host,
        Host(pair.annexd.port, isid=b"\x80\0\0\0\0\x02") as other,
    ):
        load.run(host, 200)
        before = resident_bytes(pair.annexd.pid)
        pair.array.choose("slow", 5000)
        for number in range(FLOOD):
            lba = (SLOTS + number) * SLOT_BLOCKS
            host.submit(write_cdb(lba, SLOT_BLOCKS), answers.append, data_out=bytes(SLOT_BLOCKS * BLOCK_BYTES))
        slowest = 0.0

        def others_are_served() -> None:
            nonlocal slowest
            started = time.monotonic()
            assert other.command(read_cdb(0, 8), data_in_bytes=4096, lun=2).status == GOOD
            assert other.command(write_cdb(0, 8), data_out=bytes(4096), lun=2).status == GOOD
            slowest = time.monotonic() - started

        load.run(host, 20, then=others_are_served)
        assert slowest < OTHERS_S
        host.wait(lambda: len(answers) == FLOOD)
        assert resident_bytes(pair.annexd.pid) - before < MOST_GROWTH_BYTES
        assert {task.status for task in answers} <= {GOOD, TASK_SET_FULL}
        assert the_pair(host).state == PairState.PAIR
        pair.array.heal()
        assert load.failed == []
        pair.compare(load)
