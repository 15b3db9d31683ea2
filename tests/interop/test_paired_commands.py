"""Every command that writes, sent to the primary of a pair: both legs have what it wrote, byte by byte.

A local file and an LU of a real array are the legs. Each command is sent while the pair mirrors, and once more while it
is split: then the other leg has what it wrote after the resync, because its blocks were marked.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from scsi.array_commands import ArrayOut, PairState
from scsi.command_set import COMMANDS
from scsi.commands import Medium
from tests.support.host import GOOD, SYNCHRONIZE_CACHE, Host, sense_of, write_cdb
from tests.support.pair_commands import array_out, naa_of, the_pair, wait_for_pair
from tests.support.paired import LEG_BYTES, Paired, paired
from tests.support.writing_commands import AREA_BLOCKS, BLOCK, MAKERS, SANITIZES, Make, Order

pytestmark = [pytest.mark.interop, pytest.mark.slow]

BLOCKS = LEG_BYTES // BLOCK
SOURCE_LUN = 2
MARK_BLOCKS = 8  # that one bit of the map of differences stands for
ORDERS = MAKERS | {name: of_size(BLOCKS) for name, of_size in SANITIZES.items()}
# These write by rows of their own, which no host can send.
WRITES_FROM_WITHIN = {"EXTENDED COPY (LID1)", "SANITIZE (OVERWRITE)", "SANITIZE (BLOCK ERASE)"}


class Bench:
    """A pair, a host of it, and what the pair has to hold."""

    def __init__(self, legs: Paired, host: Host) -> None:
        self.legs = legs
        self.host = host
        self.content = bytearray(LEG_BYTES)
        self.rng = random.Random(5)

    def send(self, cdb: bytes, data: bytes = b"", lun: int = 0) -> None:
        answer = self.host.command(cdb, data_out=data, lun=lun)
        assert answer.status == GOOD, sense_of(answer)

    def fill(self) -> tuple[int, bytes]:
        """Put random data into an area at any place, across a boundary of the marks' extents every other time."""
        lba = self.rng.choice((8192 * self.rng.randint(1, 3) - 10, self.rng.randrange(BLOCKS - AREA_BLOCKS)))
        data = self.rng.randbytes(AREA_BLOCKS * BLOCK)
        self.send(write_cdb(lba, AREA_BLOCKS), data)
        self.expect(lba, data)
        return lba, data

    def expect(self, lba: int, data: bytes) -> None:
        self.content[lba * BLOCK : lba * BLOCK + len(data)] = data

    def prepare(self, make: Make) -> Order:
        """Fill an area, and make a command for it."""
        lba, found = self.fill()
        return make(lba, found, self.rng)

    def issue(self, order: Order) -> None:
        before = bytes(self.content)
        self.send(order.cdb, order.data)
        self.expect(order.lba, order.content)
        assert self.content != before, "the command has to change something"

    def check(self, *legs: Path) -> None:
        self.send(SYNCHRONIZE_CACHE)
        for leg in legs:
            assert leg.read_bytes() == self.content, leg.name

    def command_pair(self, order: ArrayOut) -> None:
        answer = array_out(self.host, order)
        assert answer.status == GOOD, sense_of(answer)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with paired(tmp_path_factory.mktemp("pair")) as legs, Host(legs.annexd.port) as host:
        yield Bench(legs, host)
        assert "Traceback" not in legs.annexd.log()


@pytest.fixture
def bench(shared: Bench) -> Bench:
    """Give it with the pair in PAIR, wherever the test before has left it."""
    if the_pair(shared.host).state == PairState.PSUS:
        shared.command_pair(ArrayOut.PAIR_RESYNC)
    wait_for_pair(shared.host, PairState.PAIR)
    shared.content[:] = shared.legs.local.read_bytes()
    return shared


def both_legs_have_it_mirrored_and_after_a_resync(bench: Bench, make: Make) -> None:
    local, remote = bench.legs.local, bench.legs.remote
    bench.issue(bench.prepare(make))
    bench.check(local, remote)

    order = bench.prepare(make)
    bench.command_pair(ArrayOut.PAIR_SPLIT)
    assert the_pair(bench.host).out_of_sync_blocks == 0
    old = bytes(bench.content)
    bench.issue(order)
    bench.check(local)
    changed = sum(old[at : at + BLOCK] != bench.content[at : at + BLOCK] for at in range(0, LEG_BYTES, BLOCK))
    assert changed <= the_pair(bench.host).out_of_sync_blocks < len(order.content) // BLOCK + 2 * MARK_BLOCKS
    assert remote.read_bytes() == old, "split"
    bench.command_pair(ArrayOut.PAIR_RESYNC)
    wait_for_pair(bench.host, PairState.PAIR)
    bench.check(local, remote)


@pytest.mark.parametrize("name", ORDERS)
def test_both_legs_have_what_a_command_wrote(bench: Bench, name: str) -> None:
    both_legs_have_it_mirrored_and_after_a_resync(bench, ORDERS[name])


def test_both_legs_have_what_extended_copy_wrote_from_another_unit_and_from_the_pair_itself(bench: Bench) -> None:
    source, pair = naa_of(bench.host, SOURCE_LUN), naa_of(bench.host, 0)

    def copy(lba: int, found: bytes, rng: random.Random) -> Order:
        data = rng.randbytes(20 * BLOCK)
        bench.send(write_cdb(77, 20), data, lun=SOURCE_LUN)
        units = b"".join(
            struct.pack(">BBHBBBB", 0xE4, 0, 0, 1, 3, 0, 16) + naa.ljust(20, b"\0") + struct.pack(">I", BLOCK)
            for naa in (source, pair)
        )
        segments = b"".join(
            struct.pack(">BBHHH2xHQQ", 2, 0, 24, unit, 1, blocks, first, to)
            for unit, blocks, first, to in ((0, 20, 77, lba), (1, 10, lba + 20, lba + 30))
        )
        parameters = struct.pack(">BBH4xII", 1, 0, len(units), len(segments), 0) + units + segments
        content = data + found[20 * BLOCK : 30 * BLOCK] + found[20 * BLOCK : 30 * BLOCK]
        return Order(struct.pack(">BB8xI", 0x83, 0, len(parameters)), parameters, lba, content)

    both_legs_have_it_mirrored_and_after_a_resync(bench, copy)


def test_every_command_that_writes_is_among_them() -> None:
    sent = {name.split(",")[0] for name in ORDERS} | {"EXTENDED COPY (LID1)"}
    assert sent == {row.name for row in COMMANDS.rows if row.medium is Medium.WRITE} | WRITES_FROM_WITHIN
