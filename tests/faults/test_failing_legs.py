"""Legs that take half of a command (F5), or nothing at all (F9), and blocks that can not be copied (F26).

A second annexd is the array.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from scsi.array_commands import RESYNC_REVERSE, SPLIT_SECONDARY_WRITABLE, ArrayOut, PairState
from tests.support.faulty_annexd import FaultyAnnexd
from tests.support.host import GOOD, Host, HostLost, write_cdb
from tests.support.load import BLOCK_BYTES, DEPTH, Load
from tests.support.pair_commands import array_out, the_pair, wait_for_pair, wait_until
from tests.support.paired import LEG_BYTES, SLOTS, TwoAnnexds, paired_with_annexd

pytestmark = [pytest.mark.interop, pytest.mark.slow]

TIMES = 3
BAD_LBA = 20_000
BIT_BLOCKS = 8
MORE_WRITES_THAN_FIT = 1 << 20


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[TwoAnnexds]:
    with paired_with_annexd(tmp_path, program=FaultyAnnexd) as running:
        yield running


def front(pair: TwoAnnexds) -> FaultyAnnexd:
    assert isinstance(pair.annexd, FaultyAnnexd)
    return pair.annexd


def resync(host: Host) -> None:
    """Resync once both legs are ready."""
    wait_until(host, lambda _: array_out(host, ArrayOut.PAIR_RESYNC).status == GOOD)
    wait_for_pair(host, PairState.PAIR)


@pytest.mark.parametrize("leg", [0, 1])
def test_f05_annexd_dies_with_half_of_a_write_on_one_leg(pair: TwoAnnexds, leg: int) -> None:
    load = Load(SLOTS, seed=50 + leg)
    for round_ in range(TIMES):
        front(pair).choose(f"torn leg {leg}", 20 + round_)
        with Host(pair.annexd.port) as host, suppress(HostLost):
            load.run(host, MORE_WRITES_THAN_FIT)
        assert pair.annexd.wait() == -signal.SIGKILL
        assert pair.local.read_bytes() != pair.remote.read_bytes()
        front(pair).start_unharmed()
        pair.compare(load)
    assert load.failed == []


def test_f05_the_local_leg_dies_with_half_of_its_writes_done(pair: TwoAnnexds) -> None:
    load = Load(SLOTS, seed=52)
    for round_ in range(TIMES):
        with Host(pair.annexd.port) as host:
            front(pair).choose("dead leg 0", 20 + round_)
            load.run(host, 100)
            assert the_pair(host).state == PairState.PSUE
            assert load.check(host) == [], "the array's leg has all of it"
            front(pair).heal()
            resync(host)
        pair.compare(load)
    assert load.failed == []


@pytest.mark.long
def test_f05_the_array_dies_with_half_of_a_write_done(pair: TwoAnnexds) -> None:
    load = Load(SLOTS, seed=53)
    for round_ in range(TIMES):
        with Host(pair.annexd.port) as host:
            pair.array.choose("torn", 20 + round_)
            load.run(host, 100)
            assert pair.array.wait() == -signal.SIGKILL
            assert load.check(host) == [], "the local leg has all of it"
            pair.array.start_unharmed()
            if the_pair(host).state == PairState.PSUE:
                resync(host)
        pair.compare(load)
    assert load.failed == []


def test_f05_the_link_ends_within_the_data_of_writes(pair: TwoAnnexds) -> None:
    rng = random.Random(54)
    load = Load(SLOTS, seed=54)
    with Host(pair.annexd.port) as host:
        for _ in range(5):
            pair.link.break_after(rng.randint(1, 300_000))
            load.run(host, 4 * DEPTH)
    assert load.failed == []
    pair.compare(load)


@pytest.mark.parametrize("name", ["full", "locked"])
def test_f09_an_array_without_space_or_that_is_read_only_is_lost_and_copied_to_again(
    pair: TwoAnnexds, name: str
) -> None:
    load = Load(SLOTS, seed=9)
    with Host(pair.annexd.port) as host:
        load.run(host, 50)
        pair.array.choose(name, 0)
        load.run(host, 100)
        assert the_pair(host).state == PairState.PSUE
        assert load.check(host) == []
        pair.array.heal()
        resync(host)
        load.run(host, 50)
    assert load.failed == []
    pair.compare(load)


@pytest.mark.parametrize(("at", "name"), [("source", "bad reads"), ("target", "bad writes")])
@pytest.mark.parametrize("reverse", [False, True], ids=["to the array", "from the array"])
def test_f26_a_bad_block_is_all_that_is_not_copied(pair: TwoAnnexds, at: str, name: str, reverse: bool) -> None:
    of_array = (at == "source") == reverse
    failing = pair.array if of_array else front(pair)
    rng = random.Random(26)
    with Host(pair.annexd.port) as host:
        assert array_out(host, ArrayOut.PAIR_SPLIT, flags=SPLIT_SECONDARY_WRITABLE).status == GOOD
        for lun in (0, 1):
            for lba in range(0, LEG_BYTES // BLOCK_BYTES, 256):
                data = rng.randbytes(256 * BLOCK_BYTES)
                assert host.command(write_cdb(lba, 256), data_out=data, lun=lun).status == GOOD
        failing.choose(name, BAD_LBA)
        assert array_out(host, ArrayOut.PAIR_RESYNC, flags=RESYNC_REVERSE if reverse else 0).status == GOOD
        row = wait_until(host, lambda row: row.state == PairState.PSUE)
        assert row.out_of_sync_blocks == BIT_BLOCKS
        local, remote = pair.local.read_bytes(), pair.remote.read_bytes()
        first = BAD_LBA // BIT_BLOCKS * BIT_BLOCKS * BLOCK_BYTES
        end = first + BIT_BLOCKS * BLOCK_BYTES
        assert local[:first] == remote[:first]
        assert local[end:] == remote[end:]
        assert local[first:end] != remote[first:end]
        failing.heal()
        resync(host)
    assert pair.local.read_bytes() == pair.remote.read_bytes()
    assert "Traceback" not in pair.annexd.log()
    assert "Traceback" not in pair.array.log()
