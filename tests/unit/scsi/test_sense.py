import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyscsi.pyscsi.scsi_sense import SCSICheckCondition

from scsi import errors
from scsi.errors import FieldPointer, InvalidFieldInCdb, LbaOutOfRange, RelayedSense, ScsiError, StatusError
from scsi.sense import ADDITIONAL_SENSE_WORDS, ERROR_OF_FAULT, decode_sense, describe_sense, encode_sense, error_of
from scsi.volume import Fault, VolumeError

bytes_ = st.integers(0, 255)


def test_fixed_sense_has_18_bytes_and_says_so() -> None:
    sense = encode_sense(InvalidFieldInCdb(2, 5))
    assert sense.hex() == "700005000000000a00000000240000cd0002"
    assert len(sense) == 18 == sense[7] + 8


def test_fixed_sense_carries_an_lba_of_32_bits_in_the_information_field() -> None:
    sense = encode_sense(LbaOutOfRange(information=0x01020304))
    assert sense[0] == 0xF0
    assert sense[3:7].hex() == "01020304"


def test_fixed_sense_leaves_out_an_lba_that_does_not_fit_instead_of_cutting_it() -> None:
    sense = encode_sense(LbaOutOfRange(information=1 << 32))
    assert sense[0] == 0x70
    assert sense[3:7] == bytes(4)


def test_descriptor_sense_carries_information_and_field_pointer_as_descriptors() -> None:
    error = InvalidFieldInCdb(7)
    error.information = 1 << 40
    sense = encode_sense(error, descriptor=True)
    information = "000a80000000010000000000"
    pointer = "02060000c0000700"
    assert sense.hex() == "7205240000000014" + information + pointer


def test_a_field_pointer_into_the_parameter_list_leaves_c_d_clear() -> None:
    assert encode_sense(errors.InvalidFieldInParameterList(8))[15:18].hex() == "800008"


@pytest.mark.parametrize("descriptor", [False, True])
def test_a_deferred_error_has_its_own_response_code(descriptor: bool) -> None:
    error = errors.WriteFailed()
    error.deferred = True
    sense = encode_sense(error, descriptor=descriptor)
    assert sense[0] == (0x73 if descriptor else 0x71)
    assert decode_sense(sense).deferred


@given(
    bytes_.map(lambda key: key & 0x0F),
    bytes_,
    bytes_,
    st.integers(0, 2**32 - 1),
    st.builds(FieldPointer, st.integers(0, 0xFFFF), st.integers(0, 7), st.booleans()),
)
def test_pyscsi_reads_the_same_out_of_fixed_sense(
    key: int, asc: int, ascq: int, information: int, field: FieldPointer
) -> None:
    error = RelayedSense(key, asc, ascq, information=information)
    error.field = field
    theirs = SCSICheckCondition(bytearray(encode_sense(error))).data
    assert theirs == {
        "valid": 1,
        "response_code": 0x70,
        "filemark": 0,
        "eom": 0,
        "ili": 0,
        "sdat_ovfl": 0,
        "sense_key": key,
        "information": information,
        "additional_sense_len": 10,
        "command_specific_information": 0,
        "additional_sense_code": asc,
        "additional_sense_code_qualifier": ascq,
        "field_replaceable_unit_code": 0,
        "sksv": 1,
        "sense_key_specific_information": (field.in_cdb << 22) | (0x08 | (field.bit or 0)) << 16 | field.offset,
    }


@given(
    st.booleans(),
    st.none() | st.integers(0, 2**32 - 1),
    st.none() | st.builds(FieldPointer, st.integers(0, 0xFFFF), st.none() | st.integers(0, 7), st.booleans()),
    st.booleans(),
)
def test_what_is_encoded_is_decoded_again(
    descriptor: bool, information: int | None, field: FieldPointer | None, deferred: bool
) -> None:
    error = RelayedSense(0x05, 0x24, 0x01, information=information)
    error.field = field
    error.deferred = deferred
    sense = decode_sense(encode_sense(error, descriptor=descriptor))
    assert sense == (0x05, 0x24, 0x01, information, field, deferred)


@given(st.binary(max_size=64))
def test_sense_from_a_stranger_is_read_or_refused_with_value_error(data: bytes) -> None:
    try:
        sense = decode_sense(data)
    except ValueError:
        assert not data or data[0] & 0x7F not in range(0x70, 0x74)
    else:
        assert data[0] & 0x7F in range(0x70, 0x74)
        assert 0 <= sense.key <= 15


def test_sense_that_is_cut_off_counts_as_zero_beyond() -> None:
    assert decode_sense(bytes.fromhex("700005"))[:3] == (5, 0, 0)


def test_a_field_pointer_of_another_sense_key_is_not_taken_for_one() -> None:
    sense = bytearray(encode_sense(errors.BecomingReady()))
    sense[15:18] = bytes.fromhex("801234")  # a progress indication
    assert decode_sense(sense).field is None


@pytest.mark.parametrize("fault", list(Fault))
def test_every_fault_of_a_volume_has_an_error(fault: Fault) -> None:
    error = error_of(VolumeError(fault, "disk 7", lba=5))
    assert type(error) is ERROR_OF_FAULT[fault]
    assert "disk 7" in str(error)
    if isinstance(error, ScsiError):
        assert error.information == 5


def test_faults_become_the_sense_that_hosts_act_on() -> None:
    codes = {
        fault: kind.status if issubclass(kind, StatusError) else (kind.key, kind.asc, kind.ascq)
        for fault, kind in ERROR_OF_FAULT.items()
    }
    assert codes == {
        Fault.BECOMING_READY: (0x02, 0x04, 0x01),
        Fault.BLOCKED: (0x02, 0x04, 0x03),
        Fault.READ_ERROR: (0x03, 0x11, 0x00),
        Fault.WRITE_ERROR: (0x03, 0x0C, 0x00),
        Fault.NO_SPACE: (0x07, 0x27, 0x07),
        Fault.WRITE_PROTECTED: (0x07, 0x27, 0x00),
        Fault.HARDWARE: (0x04, 0x44, 0x00),
        Fault.TIMED_OUT: (0x0B, 0x08, 0x01),
        Fault.LINK_LOST: (0x0B, 0x08, 0x00),
        Fault.RESERVATION_CONFLICT: 0x18,
        Fault.BUSY: 0x08,
        Fault.NOT_MIRRORED: (0x04, 0x80, 0x0A),
    }


def test_every_code_that_annex_sends_has_words() -> None:
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, ScsiError) and "asc" in vars(kind):
            assert (kind.asc, kind.ascq) in ADDITIONAL_SENSE_WORDS, name


def test_sense_is_described_in_words_as_far_as_it_is_known() -> None:
    expected = "ILLEGAL REQUEST 05/80/01: already paired with another logical unit"
    assert describe_sense(0x05, 0x80, 0x01) == expected
    assert describe_sense(0x0F, 0xFE, 0xFD) == "RESERVED SENSE KEY 0F/FE/FD"
