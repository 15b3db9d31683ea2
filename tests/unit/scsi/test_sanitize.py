import struct

import pytest

from scsi.logical_unit import LogicalUnit
from scsi.mode_parameters import ModeParameters
from scsi.nexus import Limit, MappedUnit
from scsi.saved_parameters import NOT_KEPT, SavedParameters
from scsi.status import Status
from scsi.target import TargetPort
from scsi.task_management import Function
from scsi.volume import Deallocation, Fault, VolumeError
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume
from tests.support.saved import FakeSaved

OVERWRITE, BLOCK_ERASE, CRYPTOGRAPHIC_ERASE, EXIT_FAILURE_MODE = 1, 2, 3, 0x1F
IMMED, AUSE = 0x80, 0x20
BLOCKS = 40960  # 20 MiB: more than one piece of each kind
IN_PROGRESS, FAILED = "02/04/1B", "03/31/03"


class Bench:
    """A unit full of data, and two hosts."""

    def __init__(
        self,
        *,
        thin: bool = True,
        read_only: bool = False,
        limit: Limit | None = None,
        saved: SavedParameters = NOT_KEPT,
    ) -> None:
        self.volume = MemoryVolume(BLOCKS)
        self.volume.deallocation = Deallocation(1) if thin else None
        self.volume.data[:] = b"\x5a" * len(self.volume.data)
        self.unit = LogicalUnit(self.volume, c.NAA, saved=saved)
        self.port = TargetPort()
        self.host = c.Host(self.port, {c.lun(0): MappedUnit(self.unit, read_only, limit)})
        self.other = c.Host(self.port, self.unit, name="iqn.2026-11.org.example:other")

    def sanitize(
        self, action: int, flags: int = 0, parameters: bytes = b"", length: int | None = None
    ) -> c.FakeCommand:
        cdb = struct.pack(">BB5xHx", 0x48, flags | action, len(parameters) if length is None else length)
        return self.host.send(cdb, parameters)

    def sense(self) -> bytes:
        return self.other.send(bytes.fromhex("030000001200")).data


@pytest.fixture
def bench() -> Bench:
    return Bench()


def overwrite(pattern: bytes = b"\xaa", *, count: int = 1, invert: bool = False) -> bytes:
    return struct.pack(">BxH", count | (0x80 if invert else 0), len(pattern)) + pattern


@pytest.mark.parametrize("pattern", [b"\xaa", b"abc", bytes(range(256)) * 2])
def test_overwrite_fills_every_block_with_the_pattern(bench: Bench, pattern: bytes) -> None:
    assert bench.sanitize(OVERWRITE, parameters=overwrite(pattern)).outcome == "GOOD"
    assert bench.volume.data == (pattern * 512)[:512] * BLOCKS
    assert bench.volume.operations()[-1] == "flush"
    assert bench.host.send(bytes(6)).outcome == "GOOD"


@pytest.mark.parametrize(("count", "left"), [(2, b"\x55"), (3, b"\xaa")])
def test_overwrite_goes_over_it_again_inverted(bench: Bench, count: int, left: bytes) -> None:
    assert bench.sanitize(OVERWRITE, parameters=overwrite(count=count, invert=True)).outcome == "GOOD"
    assert bench.volume.data == left * 512 * BLOCKS
    writes = [operation for operation in bench.volume.journal if operation.name == "write"]
    assert sum(operation.blocks for operation in writes) == BLOCKS * count
    assert len({operation.data[:1] for operation in writes}) == 2


def test_block_erase_leaves_zeroes_and_no_storage(bench: Bench) -> None:
    assert bench.sanitize(BLOCK_ERASE).outcome == "GOOD"
    assert not any(bench.volume.data)
    status = bench.host.send(struct.pack(">BBQI2x", 0x9E, 0x12, 0, 24)).data
    assert struct.unpack_from(">QIB", status, 8) == (0, BLOCKS, 1)
    names = [operation.name for operation in bench.volume.journal]
    assert names.count("unmap") == 2
    assert sum(o.blocks for o in bench.volume.journal if o.name == "write") == BLOCKS, "written before it is given back"


def test_block_erase_writes_nothing_where_there_is_no_storage(bench: Bench) -> None:
    bench.volume.unmap(1000, BLOCKS - 2000, lambda _: None)
    bench.volume.journal.clear()
    assert bench.sanitize(BLOCK_ERASE).outcome == "GOOD"
    assert sum(o.blocks for o in bench.volume.journal if o.name == "write") == 2000
    assert not any(bench.volume.data)


def test_a_unit_without_thin_blocks_has_no_block_erase() -> None:
    bench = Bench(thin=False)
    assert bench.sanitize(BLOCK_ERASE).outcome == "05/24/00"
    assert bench.sanitize(OVERWRITE, parameters=overwrite()).outcome == "GOOD"


def test_service_actions_that_there_are_not_are_refused(bench: Bench) -> None:
    for action in set(range(32)) - {OVERWRITE, BLOCK_ERASE, EXIT_FAILURE_MODE}:
        assert bench.sanitize(action).outcome == "05/24/00", action


@pytest.mark.parametrize(
    ("parameters", "outcome"),
    [
        (b"", "05/24/00"),
        (overwrite()[:4], "05/24/00"),
        (overwrite(bytes(513)), "05/24/00"),
        (overwrite(count=0), "05/26/00"),
        (overwrite(b"ab")[:-1], "05/26/00"),  # a pattern of 2 bytes, and one is there
        (b"\x01\0\0\0abcd", "05/26/00"),  # a pattern of none
        (b"\x21\0\0\1a", "05/26/00"),  # TEST
    ],
)
def test_bad_parameters_are_refused_and_nothing_is_written(bench: Bench, parameters: bytes, outcome: str) -> None:
    assert bench.sanitize(OVERWRITE, parameters=parameters).outcome == outcome
    assert bench.volume.journal == []
    assert bench.host.send(bytes(6)).outcome == "GOOD"


@pytest.mark.parametrize("action", [BLOCK_ERASE, EXIT_FAILURE_MODE])
def test_parameters_where_there_are_none_are_refused(bench: Bench, action: int) -> None:
    assert bench.sanitize(action, length=8, parameters=bytes(8)).outcome == "05/24/00"
    assert bench.volume.journal == []


def test_what_may_not_be_written_is_not_sanitized() -> None:
    bench = Bench(read_only=True)
    assert bench.sanitize(OVERWRITE, parameters=overwrite()).outcome == "07/27/00"
    bench = Bench()
    bench.other.send(c.RESERVE_6)
    assert bench.sanitize(OVERWRITE, parameters=overwrite()).status == Status.RESERVATION_CONFLICT
    assert bench.volume.journal == []


def test_a_unit_that_a_host_has_protected_is_not_sanitized(bench: Bench) -> None:
    bench.unit.use_modes(ModeParameters(software_write_protect=True))
    bench.host.nexus.attentions.clear()
    assert bench.sanitize(BLOCK_ERASE).outcome == "07/27/02"
    assert bench.volume.journal == []


def test_while_it_goes_on_hosts_may_ask_how_far_it_is_and_little_more(bench: Bench) -> None:
    bench.volume.hold = True
    assert bench.sanitize(OVERWRITE, IMMED, overwrite()).outcome == "GOOD"
    for cdb in (bytes(6), c.read_10(0, 1), c.synchronize_cache_10(), c.mode_sense_6(), c.start_stop_unit(1), b"\xee"):
        assert bench.other.send(cdb).outcome == IN_PROGRESS, cdb.hex()
    assert bench.other.send(c.write_10(0, 1), bytes(512)).outcome == IN_PROGRESS
    assert bench.sanitize(OVERWRITE, parameters=overwrite()).outcome == IN_PROGRESS
    assert bench.sanitize(EXIT_FAILURE_MODE).outcome == IN_PROGRESS
    for cdb in (c.inquiry(), c.report_luns(), c.report_opcodes()):
        assert bench.other.send(cdb).outcome == "GOOD"
    sense = bench.sense()
    assert (sense[2], sense[12], sense[13]) == (0x02, 0x04, 0x1B)
    assert sense[15:18] == b"\x80\0\0"
    for _ in range(16):
        bench.volume.release()
    sense = bench.sense()
    assert sense[15] == 0x80
    assert int.from_bytes(sense[16:18], "big") == 16 * 65536 // 20
    bench.volume.hold = False
    bench.volume.release_all()
    assert bench.other.send(bytes(6)).outcome == "GOOD"
    assert bench.sense()[2] == 0


def test_commands_that_came_before_it_end_by_themselves(bench: Bench) -> None:
    bench.volume.hold = True
    earlier = bench.other.send(c.write_10(0, 1), b"\x11" * 512)
    sanitize = bench.sanitize(OVERWRITE, parameters=overwrite())
    bench.volume.hold = False
    bench.volume.release_all()
    assert (earlier.outcome, sanitize.outcome) == ("GOOD", "GOOD")
    assert bench.volume.data == b"\xaa" * 512 * BLOCKS


@pytest.mark.parametrize("how", ["abort", "abort set", "reset", "gone"])
def test_nothing_that_a_host_does_ends_it(bench: Bench, how: str) -> None:
    bench.volume.hold = True
    sanitize = bench.sanitize(OVERWRITE, parameters=overwrite())
    bench.volume.release()
    if how == "abort":
        bench.host.manage(Function.ABORT_TASK, sanitize)
    elif how == "abort set":
        bench.host.manage(Function.ABORT_TASK_SET)
    elif how == "reset":
        bench.other.manage(Function.LOGICAL_UNIT_RESET)
    else:
        bench.host.leave()
    bench.other.nexus.attentions.clear()
    assert bench.other.send(bytes(6)).outcome == IN_PROGRESS
    bench.volume.hold = False
    bench.volume.release_all()
    assert bench.volume.data == b"\xaa" * 512 * BLOCKS
    assert bench.other.send(bytes(6)).outcome == "GOOD"
    assert bench.unit.queue == 0


@pytest.mark.parametrize("immediate", [0, IMMED])
def test_after_a_failure_the_unit_is_shut_until_a_sanitize_works(bench: Bench, immediate: int) -> None:
    bench.volume.fail("write", Fault.HARDWARE, first_lba=30000, blocks=1, times=1)
    assert bench.sanitize(OVERWRITE, immediate, overwrite()).outcome == ("GOOD" if immediate else FAILED)
    assert bench.other.send(c.read_10(0, 1)).outcome == FAILED
    assert bench.sense()[12:14] == b"\x31\x03"
    assert bench.sanitize(EXIT_FAILURE_MODE).outcome == FAILED, "the host had not allowed that"
    assert bench.sanitize(BLOCK_ERASE).outcome == "GOOD"
    assert bench.other.send(c.read_10(0, 1)).outcome == "GOOD"


def test_a_failure_can_be_left_where_the_host_had_allowed_that(bench: Bench) -> None:
    bench.volume.fail("write", Fault.HARDWARE, first_lba=0, blocks=1, times=1)
    assert bench.sanitize(OVERWRITE, AUSE, overwrite()).outcome == FAILED
    assert bench.sanitize(EXIT_FAILURE_MODE).outcome == "GOOD"
    assert bench.other.send(c.read_10(0, 1)).outcome == "GOOD"
    assert bench.sanitize(EXIT_FAILURE_MODE).outcome == "GOOD", "there is none to be left"


def test_one_that_a_crash_cut_short_begins_again_when_the_volume_is_ready() -> None:
    saved = FakeSaved()
    bench = Bench(saved=saved)
    bench.volume.hold = True
    assert bench.sanitize(OVERWRITE, IMMED, overwrite(count=2, invert=True)).outcome == "GOOD"
    bench.volume.release()
    again = Bench(saved=saved)
    again.volume.unready = VolumeError(Fault.BECOMING_READY)
    assert again.other.send(c.read_10(0, 1)).outcome == IN_PROGRESS
    assert again.volume.journal == []
    again.volume.unready = None
    again.unit.sanitizer.resume()
    assert again.volume.data == b"\x55" * 512 * BLOCKS
    assert again.other.send(c.read_10(0, 1)).outcome == "GOOD"
    assert saved.documents == {}
    assert Bench(saved=saved).other.send(c.read_10(0, 1)).outcome == "GOOD"


def test_one_that_failed_begins_again_after_a_restart_unless_it_was_left() -> None:
    saved = FakeSaved()
    for flags, next_outcome in ((0, "GOOD"), (AUSE, "GOOD")):
        bench = Bench(saved=saved)
        bench.volume.fail("write", Fault.HARDWARE, first_lba=0, blocks=1, times=1)
        assert bench.sanitize(OVERWRITE, flags, overwrite()).outcome == FAILED
        assert list(saved.documents) == ["sanitize"]
        if flags:
            assert bench.sanitize(EXIT_FAILURE_MODE).outcome == "GOOD"
        again = Bench(saved=saved)
        again.unit.sanitizer.resume()
        assert again.other.send(c.read_10(0, 1)).outcome == next_outcome
        assert bool(again.volume.journal[:-1]) is not bool(flags), "written only where it was not left"
        assert saved.documents == {}


def test_nothing_is_sanitized_before_it_is_known_to_be_after_a_crash() -> None:
    saved = FakeSaved()
    bench = Bench(saved=saved)
    saved.hold = True
    sanitize = bench.sanitize(BLOCK_ERASE, IMMED)
    assert (sanitize.answer, bench.volume.journal) == (None, [])
    assert bench.other.send(bytes(6)).outcome == IN_PROGRESS
    saved.problem = "disk full"
    saved.release()
    assert sanitize.outcome == "04/44/00"
    assert bench.volume.journal == []
    assert bench.other.send(bytes(6)).outcome == "GOOD"


class Gate:
    """A limit that lets nothing through by itself."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, object]] = []

    def admit(self, task: object, size_bytes: int, go: object) -> bool:
        self.waiting.append((size_bytes, go))
        return False

    def withdraw(self, task: object) -> None:
        raise AssertionError


def test_it_keeps_to_the_limit_of_the_host_that_asked() -> None:
    gate = Gate()
    bench = Bench(limit=gate)
    assert bench.sanitize(OVERWRITE, IMMED, overwrite()).outcome == "GOOD"
    assert bench.volume.journal == []
    ((size, go),) = gate.waiting
    assert size == 1 << 20
    assert callable(go)
    go()
    assert bench.volume.operations() == ["write 0+2048"]
    assert len(gate.waiting) == 2


def test_a_drain_holds_it_up_and_no_more(bench: Bench) -> None:
    bench.volume.hold = True
    bench.sanitize(OVERWRITE, IMMED, overwrite())
    drained: list[bool] = []
    bench.unit.drain(lambda: drained.append(True))
    assert drained == []
    bench.volume.hold = False
    bench.volume.release_all()
    assert drained == [True]
    assert len(bench.volume.journal) == 1
    bench.unit.resume()
    assert bench.volume.data == b"\xaa" * 512 * BLOCKS
