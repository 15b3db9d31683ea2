"""Legs that fail as real disks do: device-mapper in a Linux kernel, with annexd and the kernel's own target over it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scsi.array_commands import ArrayOut, FenceLevel, PairFlag, PairState
from tests.support.host import (
    CHECK_CONDITION,
    GOOD,
    SYNCHRONIZE_CACHE,
    Host,
    read_cdb,
    sense_of,
    write_cdb,
)
from tests.support.journal import stamped
from tests.support.linux_host import LinuxHost
from tests.support.linux_network import LinuxNetwork
from tests.support.load import Load
from tests.support.mapped_disk import MappedDisk
from tests.support.mapped_pair import MappedPair
from tests.support.pair_commands import array_out, create_pair, the_pair, wait_for_pair, wait_until

pytestmark = [pytest.mark.linux, pytest.mark.interop, pytest.mark.slow, pytest.mark.long]

BLOCK_BYTES = 512
GROUP_BLOCKS = 8  # a bit of the marks
SLOTS = 64
FREE_LBA = 20_000  # the load does not come here
PEER_FAILED = (4, 0x80, 0x0A)
DATA_PROTECT = 7
ANSWER_S = 15.0
LIMIT_S = 10.0

FAULTS: dict[str, Callable[[MappedDisk], None]] = {
    "EIO": MappedDisk.fail,
    "EIO of writes": MappedDisk.fail_writes,
    "ENOSPC": MappedDisk.run_out_of_space,
    "read-only": lambda disk: disk.lock(read_only=True),
}


@pytest.fixture(scope="module")
def disks(network: LinuxNetwork, linux_folder: Path) -> Iterator[MappedPair]:
    """One kernel for all of the module: it takes seconds."""
    with LinuxHost(network, linux_folder, number=8) as host, MappedPair(host) as disks:
        yield disks


@pytest.fixture(scope="module")
def whole_load() -> Load:
    return Load(SLOTS, seed=9)


@pytest.fixture
def host(disks: MappedPair) -> Iterator[Host]:
    """A host of LUN 0 and LUN 1, which are no pair, on disks that work."""
    disks.mend()
    with disks.annexd.connect() as host:
        yield host
    disks.mend()
    with disks.annexd.connect() as host:
        assert array_out(host, ArrayOut.PAIR_DELETE).status == GOOD
    assert "Traceback" not in disks.annexd.log()


@pytest.fixture
def load(whole_load: Load) -> Load:
    """What was written by all tests so far: the disks still have it."""
    whole_load.failed.clear()
    return whole_load


def mend_and_resync(disks: MappedPair, host: Host, load: Load) -> None:
    """Have the disks work again, resync, and check that both have what was acknowledged."""
    disks.mend()
    assert array_out(host, ArrayOut.PAIR_RESYNC).status == GOOD
    wait_for_pair(host, PairState.PAIR, LIMIT_S)
    assert load.check(host) == []
    assert disks.sha256(disks.local) == disks.sha256(disks.remote)


def out_of_sync(host: Host) -> int:
    return the_pair(host).out_of_sync_blocks


@pytest.mark.parametrize("level", [FenceLevel.NEVER, FenceLevel.STATUS])
@pytest.mark.parametrize("fault", FAULTS)
def test_f09_a_local_disk_that_fails_is_lost_and_copied_to_again(
    disks: MappedPair, host: Host, load: Load, fault: str, level: FenceLevel
) -> None:
    disks.form(host, level)
    load.run(host, 50)
    FAULTS[fault](disks.local)
    load.run(host, 50)
    assert host.command(SYNCHRONIZE_CACHE).status == GOOD  # here at the latest the kernel says that it failed
    row = the_pair(host)
    assert row.state == PairState.PSUE
    assert row.flags & PairFlag.SECONDARY_IS_CURRENT
    assert row.out_of_sync_blocks
    assert load.check(host) == []
    load.run(host, 50)
    assert load.failed == []
    mend_and_resync(disks, host, load)


@pytest.mark.parametrize("level", FenceLevel)
def test_f09_a_lost_local_disk_stays_lost_over_a_kill(
    disks: MappedPair, host: Host, load: Load, level: FenceLevel
) -> None:
    """The mark and the state are stable before the write is answered."""
    disks.form(host, level)
    disks.local.fail_writes()
    reply = host.command(write_cdb(FREE_LBA, 1, fua=True), data_out=stamped(FREE_LBA, 1, 7, BLOCK_BYTES))
    assert (reply.status, sense_of(reply)) == (
        (CHECK_CONDITION, PEER_FAILED) if level is FenceLevel.DATA else (GOOD, (0, 0, 0))
    )
    disks.annexd.kill()
    disks.local.work()
    disks.annexd.start()
    with disks.annexd.connect() as again:
        row = the_pair(again)
        assert row.state == PairState.PSUE
        assert row.out_of_sync_blocks
        if level is not FenceLevel.DATA:
            assert bytes(again.command(read_cdb(FREE_LBA, 1), data_in_bytes=BLOCK_BYTES).data_in) == stamped(
                FREE_LBA, 1, 7, BLOCK_BYTES
            )
        else:
            assert sense_of(again.command(write_cdb(FREE_LBA, 1), data_out=bytes(BLOCK_BYTES)))[0] == DATA_PROTECT
        mend_and_resync(disks, again, load)


# The kernel's target is not ready for a write that fails; it is sent again for 13 s.
@pytest.mark.parametrize("level", FenceLevel)
def test_f09_an_array_whose_disk_fails_is_lost_within_15_seconds(
    disks: MappedPair, host: Host, load: Load, level: FenceLevel
) -> None:
    disks.form(host, level)
    disks.remote.fail_writes()
    started = time.monotonic()
    reply = host.command(write_cdb(FREE_LBA, 1, fua=True), data_out=stamped(FREE_LBA, 1, 8, BLOCK_BYTES))
    assert time.monotonic() - started < ANSWER_S + 1
    assert (reply.status, sense_of(reply)) == (
        (CHECK_CONDITION, PEER_FAILED) if level is FenceLevel.DATA else (GOOD, (0, 0, 0))
    )
    row = the_pair(host)
    assert (row.state, bool(row.flags & PairFlag.SECONDARY_IS_CURRENT)) == (PairState.PSUE, False)
    assert row.out_of_sync_blocks == GROUP_BLOCKS
    mend_and_resync(disks, host, load)


def test_f09_when_both_disks_fail_the_host_is_told(disks: MappedPair, host: Host, load: Load) -> None:
    disks.form(host, FenceLevel.STATUS)
    disks.local.fail_writes()
    disks.remote.fail_writes()
    reply = host.command(write_cdb(FREE_LBA, 1, fua=True), data_out=stamped(FREE_LBA, 1, 9, BLOCK_BYTES))
    assert reply.status == CHECK_CONDITION
    assert host.command(SYNCHRONIZE_CACHE).status == CHECK_CONDITION
    mend_and_resync(disks, host, load)


@pytest.mark.parametrize("blocks", [1, 16])
def test_f10_a_bad_block_of_the_leg_that_is_read_is_answered_by_the_other_and_repaired(
    disks: MappedPair, host: Host, load: Load, blocks: int
) -> None:
    data = stamped(FREE_LBA, 16, 10, BLOCK_BYTES)
    disks.form(host, FenceLevel.STATUS)
    assert host.command(write_cdb(FREE_LBA, 16, fua=True), data_out=data).status == GOOD
    disks.local.fail_reads(FREE_LBA)
    for _ in range(2):
        reply = host.command(read_cdb(FREE_LBA, blocks), data_in_bytes=blocks * BLOCK_BYTES)
        assert reply.status == GOOD
        assert bytes(reply.data_in) == data[: blocks * BLOCK_BYTES]
    assert host.command(SYNCHRONIZE_CACHE).status == GOOD
    assert disks.local.reads(FREE_LBA)
    assert the_pair(host).state == PairState.PAIR
    disks.local.work()
    assert load.check(host) == []
    assert disks.sha256(disks.local) == disks.sha256(disks.remote)


def test_f26_a_bad_block_of_the_source_leaves_the_rest_copied(disks: MappedPair, host: Host, load: Load) -> None:
    bad = [FREE_LBA, FREE_LBA + 4000]
    load.run(host, 100)
    assert host.command(SYNCHRONIZE_CACHE).status == GOOD
    disks.local.fail_reads(*bad)
    assert create_pair(host, 1, FenceLevel.STATUS).status == GOOD
    row = wait_until(host, lambda row: row.state != PairState.COPY, LIMIT_S)
    assert (row.state, row.out_of_sync_blocks) == (PairState.PSUE, len(bad) * GROUP_BLOCKS)
    disks.mend()
    copied = disks.remote.sectors_written()
    assert array_out(host, ArrayOut.PAIR_RESYNC).status == GOOD
    wait_for_pair(host, PairState.PAIR, LIMIT_S)
    assert disks.remote.sectors_written() - copied == len(bad) * GROUP_BLOCKS
    assert load.check(host) == []
    assert disks.sha256(disks.local) == disks.sha256(disks.remote)


def test_f29_bytes_damaged_on_one_leg_are_counted_by_a_verify(disks: MappedPair, host: Host, load: Load) -> None:
    for disk in (disks.remote, disks.local):
        disks.form(host, FenceLevel.STATUS)
        disk.damage_writes(100, 0xEE)
        lbas = range(FREE_LBA, FREE_LBA + 320, 32)
        for lba in lbas:
            reply = host.command(write_cdb(lba, 8, fua=True), data_out=stamped(lba, 8, 11, BLOCK_BYTES))
            assert reply.status == GOOD
        assert host.command(SYNCHRONIZE_CACHE).status == GOOD
        disks.mend()
        assert disks.sha256(disks.local) != disks.sha256(disks.remote)
        assert array_out(host, ArrayOut.PAIR_VERIFY).status == GOOD
        assert out_of_sync(host) == len(lbas) * GROUP_BLOCKS
        assert array_out(host, ArrayOut.PAIR_RESYNC).status == GOOD
        wait_for_pair(host, PairState.PAIR, LIMIT_S)
        assert disks.sha256(disks.local) == disks.sha256(disks.remote)
        assert array_out(host, ArrayOut.PAIR_DELETE).status == GOOD
    disks.form(host, FenceLevel.STATUS)
