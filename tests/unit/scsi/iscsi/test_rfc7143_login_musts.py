"""The MUSTs of RFC 7143 that a login shows on the wire; each test is named after its row in the project's ledger."""

import itertools
from typing import Any

import pytest

from scsi.iscsi.chap import ALGORITHMS, ChapPolicy, Credentials, compute_response
from scsi.iscsi.events import EndReason
from scsi.iscsi.options import TargetOptions
from tests.support.iscsi_peer import INITIATOR, TARGET, FakeDirectory, Peer, make_text

HOST = Credentials("host", b"a secret of the host")
ARRAY = Credentials("array", b"a secret of the array")


def test_m10_a_name_of_223_bytes_is_accepted() -> None:
    peer = Peer()
    name = "iqn.2026-11.io.annex:" + "a" * (223 - 21)
    assert len(name) == 223
    assert peer.login_step(peer.names(InitiatorName=name)).login_status == 0
    assert peer.session.initiator_name == name


def test_m10_a_name_of_224_bytes_is_refused_and_not_cut() -> None:
    peer = Peer()
    name = "iqn.2026-11.io.annex:" + "a" * (224 - 21)
    assert peer.login_step(peer.names(InitiatorName=name)).login_status == 0x0200
    assert peer.directory.asked == []


def test_m11_a_pair_without_a_nul_at_its_end_is_refused() -> None:
    peer = Peer()
    assert peer.login_step(make_text(peer.names()) + b"HeaderDigest=None").login_status == 0x0200


def test_m11_a_login_text_of_more_than_8192_bytes_is_taken_in_pieces() -> None:
    peer = Peer()
    text = make_text(peer.names()) + make_text([(f"X-io.annex.k{n}", "v" * 240) for n in range(40)])
    assert len(text) > 8192
    pieces = [text[at : at + 3000] for at in range(0, len(text), 3000)]
    for piece in pieces[:-1]:
        assert peer.login_step(piece, transit=False, more=True).login_status == 0
    last = peer.login_step(pieces[-1])
    assert last.login_status == 0
    assert last.text["X-io.annex.k39"] == "NotUnderstood"


def test_m12_a_request_with_c_gets_an_empty_answer_without_t_and_c() -> None:
    peer = Peer()
    answer = peer.login_step(b"InitiatorNa", transit=False, more=True)
    assert (answer.data, answer.flags & 0xC0, answer.login_status) == (b"", 0, 0)
    rest = make_text(peer.names())[len(b"InitiatorNa") :]
    assert peer.login_step(rest).login_status == 0
    assert peer.session.initiator_name == INITIATOR


def test_m12_c_together_with_t_is_refused() -> None:
    peer = Peer()
    assert peer.login_step(peer.names(), more=True).login_status == 0x0200


def test_m13_an_unknown_key_is_not_understood() -> None:
    peer = Peer()
    assert peer.log_in(**{"X-io.annex.odd": "1", "Oddity": "2"}).text["Oddity"] == "NotUnderstood"


# Every key that chapter 13 defines, with a value that fits, but those that say who is who.
DEFINED = {
    "HeaderDigest": "CRC32C,None",
    "DataDigest": "CRC32C,None",
    "MaxConnections": "8",
    "InitiatorAlias": "a host",
    "InitialR2T": "No",
    "ImmediateData": "Yes",
    "MaxRecvDataSegmentLength": "65536",
    "MaxBurstLength": "262144",
    "FirstBurstLength": "65536",
    "DefaultTime2Wait": "2",
    "DefaultTime2Retain": "0",
    "MaxOutstandingR2T": "1",
    "DataPDUInOrder": "No",
    "DataSequenceInOrder": "No",
    "ErrorRecoveryLevel": "2",
    "TaskReporting": "FastAbort,ResponseFence,RFC3720",
    "iSCSIProtocolLevel": "2",
    "IFMarker": "No",
    "OFMarker": "No",
    "IFMarkInt": "2048~8192",
    "OFMarkInt": "2048~8192",
    "X#NodeArchitecture": "linux",
}


def test_m13_no_key_that_the_rfc_defines_is_not_understood() -> None:
    answers = Peer().log_in(**DEFINED).text
    assert "NotUnderstood" not in answers.values()
    declared = {"InitiatorAlias", "X#NodeArchitecture"}
    assert set(DEFINED) - set(answers) == declared
    assert answers["TaskReporting"] == "ResponseFence"
    assert answers["iSCSIProtocolLevel"] == "1"
    assert (answers["DataPDUInOrder"], answers["DataSequenceInOrder"]) == ("Yes", "Yes")
    assert (answers["ErrorRecoveryLevel"], answers["MaxConnections"]) == ("0", "1")


@pytest.mark.parametrize("word", ["Reject", "Irrelevant", "NotUnderstood"])
@pytest.mark.parametrize("key", ["MaxBurstLength", "HeaderDigest", "InitialR2T", "InitiatorAlias"])
def test_m14_a_word_that_only_answers_may_have_is_refused_as_an_offer(key: str, word: str) -> None:
    peer = Peer()
    assert peer.login_step(peer.names(**{key: word})).login_status == 0x0200


def test_m15_the_first_of_the_offered_list_that_is_supported_is_chosen() -> None:
    assert Peer().log_in(HeaderDigest="X-md7,CRC32C,None").text["HeaderDigest"] == "CRC32C"
    assert Peer().log_in(HeaderDigest="None,CRC32C").text["HeaderDigest"] == "None"


def test_m15_none_is_not_chosen_when_it_was_not_offered() -> None:
    peer = Peer(options=TargetOptions(header_digests=("None",)))
    assert peer.log_in(HeaderDigest="CRC32C").text["HeaderDigest"] == "Reject"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MaxBurstLength", "511"),
        ("MaxBurstLength", "16777216"),
        ("MaxBurstLength", "0x1000000"),
        ("FirstBurstLength", "-1"),
        ("MaxConnections", "0"),
        ("MaxConnections", "65536"),
        ("MaxOutstandingR2T", "0"),
        ("DefaultTime2Wait", "3601"),
        ("ErrorRecoveryLevel", "3"),
        ("MaxRecvDataSegmentLength", "511"),
        ("MaxBurstLength", "12kB"),
        ("MaxBurstLength", ""),
        ("MaxBurstLength", "9" * 200),
        ("InitialR2T", "yes"),
    ],
)
def test_m16_a_value_out_of_range_is_rejected_and_not_stored(key: str, value: str) -> None:
    peer = Peer()
    assert peer.log_in(**{key: value}).text[key] == "Reject"
    assert peer.session.parameters.max_burst_length == 262144
    assert peer.session.parameters.max_send_data_segment_length == 8192
    assert peer.session.parameters.initial_r2t is True


def test_m17_a_key_that_is_declared_twice_in_one_text_ends_the_login() -> None:
    peer = Peer()
    pairs = [*peer.names().items(), ("MaxBurstLength", "65536"), ("MaxBurstLength", "65536")]
    assert peer.login_step(pairs).login_status == 0x0200


def test_m17_a_key_that_is_declared_again_in_a_later_request_ends_the_login() -> None:
    peer = Peer()
    assert peer.login_step(peer.names(MaxBurstLength="65536"), transit=False).login_status == 0
    assert peer.login_step({"MaxBurstLength": "65536"}).login_status == 0x0200


@pytest.mark.parametrize("missing", ["InitiatorName", "TargetName"])
def test_m18_a_first_login_that_lacks_a_name_is_told_so(missing: str) -> None:
    peer = Peer()
    names = peer.names()
    del names[missing]
    assert peer.login_step(names).login_status == 0x0207


def test_m18_a_discovery_login_needs_no_target_name() -> None:
    assert Peer().discover().login_status == 0


@pytest.mark.parametrize("session_type", ["Normal", "Discovery"])
def test_m19_the_portal_group_tag_is_in_the_first_response_that_has_text(session_type: str) -> None:
    peer = Peer(FakeDirectory(tag=77))
    text = make_text(peer.names(SessionType=session_type))
    assert peer.login_step(text[:20], stage=0, transit=False, more=True).text == {}
    assert peer.login_step(text[20:], stage=0, transit=False).text["TargetPortalGroupTag"] == "77"
    assert "TargetPortalGroupTag" not in peer.login_step(b"", stage=0).text


def test_m20_the_response_goes_on_only_when_it_was_asked_to() -> None:
    peer = Peer()
    assert peer.login_step(peer.names(), stage=0, transit=False).flags == 0x00
    assert peer.login_step(b"", stage=0, next_stage=1).flags == 0x81
    assert peer.login_step(b"", stage=1, transit=False).flags == 0x04
    assert peer.login_step(b"", stage=1, next_stage=3).flags == 0x87


@pytest.mark.parametrize(("stage", "next_stage"), [(0, 0), (0, 2), (1, 1), (1, 0), (1, 2), (2, 3), (3, 3)])
def test_m20_stages_that_there_are_not_end_the_login(stage: int, next_stage: int) -> None:
    peer = Peer()
    assert peer.login_step(peer.names(), stage=stage, next_stage=next_stage).login_status == 0x020B


def test_m21_the_new_tsih_is_in_the_final_response_only_and_stays() -> None:
    peer = Peer()
    assert peer.login_step(peer.names(), transit=False).short(14) == 0
    final = peer.login_step(b"")
    assert final.short(14) != 0
    assert peer.session.tsih == final.short(14)


@pytest.mark.parametrize(
    "change", [{"versions": (1, 0)}, {"tsih": 9}, {"cid": 1}, {"cmd_sn": 5}, {"isid": b"\x80ABCDE"}]
)
def test_m22_what_identifies_a_login_can_not_change_in_it(change: dict[str, Any]) -> None:
    peer = Peer()
    assert peer.login_step(peer.names(), transit=False).login_status == 0
    assert peer.login_step(b"", **change).login_status == 0x020B


def test_m22_a_version_that_is_too_new_is_told_so() -> None:
    peer = Peer()
    assert peer.login_step(peer.names(), versions=(2, 1)).login_status == 0x0205
    assert peer.is_closed()


def test_m23_the_first_command_has_the_cmd_sn_of_the_login() -> None:
    peer = Peer()
    peer.cmd_sn = 0x12345678
    answer = peer.log_in()
    assert answer.exp_cmd_sn == 0x12345678
    peer.send(peer.command_pdu())
    assert [command.cmd_sn for command in peer.commands] == [0x12345678]


def test_m24_a_refusal_is_sent_and_the_connection_closed_after_it() -> None:
    peer = Peer()
    answer = peer.login_step(peer.names(TargetName="iqn.2026-11.io.annex:other"))
    assert answer.login_status == 0x0203
    assert peer.is_closed()
    assert peer.send(peer.login_pdu(peer.names())) == []


def test_m25_a_new_login_ends_the_old_session_first_and_waits_for_its_tasks() -> None:
    old = Peer()
    old.log_in()
    old.send(old.command_pdu(b"\x2a", write=0))
    new = Peer(registry=old.registry)
    assert new.send(new.login_pdu(new.names())) == []
    assert [(end.session, end.reason) for end in new.ends] == [(old.logins[0], EndReason.REINSTATED)]
    assert new.logins == []
    assert old.is_closed()
    assert old.commands[0].aborted

    old.commands[0].complete(0)

    assert new.wakes == 1
    (answer,) = new.look()
    assert answer.login_status == 0
    assert new.logins == [new.session]
    assert old.look() == []  # neither an answer to the old task nor a second end of the session
    assert old.ends == []
    assert list(new.registry) == [new.session]


def test_m25_a_new_login_does_not_wait_when_the_old_session_has_no_tasks() -> None:
    old = Peer()
    old.log_in()
    new = Peer(registry=old.registry)
    new.log_in()
    assert [type(event).__name__ for event in new.events] == ["SessionEnded", "LoggedIn"]
    assert new.session.tsih != old.session.tsih


@pytest.mark.parametrize("change", ["isid", "target group", "initiator"])
def test_m25_a_login_of_another_nexus_disturbs_nobody(change: str) -> None:
    old = Peer()
    old.log_in()
    new = Peer(FakeDirectory(tag=2 if change == "target group" else 1), registry=old.registry)
    if change == "isid":
        new.isid = b"\x80\0\0\0\0\x99"
    new.log_in(**({"InitiatorName": "iqn.2026-11.io.annex:second"} if change == "initiator" else {}))
    assert not old.is_closed()
    assert len(old.registry) == 2


def test_m25_two_logins_that_wait_for_one_old_session_leave_one_session() -> None:
    old = Peer()
    old.log_in()
    old.send(old.command_pdu(b"\x2a", write=0))
    first, second = Peer(registry=old.registry), Peer(registry=old.registry)
    first.send(first.login_pdu(first.names()))
    second.send(second.login_pdu(second.names()))
    old.commands[0].complete(0)
    first.look()
    second.look()
    assert len(old.registry) == 1
    assert [session.end_reason for session in old.registry] == [None]


def test_m26_a_login_of_a_known_connection_takes_its_place_and_keeps_the_session() -> None:
    old = Peer()
    old.log_in(MaxBurstLength="65536")
    old.send(old.command_pdu())
    session = old.session
    new = Peer(registry=old.registry)
    new.tsih, new.cmd_sn = session.tsih, old.cmd_sn
    assert new.send(new.login_pdu(new.names(MaxBurstLength="1024"))) == []  # waits for the task of the old connection
    assert old.is_closed()
    old.commands[0].complete(0)
    (answer,) = new.look()
    assert (answer.login_status, answer.short(14)) == (0, session.tsih)
    assert answer.text["MaxBurstLength"] == "Reject"  # belongs to the session
    assert new.session is session
    assert session.parameters.max_burst_length == 65536
    assert (new.ends, old.ends, new.logins) == ([], [], [session])  # told on the new connection, not ended before
    new.send(new.command_pdu())
    assert len(new.commands) == 1
    old.connection.connection_lost()
    assert session.end_reason is None


def test_m26_a_second_connection_of_a_session_is_refused() -> None:
    old = Peer()
    old.log_in()
    new = Peer(registry=old.registry)
    assert new.login_step(new.names(), tsih=old.session.tsih, cid=1).login_status == 0x0206
    assert not old.is_closed()


def test_m26_a_session_that_there_is_not_is_told_so() -> None:
    peer = Peer()
    assert peer.login_step(peer.names(), tsih=99).login_status == 0x020A
    other = Peer()
    other.log_in()
    thief = Peer(registry=other.registry)
    names = thief.names(InitiatorName="iqn.2026-11.io.annex:thief")
    assert thief.login_step(names, tsih=other.session.tsih).login_status == 0x020A
    assert not other.is_closed()


def chap_peer(policy: ChapPolicy) -> Peer:
    peer = Peer(FakeDirectory(chap=policy))
    assert peer.login_step(peer.names(AuthMethod="CHAP"), stage=0, transit=False).text["AuthMethod"] == "CHAP"
    return peer


def challenge(peer: Peer, algorithm: int) -> tuple[int, bytes]:
    text = peer.login_step({"CHAP_A": str(algorithm)}, stage=0, transit=False).text
    assert text["CHAP_A"] == str(algorithm)
    return int(text["CHAP_I"]), bytes.fromhex(text["CHAP_C"][2:])


def proof(algorithm: int, identifier: int, challenge_value: bytes, secret: bytes = HOST.secret) -> str:
    return "0x" + compute_response(ALGORITHMS[algorithm], identifier, secret, challenge_value).hex()


def test_m35_a_target_whose_two_secrets_are_the_same_lets_nobody_in() -> None:
    peer = chap_peer(ChapPolicy(HOST, mutual=True, own=Credentials("array", HOST.secret)))
    identifier, value = challenge(peer, 5)
    keys = {"CHAP_N": "host", "CHAP_R": proof(5, identifier, value), "CHAP_I": "1", "CHAP_C": "0x0102030405060708"}
    assert peer.login_step(keys, stage=0).login_status == 0x0201


def test_m35_a_challenge_that_is_handed_back_ends_the_login() -> None:
    peer = chap_peer(ChapPolicy(HOST, mutual=True, own=ARRAY))
    identifier, value = challenge(peer, 5)
    keys = {
        "CHAP_N": "host",
        "CHAP_R": proof(5, identifier, value),
        "CHAP_I": str((identifier + 1) % 256),
        "CHAP_C": "0x" + value.hex(),
    }
    answer = peer.login_step(keys, stage=0)
    assert answer.login_status == 0x0201
    assert "CHAP_R" not in answer.text
    assert peer.is_closed()


@pytest.mark.parametrize("keys", [{"CHAP_R": "0x" + "00" * 16}, {"CHAP_N": "nobody"}])
def test_m36_a_wrong_proof_is_told_as_a_failed_authentication(keys: dict[str, str]) -> None:
    peer = chap_peer(ChapPolicy(HOST))
    identifier, value = challenge(peer, 5)
    right = {"CHAP_N": "host", "CHAP_R": proof(5, identifier, value)}
    assert peer.login_step(right | keys, stage=0).login_status == 0x0201
    assert peer.is_closed()


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_m36_every_algorithm_lets_the_right_initiator_in(algorithm: int) -> None:
    peer = chap_peer(ChapPolicy(HOST, mutual=True, own=ARRAY))
    identifier, value = challenge(peer, algorithm)
    mine = bytes(range(32))
    keys = {
        "CHAP_N": "host",
        "CHAP_R": proof(algorithm, identifier, value),
        "CHAP_I": "7",
        "CHAP_C": "0x" + mine.hex(),
    }
    answer = peer.login_step(keys, stage=0, next_stage=1)
    assert answer.flags == 0x81
    assert answer.text == {"CHAP_N": "array", "CHAP_R": proof(algorithm, 7, mine, ARRAY.secret)}
    assert peer.login_step(b"").login_status == 0


@pytest.mark.parametrize("stage", [0, 1])
def test_m36_nobody_gets_past_chap_by_not_offering_it(stage: int) -> None:
    peer = Peer(FakeDirectory(chap=ChapPolicy(HOST)))
    assert peer.login_step(peer.names(), stage=stage).login_status == 0x0201
    peer = Peer(FakeDirectory(chap=ChapPolicy(HOST)))
    assert peer.login_step(peer.names(AuthMethod="None"), stage=0).login_status == 0x0201


def test_m36_asking_for_the_next_stage_in_the_middle_of_chap_does_not_get_it() -> None:
    peer = Peer(FakeDirectory(chap=ChapPolicy(HOST)))
    assert peer.login_step(peer.names(AuthMethod="CHAP"), stage=0).flags == 0x00
    assert peer.login_step({"CHAP_A": "5"}, stage=0).flags == 0x00
    assert peer.login_step(b"", stage=1).login_status == 0x020B


def test_m48_first_burst_is_never_above_max_burst_whatever_the_order() -> None:
    offers = [("MaxBurstLength", "4096"), ("FirstBurstLength", "65536")]
    for order in itertools.permutations(offers):
        peer = Peer()
        answer = peer.login_step([*peer.names().items(), *order])
        assert int(answer.text["FirstBurstLength"]) <= int(answer.text["MaxBurstLength"]) == 4096
        assert peer.session.parameters.first_burst_length == 4096
        apart = Peer()
        apart.login_step([*apart.names().items(), order[0]], transit=False)
        apart.login_step([order[1]])
        assert apart.session.parameters.first_burst_length == 4096
    only = Peer()
    only.log_in(MaxBurstLength="4096")
    assert only.session.parameters.first_burst_length == 4096


def test_m49_marker_keys_are_answered_and_never_not_understood() -> None:
    offered = {"IFMarker": "Yes", "OFMarker": "Yes", "IFMarkInt": "2048", "OFMarkInt": "2048~4096"}
    answers = Peer().log_in(**offered).text
    assert (answers["IFMarker"], answers["OFMarker"]) == ("No", "No")
    assert (answers["IFMarkInt"], answers["OFMarkInt"]) == ("Reject", "Reject")


def test_m34_a_discovery_session_has_no_error_recovery_and_no_keys_of_data() -> None:
    answers = Peer().discover(ErrorRecoveryLevel="2", MaxBurstLength="65536", InitialR2T="No").text
    assert answers["ErrorRecoveryLevel"] == "0"
    assert (answers["MaxBurstLength"], answers["InitialR2T"]) == ("Irrelevant", "Irrelevant")


def test_a_target_that_has_moved_is_told_with_its_address() -> None:
    from scsi.iscsi.errors import LoginRefused, LoginStatus

    refusal = LoginRefused(LoginStatus.TARGET_MOVED_TEMPORARILY, "moved", "192.0.2.9:3260")
    answer = (peer := Peer(FakeDirectory(refusal=refusal))).login_step(peer.names())
    assert answer.login_status == 0x0101
    assert answer.text == {"TargetAddress": "192.0.2.9:3260"}
    assert peer.directory.asked == [(INITIATOR, TARGET)]
