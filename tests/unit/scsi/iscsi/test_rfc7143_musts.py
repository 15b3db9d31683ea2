"""The MUSTs of RFC 7143 that the full feature phase shows on the wire; each test is named after its ledger row."""

import struct
from typing import Any

import pytest

from scsi.iscsi.events import EndReason, ScsiCommand
from scsi.iscsi.options import TargetOptions
from tests.support.iscsi_peer import LUN, NO_TAG, TARGET, FakeDirectory, Pdu, Peer, make_text

READ = bytes.fromhex("28000000000000000800")
WRITE = bytes.fromhex("2a000000000000000800")
OTHER_LUN = bytes([0, 1, 0, 0, 0, 0, 0, 0])

DATA_IN, RESPONSE, TMF_RESPONSE, TEXT_RESPONSE, LOGOUT_RESPONSE, R2T, REJECT, NOP_IN = (
    0x25,
    0x21,
    0x22,
    0x24,
    0x26,
    0x31,
    0x3F,
    0x20,
)


def full_disk(command: ScsiCommand) -> None:
    """Answer everything at once, reads with as much as was expected."""
    command.complete(0, b"r" * command.data_in_bytes)


def logged_in(cmd_sn: int = 1, options: TargetOptions | None = None, disk: bool = False, **keys: Any) -> Peer:
    peer = Peer(options=options, disk=full_disk if disk else None)
    peer.cmd_sn = cmd_sn
    peer.log_in(**keys)
    return peer


def opcodes(pdus: list[Pdu]) -> list[int]:
    return [pdu.opcode for pdu in pdus]


# --- numbering ---


def test_m01_a_command_outside_of_the_window_or_seen_before_is_ignored() -> None:
    peer = logged_in(cmd_sn=10, options=TargetOptions(window_commands=4))
    for number in (9, 14, 10 + 2**31, 0xFFFFFFFF):
        assert peer.send(peer.command_pdu(cmd_sn=number)) == []
    peer.send(peer.command_pdu(cmd_sn=10))
    peer.send(peer.command_pdu(cmd_sn=10))
    peer.send(peer.command_pdu(cmd_sn=12))
    peer.send(peer.command_pdu(cmd_sn=12))
    peer.send(peer.command_pdu(cmd_sn=11))
    assert [command.cmd_sn for command in peer.commands] == [10, 11, 12]
    assert not peer.is_closed()
    assert peer.faults == []


def test_m02_max_cmd_sn_is_never_below_exp_cmd_sn_minus_one() -> None:
    peer = logged_in(options=TargetOptions(window_commands=3))
    answers = peer.received[:]
    for _ in range(5):
        peer.send(peer.command_pdu())
        answers += peer.send(peer.nop_pdu())
    assert len(peer.commands) == 3  # the other two were outside of the window
    for command in peer.commands:
        command.complete(0)
        answers += peer.look()
    windows = [(pdu.max_cmd_sn - pdu.exp_cmd_sn + 1) & 0xFFFFFFFF for pdu in answers]
    assert windows == [3, 2, 1, 0, 0, 0, 1, 2, 3]


def test_m03_numbers_wrap() -> None:
    peer = logged_in(cmd_sn=0xFFFFFFFD, disk=True)
    for _ in range(8):
        (answer,) = peer.send(peer.command_pdu())
        assert answer.exp_cmd_sn == peer.cmd_sn
        assert answer.max_cmd_sn == (peer.cmd_sn + 127) & 0xFFFFFFFF
    assert [command.cmd_sn for command in peer.commands][2:5] == [0xFFFFFFFF, 0, 1]


def test_m03_early_and_late_commands_are_told_apart_across_the_wrap() -> None:
    peer = logged_in(cmd_sn=0xFFFFFFFE)
    for number in (1, 0, 0xFFFFFFFF, 0xFFFFFFFD, 0xFFFFFFFE):
        peer.send(peer.command_pdu(cmd_sn=number))
    assert [command.cmd_sn for command in peer.commands] == [0xFFFFFFFE, 0xFFFFFFFF, 0, 1]


def test_m04_commands_are_delivered_in_the_order_of_their_numbers() -> None:
    peer = logged_in(cmd_sn=5)
    for number in (7, 6, 8):
        peer.send(peer.command_pdu(cmd_sn=number))
        assert peer.commands == []
        assert peer.send(peer.nop_pdu())[0].exp_cmd_sn == 5
    peer.send(peer.nop_pdu(immediate=False, cmd_sn=5))
    assert [command.cmd_sn for command in peer.commands] == [6, 7, 8]
    assert peer.send(peer.nop_pdu())[0].exp_cmd_sn == 9


def test_m04_data_of_an_early_command_is_there_when_it_is_delivered() -> None:
    peer = logged_in(cmd_sn=5)
    peer.send(peer.command_pdu(WRITE, write=8, data=b"12345678", cmd_sn=6))
    peer.send(peer.command_pdu(cmd_sn=5))
    assert [bytes(command.data_out) for command in peer.commands] == [b"", b"12345678"]


def test_m05_immediate_requests_are_accepted_with_the_window_closed() -> None:
    peer = logged_in(options=TargetOptions(window_commands=1))
    peer.send(peer.command_pdu())
    assert peer.send(peer.nop_pdu())[0].max_cmd_sn == peer.cmd_sn - 1
    peer.send(peer.command_pdu(immediate=True))
    assert len(peer.commands) == 2
    peer.send(peer.task_management_pdu(5))
    assert len(peer.functions) == 1


def test_m05_immediate_commands_beyond_the_limit_are_rejected_and_the_others_live() -> None:
    peer = logged_in(options=TargetOptions(max_immediate_commands=2))
    for _ in range(2):
        assert peer.send(peer.command_pdu(immediate=True)) == []
    (reject,) = peer.send(peer.command_pdu(immediate=True))
    assert (reject.opcode, reject.raw[2]) == (REJECT, 0x06)
    peer.commands[0].complete(0)
    peer.look()
    assert peer.send(peer.command_pdu(immediate=True)) == []
    assert len(peer.commands) == 3


def test_m06_status_comes_with_the_number_of_its_command_acknowledged() -> None:
    peer = logged_in(disk=True)
    for pdu in (peer.command_pdu(), peer.command_pdu(READ, read=512), peer.command_pdu(WRITE, write=4, data=b"abcd")):
        (answer,) = peer.send(pdu)
        assert answer.exp_cmd_sn == peer.commands[-1].cmd_sn + 1


def test_m07_a_window_that_opens_with_nothing_to_send_is_told_by_a_nop_in() -> None:
    peer = logged_in(options=TargetOptions(window_commands=1))
    peer.send(peer.command_pdu(WRITE, write=0))
    (command,) = peer.commands
    command.aborted = True
    command.complete(0)
    assert peer.wakes == 1
    (nop,) = peer.look()
    assert (nop.opcode, nop.task_tag, nop.transfer_tag, nop.data) == (NOP_IN, NO_TAG, NO_TAG, b"")
    assert nop.max_cmd_sn == nop.exp_cmd_sn


def test_m08_everything_for_a_command_comes_on_its_own_connection() -> None:
    peers = [logged_in(disk=True, InitialR2T="Yes", ImmediateData="No") for _ in range(2)]
    first, second = peers
    (r2t,) = first.send(first.command_pdu(WRITE, write=16, tag=7))
    assert r2t.opcode == R2T
    assert opcodes(second.send(second.command_pdu(READ, read=16))) == [DATA_IN]
    assert opcodes(first.send(first.data_out_pdu(7, b"w" * 16, offset=0, transfer_tag=r2t.transfer_tag))) == [RESPONSE]
    assert len(second.received) == 2


# --- data of writes ---


def soliciting(write: int, *, disk: bool = True, lun: bytes = LUN, **keys: str) -> tuple[Peer, list[Pdu]]:
    """Log in, send a write without data with task tag 7, and return its R2Ts."""
    defaults: dict[str, Any] = {"InitialR2T": "Yes", "ImmediateData": "No", **keys}
    peer = logged_in(disk=disk, **defaults)
    return peer, peer.send(peer.command_pdu(WRITE, write=write, tag=7, lun=lun))


def test_m09_r2t_has_the_lun_and_tag_of_its_command() -> None:
    lun = bytes.fromhex("4005000000000000")
    _, (r2t,) = soliciting(512, lun=lun)
    assert (r2t.lun, r2t.task_tag) == (lun, 7)


@pytest.mark.parametrize("change", ["tag", "lun", "offset"])
def test_m09_data_that_does_not_fit_to_its_task_closes_the_connection(change: str) -> None:
    peer, (r2t,) = soliciting(512)
    how: dict[str, Any] = {"offset": 0, "data_sn": 0, "transfer_tag": r2t.transfer_tag}
    tag = 7
    if change == "tag":
        tag = 8
    else:
        how[change] = OTHER_LUN if change == "lun" else 1
    assert peer.send(peer.data_out_pdu(tag, b"d" * 512, **how)) == []
    assert peer.is_closed()
    assert peer.ends[0].reason is EndReason.PROTOCOL_ERROR
    assert peer.commands == []


@pytest.mark.parametrize("numbers", [(0, 0), (1, 0), (27, 28), (0xFFFFFFFF, 0)])
def test_m09_data_with_a_wrong_number_fails_its_write_after_the_f_bit(numbers: tuple[int, int]) -> None:
    peer, (r2t,) = soliciting(1024)
    tag = r2t.transfer_tag
    assert (
        peer.send(peer.data_out_pdu(7, b"d" * 512, offset=0, data_sn=numbers[0], transfer_tag=tag, final=False)) == []
    )
    (answer,) = peer.send(peer.data_out_pdu(7, b"d" * 512, offset=512, data_sn=numbers[1], transfer_tag=tag))
    assert sense_of(answer) == BAD_CRC
    assert peer.commands == []
    assert not peer.is_closed()


def test_m09_data_for_a_tag_that_was_never_given_out_is_dropped_and_bounded() -> None:
    peer, (r2t,) = soliciting(512)
    for _ in range(64):
        peer.send(peer.data_out_pdu(7, b"d" * 16, offset=0, transfer_tag=r2t.transfer_tag + 1000))
    assert not peer.is_closed()
    peer.send(peer.data_out_pdu(7, b"d" * 16, offset=0, transfer_tag=r2t.transfer_tag + 1000))
    assert peer.is_closed()


def test_m41_data_out_without_data_is_accepted() -> None:
    peer, (r2t,) = soliciting(512)
    tag = r2t.transfer_tag
    assert peer.send(peer.data_out_pdu(7, b"", offset=0, transfer_tag=tag, final=False)) == []
    peer.send(peer.data_out_pdu(7, b"d" * 512, offset=0, data_sn=1, transfer_tag=tag, final=False))
    (answer,) = peer.send(peer.data_out_pdu(7, b"", offset=512, data_sn=2, transfer_tag=tag))
    assert (answer.opcode, answer.raw[3]) == (RESPONSE, 0)
    assert bytes(peer.commands[0].data_out) == b"d" * 512


def test_m42_r2ts_are_contiguous_bounded_and_carry_the_numbers() -> None:
    peer, r2ts = soliciting(10_000, MaxBurstLength="4096", MaxOutstandingR2T="2")
    assert [(r2t.word(36), r2t.word(40), r2t.word(44)) for r2t in r2ts] == [(0, 0, 4096), (1, 4096, 4096)]
    status_free = peer.session.stat_sn
    for r2t in r2ts:
        assert r2t.transfer_tag != NO_TAG
        assert (r2t.stat_sn, r2t.exp_cmd_sn, r2t.max_cmd_sn) == (status_free, 2, 128)
    assert len({r2t.transfer_tag for r2t in r2ts}) == 2
    (third,) = peer.send(peer.data_out_pdu(7, b"d" * 4096, offset=0, transfer_tag=r2ts[0].transfer_tag))
    assert (third.word(36), third.word(40), third.word(44)) == (2, 8192, 10_000 - 8192)
    assert peer.send(peer.data_out_pdu(7, b"d" * 4096, offset=4096, transfer_tag=r2ts[1].transfer_tag)) == []
    (answer,) = peer.send(peer.data_out_pdu(7, b"d" * 1808, offset=8192, transfer_tag=third.transfer_tag))
    assert (answer.opcode, answer.stat_sn) == (RESPONSE, status_free)


SHORT_OF_DATA = bytes.fromhex("0b0c0d")
UNEXPECTED_DATA = bytes.fromhex("0b0c0c")
BAD_CRC = bytes.fromhex("0b4705")


def sense_of(answer: Pdu) -> bytes:
    """Return key, ASC and ASCQ of a CHECK CONDITION."""
    assert (answer.opcode, answer.raw[3]) == (RESPONSE, 0x02)
    assert struct.unpack(">H", answer.data[:2])[0] == len(answer.data) - 2 >= 18
    return bytes([answer.data[4], answer.data[14], answer.data[15]])


def test_m39_a_write_with_wrong_data_is_answered_after_the_last_f_bit() -> None:
    peer, r2ts = soliciting(8192, MaxBurstLength="4096", MaxOutstandingR2T="2")
    first, second = (r2t.transfer_tag for r2t in r2ts)
    assert peer.send(peer.data_out_pdu(7, b"d" * 100, offset=0, transfer_tag=first)) == []  # F, and too little
    assert peer.send(peer.data_out_pdu(7, b"d" * 96, offset=4096, transfer_tag=second, final=False)) == []
    (answer,) = peer.send(peer.data_out_pdu(7, b"d" * 4000, offset=4192, data_sn=1, transfer_tag=second))
    assert sense_of(answer) == SHORT_OF_DATA
    assert peer.commands == []


def test_m47_immediate_data_that_was_not_agreed_to_is_told() -> None:
    peer = logged_in(ImmediateData="No")
    (answer,) = peer.send(peer.command_pdu(WRITE, write=512, data=b"d" * 512))
    assert sense_of(answer) == UNEXPECTED_DATA
    assert peer.session.tasks == {}


def test_m47_unsolicited_data_that_was_not_agreed_to_is_told_after_it_has_come() -> None:
    peer = logged_in(InitialR2T="Yes", ImmediateData="No")
    assert peer.send(peer.command_pdu(WRITE, write=512, tag=7, final=False)) == []
    assert peer.send(peer.data_out_pdu(7, b"d" * 500, offset=0, final=False)) == []
    (answer,) = peer.send(peer.data_out_pdu(7, b"d" * 12, offset=500, data_sn=1))
    assert sense_of(answer) == UNEXPECTED_DATA


def test_m47_unsolicited_data_after_a_command_that_said_it_had_all_is_told() -> None:
    peer, (r2t,) = soliciting(512)
    assert peer.send(peer.data_out_pdu(7, b"d" * 512, offset=0)) == []
    (answer,) = peer.send(peer.data_out_pdu(7, b"d" * 512, offset=0, transfer_tag=r2t.transfer_tag))
    assert sense_of(answer) == UNEXPECTED_DATA


@pytest.mark.parametrize(("sent", "first_burst"), [(1000, 1024), (1100, 1024), (600, 512)])
def test_m47_a_wrong_amount_of_unsolicited_data_is_told(sent: int, first_burst: int) -> None:
    peer = logged_in(InitialR2T="No", FirstBurstLength=str(first_burst))
    peer.send(peer.command_pdu(WRITE, write=4096, tag=7, final=False))
    (answer,) = peer.send(peer.data_out_pdu(7, b"d" * sent, offset=0))
    assert sense_of(answer) == SHORT_OF_DATA


def test_m47_immediate_data_above_first_burst_is_told() -> None:
    peer = logged_in(FirstBurstLength="512")
    (answer,) = peer.send(peer.command_pdu(WRITE, write=600, data=b"d" * 600))
    assert sense_of(answer) == SHORT_OF_DATA


# --- data of reads, residuals, sense ---


@pytest.mark.parametrize("length", [1, 3, 512, 700, 2048, 5000])
def test_m40_data_in_is_split_as_the_initiator_wants(length: int) -> None:
    peer = logged_in(MaxRecvDataSegmentLength="512", MaxBurstLength="1280")
    peer.send(peer.command_pdu(READ, read=length))
    data = bytes(at % 251 for at in range(length))
    peer.commands[0].complete(0, data)
    answers = peer.look()
    assert b"".join(pdu.data for pdu in answers) == data
    assert [pdu.word(36) for pdu in answers] == list(range(len(answers)))
    burst = 0
    for pdu in answers:
        assert len(pdu.data) <= 512
        burst += len(pdu.data)
        assert burst <= 1280
        if pdu.flags & 0x80:
            burst = 0
    assert [bool(pdu.flags & 0x01) for pdu in answers] == [False] * (len(answers) - 1) + [True]
    assert answers[-1].flags & 0x80


@pytest.mark.parametrize("expected", [0, 1, 511, 512, 513, 4096])
@pytest.mark.parametrize("had", [0, 1, 511, 512, 513, 4096])
@pytest.mark.parametrize("digest", ["None", "CRC32C"])
def test_m37_the_residual_of_a_read_is_exact(expected: int, had: int, digest: str) -> None:
    peer = logged_in(DataDigest=digest)
    peer.send(peer.command_pdu(READ, read=expected))
    peer.commands[0].complete(0, b"r" * had)
    answers = peer.look()
    last = answers[-1]
    assert b"".join(pdu.data for pdu in answers) == b"r" * min(expected, had)
    assert last.opcode == (DATA_IN if min(expected, had) else RESPONSE)
    assert last.flags & 0x06 == (0x04 if had > expected else 0x02 if had < expected else 0)
    assert last.word(44) == abs(had - expected)


@pytest.mark.parametrize(
    ("used", "flag", "residual"), [(None, 0, 0), (512, 0, 0), (100, 2, 412), (600, 4, 88), (0, 2, 512)]
)
def test_m37_the_residual_of_a_write_is_exact(used: int | None, flag: int, residual: int) -> None:
    peer = logged_in()
    peer.send(peer.command_pdu(WRITE, write=512, data=b"d" * 512))
    peer.commands[0].complete(0, data_out_used=used)
    (answer,) = peer.look()
    assert (answer.flags & 0x1E, answer.word(44)) == (flag, residual)


def test_m37_a_command_that_expected_nothing_and_has_data_tells_all_of_it_as_overflow() -> None:
    peer = logged_in()
    peer.send(peer.command_pdu(READ))
    peer.commands[0].complete(0, b"r" * 36)
    (answer,) = peer.look()
    assert (answer.opcode, answer.flags & 0x1E, answer.word(44)) == (RESPONSE, 0x04, 36)


def test_m37_both_residuals_of_a_bidirectional_command_are_told() -> None:
    peer = logged_in()
    ahs = struct.pack(">HBBI", 5, 2, 0, 100)
    peer.send(peer.command_pdu(b"\x53", read=8, write=8, data=b"d" * 8, ahs=ahs))
    (command,) = peer.commands
    assert (command.data_out_bytes, command.data_in_bytes) == (8, 100)
    command.complete(0, b"r" * 60, data_out_used=10)
    data, answer = peer.look()
    assert (data.opcode, data.flags & 0x01, len(data.data)) == (DATA_IN, 0, 60)
    assert (answer.opcode, answer.flags & 0x1E) == (RESPONSE, 0x08 | 0x04)
    assert (answer.word(36), answer.word(40), answer.word(44)) == (1, 40, 2)


def test_m38_an_error_status_is_never_in_a_data_in_and_brings_its_sense() -> None:
    peer = logged_in()
    peer.send(peer.command_pdu(READ, read=512))
    sense = bytes([0x70, 0, 3, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0])
    peer.commands[0].complete(2, b"r" * 512, sense)
    data, answer = peer.look()
    assert (data.opcode, data.flags & 0x01) == (DATA_IN, 0)
    assert answer.raw[3] == 2
    assert answer.data == b"\0\x12" + sense
    assert answer.word(36) == 1  # ExpDataSN: one Data-In went before


# --- format errors, digests, Reject ---


def test_m28_a_rejected_command_does_not_end_the_task_it_collides_with_nor_count() -> None:
    peer = logged_in()
    peer.send(peer.command_pdu(READ, read=4, tag=7))
    (reject,) = peer.send(peer.command_pdu(READ, read=4, tag=7))
    assert (reject.opcode, reject.raw[2]) == (REJECT, 0x07)
    assert reject.exp_cmd_sn == 2
    assert reject.data[:1] == b"\x01"
    assert len(reject.data) == 48
    peer.commands[0].complete(0, b"data")
    assert [(pdu.opcode, pdu.task_tag) for pdu in peer.look()] == [(DATA_IN, 7)]
    peer.cmd_sn = 2
    peer.send(peer.command_pdu(READ, read=4))
    assert [command.cmd_sn for command in peer.commands] == [1, 2]


@pytest.mark.parametrize("digest", ["None", "CRC32C"])
def test_m29_a_length_above_the_limit_ends_the_session(digest: str) -> None:
    peer = logged_in(options=TargetOptions(max_recv_data_segment_length=8192), HeaderDigest=digest)
    peer.send(peer.command_pdu())
    peer.send(peer.nop_pdu(b"x" * 8193))
    assert peer.is_closed()
    assert peer.ends[0].reason is EndReason.PROTOCOL_ERROR
    assert peer.commands[0].aborted
    assert len(peer.registry) == 0


def test_m30_a_bad_header_digest_closes_the_connection() -> None:
    peer = logged_in(HeaderDigest="CRC32C")
    stream = bytearray(peer.nop_pdu())
    stream[20] ^= 1
    assert peer.send(bytes(stream)) == []
    assert peer.is_closed()


def test_m30_a_bad_data_digest_of_a_command_is_rejected_and_the_command_not_counted() -> None:
    peer = logged_in(DataDigest="CRC32C")
    stream = bytearray(peer.command_pdu(WRITE, write=8, data=b"12345678"))
    stream[50] ^= 1
    (reject,) = peer.send(bytes(stream))
    assert (reject.opcode, reject.raw[2], reject.exp_cmd_sn) == (REJECT, 0x02, 1)
    assert peer.commands == []


@pytest.mark.parametrize("length", [512, 20_000])
def test_m30_a_bad_data_digest_of_data_out_fails_the_write_after_its_f_bit(length: int) -> None:
    peer, (r2t,) = soliciting(length * 2, DataDigest="CRC32C")
    tag = r2t.transfer_tag
    stream = bytearray(peer.data_out_pdu(7, b"d" * length, offset=0, transfer_tag=tag, final=False))
    stream[60] ^= 1
    (reject,) = peer.send(bytes(stream))
    assert (reject.opcode, reject.raw[2]) == (REJECT, 0x02)
    (answer,) = peer.send(peer.data_out_pdu(7, b"d" * length, offset=length, data_sn=1, transfer_tag=tag))
    assert sense_of(answer) == BAD_CRC
    assert peer.commands == []


@pytest.mark.parametrize("header", ["None", "CRC32C"])
@pytest.mark.parametrize("data", ["None", "CRC32C"])
def test_m46_a_negotiated_digest_is_on_every_pdu(header: str, data: str) -> None:
    # The peer checks each digest that it gets, and sends what was negotiated.
    peer = logged_in(disk=True, HeaderDigest=header, DataDigest=data, InitialR2T="Yes", ImmediateData="Yes")
    assert opcodes(peer.send(peer.nop_pdu(b"12345"))) == [NOP_IN]
    assert opcodes(peer.send(peer.command_pdu(READ, read=5))) == [DATA_IN]
    (r2t,) = peer.send(peer.command_pdu(WRITE, write=20_001, data=b"d" * 3, tag=77))
    rest = b"e" * 19_998
    assert opcodes(peer.send(peer.data_out_pdu(77, rest, offset=3, transfer_tag=r2t.transfer_tag))) == [RESPONSE]
    assert bytes(peer.commands[-1].data_out) == b"ddd" + rest
    assert opcodes(peer.send(peer.text_pdu({"SendTargets": ""}))) == [TEXT_RESPONSE]
    assert opcodes(peer.send(peer.task_management_pdu(1))) == [TMF_RESPONSE]
    assert opcodes(peer.send(peer.logout_pdu())) == [LOGOUT_RESPONSE]
    assert peer.unparsed == b""


# --- task management ---


def test_m31_aborting_a_command_that_is_not_here_yet_counts_it_as_received() -> None:
    peer = logged_in(cmd_sn=5)
    peer.send(peer.command_pdu(cmd_sn=6))
    (answer,) = peer.send(peer.task_management_pdu(1, referenced=99, ref_cmd_sn=5, cmd_sn=7))
    assert (answer.opcode, answer.raw[2]) == (TMF_RESPONSE, 0)
    assert [command.cmd_sn for command in peer.commands] == [6]
    assert answer.exp_cmd_sn == 7
    assert peer.send(peer.command_pdu(cmd_sn=5)) == []
    assert len(peer.commands) == 1


def test_m31_aborting_a_command_that_was_answered_finds_no_task() -> None:
    peer = logged_in(disk=True)
    peer.send(peer.command_pdu(tag=7))
    (answer,) = peer.send(peer.task_management_pdu(1, referenced=7, ref_cmd_sn=1))
    assert (answer.opcode, answer.raw[2]) == (TMF_RESPONSE, 1)


def test_m33_a_lost_connection_discards_all_its_commands() -> None:
    peer = logged_in()
    peer.send(peer.command_pdu(immediate=True))
    peer.send(peer.command_pdu())
    peer.send(peer.command_pdu(WRITE, write=4096, final=False))
    (event,) = peer.connection.connection_lost()
    assert type(event).__name__ == "SessionEnded"
    assert [command.aborted for command in peer.commands] == [True, True]
    assert peer.session.tasks == {}
    for command in peer.commands:
        command.complete(0)
    assert peer.connection.data_to_send() == []


def test_m43_aborting_a_task_management_function_is_rejected() -> None:
    peer = logged_in()
    peer.send(peer.task_management_pdu(5, tag=50))
    (answer,) = peer.send(peer.task_management_pdu(1, referenced=50))
    assert (answer.opcode, answer.raw[2]) == (TMF_RESPONSE, 255)


def test_m43_a_reset_waits_for_data_that_was_asked_for_and_is_answered_last() -> None:
    peer, r2ts = soliciting(8192, disk=False, MaxBurstLength="4096", MaxOutstandingR2T="2")
    peer.send(peer.command_pdu(READ, read=4, tag=8))
    peer.send(peer.task_management_pdu(5, tag=50))
    peer.commands[0].complete(0, b"data")
    peer.functions[0].complete(0)
    assert [(pdu.opcode, pdu.task_tag) for pdu in peer.look()] == [(DATA_IN, 8)]
    assert peer.send(peer.data_out_pdu(7, b"d" * 4096, offset=0, transfer_tag=r2ts[0].transfer_tag)) == []
    (answer,) = peer.send(peer.data_out_pdu(7, b"d" * 4096, offset=4096, transfer_tag=r2ts[1].transfer_tag))
    assert (answer.opcode, answer.task_tag, answer.raw[2]) == (TMF_RESPONSE, 50, 0)
    assert len(peer.commands) == 1


def test_m43_a_reset_does_not_wait_for_ever_for_data() -> None:
    peer, _ = soliciting(8192, disk=False)
    peer.send(peer.task_management_pdu(5, tag=50))
    peer.functions[0].complete(0)
    assert peer.look() == []
    deadline = peer.connection.next_deadline()
    assert deadline == peer.clock.now + 1.0
    (answer,) = peer.timer(deadline)
    assert (answer.opcode, answer.task_tag) == (TMF_RESPONSE, 50)
    assert peer.connection.next_deadline() != deadline


# --- logout, ping, text, discovery ---


@pytest.mark.parametrize("reason", [0, 1])
def test_m44_logout_ends_pending_commands_and_is_answered_before_the_connection_closes(reason: int) -> None:
    peer = logged_in()
    peer.send(peer.command_pdu(READ, read=4))
    peer.send(peer.command_pdu(READ, read=4))
    peer.commands[0].complete(0, b"data")  # its answer goes out first
    peer.connection.receive_data(peer.logout_pdu(reason))
    assert not peer.is_closed()  # a command is still at work
    assert peer.commands[1].aborted
    peer.commands[1].complete(0, b"late")
    answers = peer.look()
    assert opcodes(answers) == [DATA_IN, LOGOUT_RESPONSE]
    assert answers[1].raw[2] == 0
    assert peer.is_closed()
    assert len(peer.registry) == 0


def test_m44_logout_of_a_connection_that_there_is_not_changes_nothing() -> None:
    peer = logged_in()
    (answer,) = peer.send(peer.logout_pdu(1, cid=3))
    assert (answer.opcode, answer.raw[2]) == (LOGOUT_RESPONSE, 1)
    (answer,) = peer.send(peer.logout_pdu(2))
    assert answer.raw[2] == 2
    assert not peer.is_closed()


@pytest.mark.parametrize("length", [0, 1, 512, 3000, 8192])
@pytest.mark.parametrize("immediate", [True, False])
def test_m45_a_ping_is_answered_with_its_own_data_up_to_what_the_initiator_takes(length: int, immediate: bool) -> None:
    peer = logged_in(MaxRecvDataSegmentLength="2048")
    data = bytes(at % 256 for at in range(length))
    before = peer.session.stat_sn
    (nop,) = peer.send(peer.nop_pdu(data, tag=0x1234, immediate=immediate, lun=OTHER_LUN))
    assert (nop.opcode, nop.task_tag, nop.transfer_tag, nop.data) == (NOP_IN, 0x1234, NO_TAG, data[:2048])
    assert nop.lun == OTHER_LUN
    assert nop.exp_cmd_sn == (1 if immediate else 2)
    assert peer.session.stat_sn == before + 1


def test_m45_a_silent_initiator_is_pinged_without_data_and_kept_when_it_answers() -> None:
    peer = logged_in(options=TargetOptions(ping_interval_s=10.0, ping_timeout_s=5.0))
    before = peer.session.stat_sn
    assert peer.timer(1010.0) == []  # it was heard since the login
    (nop,) = peer.timer(1020.0)
    assert (nop.opcode, nop.task_tag, nop.data) == (NOP_IN, NO_TAG, b"")
    assert nop.transfer_tag != NO_TAG
    assert (nop.stat_sn, peer.session.stat_sn) == (before, before)  # it does not count as a status
    assert peer.send(peer.nop_pdu(tag=NO_TAG, transfer_tag=nop.transfer_tag)) == []
    assert peer.timer(1025.0) == []
    assert not peer.is_closed()
    assert len(peer.timer(1035.0)) == 1
    peer.timer(1040.0)
    assert peer.is_closed()
    assert peer.ends[0].reason is EndReason.TIMED_OUT


def many_targets(count: int) -> FakeDirectory:
    from scsi.iscsi.directory import Portal, TargetListing

    portals = [Portal("192.0.2.2", 3260, 1), Portal("2001:db8::2", 3261, 2)]
    return FakeDirectory(listings=[TargetListing(f"iqn.2026-11.io.annex:t{n:05}", portals) for n in range(count)])


def collect_text(peer: Peer, request: bytes, tag: int) -> tuple[list[tuple[str, str]], list[Pdu]]:
    """Ask until the last piece of an answer is there."""
    (answer,) = peer.send(request)
    answers = [answer]
    while not answers[-1].flags & 0x80:
        assert answers[-1].transfer_tag != NO_TAG
        answers += peer.send(peer.text_pdu(b"", tag=tag, transfer_tag=answers[-1].transfer_tag))
    assert answers[-1].transfer_tag == NO_TAG
    assert [bool(pdu.flags & 0x40) for pdu in answers] == [True] * (len(answers) - 1) + [False]
    return Pdu(answers[0].raw, b"".join(pdu.data for pdu in answers)).pairs, answers


@pytest.mark.parametrize("count", [0, 1, 70, 3000])
@pytest.mark.parametrize("segment", ["512", "8192"])
def test_m27_a_list_of_targets_of_any_length_arrives_whole(count: int, segment: str) -> None:
    peer = Peer(many_targets(count))
    peer.discover(MaxRecvDataSegmentLength=segment)
    pairs, answers = collect_text(peer, peer.text_pdu({"SendTargets": "All"}, tag=9), 9)
    assert [value for name, value in pairs if name == "TargetName"] == [
        f"iqn.2026-11.io.annex:t{n:05}" for n in range(count)
    ]
    addresses = [value for name, value in pairs if name == "TargetAddress"]
    assert addresses == ["192.0.2.2:3260,1", "[2001:db8::2]:3261,2"] * count
    assert all(len(pdu.data) <= int(segment) for pdu in answers)
    assert [pdu.stat_sn - answers[0].stat_sn for pdu in answers] == list(range(len(answers)))


def test_m32_a_negotiation_that_fails_changes_nothing() -> None:
    peer = logged_in()
    text = make_text({"MaxRecvDataSegmentLength": "65536", "InitiatorAlias": "Reject"})
    (reject,) = peer.send(peer.text_pdu(text))
    assert (reject.opcode, reject.raw[2]) == (REJECT, 0x04)
    assert peer.session.parameters.max_send_data_segment_length == 8192
    assert not peer.is_closed()


def test_m32_a_negotiation_that_is_not_finished_changes_nothing_yet() -> None:
    peer = logged_in()
    request = peer.text_pdu({"MaxRecvDataSegmentLength": "65536"}, tag=9, final=False)
    (answer,) = peer.send(request)
    assert not answer.flags & 0x80
    assert peer.session.parameters.max_send_data_segment_length == 8192
    peer.send(peer.text_pdu(b"", tag=9, transfer_tag=answer.transfer_tag))
    assert peer.session.parameters.max_send_data_segment_length == 65536


def test_m17_a_key_that_comes_twice_in_a_negotiation_is_a_protocol_error() -> None:
    peer = logged_in()
    pairs = [("MaxRecvDataSegmentLength", "65536"), ("MaxRecvDataSegmentLength", "4096")]
    (reject,) = peer.send(peer.text_pdu(pairs, immediate=True))
    assert (reject.opcode, reject.raw[2]) == (REJECT, 0x04)
    (answer,) = peer.send(peer.text_pdu(pairs[:1], tag=9, final=False, immediate=True))
    (reject,) = peer.send(peer.text_pdu(pairs[1:], tag=9, transfer_tag=answer.transfer_tag, immediate=True))
    assert (reject.opcode, reject.raw[2]) == (REJECT, 0x04)


@pytest.mark.parametrize("kind", ["command", "task management", "unknown", "data-out key"])
def test_m34_a_discovery_session_does_nothing_but_discover(kind: str) -> None:
    peer = Peer()
    peer.discover()
    if kind == "data-out key":
        (answer,) = peer.send(peer.text_pdu({"MaxRecvDataSegmentLength": "65536", "X-io.annex.k": "1"}))
        assert answer.text == {"MaxRecvDataSegmentLength": "Reject", "X-io.annex.k": "NotUnderstood"}
        return
    pdu = {
        "command": peer.command_pdu(READ, read=512),
        "task management": peer.task_management_pdu(5),
        "unknown": peer.pack(b"\x5e" + bytes(47)),
    }[kind]
    (reject,) = peer.send(pdu)
    assert (reject.opcode, reject.raw[2]) == (REJECT, 0x04)
    assert peer.commands == []
    assert not peer.is_closed()
    peer.cmd_sn = 1
    assert opcodes(peer.send(peer.logout_pdu())) == [LOGOUT_RESPONSE]


def test_m27_a_normal_session_may_ask_for_its_own_target_only() -> None:
    peer = logged_in()
    pairs, _ = collect_text(peer, peer.text_pdu({"SendTargets": ""}, tag=9), 9)
    assert [value for name, value in pairs if name == "TargetName"] == [TARGET]
    pairs, _ = collect_text(peer, peer.text_pdu({"SendTargets": "iqn.2026-11.io.annex:other"}, tag=9), 9)
    assert pairs == []
    pairs, _ = collect_text(peer, peer.text_pdu({"SendTargets": "All"}, tag=9), 9)
    assert pairs == [("SendTargets", "Reject")]


@pytest.mark.parametrize(("reinstated", "reason"), [(True, EndReason.REINSTATED), (False, EndReason.CONNECTION_LOST)])
def test_m50_the_end_of_a_session_says_whether_the_same_host_replaced_it(reinstated: bool, reason: EndReason) -> None:
    # What SCSI keeps over it (persistent reservations always) is decided by that.
    old = logged_in()
    if reinstated:
        new = Peer(registry=old.registry)
        new.log_in()
        assert new.ends[0].reason is reason
    else:
        (event,) = old.connection.connection_lost()
        assert getattr(event, "reason", None) is reason
