import pytest

from scsi.iscsi.directory import Portal, TargetListing
from tests.support.iscsi_peer import NO_TAG, TARGET, FakeDirectory, Peer, make_text

TEXT_RESPONSE, REJECT = 0x24, 0x3F


def logged_in() -> Peer:
    peer = Peer()
    peer.log_in()
    return peer


def test_a_question_may_come_in_pieces() -> None:
    peer = logged_in()
    text = make_text({"X-io.annex.long": "v" * 3000, "SendTargets": ""})
    tag = NO_TAG
    for at in range(0, len(text), 1000):
        last = at + 1000 >= len(text)
        (answer,) = peer.send(peer.text_pdu(text[at : at + 1000], tag=9, transfer_tag=tag, more=not last, final=last))
        tag = answer.transfer_tag
        assert (answer.opcode, bool(answer.flags & 0x80), bool(answer.data)) == (TEXT_RESPONSE, last, last)
    assert answer.text["X-io.annex.long"] == "NotUnderstood"
    assert answer.text["TargetName"] == TARGET


def test_a_question_without_end_is_bounded() -> None:
    peer = logged_in()
    tag = NO_TAG
    for _ in range(8):
        (answer,) = peer.send(peer.text_pdu(b"a" * 8192, tag=9, transfer_tag=tag, more=True, final=False))
        tag = answer.transfer_tag
    (reject,) = peer.send(peer.text_pdu(b"a" * 8192, tag=9, transfer_tag=tag, more=True, final=False))
    assert (reject.opcode, reject.raw[2]) == (REJECT, 0x0A)
    peer.cmd_sn -= 1
    (answer,) = peer.send(peer.text_pdu({"SendTargets": ""}))
    assert answer.flags == 0x80


@pytest.mark.parametrize("how", [{"transfer_tag": 77}, {"more": True}, {"tag": NO_TAG}])
def test_a_text_that_continues_nothing_or_contradicts_itself_is_rejected(how: dict[str, int]) -> None:
    peer = logged_in()
    (reject,) = peer.send(peer.text_pdu({"SendTargets": ""}, **how))  # type: ignore[arg-type]  # any of its keywords
    assert (reject.opcode, reject.raw[2]) == (REJECT, 0x09)
    assert not peer.is_closed()


def test_a_new_question_drops_one_that_was_not_finished() -> None:
    peer = logged_in()
    peer.send(peer.text_pdu(b"X-io.annex", tag=9, more=True, final=False))
    (answer,) = peer.send(peer.text_pdu({"SendTargets": ""}, tag=10))
    assert answer.text["TargetName"] == TARGET
    assert answer.flags == 0x80


def test_text_in_the_middle_of_an_answer_is_refused() -> None:
    listings = [TargetListing(f"iqn.2026-11.io.annex:t{n}", [Portal("192.0.2.2", 3260, 1)]) for n in range(100)]
    peer = Peer(FakeDirectory(listings=listings))
    peer.discover(MaxRecvDataSegmentLength="512")
    (piece,) = peer.send(peer.text_pdu({"SendTargets": "All"}, tag=9))
    (reject,) = peer.send(peer.text_pdu({"A": "b"}, tag=9, transfer_tag=piece.transfer_tag))
    assert (reject.opcode, reject.raw[2]) == (REJECT, 0x04)


def test_one_target_can_be_asked_for_by_name() -> None:
    listings = [TargetListing(f"iqn.2026-11.io.annex:t{n}", [Portal("192.0.2.2", 3260 + n, 1)]) for n in range(3)]
    peer = Peer(FakeDirectory(listings=listings))
    peer.discover()
    (answer,) = peer.send(peer.text_pdu({"SendTargets": "iqn.2026-11.io.annex:t1"}))
    assert answer.pairs == [("TargetName", "iqn.2026-11.io.annex:t1"), ("TargetAddress", "192.0.2.2:3261,1")]
    (answer,) = peer.send(peer.text_pdu({"SendTargets": "iqn.2026-11.io.annex:hidden"}))
    assert answer.pairs == []
    (answer,) = peer.send(peer.text_pdu({"SendTargets": ""}))
    assert answer.pairs == [("SendTargets", "Reject")]


def test_the_segment_length_of_the_initiator_can_change_and_then_counts() -> None:
    peer = logged_in()
    (answer,) = peer.send(peer.text_pdu({"MaxRecvDataSegmentLength": "512", "InitiatorAlias": "new"}))
    assert (answer.flags, answer.data) == (0x80, b"")
    assert len(peer.send(peer.nop_pdu(b"x" * 1000))[0].data) == 512
    peer.send(peer.command_pdu(b"\x28", read=1024))
    peer.commands[0].complete(0, bytes(1024))
    assert [len(pdu.data) for pdu in peer.look()] == [512, 512]


@pytest.mark.parametrize(
    "key", ["MaxBurstLength", "HeaderDigest", "InitialR2T", "InitiatorName", "SessionType", "AuthMethod"]
)
def test_a_key_that_belongs_to_the_login_is_rejected(key: str) -> None:
    peer = logged_in()
    (answer,) = peer.send(peer.text_pdu({key: "512"}))
    assert answer.text == {key: "Reject"}
    assert peer.session.parameters.max_burst_length == 262144
