import contextlib
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyscsi.pyscsi.scsi_opcode import OpCode
from pyscsi.utils.converter import encode_dict

from scsi import array_commands as codec
from scsi.array_commands import (
    Acquire,
    AcquisitionRow,
    AcquisitionState,
    ArrayIn,
    ArrayInCdb,
    ArrayOut,
    ArrayOutCdb,
    Capabilities,
    CopyIn,
    Feature,
    FenceLevel,
    PairCreate,
    PairFlag,
    PairRow,
    PairState,
    RegionKind,
    RegionRow,
    StateCode,
    VirtualDeviceFlag,
    VirtualDeviceRow,
)

NAA = bytes.fromhex("6000000000000000000000000000abcd")
OTHER_NAA = bytes.fromhex("60000000000000000000000000001234")
u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
naas = st.binary(min_size=16, max_size=16)
labels = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


def packed_by_pyscsi(bits: dict[str, list[int]], **values: int) -> bytes:
    """Use PyScsi's bit packing over a table written from the specification's byte columns, as an independent oracle."""
    cdb = bytearray(16)
    encode_dict(values, {"opcode": [0xFF, 0], "service_action": [0x1F, 1]} | bits, cdb)
    return bytes(cdb)


IN_BITS = {
    "identifier": [0xFFFFFFFF, 2],
    "offset": [0xFFFFFFFF, 6],
    "allocation_length": [0xFFFFFFFF, 10],
}
OUT_BITS = {
    "identifier": [0xFFFFFFFF, 2],
    "flags": [0xFFFFFFFF, 6],
    "parameter_list_length": [0xFFFFFFFF, 10],
}


@given(st.sampled_from(ArrayIn), u32, u32, u32)
def test_array_in_cdb_is_what_pyscsi_packs(action: int, identifier: int, offset: int, length: int) -> None:
    ours = codec.encode_array_in(ArrayInCdb(action, identifier, offset, length))
    theirs = packed_by_pyscsi(
        IN_BITS,
        opcode=0xC0,
        service_action=action,
        identifier=identifier,
        offset=offset,
        allocation_length=length,
    )
    assert ours == theirs
    assert codec.decode_array_in(ours) == (action, identifier, offset, length)


@given(st.sampled_from(ArrayOut), u32, u32, u32)
def test_array_out_cdb_is_what_pyscsi_packs(action: int, identifier: int, flags: int, length: int) -> None:
    ours = codec.encode_array_out(ArrayOutCdb(action, identifier, flags, length))
    theirs = packed_by_pyscsi(
        OUT_BITS,
        opcode=0xC1,
        service_action=action,
        identifier=identifier,
        flags=flags,
        parameter_list_length=length,
    )
    assert ours == theirs
    assert codec.decode_array_out(ours) == (action, identifier, flags, length)


def test_pyscsi_agrees_on_names_of_both_opcodes_service_actions() -> None:
    # PyScsi's OpCode is how annexhost's commands describe themselves; values that it rejects could not be sent.
    opcode = OpCode("ARRAY_OUT", codec.ARRAY_OUT, {action.name: action for action in ArrayOut})
    assert opcode.value == 0xC1
    assert opcode.serviceaction.PAIR_TAKEOVER == 4


def test_pair_create_stands_on_the_bytes_that_the_specification_gives() -> None:
    data = codec.encode_pair_create(PairCreate(FenceLevel.DATA, True, 300, NAA, "Mirror é"))
    assert len(data) == codec.PARAMETER_BYTES[ArrayOut.PAIR_CREATE] == 64
    assert data[0] == 2
    assert data[1] == 1
    assert data[2:4] == struct.pack(">H", 300)
    assert data[4:8] == bytes(4)
    assert data[8:24] == NAA
    assert data[24:56] == "Mirror é".encode().ljust(32, b"\0")
    assert data[56:] == bytes(8)


def test_acquire_stands_on_the_bytes_that_the_specification_gives() -> None:
    data = codec.encode_acquire(Acquire(NAA, 0x0102030405060708, 0x11121314, 0x21222324, 0x31323334))
    assert len(data) == codec.PARAMETER_BYTES[ArrayOut.ACQUIRE_EXTERNAL_DATA] == 48
    assert data[:16] == NAA
    assert data[16:24].hex() == "0102030405060708"
    assert data[24:28].hex() == "11121314"
    assert data[28:32].hex() == "21222324"
    assert data[32:36].hex() == "31323334"
    assert data[36:] == bytes(12)


def test_copy_in_stands_on_the_bytes_that_the_specification_gives() -> None:
    data = codec.encode_copy_in(CopyIn(NAA, 7, 9))
    assert len(data) == codec.PARAMETER_BYTES[ArrayOut.COPY_IN] == 32
    assert data == NAA + bytes.fromhex("00000007 00000009") + bytes(8)


def test_capabilities_stand_on_the_bytes_that_the_specification_gives() -> None:
    data = codec.encode_capabilities(Capabilities(1, Feature.PAIRS | Feature.VERIFY, 2, 3, 4, 5, 6))
    assert data.hex(" ", 4) == "0000001c 01110000 00000002 00000003 00000004 00000005 00000006 00000000"


def test_a_virtual_device_row_stands_on_the_bytes_that_the_specification_gives() -> None:
    flags = VirtualDeviceFlag.EXTERNAL_REGIONS | VirtualDeviceFlag.SECONDARY
    data = codec.encode_virtual_device(
        VirtualDeviceRow(3, flags, StateCode.BLOCKED, 2, b"\0\5" + bytes(6), NAA, 9, 512)
    )
    assert len(data) == 64
    assert data[:8].hex() == "0000000309020002"
    assert data[8:16].hex() == "0005000000000000"
    assert data[16:32] == NAA
    assert data[32:40] == struct.pack(">Q", 9)
    assert data[40:44] == struct.pack(">I", 512)
    assert data[44:] == bytes(20)


def test_a_region_row_stands_on_the_bytes_that_the_specification_gives() -> None:
    data = codec.encode_region(RegionRow(4, RegionKind.EXTERNAL, StateCode.PENDING, 100, 10, 20, 30, NAA))
    assert len(data) == 64
    assert data[:8].hex() == "0000000401016400"
    assert struct.unpack(">QQQ", data[8:32]) == (10, 20, 30)
    assert data[32:48] == NAA
    assert data[48:] == bytes(16)


def test_a_pair_row_stands_on_the_bytes_that_the_specification_gives() -> None:
    row = PairRow(5, PairState.PSUE, FenceLevel.STATUS, PairFlag.UNVERIFIED, 99, 1000, 7, NAA, OTHER_NAA, "L")
    data = codec.encode_pair(row)
    assert len(data) == 96
    assert data[:8].hex() == "0000000504010863"
    assert struct.unpack(">QQ", data[8:24]) == (1000, 7)
    assert data[24:40] == NAA
    assert data[40:56] == OTHER_NAA
    assert data[56:88] == b"L" + bytes(31)
    assert data[88:] == bytes(8)


def test_an_acquisition_row_stands_on_the_bytes_that_the_specification_gives() -> None:
    row = AcquisitionRow(6, AcquisitionState.FAILED, 0x0B, 0x81, 0x06, 8, 9, 4096, 0xDEADBEEF, 60, NAA, 3)
    data = codec.encode_acquisition(row)
    assert len(data) == 64
    assert data[:8].hex() == "00000006020b8106"
    assert struct.unpack(">QIIII", data[8:32]) == (8, 9, 4096, 0xDEADBEEF, 60)
    assert data[32:48] == NAA
    assert data[48:52] == struct.pack(">I", 3)
    assert data[52:] == bytes(12)


ROUND_TRIPS: dict[str, tuple[Any, Any, Any]] = {
    "pair create": (
        st.builds(PairCreate, st.integers(0, 255), st.booleans(), u16, naas, labels),
        codec.encode_pair_create,
        codec.decode_pair_create,
    ),
    "acquire": (st.builds(Acquire, naas, u64, u32, u32, u32), codec.encode_acquire, codec.decode_acquire),
    "copy in": (st.builds(CopyIn, naas, u32, u32), codec.encode_copy_in, codec.decode_copy_in),
    "capabilities": (
        st.builds(Capabilities, st.just(1), st.integers(0, 63).map(Feature), u32, u32, u32, u32, u32),
        codec.encode_capabilities,
        codec.decode_capabilities,
    ),
    "virtual device": (
        st.builds(
            VirtualDeviceRow,
            u32,
            st.integers(0, 15).map(VirtualDeviceFlag),
            st.sampled_from(StateCode),
            u16,
            st.binary(min_size=8, max_size=8),
            naas,
            u64,
            u32,
        ),
        codec.encode_virtual_device,
        codec.decode_virtual_device,
    ),
    "region": (
        st.builds(
            RegionRow,
            u32,
            st.sampled_from(RegionKind),
            st.sampled_from(StateCode),
            st.integers(0, 100),
            u64,
            u64,
            u64,
            naas,
        ),
        codec.encode_region,
        codec.decode_region,
    ),
    "pair": (
        st.builds(
            PairRow,
            u32,
            st.sampled_from([state for state in PairState if state]),
            st.sampled_from(FenceLevel),
            st.integers(0, 63).map(PairFlag),
            st.integers(0, 100),
            u64,
            u64,
            naas,
            naas,
            labels,
        ),
        codec.encode_pair,
        codec.decode_pair,
    ),
    "acquisition": (
        st.builds(
            AcquisitionRow,
            u32,
            st.sampled_from(AcquisitionState),
            *[st.integers(0, 255)] * 3,
            u64,
            *[u32] * 4,
            naas,
            u32,
        ),
        codec.encode_acquisition,
        codec.decode_acquisition,
    ),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
@given(data=st.data())
def test_what_is_encoded_is_decoded_again_whatever_follows(name: str, data: Any) -> None:
    values, encode, decode = ROUND_TRIPS[name]
    value = data.draw(values)
    assert decode(encode(value)) == value
    assert decode(memoryview(encode(value) + b"trailing")) == value


@pytest.mark.parametrize("name", ROUND_TRIPS)
@given(data=st.binary(max_size=100))
def test_any_bytes_are_decoded_or_refused_with_value_error(name: str, data: Any) -> None:
    _, _, decode = ROUND_TRIPS[name]
    with contextlib.suppress(ValueError):
        decode(data)


def test_a_report_counts_bytes_4_to_7_in_its_length() -> None:
    report = codec.encode_list([bytes(64), bytes(64)])
    assert report[:8].hex() == "0000008400000000"
    assert len(report) == codec.list_bytes(report) == 8 + 128


def test_an_empty_report_has_length_4() -> None:
    assert codec.encode_list([]).hex() == "0000000400000000"
    assert codec.decode_list(codec.encode_list([]), 64) == []


def test_a_cut_report_gives_its_whole_rows_and_its_full_length() -> None:
    rows = [bytes([n]) * 64 for n in range(3)]
    cut = codec.encode_list(rows)[: 8 + 64 + 63]
    assert codec.decode_list(cut, 64) == rows[:1]
    assert codec.list_bytes(cut) == 8 + 3 * 64


def test_bytes_after_the_length_of_a_report_are_no_rows() -> None:
    assert codec.decode_list(codec.encode_list([b"\1" * 64]) + bytes(64), 64) == [b"\1" * 64]


def test_a_report_without_length_field_is_refused() -> None:
    with pytest.raises(ValueError, match="no length field"):
        codec.decode_list(b"\0\0", 64)


def test_a_label_over_32_bytes_of_utf8_is_refused() -> None:
    assert len(codec.encode_label("é" * 16)) == 32
    with pytest.raises(ValueError, match="33 bytes"):
        codec.encode_label("é" * 16 + "x")


def test_a_label_that_is_not_utf8_survives_and_can_be_told() -> None:
    label = codec.decode_label(b"\xff\xfe" + bytes(30))
    assert codec.encode_label(label) == b"\xff\xfe" + bytes(30)
    assert not label.isprintable()


def test_the_first_reserved_bit_is_named_by_byte_and_bit() -> None:
    data = bytearray(codec.encode_pair_create(PairCreate(0, False, 0, NAA)))
    assert codec.first_reserved_bit(data, codec.PAIR_CREATE_USAGE) is None
    data[60] = 0x01
    assert codec.first_reserved_bit(data, codec.PAIR_CREATE_USAGE) == (60, 0)
    data[1] = 0x25
    assert codec.first_reserved_bit(data, codec.PAIR_CREATE_USAGE) == (1, 5)


@pytest.mark.parametrize(
    ("usage", "action"),
    [
        (codec.PAIR_CREATE_USAGE, ArrayOut.PAIR_CREATE),
        (codec.ACQUIRE_USAGE, ArrayOut.ACQUIRE_EXTERNAL_DATA),
        (codec.COPY_IN_USAGE, ArrayOut.COPY_IN),
    ],
)
def test_usage_maps_of_parameter_lists_are_as_long_as_the_lists(usage: bytes, action: ArrayOut) -> None:
    assert len(usage) == codec.PARAMETER_BYTES[action]


def test_an_external_id_is_shown_in_16_bytes() -> None:
    assert codec.pad_id(b"\x50\1") == b"\x50\1" + bytes(14)
    assert codec.pad_id(b"t10.IET     00010001") == b"t10.IET     00010001"[:16]
