import pytest

from scsi.iscsi.digest import digest_matches, encode_digest

# The examples that the standard gives (RFC 3720 B.4), as they are on the wire.
EXAMPLES = [
    (bytes(32), "aa36918a"),
    (b"\xff" * 32, "43aba862"),
    (bytes(range(32)), "4e79dd46"),
    (bytes(reversed(range(32))), "5cdb3f11"),
]


@pytest.mark.parametrize(("data", "digest"), EXAMPLES)
def test_a_digest_is_that_of_the_standards_examples(data: bytes, digest: str) -> None:
    assert encode_digest(data).hex() == digest
    assert digest_matches(memoryview(data), b"", bytes.fromhex(digest))


@pytest.mark.parametrize("padding", [0, 1, 2, 3])
def test_padding_is_covered(padding: int) -> None:
    data = b"some data"
    assert encode_digest(data, padding) == encode_digest(data + bytes(padding))
    assert digest_matches(data, bytes(padding), encode_digest(data, padding))
    if padding:
        assert not digest_matches(data, b"\1" * padding, encode_digest(data, padding))
