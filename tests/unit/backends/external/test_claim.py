"""COMPARE AND WRITE on an external LU: under a RESERVE of its own, given back, and never written after one was lost.

An array that has no RESERVE has no such commands, and hosts are told so.
"""

from __future__ import annotations

import struct
from functools import partial

from scsi.logical_unit import LogicalUnit
from scsi.target import TargetPort
from tests.support import commands as c
from tests.support.fake_array import FakeUnit, Rig, lun_bytes

BLOCK = 512
OLD, NEW = bytes(BLOCK), b"n" * BLOCK
RESERVE, RELEASE, READ, WRITE = 0x16, 0x17, 0x28, 0x2A
COMPARE_AND_WRITE = struct.pack(">BBQ3xBxx", 0x89, 0, 5, 1)


class Bench:
    """A host, a logical unit that is all of an external LU, and the array."""

    def __init__(self, *, reservable: bool = True) -> None:
        self.rig = Rig(FakeUnit(reservable=reservable))
        self.host = c.Host(TargetPort(), LogicalUnit(self.rig.unit, c.NAA))
        self.rig.array.journal.clear()

    def compare_and_write(self) -> c.FakeCommand:
        command = self.host.send(COMPARE_AND_WRITE, OLD + NEW)
        self.rig.clock.run_until_idle()
        return command

    def opcodes(self) -> list[int]:
        return [code for _, code in self.rig.array.journal]


def test_it_reserves_reads_writes_and_releases() -> None:
    bench = Bench()
    assert bench.compare_and_write().outcome == "GOOD"
    assert bench.opcodes() == [RESERVE, READ, WRITE, RELEASE]
    assert bytes(bench.rig.lu.data[5 * BLOCK : 6 * BLOCK]) == NEW
    assert bench.rig.lu.reserved_by is None


def test_it_releases_after_a_miscompare() -> None:
    bench = Bench()
    bench.rig.lu.data[5 * BLOCK] = 1
    assert bench.compare_and_write().outcome == "0E/1D/00"
    assert bench.opcodes() == [RESERVE, READ, RELEASE]
    assert bench.rig.lu.reserved_by is None


def test_a_lu_that_is_fenced_anyway_is_not_reserved_again() -> None:
    class Holder:
        def fence_lapsed(self, unit: object) -> None: ...
        def fence_retaken(self, unit: object) -> None: ...
        def fence_refused(self, unit: object, error: object) -> None: ...

    bench = Bench()
    bench.rig.fences.take(bench.rig.unit, Holder(), lambda _error: None)
    bench.rig.clock.run_until_idle()
    bench.rig.array.journal.clear()
    assert bench.compare_and_write().outcome == "GOOD"
    assert bench.opcodes() == [READ, WRITE]
    assert bench.rig.lu.reserved_by is not None


def test_another_initiator_that_has_the_lu_reserved_keeps_it() -> None:
    bench = Bench()
    bench.rig.lu.reserved_by = 99
    assert bench.compare_and_write().outcome == "RESERVATION CONFLICT"
    assert WRITE not in bench.opcodes()
    assert bench.rig.lu.reserved_by == 99


def test_nothing_is_written_when_the_reservation_was_lost_between_reading_and_writing() -> None:
    bench = Bench()
    somebody_resets = partial(bench.rig.unit.attention, 0x29, 0x03)
    bench.rig.array.before_answer[READ] = somebody_resets
    assert bench.compare_and_write().outcome == "BUSY"
    assert WRITE not in bench.opcodes()
    assert bytes(bench.rig.lu.data[5 * BLOCK : 6 * BLOCK]) == OLD
    assert bench.rig.lu.reserved_by is None


def test_a_lu_that_is_away_is_not_claimed() -> None:
    bench = Bench()
    bench.rig.unit.set_pending("gone")
    assert bench.compare_and_write().outcome == "02/04/01"


def test_a_lu_is_asked_once_whether_it_can_be_reserved_and_is_not_reserved_for_it() -> None:
    bench = Bench()
    assert bench.rig.array.operations(RESERVE, RELEASE) == []
    assert bench.rig.unit.claimable
    bench.rig.path.cut()
    bench.rig.reconnect()
    assert bench.rig.array.operations(RESERVE, RELEASE) == []
    assert Rig(FakeUnit()).array.operations(RESERVE, RELEASE) == [RELEASE]


def test_a_lu_that_did_not_answer_is_asked_again_the_next_time() -> None:
    unit = FakeUnit(reservable=False, silent={RELEASE})
    rig = Rig(unit)
    rig.clock.advance(60)
    assert rig.unit.claimable, "as far as is known"
    unit.silent.clear()
    rig.path.cut()
    rig.reconnect()
    assert not rig.unit.claimable


def test_a_lu_that_another_initiator_has_reserved_can_be_reserved() -> None:
    rig = Rig(FakeUnit(reserved_by=99), connect=False)
    rig.external.expect(lun_bytes(1), blocks=2048)
    rig.reconnect()
    assert rig.unit.claimable
    assert rig.lu.reserved_by == 99


def test_a_lu_that_can_not_be_reserved_has_no_commands_that_need_it_and_says_so() -> None:
    bench = Bench(reservable=False)
    assert not bench.rig.unit.claimable
    host = bench.host
    assert host.send(c.inquiry(0xB0, 0xFF)).data[5] == 0, "MAXIMUM COMPARE AND WRITE LENGTH"
    assert not {0x89, 0x8B} & set(host.send(c.report_opcodes()).data[4::8])
    for cdb, data in ((COMPARE_AND_WRITE, OLD + NEW), (c.blocks_16(0x8B, 5, 1), NEW)):
        assert host.send(c.report_opcodes(1, cdb[0])).data[1] == 0x01, "not supported"
        assert host.send(cdb, data).outcome == "05/20/00"
    assert host.send(c.report_opcodes(2, 0x7F, 0x000E)).data[1] == 0x01
    assert bench.opcodes() == []
