import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scsi.logical_unit import LogicalUnit
from scsi.mode_parameters import DEFAULTS, PAGES, ModeParameters
from scsi.target import TargetPort
from scsi.task_management import Function
from scsi.volume import Fault
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume
from tests.support.saved import FakeSaved

PF, RTD, SP = 0x10, 0x02, 0x01
CACHING_OFF = bytes((0x08, 18)) + bytes(18)
CACHING_ON = bytes((0x08, 18, 0x04)) + bytes(17)
SWP = bytes((0x0A, 10, 0, 0x10, 0x08)) + bytes(7)
D_SENSE = bytes((0x0A, 10, 0x04, 0x10, 0)) + bytes(7)
BLOCK = b"\x5a" * 512


class World:
    def __init__(self, *, write_cache: bool = True) -> None:
        self.volume = MemoryVolume(64, write_cache=write_cache)
        self.unit = LogicalUnit(self.volume, c.NAA)
        self.port = TargetPort()
        self.host = c.Host(self.port, self.unit)
        self.other = c.Host(self.port, self.unit, "iqn.2026-11.org.example:other")

    def select(self, pages: bytes, flags: int = PF, descriptor: bytes = b"") -> c.FakeCommand:
        data = bytes((0, 0, 0, len(descriptor))) + descriptor + pages
        return self.host.send(select_6(len(data), flags), data)


@pytest.fixture
def world() -> World:
    return World()


def select_6(length: int, flags: int = PF) -> bytes:
    return bytes((0x15, flags, 0, 0, length, 0))


def select_10(length: int, flags: int = PF) -> bytes:
    return struct.pack(">BB5xHx", 0x55, flags, length)


def ten(pages: bytes, descriptor: bytes = b"", *, long_lba: bool = False) -> bytes:
    return struct.pack(">4xBxH", long_lba, len(descriptor)) + descriptor + pages


# --- What a change does -----------------------------------------------------------------------------------------------


def test_x10_other_nexuses_are_told_of_a_change_and_the_one_that_made_it_is_not(world: World) -> None:
    assert world.select(D_SENSE).outcome == "GOOD"
    assert world.host.send(c.TEST_UNIT_READY).outcome == "GOOD"
    assert world.other.send(c.TEST_UNIT_READY).outcome == "06/2A/01"
    assert world.select(D_SENSE).outcome == "GOOD"
    assert world.other.send(c.TEST_UNIT_READY).outcome == "GOOD", "nothing changed"


def test_d_sense_gives_descriptor_sense_from_then_on(world: World) -> None:
    world.select(D_SENSE)
    assert world.host.send(c.mode_sense_6(0x3E)).ended.sense[0] == 0x72


def test_swp_refuses_every_write_of_every_host_and_no_read(world: World) -> None:
    world.select(SWP)
    world.other.send(c.TEST_UNIT_READY)
    for host in (world.host, world.other):
        assert host.send(c.write_10(0, 1), BLOCK).outcome == "07/27/02"
        assert host.send(bytes.fromhex("93000000000000000000000000010000"), BLOCK).outcome == "07/27/02"
        assert host.send(c.read_10(0, 1)).outcome == "GOOD"
        assert host.send(c.mode_sense_6()).data[2] == 0x90
    assert world.select(bytes((0x0A, 10, 0, 0x10)) + bytes(8)).outcome == "GOOD"
    assert world.host.send(c.write_10(0, 1), BLOCK).outcome == "GOOD"


def test_without_wce_every_write_is_stable_before_its_good(world: World) -> None:
    world.volume.deallocation = None
    assert world.host.send(c.write_10(0, 1), BLOCK).outcome == "GOOD"
    assert not any(world.volume.stable)
    assert world.select(CACHING_OFF).outcome == "GOOD"
    assert world.volume.stable[:512] == BLOCK, "what was written before is flushed: hosts do not do so any more"
    assert not world.unit.volume.write_cache
    assert world.host.send(c.mode_sense_6(0x08)).data[14] == 0
    assert world.host.send(c.write_10(1, 1), BLOCK).outcome == "GOOD"
    assert world.host.send(bytes.fromhex("93000000000000000002000000020000"), BLOCK).outcome == "GOOD"
    assert world.volume.stable[: 4 * 512] == BLOCK * 4
    assert world.select(CACHING_ON).outcome == "GOOD"
    assert world.unit.volume is world.volume, "and the way of a write is the old one"


def test_wce_goes_off_after_the_writes_in_flight_are_stable(world: World) -> None:
    world.volume.hold = True
    early = world.host.send(c.write_10(0, 1), BLOCK)
    change = world.select(CACHING_OFF)
    late = world.host.send(c.write_10(1, 1), BLOCK)
    assert world.volume.operations() == ["write 0+1"]
    world.volume.release()
    assert (early.outcome, change.outcome) == ("GOOD", "running")
    assert world.volume.operations() == ["write 0+1", "flush"]
    world.volume.release()
    assert (change.outcome, late.outcome) == ("GOOD", "running")
    assert world.volume.operations()[2:] == ["write 1+1 fua"]
    world.volume.release_all()
    assert late.outcome == "GOOD"


def test_wce_stays_on_if_the_flush_fails(world: World) -> None:
    world.volume.fail("flush", Fault.WRITE_ERROR)
    assert world.select(CACHING_OFF).outcome == "03/0C/00"
    assert world.unit.modes == DEFAULTS
    assert world.host.send(c.write_10(1, 1), BLOCK).outcome == "GOOD"
    assert world.other.send(c.TEST_UNIT_READY).outcome == "GOOD"


def test_without_a_write_cache_wce_can_not_be_set_and_need_not_be_cleared() -> None:
    world = World(write_cache=False)
    assert world.select(CACHING_OFF).outcome == "GOOD"
    answer = world.select(CACHING_ON)
    assert answer.outcome == "05/26/00"
    assert answer.sense.field == (6, 2, False)
    assert world.unit.modes == DEFAULTS


def test_another_volume_is_written_through_as_well(world: World) -> None:
    world.select(CACHING_OFF)
    world.other.nexus.attentions.clear()
    world.unit.volume = other = MemoryVolume(64, write_cache=True)
    assert world.other.send(c.TEST_UNIT_READY).outcome == "GOOD", "the hosts' view of it is the same"
    world.host.send(c.write_10(0, 1), BLOCK)
    assert other.stable[:512] == BLOCK


def test_a_reset_takes_back_what_is_not_saved_and_all_are_told_of_the_cache(world: World) -> None:
    world.select(CACHING_OFF + SWP)
    world.host.manage(Function.LOGICAL_UNIT_RESET)
    assert world.unit.modes == DEFAULTS
    for host in (world.host, world.other):
        assert [host.send(c.TEST_UNIT_READY).outcome for _ in range(3)] == ["06/29/03", "06/2A/01", "GOOD"]


def test_rtd_gives_the_defaults_back(world: World) -> None:
    world.select(CACHING_OFF + D_SENSE)
    assert world.host.send(select_6(0, RTD)).outcome == "GOOD"
    assert world.unit.modes == DEFAULTS
    world.select(D_SENSE)
    answer = world.host.send(select_6(4, RTD | PF), bytes(4))
    assert answer.sense.field == (1, 1, True)


# --- Saved pages ------------------------------------------------------------------------------------------------------


class SavedWorld(World):
    def __init__(self) -> None:
        super().__init__()
        self.saved = FakeSaved()
        self.restart()

    def restart(self) -> None:
        self.unit = LogicalUnit(self.volume, c.NAA, saved=self.saved)
        self.port = TargetPort()
        self.host = c.Host(self.port, self.unit)
        self.other = c.Host(self.port, self.unit, "iqn.2026-11.org.example:other")


def test_pages_that_are_saved_are_in_force_after_a_restart_and_a_reset() -> None:
    world = SavedWorld()
    assert world.select(CACHING_OFF + D_SENSE, PF | SP).outcome == "GOOD"
    world.restart()
    assert world.unit.modes == ModeParameters(write_cache=False, descriptor_sense=True)
    world.host.send(c.write_10(0, 1), BLOCK)
    assert world.volume.stable[:512] == BLOCK
    world.select(CACHING_ON + SWP)
    world.host.manage(Function.LOGICAL_UNIT_RESET)
    assert world.unit.modes == ModeParameters(write_cache=False, descriptor_sense=True)


def test_saved_values_are_told_and_ps_says_of_what() -> None:
    world = SavedWorld()
    world.select(D_SENSE, PF | SP)
    world.select(D_SENSE[:2] + bytes((0, 0x10)) + bytes(8))
    saved = world.host.send(c.mode_sense_6(0xC0 | 0x0A, flags=0x08)).data[4:]
    current = world.host.send(c.mode_sense_6(0x0A, flags=0x08)).data[4:]
    assert (saved[2] & 0x04, current[2] & 0x04) == (0x04, 0)
    assert saved[0] == current[0] == 0x8A
    assert world.host.send(c.mode_sense_6(0x02, flags=0x08)).data[4] == 0x02


def test_what_can_not_be_saved_is_not_changed() -> None:
    world = SavedWorld()
    world.saved.problem = "the disk is full"
    assert world.select(CACHING_OFF, PF | SP).outcome == "04/44/00"
    assert world.unit.modes == DEFAULTS
    assert world.host.send(c.write_10(1, 1), BLOCK).outcome == "GOOD"


def test_rtd_with_sp_saves_the_defaults() -> None:
    world = SavedWorld()
    world.select(D_SENSE, PF | SP)
    assert world.host.send(select_6(0, RTD | SP)).outcome == "GOOD"
    world.restart()
    assert world.unit.modes == DEFAULTS


@pytest.mark.parametrize("document", [{}, {"write_cache": True}, dict.fromkeys(ModeParameters._fields, 1)])
def test_what_was_saved_by_nobody_is_an_error(document: dict[str, object]) -> None:
    saved = FakeSaved()
    saved.save("mode_parameters", document, lambda _problem: None)
    with pytest.raises(ValueError, match="mode_parameters"):
        LogicalUnit(MemoryVolume(), c.NAA, saved=saved)


# --- What is refused --------------------------------------------------------------------------------------------------


def test_a_list_of_no_bytes_changes_nothing(world: World) -> None:
    world.select(D_SENSE)
    assert world.host.send(select_6(0)).outcome == "GOOD"
    assert world.host.send(select_10(0, 0)).outcome == "GOOD"
    assert world.unit.modes.descriptor_sense


def test_pages_in_the_vendors_format_are_refused(world: World) -> None:
    assert world.select(D_SENSE, 0).sense.field == (1, 4, True)


def test_saving_is_refused_where_nothing_is_kept(world: World) -> None:
    answer = world.select(D_SENSE, PF | SP)
    assert answer.outcome == "05/24/00"
    assert answer.sense.field == (1, 0, True)


def test_a_host_that_may_only_read_can_not_change_what_others_share(world: World) -> None:
    reader = c.Host(world.port, world.unit, read_only=True)
    assert reader.send(select_6(4 + len(SWP)), bytes(4) + SWP).outcome == "07/27/00"


def test_a_list_that_ends_too_early_is_of_a_wrong_length(world: World) -> None:
    whole = bytes((0, 0, 0, 8)) + bytes.fromhex("0000000000000200") + D_SENSE + CACHING_OFF
    good = {12, 12 + len(D_SENSE), len(whole)}
    for length in range(1, len(whole)):
        outcome = world.host.send(select_6(length), whole).outcome
        assert outcome == ("GOOD" if length in good else "05/1A/00"), length
    assert world.host.send(select_6(len(whole)), whole[:-1]).outcome == "05/1A/00", "less data than the CDB says"


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ("00010000", (1, None, False)),
        ("00004000", (2, 6, False)),
        ("00000007" + bytes(7).hex(), (3, None, False)),
        ("00000010" + bytes(16).hex(), (3, None, False)),
        ("00000008 0000004100000200", (4, None, False)),
        ("00000008 0000004001000200", (8, None, False)),
        ("00000008 0000004000000100", (9, None, False)),
        ("00000008 0000004000001000", (9, None, False)),
        ("00000008 0000004000000000", (9, None, False)),
        ("00000000 0b0a" + bytes(10).hex(), (4, 5, False)),
        ("00000000 3f0a" + bytes(10).hex(), (4, 5, False)),
        ("00000000 4a0a" + bytes(10).hex(), (4, 5, False)),
        ("00000000 0a09" + bytes(10).hex(), (5, None, False)),
        ("00000000 4a01000a" + bytes(10).hex(), (6, None, False)),
        ("00000000 0a0a 20100000000000000000", (6, 5, False)),
        ("00000000 0a0a 00100000000000010000", (13, 0, False)),
        ("00000000 0a0a 00000000000000000000", (7, 4, False)),
    ],
)
def test_what_is_wrong_with_a_list_is_pointed_at(world: World, data: str, field: tuple[int, int | None, bool]) -> None:
    raw = bytes.fromhex(data)
    answer = world.host.send(select_6(len(raw)), raw)
    assert answer.outcome == "05/26/00"
    assert answer.sense.field == field
    assert world.unit.modes == DEFAULTS


def test_nothing_is_changed_if_any_page_is_wrong(world: World) -> None:
    assert world.select(D_SENSE + CACHING_OFF[:-1] + b"\x01").outcome == "05/26/00"
    assert world.unit.modes == DEFAULTS


def test_what_mode_sense_says_can_be_sent_back(world: World) -> None:
    world.select(D_SENSE)
    six = bytearray(world.host.send(c.mode_sense_6(subpage=0xFF)).data)
    six[0] = 0
    assert world.host.send(select_6(len(six)), six).outcome == "GOOD"
    for flags in (0, 0x08, 0x10):
        data = world.host.send(c.mode_sense_10(subpage=0xFF, flags=flags)).data
        assert world.host.send(select_10(len(data)), data).outcome == "GOOD"
    world.volume.blocks = 2**33
    data = world.host.send(c.mode_sense_6()).data
    assert world.host.send(select_6(len(data)), data).outcome == "GOOD"


def test_mode_select_10_takes_long_block_descriptors(world: World) -> None:
    right = struct.pack(">Q4xI", 64, 512)
    assert world.host.send(select_10(24), ten(b"", right, long_lba=True)).outcome == "GOOD"
    for wrong, offset in (((64, 0, 4096), 20), ((64, 0, 0), 20), ((65, 0, 512), 8), ((64, 1, 512), 16)):
        answer = world.host.send(select_10(24), ten(b"", struct.pack(">QII", *wrong), long_lba=True))
        assert answer.sense.field == (offset, None, False), wrong
    assert world.host.send(select_10(16), ten(b"", bytes(8), long_lba=True)).sense.field == (6, None, False)


# --- Anything ---------------------------------------------------------------------------------------------------------

A_PAGE = st.sampled_from(PAGES).flatmap(
    lambda page: st.binary(min_size=page.body_bytes, max_size=page.body_bytes).map(
        lambda body: (
            (bytes((page.code | 0x40, page.subpage, 0, len(body))) if page.subpage else bytes((page.code, len(body))))
            + body
        )
    )
)
A_LIST = st.one_of(
    st.binary(max_size=255),
    st.builds(
        lambda header, descriptor, pages: header + bytes((len(descriptor),)) + descriptor + b"".join(pages),
        st.binary(min_size=3, max_size=3) | st.just(bytes(3)),
        st.binary(min_size=8, max_size=8) | st.just(b""),
        st.lists(A_PAGE | st.sampled_from([CACHING_OFF, CACHING_ON, SWP, D_SENSE]), max_size=4),
    ),
)


@given(A_LIST, st.sampled_from([0, PF, PF | SP, RTD, 0xFF]), st.booleans(), st.integers(-3, 3))
def test_v28_mode_select_of_anything_changes_no_size_and_breaks_nothing(
    data: bytes, flags: int, use_ten: bool, more: int
) -> None:
    world = World()
    data = data[:255]
    length = min(max(len(data) + more, 0), 255)
    if use_ten:
        data = data[:3] + bytes(4) + data[3:]  # the block descriptor length where it would be, as a rule
    answer = world.host.send(select_10(length, flags) if use_ten else select_6(length, flags), data)
    assert answer.outcome in {"GOOD", "05/24/00", "05/1A/00", "05/26/00"}
    if answer.outcome != "GOOD":
        assert world.unit.modes == DEFAULTS
    capacity = world.host.send(c.READ_CAPACITY_10).data
    assert capacity == struct.pack(">II", 63, 512)
    assert world.host.send(c.mode_sense_6()).data[4:12] == struct.pack(">II", 64, 512)
