from typing import Any

import pytest

from scsi.iscsi.chap import ChapFailure, ChapPolicy, ChapTarget, Credentials
from scsi.iscsi.errors import LoginStatus
from scsi.iscsi.initiator_options import SessionReady
from scsi.iscsi.keys import Parameters
from tests.support.iscsi_peer import make_text
from tests.support.streams import assert_same_in_every_cutting
from tests.support.target_peer import ISID, TARGET, TargetPeer

OWN = Credentials("annex", b"secret of annex")
THEIRS = Credentials("array", b"secret of array")


def reason(peer: TargetPeer) -> str:
    assert peer.over is not None
    assert peer.connection.closing
    assert peer.connection.reason == peer.over.reason
    return peer.over.reason


def to_operational(**changes: Any) -> TargetPeer:
    """Bring a login to the point where the operational keys are offered."""
    peer = TargetPeer(**changes)
    peer.requests()
    peer.send(peer.login_response({"AuthMethod": "None"}, stage=0, next_stage=1))
    peer.requests()
    return peer


def chap_login(policy: ChapPolicy, **changes: Any) -> TargetPeer:
    """Log in against annex's own CHAP target."""
    peer = TargetPeer(**changes)
    target = ChapTarget(policy)
    first = peer.request()
    peer.send(peer.login_response({"AuthMethod": "CHAP", "TargetPortalGroupTag": "1"}, stage=0))
    assert "CHAP" in first.text["AuthMethod"].split(",")
    for _ in range(2):
        request = peer.request()
        try:
            answer = dict(target.step(request.text))
        except ChapFailure:
            peer.send(peer.login_response(stage=0, status=0x0201))
            return peer
        peer.send(peer.login_response(answer, stage=0, next_stage=1 if target.done else None))
    if peer.over is None:
        peer.requests()
        peer.send(peer.login_response({}, stage=1, next_stage=3))
    return peer


def test_the_first_request_says_who_wants_what() -> None:
    request = TargetPeer().request()
    assert request.opcode == 0x03
    assert request.raw[0] & 0x40
    assert request.flags == 0x81  # transit, from security to operational negotiation
    assert request.raw[8:14] == ISID
    assert request.short(14) == 0
    assert request.text == {
        "InitiatorName": "iqn.2026-11.io.annex:test",
        "SessionType": "Normal",
        "TargetName": TARGET,
        "AuthMethod": "None",
    }


def test_the_offer_has_every_key_and_the_session_has_what_was_agreed() -> None:
    peer = TargetPeer()
    offered = peer.log_in()
    assert offered["MaxRecvDataSegmentLength"] == "262144"
    assert offered["InitialR2T"] == "No"
    assert offered["ImmediateData"] == "Yes"
    assert offered["ErrorRecoveryLevel"] == "0"
    assert offered["HeaderDigest"] == "None,CRC32C"
    assert peer.connection.parameters == Parameters(
        initial_r2t=False,
        max_recv_data_segment_length=262144,
        max_send_data_segment_length=4096,
        max_burst_length=16384,
        first_burst_length=8192,
        default_time2retain=0,
    )
    assert peer.events == [SessionReady(1)]


def test_a_login_is_the_same_however_its_bytes_come() -> None:
    script = TargetPeer()
    script.requests()
    first = script.login_response({"AuthMethod": "None"}, stage=0, next_stage=1)
    second = script.login_response({"HeaderDigest": "None", "DataDigest": "CRC32C"}, stage=1, next_stage=3)

    def read(pieces: list[bytes]) -> tuple[list[object], Parameters, list[bytes]]:
        peer = TargetPeer()
        peer.send_pieces(pieces)
        return list(peer.events), peer.connection.parameters, [pdu.raw for pdu in peer.requests()]

    events, parameters, _ = assert_same_in_every_cutting(first + second, read)
    assert events == [SessionReady(None)]
    assert parameters.data_digest
    assert not parameters.header_digest


@pytest.mark.parametrize("algorithm", [5, 6, 7, 8])
def test_one_way_chap(algorithm: int) -> None:
    policy = ChapPolicy(OWN, algorithms=(algorithm,))
    assert chap_login(policy, chap=OWN).events == [SessionReady(1)]


@pytest.mark.parametrize("algorithm", [5, 6, 7, 8])
def test_mutual_chap(algorithm: int) -> None:
    policy = ChapPolicy(OWN, mutual=True, own=THEIRS, algorithms=(algorithm,))
    assert chap_login(policy, chap=OWN, mutual_chap=THEIRS).events == [SessionReady(1)]


def test_a_wrong_secret_is_refused_by_the_target() -> None:
    peer = chap_login(ChapPolicy(Credentials("annex", b"another secret")), chap=OWN)
    assert peer.over is not None
    assert peer.over.status == LoginStatus.AUTHENTICATION_FAILURE
    assert "authentication failure" in reason(peer)


def test_a_target_that_does_not_know_its_secret_is_refused_by_annex() -> None:
    policy = ChapPolicy(OWN, mutual=True, own=Credentials("array", b"a guess"))
    peer = chap_login(policy, chap=OWN, mutual_chap=THEIRS)
    assert "wrong CHAP name or secret" in reason(peer)


def test_a_target_that_goes_on_without_its_proof_is_refused() -> None:
    peer = TargetPeer(chap=OWN, mutual_chap=THEIRS)
    assert peer.request().text["AuthMethod"] == "CHAP"
    target = ChapTarget(ChapPolicy(OWN, mutual=True, own=THEIRS))
    peer.send(peer.login_response({"AuthMethod": "CHAP"}, stage=0))
    peer.send(peer.login_response(dict(target.step(peer.request().text)), stage=0))
    peer.request()
    peer.send(peer.login_response({}, stage=0, next_stage=1))
    assert "CHAP_N is missing" in reason(peer)


def test_a_target_that_wants_no_authentication_is_refused_where_it_has_to_prove_itself() -> None:
    peer = TargetPeer(chap=OWN, mutual_chap=THEIRS)
    peer.requests()
    peer.send(peer.login_response({"AuthMethod": "None"}, stage=0))
    assert "AuthMethod" in reason(peer)


def test_a_target_that_wants_no_authentication_is_taken_where_annex_would_only_prove_itself() -> None:
    peer = TargetPeer(chap=OWN)
    assert peer.request().text["AuthMethod"] == "CHAP,None"
    peer.send(peer.login_response({"AuthMethod": "None"}, stage=0))
    peer.send(peer.login_response({}, stage=0, next_stage=1))
    peer.send(peer.login_response({}, stage=1, next_stage=3))
    assert peer.events == [SessionReady(None)]


def test_a_target_that_wants_chap_is_refused_where_there_is_no_secret() -> None:
    peer = TargetPeer()
    peer.requests()
    peer.send(peer.login_response({"AuthMethod": "CHAP"}, stage=0))
    assert "AuthMethod 'CHAP'" in reason(peer)


def test_mutual_chap_without_an_own_secret_never_begins() -> None:
    peer = TargetPeer(mutual_chap=THEIRS)
    assert peer.requests() == []
    peer.lose()
    assert "needs a name and secret" in reason(peer)


def test_digests_that_are_configured_are_insisted_on() -> None:
    peer = TargetPeer(header_digest=True, data_digest=True)
    offered = peer.log_in(HeaderDigest="CRC32C", DataDigest="CRC32C")
    assert (offered["HeaderDigest"], offered["DataDigest"]) == ("CRC32C", "CRC32C")
    peer = to_operational(header_digest=True)
    peer.send(peer.login_response({"HeaderDigest": "None"}, stage=1, next_stage=3))
    assert "HeaderDigest" in reason(peer)
    peer = to_operational(data_digest=True)
    peer.send(peer.login_response({"DataDigest": "Reject"}, stage=1, next_stage=3))
    assert "digests" in reason(peer)


def test_offers_of_the_target_are_answered() -> None:
    peer = to_operational()
    offers = {"IFMarker": "Yes", "X-org.example.key": "1", "TaskReporting": "FastAbort,RFC3720", "IFMarkInt": "1~2"}
    peer.send(peer.login_response(offers, stage=1))
    answers = {
        "IFMarker": "No",
        "X-org.example.key": "NotUnderstood",
        "TaskReporting": "RFC3720",
        "IFMarkInt": "Reject",
    }
    assert peer.request().text == answers
    peer.send(peer.login_response({}, stage=1, next_stage=3))
    assert peer.events == [SessionReady(None)]


def test_text_in_parts_is_put_together() -> None:
    peer = to_operational()
    text = make_text({"MaxBurstLength": "1024", "FirstBurstLength": "512"})
    peer.send(peer.login_response(text[:20], stage=1, more=True))
    assert peer.request().data == b""
    peer.send(peer.login_response(text[20:], stage=1, next_stage=3))
    assert peer.connection.parameters.max_burst_length == 1024
    assert peer.connection.parameters.first_burst_length == 512


def test_a_redirection_says_where_to() -> None:
    peer = TargetPeer()
    peer.requests()
    peer.send(peer.login_response({"TargetAddress": "192.0.2.9:3261,1"}, stage=0, status=0x0101))
    assert peer.over is not None
    assert peer.over.moved_to == "192.0.2.9:3261,1"


@pytest.mark.parametrize("status", [0x0200, 0x0203, 0x0300, 0x0301, 0x02FF, 0xFFFF])
def test_every_refusal_ends_the_login(status: int) -> None:
    peer = TargetPeer()
    peer.requests()
    peer.send(peer.login_response(stage=0, status=status))
    assert f"{status:#06x}" in reason(peer)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tag": 2}, "task tag"),
        ({"isid": bytes(6)}, "ISID"),
        ({"version": 1}, "version"),
        ({"stat_sn": 5}, "StatSN"),
        ({"stage": 0}, "stage"),
        ({"next_stage": 2}, "stage 2"),
        ({"next_stage": 1}, "stage 1"),
        ({"tsih": 0}, "TSIH"),
        ({"exp_cmd_sn": 9}, "ExpCmdSN"),
        ({"more": True}, "not asked"),
        ({"pairs": b"MaxBurstLength=1024"}, "NUL"),
        ({"pairs": b"\xff=1\0"}, "text|key|UTF-8"),
        ({"pairs": {"MaxBurstLength": "99999999"}}, "MaxBurstLength"),
        ({"pairs": {"MaxBurstLength": "2097152"}}, "MaxBurstLength"),
        ({"pairs": {"MaxRecvDataSegmentLength": "0"}}, "MaxRecvDataSegmentLength"),
        ({"pairs": {"ImmediateData": "Maybe"}}, "ImmediateData"),
        ({"pairs": {"IFMarker": "No"}}, "leaves the negotiation"),
        ({"pairs": {"ErrorRecoveryLevel": "2"}}, "ErrorRecoveryLevel"),
    ],
)
def test_a_last_response_that_can_not_be_right_ends_the_login(changes: dict[str, Any], expected: str) -> None:
    peer = to_operational()
    arguments: dict[str, Any] = {"pairs": {}, "stage": 1, "next_stage": 3} | changes
    peer.send(peer.login_response(**arguments))
    assert any(word in reason(peer) for word in expected.split("|"))


@pytest.mark.parametrize("opcode", [0x20, 0x21, 0x22, 0x25, 0x31, 0x3F, 0x00])
def test_other_pdus_during_login_end_it(opcode: int) -> None:
    peer = TargetPeer()
    peer.send(peer.other(opcode, 1))
    assert "during login" in reason(peer)


def test_a_target_that_never_comes_to_an_end_is_left() -> None:
    peer = to_operational()
    for _ in range(100):
        peer.send(peer.login_response({}, stage=1))
    assert peer.over is not None
    peer = to_operational()
    for _ in range(100):
        peer.send(peer.login_response(b"X-a=" + b"x" * 8000, stage=1, more=True))
    assert "does not come to an end" in reason(peer)


def test_a_segment_longer_than_allowed_is_not_read() -> None:
    peer = TargetPeer()
    header = bytearray(peer.login_response({}, stage=0))
    header[5:8] = (8193).to_bytes(3, "big")
    peer.send(bytes(header))
    assert "8193" in reason(peer)


def test_a_connection_that_closes_during_login_is_over() -> None:
    peer = TargetPeer()
    peer.lose()
    assert "closed" in reason(peer)
    assert peer.connection.next_deadline() is None
