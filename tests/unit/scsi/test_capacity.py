from pyscsi.pyscsi.scsi_cdb_readcapacity10 import ReadCapacity10
from pyscsi.pyscsi.scsi_cdb_readcapacity16 import ReadCapacity16
from pyscsi.pyscsi.scsi_enum_command import sbc

from scsi.logical_unit import LogicalUnit
from scsi.target import TargetPort
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume


def host_of(volume: MemoryVolume) -> c.Host:
    return c.Host(TargetPort(), LogicalUnit(volume, c.NAA))


class HugeVolume(MemoryVolume):
    def __init__(self, blocks: int) -> None:
        super().__init__(8)
        self.blocks = blocks


def test_read_capacity_10_gives_the_last_lba_and_the_block_length() -> None:
    data = host_of(MemoryVolume(2048, 4096)).send(bytes(ReadCapacity10(sbc.READ_CAPACITY_10).cdb)).data
    assert ReadCapacity10.unmarshall_datain(bytearray(data)) == {"returned_lba": 2047, "block_length": 4096}
    assert len(data) == 8


def test_read_capacity_10_of_a_unit_too_large_for_it_says_all_ones() -> None:
    for blocks, last in ((2**32 - 1, 0xFFFFFFFE), (2**32, 0xFFFFFFFF), (2**40, 0xFFFFFFFF)):
        data = host_of(HugeVolume(blocks)).send(c.READ_CAPACITY_10).data
        assert int.from_bytes(data[:4], "big") == last


def test_read_capacity_16_gives_all_there_is_to_say() -> None:
    volume = HugeVolume(2**40)
    volume.physical_block_exponent = 3
    cdb = bytes(ReadCapacity16(sbc.SBC_OPCODE_9E).cdb)
    data = host_of(volume).send(cdb).data
    theirs = ReadCapacity16.unmarshall_datain(bytearray(data))
    assert len(data) == 32
    assert theirs["returned_lba"] == 2**40 - 1
    assert theirs["block_length"] == 512
    assert theirs["lbppbe"] == 3
    assert theirs["lbpme"] == theirs["lbprz"] == theirs["prot_en"] == theirs["lowest_aligned_lba"] == 0
