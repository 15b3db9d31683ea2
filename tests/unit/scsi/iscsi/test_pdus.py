"""Every PDU: what is encoded is decoded again, and lies where the standard says."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scsi.iscsi import session_pdus as s
from scsi.iscsi import task_pdus as t
from scsi.iscsi.errors import ConnectionFault
from scsi.iscsi.pdu import REQUEST, RESPONSE, data_segment_bytes, total_ahs_bytes

LUN = bytes.fromhex("4001000000000000")
ISID = bytes.fromhex("80a1b2c30001")

# A record, its encoder and decoder, the layout it is read with, and some bytes of the PDU by offset.
PDUS: list[tuple[Any, Callable[[Any], bytes], Callable[[Any], Any], Any, dict[int, str]]] = [
    (
        t.TaskManagementRequest(1, LUN, 1, 2, 3, 4, 5, 6),
        t.encode_task_management_request,
        t.decode_task_management_request,
        REQUEST,
        {0: "4281", 8: LUN.hex(), 16: "00000001", 20: "00000002", 24: "00000003", 32: "0000000500000006"},
    ),
    (
        t.TaskManagementResponse(255, 1, 2, 3, 4),
        t.encode_task_management_response,
        t.decode_task_management_response,
        RESPONSE,
        {0: "2280ff00", 16: "00000001", 24: "000000020000000300000004"},
    ),
    (
        t.DataOut(True, 512, LUN, 1, 2, 3, 4, 5),
        t.encode_data_out,
        t.decode_data_out,
        REQUEST,
        {0: "0580000000000200", 16: "0000000100000002", 28: "00000003", 36: "0000000400000005"},
    ),
    (
        t.DataIn(0x81, 0, 512, 1, 2, 3, 4, 5, 6, 7),
        t.encode_data_in,
        t.decode_data_in,
        RESPONSE,
        {0: "2581000000000200", 16: "00000001ffffffff00000002", 36: "000000050000000600000007"},
    ),
    (
        t.ReadyToTransfer(LUN, 1, 2, 3, 4, 5, 6, 7, 8),
        t.encode_r2t,
        t.decode_r2t,
        RESPONSE,
        {0: "3180", 8: LUN.hex(), 16: "0000000100000002", 36: "000000060000000700000008"},
    ),
    (
        s.AsyncMessage(LUN, 1, 2, 3, 2, 9, (4, 5, 6)),
        s.encode_async_message,
        s.decode_async_message,
        RESPONSE,
        {0: "3280", 16: "ffffffff", 24: "000000010000000200000003", 36: "0209000400050006"},
    ),
    (
        s.LogoutRequest(1, 2, 3, 4, 5),
        s.encode_logout_request,
        s.decode_logout_request,
        REQUEST,
        {0: "4681", 16: "0000000200030000"},
    ),
    (
        s.LogoutResponse(2, 1, 3, 4, 5, 6, 7),
        s.encode_logout_response,
        s.decode_logout_response,
        RESPONSE,
        {0: "268002", 16: "00000001", 40: "00060007"},
    ),
    (
        s.TextRequest(True, False, LUN, 1, 2, 3, 4),
        lambda pdu: s.encode_text_request(pdu, 0),
        s.decode_text_request,
        REQUEST,
        {0: "0480"},
    ),
    (
        s.TextResponse(False, True, LUN, 1, 2, 3, 4, 5),
        lambda pdu: s.encode_text_response(pdu, 0),
        s.decode_text_response,
        RESPONSE,
        {0: "2440", 20: "00000002"},
    ),
    (
        s.LoginRequest(True, False, 1, 3, 0, 0, ISID, 7, 1, 2, 3, 4),
        lambda pdu: s.encode_login_request(pdu, 0),
        s.decode_login_request,
        REQUEST,
        {0: "4387", 8: ISID.hex() + "0007", 20: "00020000"},
    ),
    (
        s.LoginResponse(True, False, 0, 1, 0, 0, ISID, 7, 1, 2, 3, 4, 0x0201),
        lambda pdu: s.encode_login_response(pdu, 0),
        s.decode_login_response,
        RESPONSE,
        {0: "2381", 8: ISID.hex() + "0007", 36: "0201"},
    ),
    (
        s.Reject(4, 1, 2, 3, 4),
        lambda pdu: s.encode_reject(pdu, 48),
        s.decode_reject,
        RESPONSE,
        {0: "3f800400", 4: "00000030", 16: "ffffffff", 36: "00000004"},
    ),
    (s.NopOut(LUN, 1, 2, 3, 4), s.encode_nop_out, s.decode_nop_out, REQUEST, {0: "4080"}),
    (s.NopIn(LUN, 1, 2, 3, 4, 5), s.encode_nop_in, s.decode_nop_in, RESPONSE, {0: "2080"}),
]


@pytest.mark.parametrize(
    ("record", "encode", "decode", "layout", "places"), PDUS, ids=lambda value: type(value).__name__
)
def test_a_pdu_is_encoded_as_the_standard_lays_it_out_and_decoded_again(
    record: Any, encode: Callable[[Any], bytes], decode: Callable[[Any], Any], layout: Any, places: dict[int, str]
) -> None:
    raw = encode(record)
    assert len(raw) == 48
    for offset, expected in places.items():
        assert raw[offset : offset + len(expected) // 2].hex() == expected, offset
    assert decode(layout.unpack(raw)) == record


def test_a_scsi_command_is_laid_out_as_the_standard_says() -> None:
    raw = t.encode_scsi_command(
        flags=0xA1,
        lun=LUN,
        initiator_task_tag=1,
        expected_bytes=512,
        cmd_sn=2,
        exp_stat_sn=3,
        cdb=b"\x2a\1",
        data_bytes=16,
    )
    assert raw.hex() == "01a1000000000010" + LUN.hex() + "00000001000002000000000200000003" + "2a01" + "00" * 14
    header = REQUEST.unpack(raw)
    assert (data_segment_bytes(header), total_ahs_bytes(header)) == (16, 0)


def test_a_scsi_response_is_laid_out_as_the_standard_says() -> None:
    raw = t.encode_scsi_response(
        flags=0x02,
        status=2,
        initiator_task_tag=1,
        stat_sn=2,
        exp_cmd_sn=3,
        max_cmd_sn=4,
        exp_data_sn=5,
        bidirectional_residual=6,
        residual=7,
        data_bytes=20,
    )
    words = "0000000000000002000000030000000400000005" + "0000000600000007"
    assert raw.hex() == "2182000200000014" + "00" * 8 + "00000001" + words
    assert t.decode_scsi_response(RESPONSE.unpack(raw)) == (0x82, 0, 2, 1, 2, 3, 4, 5, 6, 7)


def test_sense_is_in_the_data_segment_behind_its_length() -> None:
    assert t.encode_sense_segment(b"sense").hex() == "0005" + b"sense".hex()
    assert t.decode_sense_segment(b"\0\5sense and more") == b"sense"


@pytest.mark.parametrize("segment", [b"", b"\0", b"\0\5sens", b"\xff\xff"])
def test_a_malformed_sense_segment_is_no_sense(segment: bytes) -> None:
    assert t.decode_sense_segment(segment) == b""


def test_additional_headers_carry_a_long_cdb_and_a_read_length() -> None:
    extended = b"\0\x11\1\0" + bytes(range(16))
    read_length = b"\0\5\2\0\0\0\1\0"
    assert t.decode_additional_header(extended + read_length) == (bytes(range(16)), 256)
    assert t.decode_additional_header(b"\0\3\1\0ab\0\0") == (b"ab", None)


@pytest.mark.parametrize(
    "ahs",
    [
        b"\0\0\1\0",
        b"\0\5\2\0",
        b"\0\4\2\0\0\0\0\0",
        b"\0\5\3\0\0\0\0\0",
        b"\0\5\2\0\0\0\0\1" * 2,
        b"\0\x11\1\0" + bytes(12),
        b"\xff\xff\1\0" + bytes(1016),
    ],
)
def test_malformed_additional_headers_are_refused(ahs: bytes) -> None:
    with pytest.raises(ConnectionFault):
        t.decode_additional_header(ahs)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.binary(max_size=1020))
def test_additional_headers_of_any_content_are_taken_apart_or_refused(ahs: bytes) -> None:
    try:
        found = t.decode_additional_header(ahs)
    except ConnectionFault:
        return
    assert len(found.extended_cdb) <= len(ahs)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.binary(min_size=48, max_size=48))
def test_every_header_can_be_decoded_as_any_pdu(raw: bytes) -> None:
    for record, _encode, decode, layout, _places in PDUS:
        assert type(decode(layout.unpack(raw))) is type(record)
