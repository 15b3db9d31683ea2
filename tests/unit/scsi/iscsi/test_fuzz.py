"""Streams that nobody should send: whatever comes, the connection answers, rejects or closes, and stays consistent."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scsi.iscsi.chap import ChapPolicy, Credentials
from scsi.iscsi.events import ScsiCommand
from scsi.iscsi.options import TargetOptions
from tests.support.iscsi_peer import FakeDirectory, Peer

TIDY = settings(derandomize=True, max_examples=150, deadline=None)
SMALL = TargetOptions(
    max_recv_data_segment_length=4096,
    max_burst_length=8192,
    first_burst_length=4096,
    session_memory_bytes=65536,
    max_data_out_bytes=65536,
    window_commands=8,
    max_immediate_commands=4,
)

words = st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 100, 4096, 65536, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
opcodes = st.one_of(st.sampled_from([0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x10]), st.integers(0, 0x3F))
flags = st.one_of(st.sampled_from([0x80, 0x81, 0xA1, 0x21, 0xC1, 0xE1, 0xC0, 0x40, 0x00]), st.integers(0, 255))
luns = st.sampled_from([bytes(8), b"\0\1" + bytes(6)])


@st.composite
def pdus(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """Draw header, AHS and data of a PDU whose fields are likely to mean something."""
    opcode = draw(opcodes) | draw(st.sampled_from([0, 0, 0x40]))
    header = struct.pack(
        ">BBHI8sIIIIIIII",
        opcode,
        draw(flags),
        draw(st.sampled_from([0, 0, 0, 0xFFFF])),
        0,
        draw(luns),
        draw(words),
        draw(words),
        draw(st.one_of(st.integers(1, 12), words)),
        draw(words),
        draw(words),
        draw(words),
        draw(words),
        draw(words),
    )
    ahs = draw(st.sampled_from([b"", b"", b"", b"\0\5\2\0\0\0\1\0", b"\0\x11\1\0" + bytes(16), b"\xff" * 8]))
    data = draw(st.one_of(st.just(b""), st.binary(max_size=64), st.just(b"SendTargets=\0"), st.just(bytes(4096))))
    return header, ahs, data


def check(peer: Peer) -> None:
    """Assert what must hold between any two PDUs."""
    session = peer.connection.session
    if session is None:
        return
    assert (session.max_cmd_sn - session.exp_cmd_sn + 1) & 0xFFFFFFFF <= session.options.window_commands
    assert session.line.charged_bytes >= 0
    assert session.line.queued_bytes <= session.line.charged_bytes
    assert session.collector.started >= 0
    assert len(session.tasks) <= session.options.window_commands + session.options.max_immediate_commands
    if session.end_reason is not None:
        assert session.tasks == {}


@pytest.mark.slow
@TIDY
@given(st.lists(pdus(), max_size=30), st.booleans(), st.booleans())
def test_any_sequence_of_pdus_keeps_a_session_consistent(
    sequence: list[tuple[bytes, bytes, bytes]], digests: bool, late: bool
) -> None:
    peer = Peer(options=SMALL)
    choice = "CRC32C" if digests else "None"
    peer.log_in(InitialR2T="No", MaxOutstandingR2T="3", HeaderDigest=choice, DataDigest=choice)
    waiting: list[ScsiCommand] = []
    for header, ahs, data in sequence:
        done = len(peer.commands)
        peer.send(peer.pack(header, data, ahs))
        check(peer)
        waiting += peer.commands[done:]
        if not late:
            answer_all(peer, waiting)
        for function in peer.functions:
            if function.response is None:
                function.complete(0)
        peer.look()
        check(peer)
    peer.connection.connection_lost()
    answer_all(peer, waiting)
    for command in peer.commands:
        assert command.finished
    check(peer)
    assert len(peer.registry) == 0
    assert peer.session.end_reason is not None
    # What collected its data has given it back; what was delivered has been completed: nothing lingers.
    drained: list[None] = []
    peer.session.when_drained(lambda: drained.append(None))
    assert drained == [None]


def answer_all(peer: Peer, waiting: list[ScsiCommand]) -> None:
    while waiting:
        command = waiting.pop()
        done = len(peer.commands)
        command.complete(0, bytes(min(command.data_in_bytes, 5000)))
        peer.look()
        waiting += peer.commands[done:]


@TIDY
@given(st.lists(st.binary(max_size=200), max_size=10))
def test_any_bytes_instead_of_a_login_close_the_connection_or_wait_for_more(pieces: list[bytes]) -> None:
    peer = Peer()
    for piece in pieces:
        peer.send(piece)
    assert peer.connection.session is None


names = st.sampled_from(
    [
        "InitiatorName",
        "TargetName",
        "SessionType",
        "AuthMethod",
        "CHAP_A",
        "CHAP_N",
        "CHAP_R",
        "CHAP_I",
        "CHAP_C",
        "HeaderDigest",
        "MaxBurstLength",
        "FirstBurstLength",
        "MaxRecvDataSegmentLength",
        "SendTargets",
        "TargetAddress",
        "IFMarkInt",
        "X-odd",
    ]
)
values = st.one_of(
    st.sampled_from(
        [
            "",
            "Yes",
            "No",
            "None",
            "CHAP",
            "CHAP,None",
            "Normal",
            "Discovery",
            "5",
            "7,5",
            "0x00",
            "512",
            "65536",
            "Reject",
        ]
    ),
    st.text(max_size=30).filter(lambda text: "\0" not in text),
)


@pytest.mark.slow
@TIDY
@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(names, values), max_size=6),
            st.integers(0, 3),
            st.integers(0, 3),
            st.booleans(),
            st.booleans(),
        ),
        max_size=6,
    ),
    st.booleans(),
)
def test_any_sequence_of_login_requests_ends_in_a_status_or_a_session_that_was_earned(
    requests: list[tuple[list[tuple[str, str]], int, int, bool, bool]], chap: bool
) -> None:
    policy = ChapPolicy(Credentials("host", b"a secret nobody draws")) if chap else None
    peer = Peer(FakeDirectory(chap=policy, discovery_chap=policy))
    first = {"InitiatorName": "iqn.x:fuzz", "TargetName": "iqn.2026-11.io.annex.test:target"}
    for at, (pairs, stage, next_stage, transit, more) in enumerate(requests):
        mixed = [*(first.items() if not at else ()), *pairs]
        try:
            stream = peer.login_pdu(mixed, stage=stage, next_stage=next_stage, transit=transit, more=more)
        except UnicodeEncodeError:
            continue
        answers = peer.send(stream)
        assert len(answers) <= 1
        if peer.connection.session is not None:
            break
        if peer.is_closed():
            assert not answers or answers[0].login_status >= 0x0100
            break
    assert not (chap and peer.connection.session is not None)


@pytest.mark.parametrize("digest", ["None", "CRC32C"])
@pytest.mark.parametrize("seed", range(4))
def test_a_good_stream_with_one_byte_changed_is_survived(digest: str, seed: int) -> None:
    probe = Peer()
    probe.log_in(HeaderDigest=digest, DataDigest=digest)
    stream = probe.command_pdu(b"\x2a", write=24, data=b"123456789012", tag=77)
    stream += probe.nop_pdu(b"ping") + probe.text_pdu({"SendTargets": ""}) + probe.command_pdu(b"\x28", read=8)
    for at in range(seed, len(stream), 4):
        for change in (0x01, 0x80, 0xFF):
            peer = Peer(disk=lambda command: command.complete(0, b"r" * min(command.data_in_bytes, 64)))
            peer.log_in(HeaderDigest=digest, DataDigest=digest)
            changed = bytearray(stream)
            changed[at] ^= change
            peer.send(bytes(changed))
            check(peer)
