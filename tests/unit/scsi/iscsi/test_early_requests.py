import pytest

from scsi.iscsi.early_requests import EarlyRequests
from scsi.iscsi.errors import ConnectionFault


def keep(early: EarlyRequests, cmd_sn: int, data: bytes = b"") -> None:
    early.keep(cmd_sn, ("header",), b"", memoryview(data))


def test_a_request_is_given_back_once() -> None:
    early = EarlyRequests(100)
    keep(early, 5, b"data")
    assert early.pop(4) is None
    request = early.pop(5)
    assert request is not None
    assert (request.header, request.data) == (("header",), b"data")
    assert early.pop(5) is None
    assert early.requests == {}


def test_the_first_of_two_requests_with_one_number_is_kept() -> None:
    early = EarlyRequests(100)
    keep(early, 5, b"first")
    keep(early, 5, b"second" * 16)
    request = early.pop(5)
    assert request is not None
    assert request.data == b"first"


def test_what_is_kept_is_bounded_and_what_was_given_back_does_not_count() -> None:
    early = EarlyRequests(100)
    for number in range(50):
        keep(early, number, bytes(60))
        early.pop(number)
    keep(early, 50, bytes(60))
    early.skip(50)
    keep(early, 51, bytes(60))
    with pytest.raises(ConnectionFault):
        keep(early, 52, bytes(60))


def test_a_skipped_number_is_there_without_a_request() -> None:
    early = EarlyRequests(100)
    keep(early, 5, b"data")
    early.skip(5)
    request = early.pop(5)
    assert request is not None
    assert not request.header
