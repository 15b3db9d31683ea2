"""kill -9 of the real annexd, with tgt as the external array: nothing acknowledged is lost, and both legs end equal.

The journal knows what was issued and acknowledged; the legs are compared byte for byte from outside, in the files under
the local device and under the array.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from demo.second_host import write_one_block
from scsi.array_commands import ArrayOut, FenceLevel, PairFlag, PairState
from tests.support.annexd import Annexd
from tests.support.host import GOOD, Host, HostLost, sense_of
from tests.support.load import BLOCK_BYTES, DEPTH, SLOT_BLOCKS, Load
from tests.support.pair_commands import array_out, create_pair, the_pair, wait_for_pair, wait_until
from tests.support.tgt import Tgt

pytestmark = [pytest.mark.interop, pytest.mark.slow]

# The others are as STATUS but for what is stable before an answer, which the unit tests and the simulator know too.
LEVELS = [pytest.param(level, marks=() if level is FenceLevel.STATUS else pytest.mark.long) for level in FenceLevel]

MIB = 1 << 20
ARRAY_TARGET = "iqn.2026-11.org.example:array"
LEG_BYTES = 64 * MIB
SLOTS = 256  # 8 MiB: two extents of the intent log
KILLS = 8
# What a host may be told when the array is gone: at level data the write that could not be mirrored fails, and the
# primary is read-only from then on.
FAILURES = {FenceLevel.NEVER: set(), FenceLevel.STATUS: set(), FenceLevel.DATA: {(0x4, 0x80, 0x0A), (0x7, 0x27, 0x00)}}


class Legs(NamedTuple):
    """annexd over a local file (LUN 0) and an external LU (LUN 1), and the files under both."""

    annexd: Annexd
    array: Tgt
    local: Path
    remote: Path


@pytest.fixture
def legs(tmp_path: Path) -> Iterator[Legs]:
    local, remote = tmp_path / "local.img", tmp_path / "remote.img"
    written_bytes = SLOTS * SLOT_BLOCKS * BLOCK_BYTES  # zeros, which is what the journal takes for never written
    local.write_bytes(bytes(written_bytes) + random.Random(1).randbytes(LEG_BYTES - written_bytes))
    remote.write_bytes(bytes(LEG_BYTES))
    with Tgt(tmp_path) as array:
        array.add_lun(array.add_target(ARRAY_TARGET), remote)
        url = f"iscsi://127.0.0.1:{array.port}/{ARRAY_TARGET}/1"
        with Annexd(tmp_path, ("--local", local), ("--array", url)) as annexd:
            yield Legs(annexd, array, local, remote)


def kill_under_load(legs: Legs, load: Load, writes: int) -> None:
    with Host(legs.annexd.port) as host:
        with suppress(HostLost):
            load.run(host, writes, then=legs.annexd.kill)
        with pytest.raises(HostLost):  # the answers to all of the above may have been on their way already
            load.run(host, DEPTH)


def out_of_sync_at_start(annexd: Annexd) -> int:
    """Give what the last start of annexd found marked, in blocks."""
    return int(re.findall(r"pair 1 is back: \w+, (\d+) blocks out of sync", annexd.log())[-1])


@pytest.mark.parametrize("level", LEVELS)
def test_kill_under_load_loses_nothing_acknowledged_and_resyncs_only_marked_regions(
    legs: Legs, level: FenceLevel
) -> None:
    load = Load(SLOTS, seed=level)
    with Host(legs.annexd.port) as host:
        assert create_pair(host, 1, level).status == GOOD
        wait_for_pair(host, PairState.PAIR)
    legs.annexd.stop()  # closes the marks of the initial copy, which time would have done as well
    legs.annexd.start()
    assert out_of_sync_at_start(legs.annexd) == 0
    rng = random.Random(level)
    for _ in range(KILLS):
        kill_under_load(legs, load, rng.randint(50, 800))
        legs.annexd.start()
        assert 0 < out_of_sync_at_start(legs.annexd) <= SLOTS * SLOT_BLOCKS
        with Host(legs.annexd.port) as host:
            wait_for_pair(host, PairState.PAIR)
            assert load.check(host) == []
        assert legs.local.read_bytes() == legs.remote.read_bytes()
    assert load.journal.acknowledged_writes > KILLS * 40
    assert load.failed == []


@pytest.mark.parametrize(
    "thin", [pytest.param("0", id="plain array", marks=pytest.mark.long), pytest.param("1", id="thin array")]
)
def test_f28_kill_under_unmap_and_write_same_loses_nothing_acknowledged_and_ends_in_equal_legs(
    legs: Legs, thin: str
) -> None:
    legs.array.set_unit_parameter("thin_provisioning", thin)
    legs.annexd.stop()
    legs.annexd.start()  # it asks the array again
    load = Load(SLOTS, seed=7, ranges=True)
    with Host(legs.annexd.port) as host:
        assert create_pair(host, 1, FenceLevel.STATUS).status == GOOD
        wait_for_pair(host, PairState.PAIR)
    rng = random.Random(7)
    for _ in range(4):
        kill_under_load(legs, load, rng.randint(50, 800))
        legs.annexd.start()
        with Host(legs.annexd.port) as host:
            wait_for_pair(host, PairState.PAIR)
            assert load.check(host) == []
        assert legs.local.read_bytes() == legs.remote.read_bytes()
    assert load.journal.acknowledged_writes > 4 * 40
    assert load.failed == []


@pytest.mark.long
def test_kill_during_the_initial_copy_ends_in_equal_legs(legs: Legs) -> None:
    load = Load(SLOTS, seed=3)
    with Host(legs.annexd.port) as host:
        assert create_pair(host, 1, FenceLevel.DATA, pace_mib_s=16).status == GOOD
    for writes in (100, 300, 700):
        kill_under_load(legs, load, writes)
        legs.annexd.start()
        with Host(legs.annexd.port) as host:
            assert the_pair(host).state == PairState.COPY
    with Host(legs.annexd.port) as host:
        wait_for_pair(host, PairState.PAIR)
        assert load.check(host) == []
    assert legs.local.read_bytes() == legs.remote.read_bytes()


def test_a_clean_stop_leaves_nothing_marked(legs: Legs) -> None:
    load = Load(SLOTS, seed=4)
    with Host(legs.annexd.port) as host:
        assert create_pair(host, 1, FenceLevel.STATUS).status == GOOD
        wait_for_pair(host, PairState.PAIR)
        load.run(host, 200)
    assert legs.annexd.stop() == 0
    assert legs.local.read_bytes() == legs.remote.read_bytes()
    legs.annexd.start()
    assert out_of_sync_at_start(legs.annexd) == 0
    with Host(legs.annexd.port) as host:
        assert load.check(host) == []


@pytest.mark.parametrize("level", LEVELS)
def test_an_array_that_dies_under_load_costs_no_acknowledged_write(legs: Legs, level: FenceLevel) -> None:
    load = Load(SLOTS, seed=5)
    with Host(legs.annexd.port) as host:
        assert create_pair(host, 1, level).status == GOOD
        wait_for_pair(host, PairState.PAIR)
        load.run(host, 200, then=legs.array.kill)
        load.run(host, 200)
        row = the_pair(host)
        assert row.state == PairState.PSUE
        assert {sense_of(task) for task in load.failed} <= FAILURES[level]
        assert bool(load.failed) == bool(FAILURES[level])
        assert load.check(host) == []
    local = legs.local.read_bytes()
    written = SLOTS * SLOT_BLOCKS * BLOCK_BYTES
    assert local[written:] == legs.remote.read_bytes()[written:]


@pytest.mark.long
def test_an_array_that_comes_back_is_fenced_again_and_resynced_to_equal_legs(legs: Legs) -> None:
    load = Load(SLOTS, seed=6)
    with Host(legs.annexd.port) as host:
        assert create_pair(host, 1, FenceLevel.STATUS).status == GOOD
        wait_for_pair(host, PairState.PAIR)
        load.run(host, 200, then=legs.array.kill)
        load.run(host, 200)
        assert the_pair(host).state == PairState.PSUE
        legs.array.start()
        legs.array.add_lun(legs.array.add_target(ARRAY_TARGET), legs.remote)
        wait_until(host, lambda row: bool(row.flags & PairFlag.FENCE_HELD))
        assert write_one_block(f"iscsi://127.0.0.1:{legs.array.port}/{ARRAY_TARGET}/1", 0) == "RESERVATION CONFLICT"
        assert array_out(host, ArrayOut.PAIR_RESYNC).status == GOOD
        wait_for_pair(host, PairState.PAIR)
        load.run(host, 200)
        assert load.check(host) == []
        assert load.failed == []
    assert legs.local.read_bytes() == legs.remote.read_bytes()
