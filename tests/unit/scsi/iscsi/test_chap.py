import base64
import contextlib
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scsi.iscsi.chap import (
    ALGORITHMS,
    ChapFailure,
    ChapInitiator,
    ChapPolicy,
    ChapTarget,
    Credentials,
    choose_algorithm,
    compute_response,
    decode_binary,
    encode_binary,
)

HOST = Credentials("host", b"a secret of the host")
ARRAY = Credentials("array", b"a secret of the array")


@pytest.mark.parametrize("number", sorted(ALGORITHMS))
def test_both_roles_prove_themselves_to_each_other(number: int) -> None:
    target = ChapTarget(ChapPolicy(HOST, mutual=True, own=ARRAY))
    initiator = ChapInitiator(HOST, ARRAY, (number,))
    challenge = target.step(dict(initiator.offer()))
    proof = target.step(dict(initiator.answer(dict(challenge))))
    initiator.verify(dict(proof))
    assert target.done
    assert initiator.done


def test_one_way_chap_needs_no_proof_of_the_target() -> None:
    target = ChapTarget(ChapPolicy(HOST))
    initiator = ChapInitiator(HOST)
    assert target.step(dict(initiator.answer(dict(target.step(dict(initiator.offer())))))) == []
    assert target.done
    assert initiator.done


def test_a_response_is_the_digest_of_identifier_secret_and_challenge() -> None:
    assert compute_response(ALGORITHMS[5], 7, b"secret", b"challenge") == hashlib.md5(b"\7secretchallenge").digest()
    assert compute_response(ALGORITHMS[8], 7, b"s", b"c") == hashlib.sha3_256(b"\7sc").digest()
    assert [len(compute_response(ALGORITHMS[n], 0, b"", b"")) for n in (5, 6, 7, 8)] == [16, 20, 32, 32]


@pytest.mark.parametrize(("offered", "number"), [("5", 5), ("9,7,5", 7), ("0x8,5", 8), ("6", 6)])
def test_the_first_offered_algorithm_that_is_known_is_chosen(offered: str, number: int) -> None:
    assert choose_algorithm(offered, (5, 6, 7, 8)).number == number


@pytest.mark.parametrize("offered", ["", "9", "MD5", "5 ", "-5", "," * 5000, "7"])
def test_no_algorithm_in_common_is_a_failure(offered: str) -> None:
    with pytest.raises(ChapFailure):
        choose_algorithm(offered, (5, 99))


@pytest.mark.parametrize("text", ["0x0102ff", "0X0102FF", "0bAQL/", "0BAQL/"])
def test_a_binary_value_is_hexadecimal_or_base64(text: str) -> None:
    assert decode_binary(text, 1, 16) == b"\1\2\xff"
    assert decode_binary(encode_binary(b"\1\2\xff"), 3, 3) == b"\1\2\xff"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0x",
        "0b",
        "0x1",
        "0x12345",
        "0xgg",
        "0x 1",
        "AQL/",
        "0bA",
        "0bAQ",
        "0bAQL/=",
        "0b====",
        "0bAQ-_",
        "0x" + "00" * 17,
    ],
)
def test_what_is_no_binary_value_is_a_failure(text: str) -> None:
    with pytest.raises(ChapFailure):
        decode_binary(text, 1, 16)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=80), st.from_regex(r"0[xXbB][0-9A-Fa-f+/=]{0,60}", fullmatch=True)))
def test_any_text_is_a_binary_value_of_the_wanted_length_or_a_failure(text: str) -> None:
    with contextlib.suppress(ChapFailure):
        assert 4 <= len(decode_binary(text, 4, 16)) <= 16


@pytest.mark.parametrize("length", [1, 3, 4, 16, 20, 1023, 1024])
def test_every_length_within_the_bounds_is_decoded(length: int) -> None:
    value = bytes(range(256)) * 4
    assert decode_binary("0b" + base64.b64encode(value[:length]).decode(), length, length) == value[:length]
    assert decode_binary("0x" + value[:length].hex(), length, length) == value[:length]


@pytest.mark.parametrize("missing", ["CHAP_N", "CHAP_R"])
def test_a_response_without_its_name_or_digest_is_a_failure(missing: str) -> None:
    target = ChapTarget(ChapPolicy(HOST))
    initiator = ChapInitiator(HOST)
    answer = dict(initiator.answer(dict(target.step(dict(initiator.offer())))))
    del answer[missing]
    with pytest.raises(ChapFailure):
        target.step(answer)
    assert not target.done


@pytest.mark.parametrize("keys", [{}, {"CHAP_N": "host", "CHAP_R": "0x00"}, {"CHAP_A": "5", "CHAP_I": "1"}])
def test_chap_begins_with_the_algorithms_alone(keys: dict[str, str]) -> None:
    with pytest.raises(ChapFailure):
        ChapTarget(ChapPolicy(HOST)).step(keys)


def test_a_target_takes_one_response_only() -> None:
    target = ChapTarget(ChapPolicy(HOST))
    initiator = ChapInitiator(HOST)
    answer = dict(initiator.answer(dict(target.step(dict(initiator.offer())))))
    target.step(answer)
    with pytest.raises(ChapFailure):
        target.step(answer)


def test_an_initiator_refuses_a_target_that_reflects_it() -> None:
    initiator = ChapInitiator(HOST, Credentials("host", b"another secret"), (5,))
    keys = dict(initiator.answer({"CHAP_A": "5", "CHAP_I": "1", "CHAP_C": "0x0011"}))
    with pytest.raises(ChapFailure):
        initiator.verify({"CHAP_N": keys["CHAP_N"], "CHAP_R": keys["CHAP_R"]})
    assert not initiator.done


def test_an_initiator_refuses_to_be_challenged_with_its_own_challenge() -> None:
    initiator = ChapInitiator(HOST, ARRAY, (5,), lambda length: b"\x11" * length)
    with pytest.raises(ChapFailure, match="our own"):
        initiator.answer({"CHAP_A": "5", "CHAP_I": "1", "CHAP_C": "0x" + "11" * 16})


def test_an_initiator_with_one_secret_for_both_sides_does_not_answer() -> None:
    initiator = ChapInitiator(HOST, Credentials("array", HOST.secret), (5,))
    with pytest.raises(ChapFailure, match="same"):
        initiator.answer({"CHAP_A": "5", "CHAP_I": "1", "CHAP_C": "0x0011"})


@pytest.mark.parametrize("algorithm", ["7", "", "5,6"])
def test_an_initiator_takes_only_an_algorithm_that_it_offered(algorithm: str) -> None:
    initiator = ChapInitiator(HOST, algorithms=(6,))
    if algorithm == "5,6":
        initiator.answer({"CHAP_A": algorithm, "CHAP_I": "1", "CHAP_C": "0x0011"})
        return
    with pytest.raises(ChapFailure):
        initiator.answer({"CHAP_A": algorithm, "CHAP_I": "1", "CHAP_C": "0x0011"})


def test_a_wrong_proof_of_the_target_is_refused() -> None:
    target = ChapTarget(ChapPolicy(HOST, mutual=True, own=Credentials("array", b"not what was agreed")))
    initiator = ChapInitiator(HOST, ARRAY)
    proof = target.step(dict(initiator.answer(dict(target.step(dict(initiator.offer()))))))
    with pytest.raises(ChapFailure):
        initiator.verify(dict(proof))


def test_secrets_are_not_in_what_is_printed_of_credentials() -> None:
    assert "secret" not in repr(ChapPolicy(HOST, mutual=True, own=ARRAY))
