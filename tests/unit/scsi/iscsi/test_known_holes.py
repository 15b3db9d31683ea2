"""Holes that other targets had, each tried on ours; named after the rows V4 to V24 of the project's ledger."""

import base64
import tracemalloc
from typing import Any

import pytest

from scsi.iscsi.chap import ALGORITHMS, ChapPolicy, Credentials, compute_response
from scsi.iscsi.events import EndReason, ScsiCommand
from scsi.iscsi.options import TargetOptions
from tests.support.iscsi_peer import INITIATOR, FakeDirectory, Peer, make_text
from tests.support.streams import assert_same_in_every_cutting, cuttings_in_two

HOST = Credentials("host", b"a secret of the host")
ARRAY = Credentials("array", b"a secret of the array")
WRITE = bytes.fromhex("2a000000000000000800")
READ = bytes.fromhex("28000000000000000800")
REJECT, R2T, RESPONSE = 0x3F, 0x31, 0x21


def challenged(policy: ChapPolicy, *, discovery: bool = False, algorithm: int = 5) -> tuple[Peer, int, bytes]:
    """Log in up to the challenge, and return it."""
    directory = FakeDirectory(discovery_chap=policy) if discovery else FakeDirectory(chap=policy)
    peer = Peer(directory)
    names = {"InitiatorName": INITIATOR, "SessionType": "Discovery"} if discovery else peer.names()
    peer.login_step(names | {"AuthMethod": "CHAP,None"}, stage=0, transit=False)
    text = peer.login_step({"CHAP_A": str(algorithm)}, stage=0, transit=False).text
    return peer, int(text["CHAP_I"]), bytes.fromhex(text["CHAP_C"][2:])


def right(identifier: int, challenge: bytes) -> bytes:
    return compute_response(ALGORITHMS[5], identifier, HOST.secret, challenge)


@pytest.mark.parametrize("length", [0, 1, 15, 17, 1024, 8000])
@pytest.mark.parametrize("encoding", ["hexadecimal", "base64", "nothing"])
def test_v04_v05_a_response_of_the_wrong_length_is_a_failed_authentication(length: int, encoding: str) -> None:
    peer, identifier, challenge = challenged(ChapPolicy(HOST))
    value = (right(identifier, challenge) * 600)[:length]
    text = {
        "hexadecimal": "0x" + value.hex(),
        "base64": "0b" + base64.b64encode(value).decode(),
        "nothing": value.hex(),
    }[encoding]
    data = make_text({"CHAP_N": "host", "CHAP_R": text})
    step = 8000
    for at in range(0, len(data) - step, step):
        peer.login_step(data[at : at + step], stage=0, transit=False, more=True)
    last = (len(data) - 1) // step * step
    assert peer.login_step(data[last:], stage=0).login_status in (0x0201, 0x0200)
    assert peer.is_closed()


@pytest.mark.parametrize(
    "encode", [lambda value: "0X" + value.hex().upper(), lambda value: "0b" + base64.b64encode(value).decode()]
)
def test_v05_a_right_response_counts_in_either_encoding(encode: object) -> None:
    assert callable(encode)
    peer, identifier, challenge = challenged(ChapPolicy(HOST))
    keys = {"CHAP_N": "host", "CHAP_R": encode(right(identifier, challenge))}
    assert peer.login_step(keys, stage=0, next_stage=1).flags == 0x81


@pytest.mark.parametrize(
    ("identifier", "status"),
    [
        ("0x1", 0),
        ("255", 0),
        ("0", 0),
        ("256", 0x0201),
        ("0xffffffffff", 0x0201),
        ("", 0x0201),
        ("-1", 0x0201),
        ("9" * 400, 0x0201),
    ],
)
def test_v06_an_identifier_is_a_number_up_to_255_in_either_notation(identifier: str, status: int) -> None:
    peer, own, challenge = challenged(ChapPolicy(HOST, mutual=True, own=ARRAY))
    proof = "0x" + right(own, challenge).hex()
    keys = {"CHAP_N": "host", "CHAP_R": proof, "CHAP_I": identifier, "CHAP_C": "0x" + "ab" * 16}
    assert peer.login_step(keys, stage=0).login_status == status


@pytest.mark.parametrize(("length", "status"), [(1, 0), (1024, 0), (1025, 0x0201), (0, 0x0201)])
def test_v06_a_challenge_has_up_to_1024_bytes(length: int, status: int) -> None:
    peer, own, challenge = challenged(ChapPolicy(HOST, mutual=True, own=ARRAY))
    proof = "0x" + right(own, challenge).hex()
    keys = {"CHAP_N": "host", "CHAP_R": proof, "CHAP_I": "1", "CHAP_C": "0x" + "ab" * length}
    assert peer.login_step(keys, stage=0).login_status == status


def test_v08_challenges_are_as_long_as_the_digest_and_never_repeat() -> None:
    for algorithm in ALGORITHMS.values():
        seen = {challenged(ChapPolicy(HOST), algorithm=algorithm.number)[2] for _ in range(20)}
        assert len(seen) == 20
        assert {len(challenge) for challenge in seen} == {algorithm.digest_bytes}


@pytest.mark.parametrize("length", [64, 256, 8000])
def test_v09_a_long_unknown_key_is_not_copied_into_the_answer(length: int) -> None:
    peer = Peer()
    answer = peer.login_step(peer.names(**{"X" * length: "1"}))
    assert answer.login_status == 0x0200
    assert len(answer.data) < 64


def test_v10_many_unknown_keys_do_not_make_an_answer_that_is_too_long() -> None:
    peer = Peer()
    text = make_text(peer.names()) + make_text([(f"a{n}", "b") for n in range(900)])
    assert len(text) <= 8192
    answer = peer.login_step(text)
    assert answer.login_status == 0x0200
    assert answer.data == b""
    assert peer.is_closed()


def test_v10_the_text_of_one_login_is_bounded() -> None:
    peer = Peer()
    for _ in range(8):
        assert peer.login_step(b"a" * 8192, transit=False, more=True).login_status == 0
    assert peer.login_step(b"a" * 8192, transit=False, more=True).login_status == 0x0200


def test_v11_a_text_with_a_bad_digest_leaves_nothing_behind() -> None:
    peer = Peer()
    peer.log_in(DataDigest="CRC32C")
    stream = bytearray(peer.text_pdu({"SendTargets": ""}, tag=9))
    stream[50] ^= 1
    (reject,) = peer.send(bytes(stream))
    assert (reject.opcode, reject.raw[2]) == (REJECT, 0x02)
    peer.cmd_sn = 1
    (answer,) = peer.send(peer.text_pdu({"SendTargets": ""}, tag=9))
    assert answer.flags == 0x80
    peer.connection.connection_lost()
    assert len(peer.registry) == 0


@pytest.mark.parametrize(
    "lengths", [b"\x00\xff\xff\xff", b"\xff\x00\x00\x00", b"\x00\x00\x20\x01", b"\xff\xff\xff\xff"]
)
def test_v12_a_login_that_announces_too_much_is_closed_before_anything_is_kept_for_it(lengths: bytes) -> None:
    peer = Peer()
    stream = bytearray(peer.login_pdu(peer.names()))
    stream[4:8] = lengths
    tracemalloc.start()
    assert peer.send(bytes(stream[:48]) + bytes(1020)) == []
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peer.is_closed()
    assert peak < 64 * 1024


def test_v12_a_connection_that_has_not_logged_in_holds_little() -> None:
    assert len(Peer().connection.receive_buffer()) < 16 * 1024


def test_v14_an_unknown_name_fails_as_a_wrong_secret_does() -> None:
    answers = []
    for name, secret in (("nobody", HOST.secret), ("host", b"not the secret")):
        peer, identifier, challenge = challenged(ChapPolicy(HOST))
        proof = compute_response(ALGORITHMS[5], identifier, secret, challenge)
        answer = peer.login_step({"CHAP_N": name, "CHAP_R": "0x" + proof.hex()}, stage=0)
        answers.append((answer.login_status, answer.data))
    assert answers == [(0x0201, b"")] * 2


@pytest.mark.parametrize("stage", [0, 1])
def test_v15_discovery_without_chap_sees_nothing_where_chap_is_configured(stage: int) -> None:
    peer = Peer(FakeDirectory(discovery_chap=ChapPolicy(HOST)))
    keys = {"InitiatorName": INITIATOR, "SessionType": "Discovery"}
    assert peer.login_step(keys, stage=stage).login_status == 0x0201
    assert peer.connection.session is None


def test_v15_discovery_with_the_wrong_secret_is_refused_and_with_the_right_one_works() -> None:
    peer, _, _ = challenged(ChapPolicy(HOST), discovery=True)
    assert peer.login_step({"CHAP_N": "host", "CHAP_R": "0x" + "00" * 16}, stage=0).login_status == 0x0201
    peer, identifier, challenge = challenged(ChapPolicy(HOST), discovery=True)
    keys = {"CHAP_N": "host", "CHAP_R": "0x" + right(identifier, challenge).hex()}
    assert peer.login_step(keys, stage=0).login_status == 0
    (answer,) = peer.send(peer.text_pdu({"SendTargets": "All"}))
    assert "TargetName" in answer.text


@pytest.mark.parametrize("mutual", [True, False])
@pytest.mark.parametrize("own", [ARRAY, None])
@pytest.mark.parametrize("asks", [True, False])
def test_v16_the_flag_decides_about_mutual_chap_and_not_the_presence_of_a_secret(
    mutual: bool, own: Credentials | None, asks: bool
) -> None:
    peer, identifier, challenge = challenged(ChapPolicy(HOST, mutual=mutual, own=own))
    keys = {"CHAP_N": "host", "CHAP_R": "0x" + right(identifier, challenge).hex()}
    if asks:
        keys |= {"CHAP_I": "9", "CHAP_C": "0x" + "cd" * 16}
    answer = peer.login_step(keys, stage=0)
    works = (mutual and asks and own is not None) or (not mutual and not asks)
    assert answer.login_status == (0 if works else 0x0201)
    assert ("CHAP_R" in answer.text) == (works and mutual)


@pytest.mark.parametrize("kind", ["login", "text", "immediate", "data-out", "nop"])
def test_v17_no_data_where_data_is_expected_is_taken_for_none(kind: str) -> None:
    peer = Peer()
    if kind == "login":
        assert peer.login_step(b"").login_status == 0x0207
        return
    peer.log_in(InitialR2T="No")
    if kind == "text":
        (answer,) = peer.send(peer.text_pdu(b""))
        assert (answer.flags, answer.data) == (0x80, b"")
    elif kind == "nop":
        assert peer.send(peer.nop_pdu(b""))[0].data == b""
    elif kind == "immediate":
        assert peer.send(peer.command_pdu(WRITE, write=512))[0].opcode == R2T
    else:
        peer.send(peer.command_pdu(WRITE, write=512, tag=7, final=False))
        assert peer.send(peer.data_out_pdu(7, b"", offset=0))[0].opcode == R2T
        assert peer.commands == []


@pytest.mark.parametrize("opcode", [*range(0x07), 0x10, 0x1C, 0x1F, 0x20, 0x21, 0x25, 0x31, 0x3F])
@pytest.mark.parametrize("words", [1, 2, 40, 255])
@pytest.mark.parametrize("immediate", [0, 0x40])
def test_v18_additional_headers_with_any_opcode_are_refused_or_understood(
    opcode: int, words: int, immediate: int
) -> None:
    peer = Peer()
    peer.log_in()
    header = (
        bytes([opcode | immediate, 0x80])
        + bytes(14)
        + (77).to_bytes(4, "big")
        + bytes(4)
        + (1).to_bytes(4, "big")
        + bytes(20)
    )
    answers = peer.send(peer.pack(header, ahs=bytes([0, 1]) + b"\xff" * (4 * words - 2)))
    if not peer.is_closed():
        assert all(pdu.opcode == REJECT and 48 <= len(pdu.data) <= 48 + 1020 for pdu in answers)
        assert peer.send(peer.nop_pdu(b"still here"))[0].data == b"still here"
    assert peer.commands == []


def recorded_session(header_digest: str, data_digest: str) -> bytes:
    """Return the bytes of a session with most kinds of PDU, as its initiator sent them."""
    peer = Peer()
    stream = peer.login_pdu(peer.names(HeaderDigest=header_digest, DataDigest=data_digest, InitialR2T="No"))
    peer.header_digest = header_digest == "CRC32C"
    peer.data_digest = data_digest == "CRC32C"
    stream += peer.nop_pdu(b"ping")
    stream += peer.command_pdu(READ, read=20, tag=100)
    stream += peer.command_pdu(WRITE, write=9, data=b"immediate", tag=101)
    stream += peer.command_pdu(WRITE, write=11, data=b"some", tag=102, final=False)
    stream += peer.data_out_pdu(102, b"and", offset=4, final=False)
    stream += peer.data_out_pdu(102, b"more", offset=7, data_sn=1)
    stream += peer.command_pdu(WRITE, write=5, tag=103)
    stream += peer.data_out_pdu(103, b"asked", offset=0, transfer_tag=1)
    stream += peer.text_pdu({"SendTargets": ""})
    stream += peer.task_management_pdu(1, referenced=999, ref_cmd_sn=1)
    return stream  # what would still find or miss a task by the way it is cut, an abort or a logout, is not in it


@pytest.mark.parametrize("header_digest", ["None", "CRC32C"])
@pytest.mark.parametrize("data_digest", ["None", "CRC32C"])
def test_v19_a_session_is_the_same_wherever_its_stream_is_cut(header_digest: str, data_digest: str) -> None:
    stream = recorded_session(header_digest, data_digest)

    def read(pieces: list[bytes]) -> list[Any]:
        peer = Peer()
        sent = b""
        for piece in pieces:
            for event in peer.connection.receive_data(piece):
                peer.events.append(event)
                if isinstance(event, ScsiCommand):
                    event.complete(0, b"r" * event.data_in_bytes)
            sent += b"".join(peer.connection.data_to_send())
        assert peer.faults == []
        return [(command.cdb, bytes(command.data_out)) for command in peer.commands] + [
            peer.is_closed(),
            len(sent),
        ]

    result = assert_same_in_every_cutting(stream, read, cuttings_in_two)
    written = [data for _cdb, data in result[:4]]
    assert written == [b"", b"immediate", b"someandmore", b"asked"]
    assert result[4] is False
    assert assert_same_in_every_cutting(stream, read) == result
    assert assert_same_in_every_cutting(stream + b"\x00trailing bytes of a PDU that does not end", read) == result


def test_v21_a_login_that_takes_too_long_is_closed() -> None:
    peer = Peer(options=TargetOptions(login_timeout_s=15.0))
    peer.login_step(peer.names(), transit=False)
    assert peer.connection.next_deadline() == 1015.0
    assert peer.timer(1014.9) == []
    assert not peer.is_closed()
    peer.timer(1015.0)
    assert peer.is_closed()
    assert peer.connection.next_deadline() is None


@pytest.mark.parametrize("ending", ["drop", "abort", "reset"])
def test_v24_writes_whose_data_never_comes_leave_nothing_behind(ending: str) -> None:
    peer = Peer()
    peer.log_in()
    for round_ in range(300):
        (r2t,) = peer.send(peer.command_pdu(WRITE, write=4096, tag=0x7000))
        assert r2t.opcode == R2T
        if ending == "abort":
            (answer,) = peer.send(peer.task_management_pdu(1, referenced=0x7000, ref_cmd_sn=round_ + 1))
            assert answer.raw[2] == 0
        elif ending == "reset":
            peer.send(peer.task_management_pdu(5))
            peer.functions[-1].complete(0)
            deadline = peer.connection.next_deadline()
            assert deadline is not None
            peer.timer(deadline)
        else:
            break
    session = peer.session
    if ending == "drop":
        peer.connection.connection_lost()
        assert session.end_reason is EndReason.CONNECTION_LOST
    assert session.tasks == {}
    assert session.line.charged_bytes == 0
    assert session.collector.started == 0
    assert not session.collector.outstanding_bursts
    assert peer.commands == []


def test_v41_a_flood_of_senseless_pdus_closes_the_connection() -> None:
    peer = Peer()
    peer.log_in()
    senseless = peer.pack(b"\x5e\x80" + bytes(46))
    for count in range(64):
        assert peer.send(senseless)[0].opcode == REJECT, count
    peer.send(senseless)
    assert peer.is_closed()
    assert peer.ends[0].reason is EndReason.PROTOCOL_ERROR
