"""F1: kill -9 at each named point of the path of a write; and again at one during what follows the restart (F4)."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from scsi.array_commands import FenceLevel, PairState
from tests.support.fault_points import COPYING, POINTS, R2TS
from tests.support.faulty_annexd import FaultyAnnexd
from tests.support.host import GOOD, Host, HostLost, write_cdb
from tests.support.load import BLOCK_BYTES, SLOT_BLOCKS, Load
from tests.support.pair_commands import create_pair, wait_for_pair
from tests.support.tgt import Tgt

pytestmark = [pytest.mark.interop, pytest.mark.slow]

SHORT = {"after CDB", R2TS[0], "after mark stable", "only leg 1", "after leg 0", "before status"}

ARRAY_TARGET = "iqn.2026-11.org.example:array"
LEG_BYTES = 16 << 20
SLOTS = 256  # 8 MiB: two extents of the intent log
EXTENT_BLOCKS = (4 << 20) // BLOCK_BYTES
SLOT_BYTES = SLOT_BLOCKS * BLOCK_BYTES
MOST_WRITES = 4000


class Legs(NamedTuple):
    """annexd over a local file (LUN 0) and an external LU (LUN 1), and the files under both."""

    annexd: FaultyAnnexd
    local: Path
    remote: Path


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Legs]:
    """A pair in PAIR; one for all tests, since each leaves it so."""
    folder = tmp_path_factory.mktemp("pair")
    local, remote = folder / "local.img", folder / "remote.img"
    for leg in (local, remote):
        leg.write_bytes(bytes(LEG_BYTES))
    with Tgt(folder) as array:
        array.add_lun(array.add_target(ARRAY_TARGET), remote)
        url = f"iscsi://127.0.0.1:{array.port}/{ARRAY_TARGET}/1"
        with FaultyAnnexd(folder, ("--local", local), ("--array", url)) as annexd:
            with Host(annexd.port) as host:
                assert create_pair(host, 1, FenceLevel.STATUS).status == GOOD
                wait_for_pair(host, PairState.PAIR)
            annexd.stop()  # closes the marks of the initial copy
            annexd.start()
            yield Legs(annexd, local, remote)


@pytest.fixture
def legs(paired: Legs) -> Legs:
    if paired.annexd.ended():  # the test before has failed
        paired.annexd.start_unharmed()
    with Host(paired.annexd.port) as host:
        wait_for_pair(host, PairState.PAIR)
        for slot in range(SLOTS):  # the journal of each test begins with zeros
            assert host.command(write_cdb(slot * SLOT_BLOCKS, SLOT_BLOCKS), data_out=bytes(SLOT_BYTES)).status == GOOD
    return paired


def restart_and_compare(legs: Legs, load: Load) -> int:
    """Start annexd again and wait until all is well; give how many blocks it had found out of sync."""
    legs.annexd.start_unharmed()
    found = int(re.findall(r"pair 1 is back: \w+, (\d+) blocks out of sync", legs.annexd.log())[-1])
    with Host(legs.annexd.port) as host:
        wait_for_pair(host, PairState.PAIR)
        assert load.check(host) == []
    assert legs.local.read_bytes() == legs.remote.read_bytes()
    return found


def die_under_load(legs: Legs, load: Load, point: str, count: int) -> None:
    legs.annexd.choose(point, count)
    collects = point in ("after CDB", *R2TS, "after data")
    with Host(legs.annexd.port, asks_for_data=collects) as host, pytest.raises(HostLost):
        load.run(host, MOST_WRITES)
    assert legs.annexd.wait() == -signal.SIGKILL, "it has died, and by that"


@pytest.mark.parametrize(
    "point", [pytest.param(point, marks=() if point in SHORT else pytest.mark.long) for point in POINTS]
)
def test_f01_kill_at_each_point_of_the_path_of_a_write(legs: Legs, point: str) -> None:
    load = Load(SLOTS, seed=POINTS.index(point))
    if of_marks := "mark" in point:  # a mark is written once for all writes to an extent
        legs.annexd.stop()  # closes the marks
        legs.annexd.start_unharmed()
    die_under_load(legs, load, point, 1 if of_marks else 40)
    found = restart_and_compare(legs, load)
    assert found <= 2 * EXTENT_BLOCKS, "only what was marked is copied"
    assert of_marks or found > 0
    assert "differ between its legs" not in legs.annexd.log(), "what the marks had missed, the comparison has found"
    assert load.failed == []
    assert of_marks or load.journal.acknowledged_writes > 0
    assert "Traceback" not in legs.annexd.log()


@pytest.mark.parametrize(
    ("first", "second", "count"),
    [
        ("before status", COPYING, 1),
        ("only leg 1", COPYING, 2),
        ("only leg 0", "only leg 1", 5),  # of hosts that write again at once
    ],
)
def test_f04_kill_during_what_follows_a_kill(legs: Legs, first: str, second: str, count: int) -> None:
    load = Load(SLOTS, seed=len(first))
    die_under_load(legs, load, first, 40)
    legs.annexd.choose(second, count)
    with suppress(RuntimeError):  # it may die before it is up
        legs.annexd.start()
    with suppress(HostLost), Host(legs.annexd.port) as host:
        load.run(host, MOST_WRITES)
    assert legs.annexd.wait() == -signal.SIGKILL
    restart_and_compare(legs, load)
    assert load.failed == []
