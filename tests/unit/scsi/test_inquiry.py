from typing import Any

import pytest
from pyscsi.pyscsi.scsi_cdb_inquiry import Inquiry

from scsi.inquiry import PAGES
from scsi.logical_unit import LogicalUnit
from scsi.target import TargetPort
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume


@pytest.fixture
def volume() -> MemoryVolume:
    return MemoryVolume(blocks=4096)


@pytest.fixture
def host(volume: MemoryVolume) -> c.Host:
    return c.Host(TargetPort(), LogicalUnit(volume, c.NAA, product="TEST DISK", revision="7.25.3"))


def page(host: c.Host, code: int) -> bytes:
    data = host.send(c.inquiry(code, 0xFFFF)).data
    assert data[:2] == bytes((0x00, code))
    assert int.from_bytes(data[2:4], "big") == len(data) - 4
    return data


def read_by_pyscsi(host: c.Host, code: int) -> dict[str, Any]:
    result: dict[str, Any] = Inquiry.unmarshall_datain(bytearray(page(host, code)), evpd=1)
    return result


def test_standard_data_says_what_the_unit_is(host: c.Host) -> None:
    data = host.send(c.inquiry(allocation=260)).data
    theirs = Inquiry.unmarshall_datain(bytearray(data))
    assert len(data) == 96
    assert theirs["additional_length"] == 91
    assert theirs["peripheral_qualifier"] == theirs["peripheral_device_type"] == 0
    assert theirs["rmb"] == 0
    assert theirs["version"] == 6
    assert theirs["response_data_format"] == 2
    assert theirs["hisup"] == theirs["cmdque"] == 1
    assert theirs["normaca"] == theirs["protect"] == 0
    assert theirs["tpgs"] == 3
    assert theirs["3pc"] == 1, "EXTENDED COPY"
    assert theirs["t10_vendor_identification"] == b"ANNEX   "
    assert theirs["product_identification"] == b"TEST DISK       "
    assert theirs["product_revision_level"] == b"7.25"


def test_standard_data_claims_sam_spc_sbc_and_iscsi(host: c.Host) -> None:
    data = host.send(c.inquiry()).data
    claimed = [int.from_bytes(data[at : at + 2], "big") for at in range(58, 74, 2)]
    assert claimed == [0x00A0, 0x0460, 0x04C0, 0x0960, 0, 0, 0, 0]


def test_identification_fields_hold_printable_ascii_only() -> None:
    host = c.Host(TargetPort(), LogicalUnit(MemoryVolume(), c.NAA, product="Pläte\n1"))
    assert host.send(c.inquiry()).data[16:32] == b"Pl?te?1         "


def test_a_page_code_without_evpd_is_an_invalid_field(host: c.Host) -> None:
    answer = host.send(bytes.fromhex("120001010000"))
    assert answer.outcome == "05/24/00"
    assert answer.sense.field == (2, None, True)


def test_a_page_that_is_not_there_is_an_invalid_field(host: c.Host) -> None:
    for code in set(range(256)) - set(PAGES):
        assert host.send(c.inquiry(code)).outcome == "05/24/00"


def test_cmddt_is_refused_as_it_is_obsolete(host: c.Host) -> None:
    assert host.send(bytes.fromhex("12020000ff00")).sense.field == (1, 1, True)


def test_the_list_of_pages_is_complete_and_sorted(host: c.Host) -> None:
    assert read_by_pyscsi(host, 0x00)["vpd_pages"] == [0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2]
    for code in PAGES:
        page(host, code)


def test_the_serial_number_is_the_id_unless_given(host: c.Host, volume: MemoryVolume) -> None:
    assert read_by_pyscsi(host, 0x80)["unit_serial_number"] == c.NAA.hex().encode()
    other = c.Host(TargetPort(), LogicalUnit(volume, c.NAA, serial="SN 1"))
    assert page(other, 0x80)[4:] == b"SN 1"


def test_the_designators_name_the_unit_the_port_and_the_target(host: c.Host) -> None:
    found = read_by_pyscsi(host, 0x83)["designator_descriptors"]
    summary = [(d["association"], d["designator_type"], d["code_set"], d["piv"]) for d in found]
    assert summary == [(0, 3, 1, 0), (0, 1, 2, 0), (1, 4, 1, 1), (1, 5, 1, 1), (1, 8, 3, 1), (2, 8, 3, 1)]
    assert found[0]["designator"]["naa"] == 6
    assert found[1]["designator"]["t10_vendor_id"] == b"ANNEX   "
    assert found[1]["designator"]["vendor_specific_id"] == c.NAA.hex().encode()
    assert found[2]["designator"]["relative_port"] == 1
    assert found[3]["designator"]["target_portal_group"] == 1
    assert found[4]["designator"]["scsi_name_string"] == (c.TARGET_NAME + ",t,0x0001").encode() + bytes(3)
    assert found[5]["designator"]["scsi_name_string"] == c.TARGET_NAME.encode() + bytes(4)
    assert all(d["protocol_identifier"] == 5 for d in found[2:])


def test_the_naa_designator_is_the_id_itself(host: c.Host) -> None:
    assert page(host, 0x83)[4:24] == bytes.fromhex("01030010") + c.NAA


def test_scsi_name_strings_end_with_nul_and_fill_four_bytes(host: c.Host) -> None:
    for length in range(4):
        host.nexus.target_name = "iqn.2026-11.io.annex:" + "x" * length
        for found in read_by_pyscsi(host, 0x83)["designator_descriptors"][4:]:
            name = found["designator"]["scsi_name_string"]
            assert len(name) % 4 == 0
            assert name.rstrip(b"\0") != name


def test_a_portal_group_tag_of_0_is_not_port_number_0(host: c.Host) -> None:
    host.nexus.target_portal_group_tag = 0
    host.port.nexus_created(host.nexus)
    host.nexus.attentions.clear()
    found = read_by_pyscsi(host, 0x83)["designator_descriptors"]
    assert found[2]["designator"]["relative_port"] == 0xFFFF
    assert found[4]["designator"]["scsi_name_string"].startswith(c.TARGET_NAME.encode() + b",t,0x0000\0")


def test_block_limits_have_64_bytes_and_the_transfer_limit(host: c.Host, volume: MemoryVolume) -> None:
    volume.physical_block_exponent = 3
    theirs = read_by_pyscsi(host, 0xB0)
    assert len(page(host, 0xB0)) == 64
    assert theirs["opt_xfer_len_gran"] == 8
    assert theirs["max_xfer_len"] == 32768
    assert theirs["opt_xfer_len"] == 2048
    assert theirs["max_caw_len"] == 255
    for absent in ("max_unmap_lba_count", "max_unmap_bd_count", "max_pfetch_len"):
        assert theirs[absent] == 0
    volume.max_transfer_blocks = 100
    theirs = read_by_pyscsi(host, 0xB0)
    assert theirs["max_xfer_len"] == 100
    assert theirs["opt_xfer_len"] == 96, "a multiple of the physical block"


def test_the_other_block_pages_say_ssd_and_fully_provisioned(host: c.Host) -> None:
    assert len(page(host, 0xB1)) == 64
    assert read_by_pyscsi(host, 0xB1)["medium_rotation_rate"] == 1
    assert page(host, 0xB1)[8] == 0x01, "VBULS: VERIFY compares blocks that are unmapped"
    assert page(host, 0xB2)[4:] == bytes(4)
