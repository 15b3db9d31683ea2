"""The link to the array under load, on a real annexd: silent in the middle of a write, broken at any byte, flapping."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scsi.array_commands import ArrayOut, PairState
from tests.support.host import GOOD, Host, read_cdb
from tests.support.load import Load
from tests.support.pair_commands import array_out, the_pair, wait_until
from tests.support.paired import SLOTS, Paired, paired

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.long]

ANSWER_S, OTHERS_S = 15.0, 5.0
BREAKS = 10
FLAPS, FLAP_S = 50, 1.2
FEWEST_SESSIONS = 15  # of some 25: annexd waits up to 2 s before it logs in again


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Paired]:
    with paired(tmp_path) as running:
        yield running


def resync(pair: Paired) -> None:
    """Bring the pair back to PAIR, once its array is there."""
    deadline = time.monotonic() + 60
    with Host(pair.annexd.port) as host:
        while the_pair(host).state == PairState.PSUE and array_out(host, ArrayOut.PAIR_RESYNC).status != GOOD:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_f11_an_array_that_falls_silent_in_the_middle_of_a_write(pair: Paired) -> None:
    load = Load(SLOTS, seed=11)
    with Host(pair.annexd.port) as host, Host(pair.annexd.port, isid=b"\x80\0\0\0\0\x02") as other:
        load.run(host, 100)
        pair.link.freeze_after(100_000)
        started = time.monotonic()
        slowest_other = 0.0

        def others_are_served() -> None:
            nonlocal slowest_other
            host.wait(lambda: pair.link.frozen)
            before = time.monotonic()
            assert other.command(read_cdb(0, 8), data_in_bytes=4096, lun=2).status == GOOD
            assert other.reset_unit(2)
            slowest_other = time.monotonic() - before

        load.run(host, 60, then=others_are_served)
        assert time.monotonic() - started < ANSWER_S + 1
        assert slowest_other < OTHERS_S
        assert load.failed == []
        assert the_pair(host).state == PairState.PSUE
        load.run(host, 100)
    pair.link.thaw()
    resync(pair)
    pair.compare(load)


@pytest.mark.parametrize("resets", [True, False], ids=["RST", "FIN"])
def test_f12_f15_a_link_that_breaks_at_any_byte_again_and_again(pair: Paired, resets: bool) -> None:
    rng = random.Random(resets)
    load = Load(SLOTS, seed=12 + resets)
    pair.link.resets = resets

    def limit() -> tuple[int | None, int | None]:
        out, back = rng.choice(((600, 600), (5_000, 5_000), (600_000, 100_000)))
        return (rng.randint(1, out), None) if rng.random() < 0.5 else (None, rng.randint(1, back))

    with Host(pair.annexd.port) as host:
        load.run(host, 50)
        pair.link.limit = limit
        pair.link.break_now()
        deadline = time.monotonic() + 60
        while pair.link.connections < BREAKS:
            assert time.monotonic() < deadline, pair.link.connections
            load.run(host, 30)
            if the_pair(host).state == PairState.PSUE:
                array_out(host, ArrayOut.PAIR_RESYNC)  # it may be refused
        pair.link.limit = lambda: (None, None)
        pair.link.break_now()
        wait_until(host, lambda row: bool(row.flags))
    assert load.failed == []
    resync(pair)
    pair.compare(load)


def test_f15_a_link_that_flaps_fifty_times_in_a_minute_is_used_while_it_is_there(pair: Paired) -> None:
    load = Load(SLOTS, seed=15)
    over = threading.Event()

    def flap() -> None:
        for _ in range(FLAPS):
            if over.wait(FLAP_S):
                return
            pair.link.break_now()

    with Host(pair.annexd.port) as host:
        load.run(host, 50)
        sessions_before = pair.link.connections
        flapping = threading.Thread(target=flap)
        flapping.start()
        try:
            while flapping.is_alive():
                load.run(host, 30)
                if the_pair(host).state == PairState.PSUE:
                    array_out(host, ArrayOut.PAIR_RESYNC)  # it may be refused
        finally:
            over.set()
        assert pair.link.connections - sessions_before >= FEWEST_SESSIONS
        wait_until(host, lambda row: bool(row.flags))
    assert load.failed == []
    resync(pair)
    pair.compare(load)
