import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scsi.iscsi.keys import (
    KEYS,
    Rule,
    TextError,
    answer_offer,
    check_answer,
    decode_number,
    decode_text,
    encode_text,
    make_parameters,
)
from scsi.iscsi.options import TargetOptions

WANTED = TargetOptions().wanted()


def test_text_is_pairs_that_end_with_nul() -> None:
    pairs = [("InitiatorName", "iqn.x:ü"), ("SendTargets", ""), ("X#Some.Thing-1", "a=b")]
    assert decode_text(encode_text(pairs)) == pairs
    assert encode_text([("A", "b")]) == b"A=b\0"
    assert decode_text(b"") == []
    assert decode_text(b"A=b\0\0C=d\0") == [("A", "b"), ("C", "d")]


@pytest.mark.parametrize(
    "text",
    [
        b"A=b",
        b"Ab\0",
        b"=b\0",
        b"A=b\0A=c\0",
        b"A" * 64 + b"=b\0",
        b"A=" + b"b" * 8193 + b"\0",
        b"A=\xff\0",
        b"\xc3\xa4=b\0",
        b"A B=c\0",
        b"1A=b\0",
        b"A\n=b\0",
    ],
)
def test_malformed_text_is_refused(text: bytes) -> None:
    with pytest.raises(TextError) as caught:
        decode_text(text)
    assert len(str(caught.value)) < 200


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_text_or_refused(text: bytes) -> None:
    try:
        pairs = decode_text(text)
    except TextError:
        return
    assert len(encode_text(pairs)) <= len(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("512", 512),
        ("0x200", 512),
        ("0X1fF", 511),
        ("00", None),
        ("-1", None),
        ("+1", None),
        ("1_0", None),
        ("٣", None),
        (" 1", None),
        ("1 ", None),
        ("1e3", None),
        ("0x", None),
        ("", None),
        ("9" * 4000, None),
        ("513", None),
    ],
)
def test_a_number_is_decimal_or_hexadecimal_and_in_range(text: str, number: int | None) -> None:
    assert decode_number(text, 0, 512) == number


@pytest.mark.parametrize(
    ("name", "offered", "answer"),
    [
        ("HeaderDigest", "CRC32C,None", "CRC32C"),
        ("HeaderDigest", "None,CRC32C", "None"),
        ("HeaderDigest", "MD5,None", "None"),
        ("HeaderDigest", "MD5", "Reject"),
        ("InitialR2T", "Yes", "Yes"),
        ("InitialR2T", "No", "No"),
        ("ImmediateData", "Yes", "Yes"),
        ("ImmediateData", "No", "No"),
        ("DataPDUInOrder", "No", "Yes"),
        ("MaxBurstLength", "4096", "4096"),
        ("MaxBurstLength", "16776192", str(WANTED["MaxBurstLength"])),
        ("DefaultTime2Wait", "0", "2"),
        ("DefaultTime2Wait", "30", "30"),
        ("DefaultTime2Retain", "20", "0"),
        ("IFMarker", "Yes", "No"),
        ("OFMarkInt", "2048", "Reject"),
        ("InitiatorAlias", "anything at all", ""),
        ("MaxRecvDataSegmentLength", "262144", ""),
        ("MaxRecvDataSegmentLength", "1", "Reject"),
    ],
)
def test_an_offer_is_answered_by_its_rule(name: str, offered: str, answer: str) -> None:
    assert answer_offer(KEYS[name], offered, WANTED.get(name))[0] == answer


def negotiated() -> list[str]:
    return [name for name, key in KEYS.items() if key.rule not in (Rule.DECLARE, Rule.OBSOLETE) and name in WANTED]


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.sampled_from(negotiated()), st.data())
def test_both_sides_come_to_the_same_result(name: str, data: st.DataObject) -> None:
    key = KEYS[name]
    if key.rule is Rule.FIRST:
        offered = ",".join(data.draw(st.lists(st.sampled_from([*key.choices, "odd"]), min_size=1, max_size=4)))
    elif key.high:
        offered = str(data.draw(st.integers(key.low, key.high)))
    else:
        offered = data.draw(st.sampled_from(["Yes", "No"]))
    answer, result = answer_offer(key, offered, WANTED[name])
    assert check_answer(key, offered, answer) == result


@pytest.mark.parametrize(
    ("name", "offered", "answer"),
    [
        ("HeaderDigest", "None", "CRC32C"),
        ("HeaderDigest", "None", ""),
        ("MaxBurstLength", "4096", "8192"),
        ("MaxBurstLength", "4096", "511"),
        ("MaxBurstLength", "4096", "many"),
        ("DefaultTime2Wait", "5", "4"),
        ("ImmediateData", "No", "Yes"),
        ("InitialR2T", "Yes", "No"),
        ("IFMarkInt", "2048", "2048"),
        ("ErrorRecoveryLevel", "0", "2"),
    ],
)
def test_an_answer_that_can_not_follow_from_the_offer_is_refused(name: str, offered: str, answer: str) -> None:
    with pytest.raises(TextError):
        check_answer(KEYS[name], offered, answer)


@pytest.mark.parametrize("answer", ["Reject", "Irrelevant", "NotUnderstood"])
def test_an_answer_that_declines_leaves_the_default(answer: str) -> None:
    assert check_answer(KEYS["MaxBurstLength"], "4096", answer) is None


def test_parameters_have_the_standards_defaults() -> None:
    parameters = make_parameters({}, 8192)
    assert (parameters.initial_r2t, parameters.immediate_data) == (True, True)
    assert (parameters.max_burst_length, parameters.first_burst_length) == (262144, 65536)
    assert (parameters.max_send_data_segment_length, parameters.max_outstanding_r2t) == (8192, 1)
    assert (parameters.default_time2wait, parameters.default_time2retain) == (2, 20)
    assert not parameters.header_digest
    assert not parameters.data_digest
    assert not parameters.discovery


def test_every_key_has_a_default_that_it_may_have() -> None:
    for key in KEYS.values():
        if key.high and key.default is not None:
            assert isinstance(key.default, int)
            assert key.low <= key.default <= key.high
        if key.choices and key.default is not None:
            assert key.default in key.choices
