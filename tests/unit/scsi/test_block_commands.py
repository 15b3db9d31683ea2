import pytest
from pyscsi.pyscsi.scsi_cdb_read10 import Read10
from pyscsi.pyscsi.scsi_cdb_read12 import Read12
from pyscsi.pyscsi.scsi_cdb_read16 import Read16
from pyscsi.pyscsi.scsi_cdb_write10 import Write10
from pyscsi.pyscsi.scsi_cdb_write12 import Write12
from pyscsi.pyscsi.scsi_cdb_write16 import Write16
from pyscsi.pyscsi.scsi_enum_command import sbc

from scsi.block_commands import MAX_TRANSFER_BYTES
from scsi.logical_unit import LogicalUnit
from scsi.target import TargetPort
from scsi.volume import Fault, VolumeError
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume

BLOCK = 512
BLOCKS = 2048
READS = {"10": (c.blocks_10, 0x28), "12": (c.blocks_12, 0xA8), "16": (c.blocks_16, 0x88)}
WRITES = {"10": (c.blocks_10, 0x2A), "12": (c.blocks_12, 0xAA), "16": (c.blocks_16, 0x8A)}
VERIFIES = {"10": (c.blocks_10, 0x2F), "12": (c.blocks_12, 0xAF), "16": (c.blocks_16, 0x8F)}


def pattern(blocks: int, seed: int = 1) -> bytes:
    return bytes((seed + block) % 251 for block in range(blocks) for _ in range(BLOCK))


@pytest.fixture
def volume() -> MemoryVolume:
    volume = MemoryVolume(BLOCKS, BLOCK, write_cache=True)
    volume.data[:] = pattern(BLOCKS)
    return volume


@pytest.fixture
def host(volume: MemoryVolume) -> c.Host:
    return c.Host(TargetPort(), LogicalUnit(volume, c.NAA))


# --- READ -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", READS)
def test_read_gives_the_blocks_asked_for(host: c.Host, volume: MemoryVolume, size: str) -> None:
    encode, opcode = READS[size]
    assert host.send(encode(opcode, 5, 3)).data == bytes(volume.data[5 * BLOCK : 8 * BLOCK])
    assert volume.operations() == ["read 5+3"]


def test_read_6_takes_a_length_of_0_for_256_blocks(host: c.Host, volume: MemoryVolume) -> None:
    assert len(host.send(c.read_6(7, 0)).data) == 256 * BLOCK
    assert host.send(c.read_6(7, 2)).data == bytes(volume.data[7 * BLOCK : 9 * BLOCK])


def test_read_6_ignores_the_upper_bits_of_byte_1(host: c.Host, volume: MemoryVolume) -> None:
    assert host.send(bytes.fromhex("08e000010100")).data == bytes(volume.data[BLOCK : 2 * BLOCK])


@pytest.mark.parametrize("size", READS)
def test_read_of_no_blocks_is_good_without_data(host: c.Host, volume: MemoryVolume, size: str) -> None:
    encode, opcode = READS[size]
    assert host.send(encode(opcode, 0, 0)).data == b""
    assert host.send(encode(opcode, BLOCKS, 0)).data == b""
    assert volume.operations() == []


@pytest.mark.parametrize("size", READS)
@pytest.mark.parametrize(
    ("lba", "blocks", "first_bad"),
    [
        (BLOCKS, 1, BLOCKS),
        (BLOCKS - 1, 2, BLOCKS),
        (0, BLOCKS + 1, BLOCKS),
        (2**31, 1, 2**31),
        (BLOCKS + 1, 0, BLOCKS + 1),
    ],
)
def test_read_past_the_last_block_names_the_first_one_that_does_not_exist(
    host: c.Host, volume: MemoryVolume, size: str, lba: int, blocks: int, first_bad: int
) -> None:
    encode, opcode = READS[size]
    answer = host.send(encode(opcode, lba, blocks))
    assert answer.outcome == "05/21/00"
    assert answer.sense.information == first_bad
    assert volume.operations() == []


def test_read_16_past_the_end_of_64_bits_is_out_of_range(host: c.Host) -> None:
    assert host.send(c.blocks_16(0x88, 2**64 - 1, 1)).outcome == "05/21/00"


def test_a_read_of_more_than_one_command_may_carry_is_an_invalid_field() -> None:
    volume = MemoryVolume(MAX_TRANSFER_BYTES // BLOCK + 8, BLOCK)
    host = c.Host(TargetPort(), LogicalUnit(volume, c.NAA))
    most = MAX_TRANSFER_BYTES // BLOCK
    assert host.send(c.blocks_16(0x88, 0, most)).outcome == "GOOD"
    for encode, opcode, offset in ((c.blocks_10, 0x28, 7), (c.blocks_12, 0xA8, 6), (c.blocks_16, 0x88, 10)):
        answer = host.send(encode(opcode, 0, most + 1))
        assert answer.outcome == "05/24/00"
        assert answer.sense.field == (offset, None, True)


def test_the_limit_of_a_volume_that_takes_less_is_kept(host: c.Host, volume: MemoryVolume) -> None:
    volume.max_transfer_blocks = 64
    assert host.send(c.read_10(0, 64)).outcome == "GOOD"
    assert host.send(c.read_10(0, 65)).outcome == "05/24/00"
    assert host.send(c.write_10(0, 65), bytes(65 * BLOCK)).outcome == "05/24/00"
    assert host.send(c.read_6(0, 65)).sense.field == (4, None, True)


def test_dpo_and_fua_change_nothing_of_what_is_read(host: c.Host, volume: MemoryVolume) -> None:
    for flags in (c.DPO, c.FUA, c.DPO | c.FUA):
        assert host.send(c.read_10(1, 1, flags)).data == bytes(volume.data[BLOCK : 2 * BLOCK])


def test_a_read_error_is_reported_with_the_block_that_is_bad(host: c.Host, volume: MemoryVolume) -> None:
    volume.fail("read", Fault.READ_ERROR, 9, 1, lba=9)
    answer = host.send(c.read_10(8, 4))
    assert answer.outcome == "03/11/00"
    assert answer.sense.information == 9
    assert host.send(c.read_10(16, 4)).outcome == "GOOD"


# --- WRITE ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", WRITES)
def test_write_puts_the_data_where_it_belongs_and_nowhere_else(host: c.Host, volume: MemoryVolume, size: str) -> None:
    encode, opcode = WRITES[size]
    before = bytes(volume.data)
    data = pattern(3, seed=77)
    answer = host.send(encode(opcode, 5, 3), data)
    assert answer.outcome == "GOOD"
    assert answer.ended.data_out_used is None, "all as announced"
    assert bytes(volume.data) == before[: 5 * BLOCK] + data + before[8 * BLOCK :]


def test_write_6_takes_a_length_of_0_for_256_blocks(host: c.Host, volume: MemoryVolume) -> None:
    assert host.send(c.write_6(1, 0), bytes(256 * BLOCK)).outcome == "GOOD"
    assert volume.operations() == ["write 1+256"]


def test_fua_reaches_the_volume(host: c.Host, volume: MemoryVolume) -> None:
    host.send(c.write_10(0, 1, c.FUA), bytes(BLOCK))
    host.send(c.write_10(1, 1, c.DPO), bytes(BLOCK))
    assert volume.operations() == ["write 0+1 fua", "write 1+1"]


def test_write_of_no_blocks_is_good(host: c.Host, volume: MemoryVolume) -> None:
    assert host.send(c.write_10(0, 0)).outcome == "GOOD"
    assert volume.operations() == []


@pytest.mark.parametrize(("lba", "blocks"), [(BLOCKS, 1), (BLOCKS - 1, 2), (2**31, 1), (BLOCKS + 1, 0)])
def test_write_past_the_last_block_writes_nothing(host: c.Host, volume: MemoryVolume, lba: int, blocks: int) -> None:
    answer = host.send(c.write_10(lba, blocks), bytes(blocks * BLOCK))
    assert answer.outcome == "05/21/00"
    assert volume.operations() == []


def test_of_more_data_than_the_cdb_says_the_rest_is_left_out(host: c.Host, volume: MemoryVolume) -> None:
    answer = host.send(c.write_10(0, 1), b"b" * BLOCK * 2)
    assert answer.outcome == "GOOD"
    assert answer.ended.data_out_used == BLOCK
    assert volume.operations() == ["write 0+1"]


def test_of_less_data_than_the_cdb_says_the_whole_blocks_are_written(host: c.Host, volume: MemoryVolume) -> None:
    answer = host.send(c.write_10(0, 2), b"b" * BLOCK)
    assert answer.outcome == "GOOD"
    assert answer.ended.data_out_used == 2 * BLOCK, "the host sees a residual overflow of one block"
    assert volume.operations() == ["write 0+1"]


def test_a_write_without_any_data_is_good_and_says_what_it_wanted(host: c.Host, volume: MemoryVolume) -> None:
    answer = host.send(c.write_10(0, 1))
    assert answer.outcome == "GOOD"
    assert answer.ended.data_out_used == BLOCK
    assert volume.operations() == []


def test_a_part_of_a_block_is_not_filled_up_but_refused(host: c.Host, volume: MemoryVolume) -> None:
    answer = host.send(c.write_10(0, 1), bytes(200))
    assert answer.outcome == "05/0E/03"
    assert answer.ended.data_out_used == BLOCK
    assert volume.operations() == []


def test_a_write_whose_data_the_transport_did_not_take_whole_is_not_half_done(
    host: c.Host, volume: MemoryVolume
) -> None:
    answer = host.send(c.write_10(0, 4), bytes(2 * BLOCK), announced=4 * BLOCK)
    assert answer.outcome == "05/0E/03"
    assert volume.operations() == []


def test_a_read_only_mapping_refuses_writes_and_lets_read(volume: MemoryVolume) -> None:
    host = c.Host(TargetPort(), LogicalUnit(volume, c.NAA), read_only=True)
    assert host.send(c.write_10(0, 1), bytes(BLOCK)).outcome == "07/27/00"
    assert host.send(c.write_6(0, 1), bytes(BLOCK)).outcome == "07/27/00"
    assert host.send(c.read_10(0, 1)).outcome == "GOOD"
    assert volume.operations() == ["read 0+1"]


def test_a_read_only_volume_refuses_writes_before_it_gets_them(host: c.Host, volume: MemoryVolume) -> None:
    volume.read_only = True
    assert host.send(c.write_10(0, 1), bytes(BLOCK)).outcome == "07/27/00"
    assert volume.operations() == []


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (Fault.WRITE_ERROR, "03/0C/00"),
        (Fault.NO_SPACE, "07/27/07"),
        (Fault.NOT_MIRRORED, "04/80/0A"),
        (Fault.RESERVATION_CONFLICT, "RESERVATION CONFLICT"),
        (Fault.BUSY, "BUSY"),
        (Fault.LINK_LOST, "0B/08/00"),
    ],
)
def test_a_write_that_fails_below_is_reported_by_its_fault(
    host: c.Host, volume: MemoryVolume, fault: Fault, outcome: str
) -> None:
    volume.fail("write", fault, times=2)
    assert host.send(c.write_10(0, 1), bytes(BLOCK)).outcome == outcome
    assert host.send(c.write_10(0, 2), bytes(BLOCK)).outcome == outcome
    assert host.send(c.write_10(0, 1), bytes(BLOCK)).outcome == "GOOD"


# --- PyScsi as the host -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lba", [0, 1, 1000])
def test_what_pyscsi_asks_for_is_what_is_done(host: c.Host, volume: MemoryVolume, lba: int) -> None:
    data = pattern(2, seed=lba % 100)
    for write in (
        Write10(sbc.WRITE_10, BLOCK, lba, 2, data, fua=1),
        Write12(sbc.WRITE_12, BLOCK, lba, 2, data, fua=1),
        Write16(sbc.WRITE_16, BLOCK, lba, 2, data, fua=1),
    ):
        assert host.send(bytes(write.cdb), data).outcome == "GOOD"
    for read in (
        Read10(sbc.READ_10, BLOCK, lba, 2, dpo=1, group=3),
        Read12(sbc.READ_12, BLOCK, lba, 2, dpo=1, group=3),
        Read16(sbc.READ_16, BLOCK, lba, 2, dpo=1, group=3),
    ):
        assert host.send(bytes(read.cdb)).data == data
    assert volume.operations() == [f"write {lba}+2 fua"] * 3 + [f"read {lba}+2"] * 3


# --- VERIFY -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", VERIFIES)
def test_verify_without_bytchk_reads_and_compares_nothing(host: c.Host, volume: MemoryVolume, size: str) -> None:
    encode, opcode = VERIFIES[size]
    answer = host.send(encode(opcode, 4, 2), b"?" * 2 * BLOCK)
    assert answer.outcome == "GOOD"
    assert answer.ended.data_out_used == 0
    volume.fail("read", Fault.READ_ERROR, 4, 1)
    assert host.send(encode(opcode, 4, 2)).outcome == "03/11/00"


@pytest.mark.parametrize("size", VERIFIES)
def test_verify_with_bytchk_1_finds_the_first_byte_that_differs(host: c.Host, volume: MemoryVolume, size: str) -> None:
    encode, opcode = VERIFIES[size]
    data = bytearray(volume.data[4 * BLOCK : 6 * BLOCK])
    assert host.send(encode(opcode, 4, 2, 0x02), data).outcome == "GOOD"
    data[700] ^= 0x01
    answer = host.send(encode(opcode, 4, 2, 0x02), data)
    assert answer.outcome == "0E/1D/00"
    assert answer.sense.information == 700


def test_verify_with_bytchk_3_compares_each_block_with_the_one_sent(host: c.Host, volume: MemoryVolume) -> None:
    volume.data[: 4 * BLOCK] = bytes(4 * BLOCK)
    assert host.send(c.blocks_10(0x2F, 0, 4, 0x06), bytes(BLOCK)).outcome == "GOOD"
    volume.data[3 * BLOCK] = 1
    answer = host.send(c.blocks_10(0x2F, 0, 4, 0x06), bytes(BLOCK))
    assert answer.outcome == "0E/1D/00"
    assert answer.sense.information == 3 * BLOCK


def test_verify_with_bytchk_2_is_refused(host: c.Host) -> None:
    answer = host.send(c.blocks_10(0x2F, 0, 1, 0x04), bytes(BLOCK))
    assert answer.outcome == "05/24/00"
    assert answer.sense.field == (1, 2, True)


def test_verify_with_too_little_to_compare_is_refused(host: c.Host) -> None:
    assert host.send(c.blocks_10(0x2F, 0, 2, 0x02), bytes(BLOCK)).outcome == "05/0E/03"


def test_verify_past_the_end_and_of_nothing(host: c.Host) -> None:
    assert host.send(c.blocks_10(0x2F, BLOCKS, 1)).outcome == "05/21/00"
    assert host.send(c.blocks_10(0x2F, BLOCKS, 0)).outcome == "GOOD"
    assert host.send(c.blocks_10(0x2F, 0, 0, 0x02)).outcome == "GOOD"


# --- SYNCHRONIZE CACHE, TEST UNIT READY, START STOP UNIT --------------------------------------------------------------


@pytest.mark.parametrize("cdb", [c.synchronize_cache_10(), c.blocks_16(0x91, 3, 5)])
def test_synchronize_cache_is_good_only_after_the_flush(host: c.Host, volume: MemoryVolume, cdb: bytes) -> None:
    volume.hold = True
    answer = host.send(cdb)
    assert answer.outcome == "running"
    volume.release()
    assert answer.outcome == "GOOD"
    assert volume.operations() == ["flush"]


def test_synchronize_cache_past_the_end_is_out_of_range(host: c.Host, volume: MemoryVolume) -> None:
    answer = host.send(c.synchronize_cache_10(BLOCKS, 1))
    assert answer.outcome == "05/21/00"
    assert answer.sense.information == BLOCKS
    assert volume.operations() == []


def test_a_flush_that_fails_is_never_good(host: c.Host, volume: MemoryVolume) -> None:
    volume.fail("flush", Fault.WRITE_ERROR)
    assert host.send(c.synchronize_cache_10()).outcome == "03/0C/00"


def test_an_immediate_flush_answers_first_and_reports_its_failure_with_the_next_command(
    host: c.Host, volume: MemoryVolume
) -> None:
    volume.hold = True
    assert host.send(c.synchronize_cache_10(flags=0x02)).outcome == "GOOD"
    volume.release(error=VolumeError(Fault.WRITE_ERROR, "the disk is gone"))
    assert host.send(c.inquiry()).outcome == "GOOD"
    late = host.send(c.TEST_UNIT_READY)
    assert late.outcome == "03/0C/00"
    assert late.sense.deferred
    assert host.send(c.TEST_UNIT_READY).outcome == "GOOD"


def test_an_immediate_flush_that_fails_without_sense_of_its_own_is_reported_all_the_same(
    host: c.Host, volume: MemoryVolume
) -> None:
    volume.fail("flush", Fault.RESERVATION_CONFLICT)
    assert host.send(c.synchronize_cache_10(flags=0x02)).outcome == "GOOD"
    assert host.send(c.TEST_UNIT_READY).outcome == "04/44/00"


def test_the_late_failure_of_a_flush_has_nobody_to_go_to_when_its_nexus_is_lost(
    host: c.Host, volume: MemoryVolume
) -> None:
    volume.hold = True
    host.send(c.synchronize_cache_10(flags=0x02))
    host.leave()
    volume.release(error=VolumeError(Fault.WRITE_ERROR))
    assert host.nexus.attentions == {}


def test_a_unit_that_is_not_ready_answers_what_needs_no_blocks(host: c.Host, volume: MemoryVolume) -> None:
    volume.unready = VolumeError(Fault.BECOMING_READY, "no path to the array yet")
    for cdb in (c.inquiry(), c.inquiry(0x83), c.report_luns(), c.mode_sense_6(), c.REQUEST_SENSE, c.report_opcodes()):
        assert host.send(cdb).outcome == "GOOD", cdb.hex()
    for cdb in (
        c.TEST_UNIT_READY,
        c.READ_CAPACITY_10,
        c.read_capacity_16(),
        c.read_10(0, 1),
        c.read_10(0, 0),
        c.write_10(0, 0),
        c.write_10(0, 1),
        c.blocks_10(0x2F, 0, 1),
        c.blocks_10(0x2F, 0, 0),
        c.synchronize_cache_10(),
        c.start_stop_unit(0x01),
        c.start_stop_unit(0x00),
    ):
        assert host.send(cdb).outcome == "02/04/01", cdb.hex()
    volume.unready = VolumeError(Fault.BLOCKED, "another id than recorded")
    assert host.send(c.TEST_UNIT_READY).outcome == "02/04/03"
    volume.unready = None
    assert host.send(c.TEST_UNIT_READY).outcome == "GOOD"


def test_a_unit_whose_size_is_not_known_yet_is_not_ready_rather_than_out_of_range() -> None:
    volume = MemoryVolume(0)
    volume.unready = VolumeError(Fault.BECOMING_READY)
    host = c.Host(TargetPort(), LogicalUnit(volume, c.NAA))
    assert host.send(c.read_10(0, 1)).outcome == "02/04/01"
    assert host.send(c.write_10(0, 1), bytes(BLOCK)).outcome == "02/04/01"
    assert host.send(c.synchronize_cache_10(0, 1)).outcome == "02/04/01"
    volume.block_bytes = 0
    assert host.send(c.inquiry(0xB0)).outcome == "GOOD"
    assert host.send(c.mode_sense_6()).outcome == "GOOD"


def test_stopping_flushes_and_the_unit_stays_ready(host: c.Host, volume: MemoryVolume) -> None:
    assert host.send(c.start_stop_unit(0x00)).outcome == "GOOD"
    assert volume.operations() == ["flush"]
    assert host.send(c.TEST_UNIT_READY).outcome == "GOOD"
    assert host.send(c.start_stop_unit(0x04)).outcome == "GOOD"  # NO_FLUSH
    assert host.send(c.start_stop_unit(0x01, immediate=True)).outcome == "GOOD"
    assert volume.operations() == ["flush"]


def test_a_medium_that_can_not_be_removed_is_not_ejected(host: c.Host) -> None:
    answer = host.send(c.start_stop_unit(0x02, immediate=True))
    assert answer.outcome == "05/24/00"
    assert answer.sense.field == (4, 1, True)


def test_power_conditions_are_refused(host: c.Host) -> None:
    assert host.send(c.start_stop_unit(0x30)).sense.field == (4, 5, True)
