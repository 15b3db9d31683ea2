"""kill -9 under COMPARE AND WRITE, ORWRITE and WRITE ATOMIC on a pair (F28).

What was acknowledged is there, an atomic write is there or not, and both legs are equal.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from scsi.array_commands import FenceLevel, PairState
from scsi.iscsi.initiator_task import Task
from tests.support.annexd import Annexd
from tests.support.host import GOOD, UNIT_ATTENTION, Host, HostLost, read_cdb, sense_of
from tests.support.pair_commands import create_pair, wait_for_pair
from tests.support.tgt import Tgt

pytestmark = [pytest.mark.interop, pytest.mark.slow]

TEST_UNIT_READY = bytes(6)
NOT_READY = 0x2
BLOCK_BYTES = 512
LANE_BLOCKS = 64
LANES = 12
LEG_BYTES = 16 << 20
KILLS = 6
ARRAY_TARGET = "iqn.2026-11.org.example:array"


class Step(NamedTuple):
    """One command of a lane: what is there before it, and after it."""

    cdb: bytes
    data: bytes
    old: bytes
    new: bytes


class Lane:
    """A run of blocks that one command after the other changes, each depending on what the one before it wrote."""

    def __init__(self, number: int, rng: random.Random) -> None:
        self.lba = number * LANE_BLOCKS
        self.content = bytes(LANE_BLOCKS * BLOCK_BYTES)
        self.step: Step | None = None
        self.done = 0
        self._rng = rng

    def begin(self) -> Step:
        """Choose a command; a miscompare would show that one before it did something else than it should."""
        rng = self._rng
        kind = rng.choice(("compare", "or", "atomic"))
        blocks = {"compare": 1, "or": 1, "atomic": rng.randint(2, LANE_BLOCKS)}[kind]
        first = rng.randrange(LANE_BLOCKS - blocks + 1)
        place = slice(first * BLOCK_BYTES, (first + blocks) * BLOCK_BYTES)
        old, sent = self.content[place], rng.randbytes(blocks * BLOCK_BYTES)
        lba = self.lba + first
        if kind == "compare":
            cdb, data, new = struct.pack(">BBQ3xBxx", 0x89, 0, lba, blocks), old + sent, sent
        elif kind == "or":
            cdb, data = struct.pack(">BBQIxx", 0x8B, 0, lba, blocks), sent
            new = bytes(a | b for a, b in zip(old, sent, strict=True))
        else:
            cdb, data, new = struct.pack(">BBQHHxx", 0x9C, 0, lba, 0, blocks), sent, sent
        changed = self.content[: place.start] + new + self.content[place.stop :]
        self.step = Step(cdb, data, self.content, changed)
        return self.step

    def ended(self) -> None:
        assert self.step is not None
        self.content = self.step.new
        self.step = None
        self.done += 1

    def look(self, host: Host) -> None:
        """Read all of it after a kill: it is what it was before the command that was under way, or after it."""
        reply = host.command(read_cdb(self.lba, LANE_BLOCKS), data_in_bytes=LANE_BLOCKS * BLOCK_BYTES)
        assert reply.status == GOOD
        allowed = {self.content} if self.step is None else {self.step.old, self.step.new}
        assert bytes(reply.data_in) in allowed
        self.content = bytes(reply.data_in)
        self.step = None


class Legs(NamedTuple):
    """annexd over a local file (LUN 0) and an external LU (LUN 1), and the files under both."""

    annexd: Annexd
    local: Path
    remote: Path


@pytest.fixture
def legs(tmp_path: Path) -> Iterator[Legs]:
    local, remote = tmp_path / "local.img", tmp_path / "remote.img"
    for leg in (local, remote):
        leg.write_bytes(bytes(LEG_BYTES))
    with Tgt(tmp_path) as array:
        array.add_lun(array.add_target(ARRAY_TARGET), remote)
        url = f"iscsi://127.0.0.1:{array.port}/{ARRAY_TARGET}/1"
        with Annexd(tmp_path, ("--local", local), ("--array", url)) as annexd:
            yield Legs(annexd, local, remote)


def run_and_kill(annexd: Annexd, lanes: list[Lane], commands: int) -> None:
    """Keep every lane busy until so many commands have ended, then kill annexd with the others under way."""
    with Host(annexd.port) as host:
        ended = 0

        def issue(lane: Lane) -> None:
            step = lane.begin()

            def answered(task: Task) -> None:
                nonlocal ended
                if task.undelivered is not None:
                    return
                if sense_of(task)[0] == UNIT_ATTENTION:
                    host.submit(step.cdb, answered, data_out=step.data)
                    return
                assert task.status == GOOD, sense_of(task)
                lane.ended()
                ended += 1
                issue(lane)

            host.submit(step.cdb, answered, data_out=step.data)

        for lane in lanes:
            issue(lane)
        host.wait(lambda: ended >= commands)
        annexd.kill()
        with suppress(HostLost):
            host.wait(lambda: False)


def test_f28_kill_under_compare_and_write_orwrite_and_write_atomic(legs: Legs) -> None:
    rng = random.Random(28)
    lanes = [Lane(number, rng) for number in range(LANES)]
    with Host(legs.annexd.port) as host:
        assert create_pair(host, 1, FenceLevel.STATUS).status == GOOD
        wait_for_pair(host, PairState.PAIR)
    for _ in range(KILLS):
        run_and_kill(legs.annexd, lanes, rng.randint(20, 300))
        legs.annexd.start()
        with Host(legs.annexd.port) as host:
            wait_for_pair(host, PairState.PAIR)
            while sense_of(host.command(TEST_UNIT_READY))[0] == NOT_READY:
                pass  # an atomic write is being completed; the time limit of the test is the limit
            for lane in lanes:
                lane.look(host)
        assert legs.local.read_bytes() == legs.remote.read_bytes()
    assert sum(lane.done for lane in lanes) > KILLS * 20
    assert "Traceback" not in legs.annexd.log()
