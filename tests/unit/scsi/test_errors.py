import inspect

import pytest

from scsi import errors
from scsi.errors import FieldPointer, InvalidFieldInCdb, InvalidFieldInParameterList, RelayedSense, ScsiError

# The table "Refusals" of vendor-commands.md, by its own rows.
VENDOR_REFUSALS = {
    "AlreadyPaired": (0x05, 0x80, 0x01),
    "SizesDiffer": (0x05, 0x80, 0x02),
    "BlockLengthsDiffer": (0x05, 0x80, 0x03),
    "SameStorage": (0x05, 0x80, 0x04),
    "SecondaryInUse": (0x05, 0x80, 0x05),
    "PairSideNotReady": (0x02, 0x80, 0x06),
    "PairFenceRefused": (0x0B, 0x80, 0x07),
    "NoSuchPair": (0x05, 0x80, 0x08),
    "PairStateForbids": (0x05, 0x80, 0x09),
    "NotMirrored": (0x04, 0x80, 0x0A),
    "TooManyPairs": (0x05, 0x80, 0x0B),
    "NoSuchVirtualDevice": (0x05, 0x81, 0x01),
    "AcquiredByAnotherHost": (0x05, 0x81, 0x03),
    "NoSuchAcquisition": (0x05, 0x81, 0x04),
    "AcquisitionLimitReached": (0x05, 0x81, 0x05),
    "AcquisitionFenceRefused": (0x0B, 0x81, 0x06),
    "AcquiredDataNotReady": (0x02, 0x81, 0x07),
    "AcquisitionIdInUse": (0x05, 0x81, 0x08),
    "NoSuchRegion": (0x05, 0x81, 0x09),
    "WriteProtected": (0x07, 0x27, 0x00),
    "InvalidOperationCode": (0x05, 0x20, 0x00),
    "InvalidFieldInCdb": (0x05, 0x24, 0x00),
    "InvalidFieldInParameterList": (0x05, 0x26, 0x00),
    "ParameterListLengthError": (0x05, 0x1A, 0x00),
    "LbaOutOfRange": (0x05, 0x21, 0x00),
}


def code(error: type[ScsiError] | ScsiError) -> tuple[int, int, int]:
    return error.key, error.asc, error.ascq


@pytest.mark.parametrize(("name", "expected"), VENDOR_REFUSALS.items())
def test_each_refusal_of_the_vendor_commands_has_a_class_with_its_code(
    name: str, expected: tuple[int, int, int]
) -> None:
    error = getattr(errors, name)()
    assert isinstance(error, ScsiError)
    assert code(error) == expected


def test_no_two_classes_have_the_same_code() -> None:
    kinds = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, ScsiError) and "asc" in vars(kind) and kind is not ScsiError
    ]
    codes = [code(kind) for kind in kinds]
    assert len(kinds) > 30
    assert len(set(codes)) == len(codes)


def test_a_field_pointer_says_whether_it_points_into_the_cdb() -> None:
    assert InvalidFieldInCdb(2, 5).field == FieldPointer(2, 5, in_cdb=True)
    assert InvalidFieldInParameterList(8).field == FieldPointer(8, None, in_cdb=False)
    assert InvalidFieldInCdb().field is None


def test_relayed_sense_carries_a_code_known_only_at_run_time() -> None:
    error = RelayedSense(0x03, 0x11, 0x04, information=7)
    assert code(error) == (0x03, 0x11, 0x04)
    assert error.information == 7
    assert code(ScsiError()) == (0x04, 0x44, 0x00)


def test_an_error_in_a_log_says_its_message_or_else_its_code() -> None:
    assert str(errors.NoSuchPair("pair 7")) == "pair 7"
    assert str(errors.NoSuchPair()) == "05/80/08"
