import pytest
from pyscsi.pyscsi.scsi_cdb_modesense6 import ModeSense6
from pyscsi.pyscsi.scsi_cdb_modesense10 import ModeSense10

from scsi.logical_unit import LogicalUnit
from scsi.mode_parameters import PAGES, ModeParameters
from scsi.target import TargetPort
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume

CACHING, CONTROL, ALL = 0x08, 0x0A, 0x3F
CHANGEABLE, DEFAULT, SAVED = 0x40, 0x80, 0xC0
DBD, LLBAA = 0x08, 0x10


@pytest.fixture
def volume() -> MemoryVolume:
    return MemoryVolume(2048, write_cache=True)


@pytest.fixture
def unit(volume: MemoryVolume) -> LogicalUnit:
    return LogicalUnit(volume, c.NAA)


@pytest.fixture
def host(unit: LogicalUnit) -> c.Host:
    return c.Host(TargetPort(), unit)


def pages(data: bytes) -> dict[int, bytes]:
    """The mode pages of a MODE SENSE (6), by code."""
    found = {}
    at = 4 + data[3]
    while at < len(data):
        length = data[at + 1]
        found[data[at]] = data[at + 2 : at + 2 + length]
        at += 2 + length
    return found


@pytest.mark.parametrize("write_cache", [False, True])
def test_wce_says_what_the_volume_says(host: c.Host, volume: MemoryVolume, write_cache: bool) -> None:
    volume.write_cache = write_cache
    caching = pages(host.send(c.mode_sense_6(CACHING)).data)[CACHING]
    assert len(caching) == 18
    assert bool(caching[0] & 0x04) is write_cache


def test_the_header_says_dpofua_and_write_protection(host: c.Host, volume: MemoryVolume, unit: LogicalUnit) -> None:
    assert host.send(c.mode_sense_6()).data[2] == 0x10
    assert host.send(c.mode_sense_10()).data[3] == 0x10
    volume.read_only = True
    assert host.send(c.mode_sense_6()).data[2] == 0x90
    volume.read_only = False
    reader = c.Host(host.port, unit, read_only=True)
    assert reader.send(c.mode_sense_6()).data[2] == 0x90
    assert reader.send(c.mode_sense_10()).data[3] == 0x90


def test_all_pages_are_each_of_the_pages(host: c.Host) -> None:
    found = pages(host.send(c.mode_sense_6(ALL)).data)
    assert list(found) == [0x01, 0x02, CACHING, CONTROL, 0x1A, 0x1C]
    for code, body in found.items():
        assert pages(host.send(c.mode_sense_6(code)).data) == {code: body}


def test_subpages_are_told_when_they_are_asked_for(host: c.Host) -> None:
    extension = host.send(c.mode_sense_6(CONTROL, 0x01, flags=DBD)).data[4:]
    assert extension[:4].hex() == "4a01001c"
    assert len(extension) == 32
    both = host.send(c.mode_sense_6(CONTROL, 0xFF, flags=DBD)).data[4:]
    assert both == host.send(c.mode_sense_6(CONTROL, flags=DBD)).data[4:] + extension
    assert extension in host.send(c.mode_sense_6(ALL, 0xFF)).data
    assert extension not in host.send(c.mode_sense_6(ALL, 0x00)).data


def test_the_lengths_in_the_headers_are_right(host: c.Host) -> None:
    for flags in (0, DBD):
        six = host.send(c.mode_sense_6(flags=flags)).data
        assert six[0] == len(six) - 1
        assert six[3] == (0 if flags else 8)
        ten = host.send(c.mode_sense_10(flags=flags)).data
        assert int.from_bytes(ten[:2], "big") == len(ten) - 2
        assert int.from_bytes(ten[6:8], "big") == (0 if flags else 8)
        assert ten[8:] == six[4:]


def test_the_block_descriptor_gives_blocks_and_their_length(host: c.Host) -> None:
    assert host.send(c.mode_sense_6()).data[4:12].hex() == "0000080000000200"
    long = host.send(c.mode_sense_10(flags=LLBAA)).data
    assert long[4] == 0x01
    assert long[6:8] == b"\0\x10"
    assert long[8:24].hex() == "00000000000008000000000000000200"


def test_a_size_that_does_not_fit_the_short_descriptor_is_all_ones(host: c.Host, volume: MemoryVolume) -> None:
    volume.blocks = 2**33
    assert host.send(c.mode_sense_6()).data[4:8] == b"\xff" * 4


def test_pyscsi_reads_the_control_page(host: c.Host, unit: LogicalUnit) -> None:
    unit.use_modes(ModeParameters(descriptor_sense=True), host.nexus)
    six = ModeSense6.unmarshall_datain(bytearray(host.send(c.mode_sense_6(CONTROL)).data))["mode_pages"][0]
    ten = ModeSense10.unmarshall_datain(bytearray(host.send(c.mode_sense_10(CONTROL)).data))["mode_pages"][0]
    assert six == ten
    assert six["d_sense"] == 1
    assert six["queue_algorithm_modifier"] == 1
    assert six["tst"] == six["swp"] == six["tas"] == 0


def test_what_can_be_changed_is_wce_d_sense_and_swp(host: c.Host, volume: MemoryVolume) -> None:
    def masks() -> dict[int, str]:
        found = pages(host.send(c.mode_sense_6(ALL | CHANGEABLE)).data)
        return {code: body.rstrip(b"\0").hex() for code, body in found.items() if any(body)}

    assert masks() == {CACHING: "04", CONTROL: "040008"}
    volume.write_cache = False
    assert masks() == {CONTROL: "040008"}


def test_defaults_are_what_a_new_unit_has(host: c.Host, unit: LogicalUnit) -> None:
    before = host.send(c.mode_sense_6()).data
    assert host.send(c.mode_sense_6(ALL | DEFAULT)).data == before
    unit.use_modes(ModeParameters(write_cache=False, descriptor_sense=True), host.nexus)
    assert host.send(c.mode_sense_6()).data != before
    assert host.send(c.mode_sense_6(ALL | DEFAULT)).data == before


def test_nothing_is_saved(host: c.Host) -> None:
    assert host.send(c.mode_sense_6(CACHING | SAVED)).outcome == "05/39/00"


def test_a_page_or_subpage_that_is_not_there_is_an_invalid_field(host: c.Host) -> None:
    for code in set(range(0x40)) - {page.code for page in PAGES} - {ALL}:
        answer = host.send(c.mode_sense_6(code))
        assert answer.outcome == "05/24/00"
        assert answer.sense.field == (2, 5, True)
    for code, subpage in ((CONTROL, 0x02), (CACHING, 0x01), (ALL, 0x01)):
        assert host.send(c.mode_sense_10(code, subpage)).sense.field == (3, None, True)


def test_d_sense_gives_descriptor_sense(host: c.Host, unit: LogicalUnit) -> None:
    unit.use_modes(ModeParameters(descriptor_sense=True), host.nexus)
    assert host.send(c.mode_sense_6(0x3E)).ended.sense[0] == 0x72
