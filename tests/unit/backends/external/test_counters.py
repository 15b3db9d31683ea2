"""What is counted of the commands to a LU of an array."""

from scsi.iscsi.initiator_task import Undelivered
from scsi.status import Status
from tests.support.fake_array import FakeAnswer, Results, Rig, check, lost

BLOCK = bytes(512)


def read(rig: Rig, blocks: int = 1) -> Results:
    results = Results()
    rig.unit.read(0, blocks, results)
    rig.clock.run_until_idle()
    return results


def test_reads_and_writes_are_counted_with_their_blocks() -> None:
    rig = Rig()
    for _ in range(3):
        read(rig, 4)
    written = Results()
    rig.unit.write(0, BLOCK * 2, False, written)
    rig.clock.run_until_idle()
    counters = rig.unit.counters
    assert written == [None]
    assert (counters.reads, counters.read_blocks, counters.writes, counters.written_blocks) == (3, 12, 1, 2)


def test_errors_are_counted_by_sense_those_that_a_repetition_mends_too() -> None:
    rig = Rig()
    before = dict(rig.unit.counters.errors)
    rig.lu.replies = [check(0x0B, 0, 0), FakeAnswer(Status.BUSY), check(3, 0x11, 0)]
    results = read(rig)
    rig.clock.advance(1.0)  # the pause that BUSY asks for
    assert results.faults
    after = rig.unit.counters.errors
    new = {kind: count - before.get(kind, 0) for kind, count in after.items() if count != before.get(kind)}
    assert new == {(2, 0x0B, 0, 0): 1, (Status.BUSY, 0, 0, 0): 1, (2, 3, 0x11, 0): 1}


def test_a_command_without_an_answer_is_an_error_without_sense() -> None:
    rig = Rig()
    rig.lu.replies = [lost(Undelivered.TIMED_OUT)]
    read(rig)
    assert sum(count for (_, *sense), count in rig.unit.counters.errors.items() if sense == [0, 0, 0]) == 1


def test_latencies_are_those_from_sending_to_the_answer() -> None:
    rig = Rig()
    rig.array.stalled = True
    results = Results()
    for _ in range(17):
        rig.unit.read(0, 1, results)
    rig.clock.advance(0.15)
    rig.array.resume()
    rig.clock.run_until_idle()
    latencies = rig.unit.counters.read_latencies
    assert len(results) == 17
    assert sum(latencies.counts) == 17
    assert 0.14 < latencies.sum_s / 17 < 0.2
