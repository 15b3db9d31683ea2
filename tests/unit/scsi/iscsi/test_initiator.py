import random
import struct
from collections.abc import Callable
from typing import Any

import pytest

from scsi.iscsi.initiator_options import SessionOver, SessionReady
from scsi.iscsi.initiator_task import CallbackTask, Task, Undelivered
from tests.support.streams import assert_same_in_every_cutting, cuttings_in_two
from tests.support.target_peer import LUN, NO_TAG, OPTIONS, Collector, TargetPeer

WRITE_CDB = bytes.fromhex("2a000000000700000100")
READ_CDB = bytes.fromhex("28000000000700000100")
COMMAND, DATA_OUT, NOP_OUT, MANAGEMENT, LOGOUT, TEXT = 0x01, 0x05, 0x00, 0x02, 0x06, 0x04
OVERFLOW, UNDERFLOW = 0x04, 0x02


def data_of(length: int) -> bytes:
    return random.Random(length).randbytes(length)


def logged_in(changes: dict[str, Any] | None = None, **answers: str) -> TargetPeer:
    peer = TargetPeer(**(changes or {}))
    peer.log_in(**answers)
    return peer


def reason(peer: TargetPeer) -> str:
    assert peer.over is not None
    return peer.over.reason


def outcome(tasks: list[Task]) -> tuple[int, bytes, bytes, int, Undelivered | None]:
    (task,) = tasks
    return task.status, bytes(task.data_in), task.sense, task.residual, task.undelivered


GOOD = (0, b"", b"", 0, None)

# --- commands and their data ---


def test_a_command_without_data() -> None:
    peer = logged_in()
    tasks = peer.submit(b"\x00" * 6)
    command = peer.request()
    assert (command.opcode, command.flags, command.lun) == (COMMAND, 0x81, LUN)
    assert command.raw[32:] == bytes(16)
    assert command.word(20) == 0
    assert command.word(24) == 1  # CmdSN
    assert command.word(28) == peer.stat_sn
    peer.send(peer.response(command.task_tag))
    assert outcome(tasks) == GOOD


def test_a_small_write_goes_as_immediate_data() -> None:
    peer = logged_in()
    data = data_of(512)
    tasks = peer.submit(WRITE_CDB, data)
    command = peer.request()
    assert (command.flags, command.data) == (0xA1, data)
    assert command.word(20) == 512
    peer.send(peer.response(command.task_tag))
    assert outcome(tasks) == GOOD


def test_a_long_write_goes_immediate_unsolicited_and_as_asked_for() -> None:
    peer = logged_in()
    data = data_of(20000)
    tasks = peer.submit(WRITE_CDB, data)
    command, first, *rest = peer.requests()
    assert (command.flags, len(command.data)) == (0x21, 4096)  # F is not set: Data-Out follows
    assert (first.opcode, first.flags, first.transfer_tag, first.word(36), first.word(40)) == (
        DATA_OUT,
        0x80,
        NO_TAG,
        0,
        4096,
    )
    assert rest == []
    sent = command.data + first.data
    assert len(sent) == 8192  # FirstBurstLength
    peer.send(peer.r2t(command.task_tag, 8192, 10000))
    asked = peer.requests()
    assert [(pdu.flags, pdu.transfer_tag, pdu.word(36), pdu.word(40), len(pdu.data)) for pdu in asked] == [
        (0x00, 0x77, 0, 8192, 4096),
        (0x00, 0x77, 1, 12288, 4096),
        (0x80, 0x77, 2, 16384, 1808),
    ]
    peer.send(peer.r2t(command.task_tag, 18192, 1808, r2t_sn=1))
    asked += peer.requests()
    assert sent + b"".join(pdu.data for pdu in asked) == data
    assert all(pdu.lun == LUN and pdu.task_tag == command.task_tag for pdu in asked)
    assert tasks == []
    peer.send(peer.response(command.task_tag))
    assert outcome(tasks) == GOOD


@pytest.mark.parametrize(
    ("initial_r2t", "immediate_data", "flags", "immediate", "unsolicited"),
    [
        ("No", "Yes", 0x21, 4096, 4096),
        ("Yes", "Yes", 0xA1, 4096, 0),
        ("No", "No", 0x21, 0, 8192),
        ("Yes", "No", 0xA1, 0, 0),
    ],
)
def test_every_way_of_unsolicited_data(
    initial_r2t: str, immediate_data: str, flags: int, immediate: int, unsolicited: int
) -> None:
    peer = logged_in(InitialR2T=initial_r2t, ImmediateData=immediate_data)
    data = data_of(9000)
    tasks = peer.submit(WRITE_CDB, data)
    command, *data_out = peer.requests()
    assert (command.flags, len(command.data)) == (flags, immediate)
    assert sum(len(pdu.data) for pdu in data_out) == unsolicited
    if data_out:
        assert [pdu.flags for pdu in data_out] == [0] * (len(data_out) - 1) + [0x80]
    sent = immediate + unsolicited
    peer.send(peer.r2t(command.task_tag, sent, 9000 - sent))
    data_out += peer.requests()
    assert command.data + b"".join(pdu.data for pdu in data_out) == data
    peer.send(peer.response(command.task_tag))
    assert outcome(tasks) == GOOD


def test_a_write_that_fits_the_first_burst_needs_no_more_than_one_command() -> None:
    peer = logged_in(MaxRecvDataSegmentLength="65536", FirstBurstLength="16384")
    peer.submit(WRITE_CDB, data_of(16384))
    assert peer.request().flags == 0xA1


def test_data_is_sent_without_being_copied() -> None:
    peer = logged_in()
    data = bytearray(data_of(8000))
    peer.submit(WRITE_CDB, data)
    out = peer.connection.data_to_send()
    assert any(isinstance(buffer, memoryview) and buffer.obj is data for buffer in out)


def test_a_read_in_one_data_in_with_its_status() -> None:
    peer = logged_in()
    tasks = peer.submit(READ_CDB, data_in_bytes=512)
    command = peer.request()
    assert (command.flags, command.word(20)) == (0xC1, 512)
    data = data_of(512)
    peer.send(peer.data_in(command.task_tag, data, status=0))
    assert outcome(tasks) == (0, data, b"", 0, None)


def test_a_read_in_many_pieces_with_a_response() -> None:
    peer = logged_in()
    data = data_of(100000)
    tasks = peer.submit(READ_CDB, data_in_bytes=len(data))
    tag = peer.request().task_tag
    pieces = [data[at : at + 30000] for at in range(0, len(data), 30000)]
    stream = [peer.data_in(tag, piece, data_sn=sn, offset=sn * 30000) for sn, piece in enumerate(pieces)]
    peer.send(*stream, peer.response(tag))
    assert outcome(tasks) == (0, data, b"", 0, None)


def test_a_read_goes_to_the_place_that_the_caller_named() -> None:
    peer = logged_in()
    memory = bytearray(100000)
    data = data_of(60000)
    tasks = peer.submit(READ_CDB, data_in_bytes=60000, place=memoryview(memory)[1000:61000])
    tag = peer.request().task_tag
    stream = peer.data_in(tag, data[:50000]) + peer.data_in(tag, data[50000:], data_sn=1, offset=50000, status=0)
    peer.send_pieces([stream[:1000], stream[1000:2000], stream[2000:]])
    assert tasks[0].status == 0
    assert memory[1000:61000] == data
    assert not any(memory[:1000])
    assert not any(memory[61000:])


def test_a_read_is_the_same_however_its_bytes_come() -> None:
    data = data_of(30000)
    script = logged_in()
    stream = script.data_in(2, data[:20000]) + script.data_in(2, data[20000:], data_sn=1, offset=20000, status=0)
    stream += script.response(3, 2, data=struct.pack(">H", 18) + bytes(18))

    def read(pieces: list[bytes]) -> list[object]:
        peer = logged_in()
        first = peer.submit(READ_CDB, data_in_bytes=30000)
        second = peer.submit()
        assert [pdu.task_tag for pdu in peer.requests()] == [2, 3]
        peer.send_pieces(pieces)
        return [outcome(first), outcome(second), peer.over]

    result = assert_same_in_every_cutting(stream, read)
    assert result == [(0, data, b"", 0, None), (2, b"", bytes(18), 0, None), None]


def test_small_answers_are_the_same_cut_at_every_byte() -> None:
    script = logged_in({"data_digest": True, "header_digest": True}, HeaderDigest="CRC32C", DataDigest="CRC32C")
    stream = script.data_in(2, b"12345", status=0, flags=0x83, residual=3) + script.response(3)

    def read(pieces: list[bytes]) -> list[object]:
        peer = logged_in({"data_digest": True, "header_digest": True}, HeaderDigest="CRC32C", DataDigest="CRC32C")
        first, second = peer.submit(READ_CDB, data_in_bytes=8), peer.submit()
        peer.requests()
        peer.send_pieces(pieces)
        return [outcome(first), outcome(second)]

    assert assert_same_in_every_cutting(stream, read, cuttings_in_two) == [(0, b"12345", b"", 3, None), GOOD]


def test_sense_data_comes_with_the_status() -> None:
    peer = logged_in()
    tasks = peer.submit()
    sense = bytes.fromhex("700005000000000a00000000240000000000")
    peer.send(peer.response(peer.request().task_tag, 2, data=struct.pack(">H", len(sense)) + sense))
    assert outcome(tasks) == (2, b"", sense, 0, None)


@pytest.mark.parametrize("segment", [b"\0", b"\xff\xff", b"\x00\x20short", b"\0\0"])
def test_sense_lengths_that_lie_bring_no_sense(segment: bytes) -> None:
    peer = logged_in()
    tasks = peer.submit()
    peer.send(peer.response(peer.request().task_tag, 2, data=segment))
    assert outcome(tasks) == (2, b"", b"", 0, None)
    assert peer.over is None


@pytest.mark.parametrize(
    ("flags", "residual", "expected"), [(UNDERFLOW, 112, 112), (OVERFLOW, 99, -99), (UNDERFLOW, 512, 512), (0, 7, 0)]
)
def test_residuals(flags: int, residual: int, expected: int) -> None:
    peer = logged_in()
    tasks = peer.submit(READ_CDB, data_in_bytes=512)
    tag = peer.request().task_tag
    data = data_of(512 - max(expected, 0))
    peer.send(peer.data_in(tag, data), peer.response(tag, flags=flags, residual=residual))
    assert outcome(tasks) == (0, data, b"", expected, None)


@pytest.mark.parametrize(
    ("flags", "residual"), [(UNDERFLOW, 513), (UNDERFLOW, 1), (UNDERFLOW | OVERFLOW, 0), (UNDERFLOW, 0xFFFFFFFF)]
)
def test_residuals_that_can_not_be_fail_the_command(flags: int, residual: int) -> None:
    peer = logged_in()
    tasks = peer.submit(READ_CDB, data_in_bytes=512)
    tag = peer.request().task_tag
    peer.send(peer.data_in(tag, data_of(512)), peer.response(tag, flags=flags, residual=residual))
    assert tasks[0].undelivered is Undelivered.MALFORMED
    assert tasks[0].status == -1
    assert peer.over is None


@pytest.mark.parametrize(("flags", "residual"), [(0, 0), (UNDERFLOW, 1000)])
def test_good_before_all_data_was_asked_for_is_not_good(flags: int, residual: int) -> None:
    peer = logged_in()
    tasks = peer.submit(WRITE_CDB, data_of(20000))
    tag = peer.requests()[0].task_tag
    peer.send(peer.response(tag, flags=flags, residual=residual))
    assert tasks[0].undelivered is Undelivered.MALFORMED


def test_an_error_before_all_data_was_asked_for_is_that_error() -> None:
    peer = logged_in()
    tasks = peer.submit(WRITE_CDB, data_of(20000))
    tag = peer.requests()[0].task_tag
    peer.send(peer.response(tag, 0x18))
    assert outcome(tasks)[0] == 0x18


def test_a_target_failure_is_no_status() -> None:
    peer = logged_in()
    tasks = peer.submit()
    peer.send(peer.response(peer.request().task_tag, response=1))
    assert tasks[0].undelivered is Undelivered.MALFORMED


def test_digests_both_ways() -> None:
    keys = {"HeaderDigest": "CRC32C", "DataDigest": "CRC32C"}
    peer = logged_in({"header_digest": True, "data_digest": True}, **keys)
    data = data_of(9001)
    written, read = peer.submit(WRITE_CDB, data), peer.submit(READ_CDB, data_in_bytes=9001)
    command, *data_out, second = peer.requests()  # which checks what annex sends
    peer.send(peer.r2t(command.task_tag, 8192, 809))
    data_out += peer.requests()
    assert command.data + b"".join(pdu.data for pdu in data_out) == data
    peer.send(peer.response(command.task_tag), peer.data_in(second.task_tag, data, status=0))
    assert outcome(written) == GOOD
    assert outcome(read) == (0, data, b"", 0, None)


@pytest.mark.parametrize("at", [10, 49, 60, -2])
def test_a_wrong_digest_ends_the_connection(at: int) -> None:
    peer = logged_in({"header_digest": True, "data_digest": True}, HeaderDigest="CRC32C", DataDigest="CRC32C")
    tasks = peer.submit(READ_CDB, data_in_bytes=512)
    pdu = bytearray(peer.data_in(peer.request().task_tag, data_of(512), status=0))
    pdu[at] ^= 1
    peer.send(bytes(pdu))
    assert "digest" in reason(peer)
    assert tasks[0].undelivered is Undelivered.LINK_LOST


# --- the window ---


def test_commands_wait_while_the_window_is_closed_and_go_in_order() -> None:
    peer = TargetPeer()
    peer.window = 2
    peer.log_in()
    done = Collector()
    for number in range(5):
        peer.submit(bytes([number]) + bytes(5), done=done)
    first, second = peer.requests()
    peer.exp_cmd_sn = 3
    peer.send(peer.response(first.task_tag))
    third, fourth = peer.requests()
    peer.exp_cmd_sn = 5
    peer.send(peer.response(second.task_tag), peer.response(third.task_tag), peer.response(fourth.task_tag))
    fifth = peer.request()
    assert [pdu.raw[32] for pdu in (first, second, third, fourth, fifth)] == [0, 1, 2, 3, 4]
    assert [pdu.word(24) for pdu in (first, second, third, fourth, fifth)] == [1, 2, 3, 4, 5]
    peer.send(peer.response(fifth.task_tag))
    assert [task.cdb[0] for task in done] == [0, 1, 2, 3, 4]


def test_a_nop_in_opens_the_window_too() -> None:
    peer = TargetPeer()
    peer.window = 0
    peer.log_in()
    peer.submit()
    assert peer.requests() == []
    peer.window = 1
    peer.send(peer.other(0x20, NO_TAG, status=False))
    assert peer.request().opcode == COMMAND


def test_window_and_numbers_wrap() -> None:
    peer = logged_in()
    session = peer.connection._session
    assert session is not None
    session.cmd_sn = session._exp_cmd_sn = peer.exp_cmd_sn = 0xFFFFFFFE
    session._max_cmd_sn = 1
    session.exp_stat_sn = peer.stat_sn = 0xFFFFFFFF
    session._next_tag = 0xFFFFFFFD
    done = Collector()
    for _ in range(4):
        peer.submit(done=done)
    commands = peer.requests()
    assert [pdu.word(24) for pdu in commands] == [0xFFFFFFFE, 0xFFFFFFFF, 0, 1]
    assert len({pdu.task_tag for pdu in commands}) == 4
    assert NO_TAG not in {pdu.task_tag for pdu in commands}
    peer.exp_cmd_sn = 2
    peer.send(*(peer.response(pdu.task_tag) for pdu in commands))
    assert len(done) == 4
    assert peer.over is None


def test_an_older_window_changes_nothing() -> None:
    peer = TargetPeer()
    peer.window = 2
    peer.log_in()
    first, second = peer.submit(), peer.submit()
    tags = [pdu.task_tag for pdu in peer.requests()]
    peer.submit()
    peer.send(peer.response(tags[0], exp_cmd_sn=2, max_cmd_sn=0))  # MaxCmdSN below ExpCmdSN - 1
    assert peer.requests() == []
    peer.send(peer.response(tags[1], exp_cmd_sn=1, max_cmd_sn=2))
    assert peer.requests() == []
    assert len(first) == len(second) == 1
    assert peer.over is None


def test_many_commands_in_flight_end_in_any_order() -> None:
    peer = logged_in()
    done = Collector()
    for number in range(64):
        peer.submit(bytes([number]) + bytes(5), done=done)
    tags = {pdu.raw[32]: pdu.task_tag for pdu in peer.requests()}
    order = list(range(64))
    random.Random(4).shuffle(order)
    peer.send(*(peer.response(tags[number]) for number in order))
    assert [task.cdb[0] for task in done] == order


def test_a_completion_may_submit_again() -> None:
    peer = logged_in()
    ended: list[int] = []

    def again(task: Task) -> None:
        ended.append(task.cmd_sn)
        if len(ended) < 5:
            peer.connection.submit(CallbackTask(LUN, bytes(6), b"", 0, 10.0, again))

    peer.connection.submit(CallbackTask(LUN, bytes(6), b"", 0, 10.0, again))
    for _ in range(5):
        peer.send(peer.response(peer.request().task_tag))
    assert ended == [1, 2, 3, 4, 5]


def test_the_adapter_is_woken_once_for_many_commands() -> None:
    peer = logged_in()
    peer.wakes = 0
    for _ in range(7):
        peer.submit()
    assert peer.wakes == 1
    peer.requests()
    peer.submit()
    assert peer.wakes == 2


def test_the_adapter_is_woken_again_when_much_waits() -> None:
    peer = logged_in()
    peer.wakes = 0
    for _ in range(7):
        peer.submit(data_out=bytes(4096))
    assert peer.wakes == 1
    peer.submit(data_out=bytes(4096))
    assert peer.wakes == 2
    assert len(peer.requests()) == 8


# --- lies ---

Lie = Callable[[TargetPeer, int, int], bytes]
LIES: dict[str, tuple[Lie, str]] = {
    "response for an unknown task": (lambda peer, read, write: peer.response(0x999), "unknown task tag 0x999"),
    "response for no task": (lambda peer, read, write: peer.response(NO_TAG), "unknown task tag"),
    "duplicate response": (lambda peer, read, write: peer.response(read) + peer.response(read), "unknown task tag"),
    "StatSN skipped": (lambda peer, read, write: peer.response(read, stat_sn=peer.stat_sn + 1), "StatSN"),
    "StatSN repeated": (lambda peer, read, write: peer.response(read, stat_sn=peer.stat_sn - 1), "StatSN"),
    "ExpCmdSN beyond": (lambda peer, read, write: peer.response(read, exp_cmd_sn=1000), "ExpCmdSN"),
    "Data-In for an unknown task": (lambda peer, read, write: peer.data_in(0x999, b"x"), "unknown task tag"),
    "Data-In for a write": (lambda peer, read, write: peer.data_in(write, b"x"), "were asked for"),
    "Data-In past the end": (lambda peer, read, write: peer.data_in(read, bytes(513)), "were asked for"),
    "Data-In at a wrong offset": (lambda peer, read, write: peer.data_in(read, bytes(8), offset=8), "at 8"),
    "Data-In with a wrong DataSN": (lambda peer, read, write: peer.data_in(read, bytes(8), data_sn=1), "Data-In 1"),
    "Data-In twice": (
        lambda peer, read, write: peer.data_in(read, bytes(8)) + peer.data_in(read, bytes(8), data_sn=1),
        "at 0",
    ),
    "status without F": (lambda peer, read, write: peer.data_in(read, bytes(8), flags=0x01), "not the last"),
    "R2T for a read": (lambda peer, read, write: peer.r2t(read, 0, 512), "writes nothing"),
    "R2T for an unknown task": (lambda peer, read, write: peer.r2t(0x999, 0, 512), "unknown task tag"),
    "R2T past the end": (lambda peer, read, write: peer.r2t(write, 8192, 11809), "R2T for bytes"),
    "R2T of nothing": (lambda peer, read, write: peer.r2t(write, 8192, 0), "R2T for 0"),
    "R2T of more than MaxBurstLength": (
        lambda peer, read, write: peer.r2t(write, 8192, 11808, r2t_sn=0),
        "R2T for 11808",
    ),
    "R2T for what was sent": (lambda peer, read, write: peer.r2t(write, 0, 512), "R2T for bytes"),
    "R2T with a gap": (lambda peer, read, write: peer.r2t(write, 9000, 512), "R2T for bytes"),
    "R2T with a wrong R2TSN": (lambda peer, read, write: peer.r2t(write, 8192, 512, r2t_sn=1), "R2TSN"),
    "R2T for another LUN": (lambda peer, read, write: peer.r2t(write, 8192, 512, lun=bytes(8)), "another LUN"),
    "R2T without a transfer tag": (lambda peer, read, write: peer.r2t(write, 8192, 9, transfer_tag=NO_TAG), "tag"),
    "NOP-In that answers nothing": (lambda peer, read, write: peer.other(0x20, 0x55), "NOP-In"),
    "management response for nothing": (lambda peer, read, write: peer.other(0x22, 0x55), "unknown task tag"),
    "Text Response for nothing": (lambda peer, read, write: peer.other(0x24, 0x55), "Text Response"),
    "Logout Response for nothing": (lambda peer, read, write: peer.other(0x26, 0x55), "Logout Response"),
    "Login Response": (lambda peer, read, write: peer.login_response(stage=1), "opcode 0x23"),
    "a request": (lambda peer, read, write: peer.other(0x01, 1), "opcode 0x01"),
    "an unknown opcode": (lambda peer, read, write: peer.other(0x3C, 1), "opcode 0x3c"),
    "Reject of a command": (
        lambda peer, read, write: peer.other(0x3F, NO_TAG, code=4, data=b"\x01" + bytes(47)),
        "rejects a PDU with opcode 0x01: reason 0x04",
    ),
    "Reject of nothing": (lambda peer, read, write: peer.other(0x3F, NO_TAG, code=4), "rejects"),
    "a segment beyond the declared length": (
        lambda peer, read, write: peer.data_in(read, b"")[:5] + (262145).to_bytes(3, "big") + bytes(40),
        "262145",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_a_target_that_contradicts_itself_loses_the_connection(name: str) -> None:
    lie, expected = LIES[name]
    peer = logged_in(MaxBurstLength="10000")
    done = Collector()
    peer.submit(READ_CDB, data_in_bytes=512, done=done)
    peer.submit(WRITE_CDB, data_of(20000), done=done)
    read, write, *_ = peer.requests()
    events = peer.send(lie(peer, read.task_tag, write.task_tag), b"\xff" * 100)
    assert [type(event) for event in events] == [SessionOver]
    assert expected in reason(peer)
    assert peer.connection.closing
    assert len(done) == 2
    assert {task.undelivered for task in done} <= {Undelivered.LINK_LOST, None}
    assert done[-1].undelivered is Undelivered.LINK_LOST
    late = peer.submit()
    assert outcome(late)[4] is Undelivered.NOT_SENT
    assert peer.send(peer.response(read.task_tag)) == []


@pytest.mark.parametrize("offset", [20000, 90000])
def test_a_long_data_in_that_is_out_of_place_is_not_put_anywhere(offset: int) -> None:
    peer = logged_in()
    memory = bytearray(100000)
    tasks = peer.submit(READ_CDB, data_in_bytes=100000, place=memoryview(memory))
    stream = peer.data_in(peer.request().task_tag, b"x" * 40000, offset=offset)
    peer.send_pieces([stream[:10000], stream[10000:30000], stream[30000:]])
    assert tasks[0].undelivered is Undelivered.LINK_LOST
    assert not any(memory)


def test_pdus_before_a_bad_one_count() -> None:
    peer = logged_in()
    first, second = peer.submit(), peer.submit()
    tags = [pdu.task_tag for pdu in peer.requests()]
    peer.send(peer.response(tags[0]), peer.response(0x999), peer.response(tags[1]))
    assert outcome(first) == GOOD
    assert second[0].undelivered is Undelivered.LINK_LOST


@pytest.mark.parametrize("seed", range(60))
def test_random_bytes_do_nothing_worse_than_end_the_connection(seed: int) -> None:
    rng = random.Random(seed)
    peer = logged_in()
    done = Collector()
    for _ in range(4):
        peer.submit(READ_CDB, data_in_bytes=512, done=done)
        peer.submit(WRITE_CDB, data_of(20000), done=done)
    tags = [pdu.task_tag for pdu in peer.requests() if pdu.opcode == COMMAND]
    for _ in range(200):
        tag = rng.choice(tags)
        pdu = bytearray(rng.choice([peer.response(tag), peer.data_in(tag, bytes(64)), peer.r2t(tag, 8192, 64)]))
        for _ in range(rng.randrange(3)):
            pdu[rng.randrange(len(pdu))] = rng.randrange(256)
        peer.send(bytes(pdu))
        peer.requests()
    peer.lose()
    assert len(done) == 8
    assert peer.connection.receive_buffer()


# --- time ---


def test_a_command_whose_time_is_over_is_aborted_and_ends_with_the_answer() -> None:
    peer = logged_in()
    slow, quick = peer.submit(timeout_s=2), peer.submit(timeout_s=20)
    command, other = peer.requests()
    peer.advance(1.9)
    assert peer.requests() == []
    peer.advance(0.2)
    abort = peer.request()
    assert (abort.opcode, abort.raw[0] & 0x40, abort.flags, abort.lun) == (MANAGEMENT, 0x40, 0x81, LUN)
    assert abort.word(20) == command.task_tag
    assert abort.word(32) == command.word(24)  # RefCmdSN
    assert not slow
    peer.send(peer.other(0x22, abort.task_tag))
    assert slow[0].undelivered is Undelivered.TIMED_OUT
    peer.send(peer.response(other.task_tag))
    assert outcome(quick) == GOOD


def test_an_answer_that_crosses_the_abort_counts() -> None:
    peer = logged_in()
    tasks = peer.submit(timeout_s=2)
    tag = peer.request().task_tag
    peer.advance(2.1)
    abort = peer.request()
    peer.send(peer.response(tag), peer.other(0x22, abort.task_tag, code=1))
    assert outcome(tasks) == GOOD
    assert peer.over is None


@pytest.mark.parametrize("code", [2, 5, 6, 255])
def test_an_abort_that_is_refused_ends_the_connection(code: int) -> None:
    peer = logged_in()
    tasks = peer.submit(timeout_s=2)
    peer.requests()
    peer.advance(2.1)
    peer.send(peer.other(0x22, peer.request().task_tag, code=code))
    assert "ABORT TASK" in reason(peer)
    assert tasks[0].undelivered is Undelivered.LINK_LOST


def test_an_abort_without_answer_ends_the_connection_in_bounded_time() -> None:
    peer = logged_in()
    tasks = peer.submit(timeout_s=10)
    for _ in range(14):
        peer.advance(1)
        for pdu in peer.requests():
            if pdu.opcode == NOP_OUT:
                peer.send(peer.other(0x20, pdu.task_tag))
    assert "task management" in reason(peer)
    assert tasks[0].undelivered is Undelivered.LINK_LOST


def test_a_command_that_never_got_into_the_window_times_out_by_itself() -> None:
    peer = TargetPeer()
    peer.window = 0
    peer.log_in()
    tasks, later = peer.submit(timeout_s=2), peer.submit(timeout_s=4)
    peer.advance(2.1)
    assert tasks[0].undelivered is Undelivered.TIMED_OUT
    assert not later
    peer.window = 1
    peer.send(peer.other(0x20, NO_TAG, status=False))
    assert peer.request().opcode == COMMAND


def test_a_silent_target_is_pinged_and_left_when_it_stays_silent() -> None:
    peer = logged_in()
    peer.advance(OPTIONS.nop_interval_s + 0.1)
    ping = peer.request()
    assert (ping.opcode, ping.raw[0] & 0x40, ping.transfer_tag) == (NOP_OUT, 0x40, NO_TAG)
    assert ping.task_tag != NO_TAG
    peer.send(peer.other(0x20, ping.task_tag))
    peer.advance(OPTIONS.nop_interval_s + 0.1)
    assert peer.request().task_tag != ping.task_tag
    peer.advance(OPTIONS.nop_timeout_s + 0.1)
    assert "ping" in reason(peer)


def test_a_busy_target_is_not_pinged() -> None:
    peer = logged_in()
    for _ in range(20):
        peer.submit()
        peer.advance(1)
        peer.send(peer.response(peer.request().task_tag))


def test_pings_of_the_target_are_answered() -> None:
    peer = logged_in()
    peer.send(peer.other(0x20, NO_TAG, transfer_tag=0x1234, lun=LUN, status=False))
    pong = peer.request()
    assert (pong.opcode, pong.task_tag, pong.transfer_tag, pong.lun) == (NOP_OUT, NO_TAG, 0x1234, LUN)
    peer.send(peer.other(0x20, NO_TAG, status=False))  # wants no answer
    assert peer.requests() == []


def test_a_flood_of_pings_ends_the_connection() -> None:
    peer = logged_in()
    peer.send(*[peer.other(0x20, NO_TAG, transfer_tag=1, status=False)] * 1000)
    assert "floods" in reason(peer)


# --- task management, logout, text, async ---


def test_a_lu_reset_ends_what_was_sent_to_the_lu_before_it() -> None:
    peer = logged_in()
    other_lun = bytes.fromhex("0002000000000000")
    before, elsewhere = peer.submit(), peer.submit(lun=other_lun)
    answers: list[bool] = []
    peer.connection.reset_unit(LUN, answers.append)
    after = peer.submit()
    reset = next(pdu for pdu in peer.requests() if pdu.opcode == MANAGEMENT)
    assert (reset.flags, reset.lun, reset.word(20)) == (0x85, LUN, NO_TAG)
    assert answers == []
    peer.send(peer.other(0x22, reset.task_tag))
    assert answers == [True]
    assert before[0].undelivered is Undelivered.ABORTED
    assert not elsewhere
    assert not after


@pytest.mark.parametrize("code", [1, 2, 5, 255])
def test_a_lu_reset_that_is_refused_ends_nothing(code: int) -> None:
    peer = logged_in()
    before = peer.submit()
    answers: list[bool] = []
    peer.connection.reset_unit(LUN, answers.append)
    peer.send(peer.other(0x22, peer.requests()[-1].task_tag, code=code))
    assert answers == [False]
    assert not before


def test_a_lu_reset_without_answer_ends_the_connection() -> None:
    peer = logged_in()
    answers: list[bool] = []
    peer.connection.reset_unit(LUN, answers.append)
    peer.advance(OPTIONS.management_timeout_s + 0.1)
    assert answers == [False]
    assert "task management" in reason(peer)
    peer.connection.reset_unit(LUN, answers.append)
    assert answers == [False, False]


def test_logout_waits_for_the_answer() -> None:
    peer = logged_in()
    running = peer.submit()
    tag = peer.request().task_tag
    done: list[str] = []
    peer.connection.logout(lambda: done.append("out"))
    logout = peer.request()
    assert (logout.opcode, logout.flags) == (LOGOUT, 0x80)
    assert outcome(peer.submit())[4] is Undelivered.NOT_SENT
    peer.send(peer.response(tag))
    assert outcome(running) == GOOD
    assert done == []
    peer.send(peer.other(0x26, logout.task_tag))
    assert done == ["out"]
    assert peer.connection.closing
    assert reason(peer) == "logged out"


def test_logout_does_not_wait_for_ever() -> None:
    peer = logged_in()
    done: list[str] = []
    peer.connection.logout(lambda: done.append("out"))
    peer.requests()
    peer.advance(OPTIONS.logout_timeout_s + 0.1)
    assert done == ["out"]
    assert "Logout" in reason(peer)


def test_logout_of_what_is_over_or_has_not_begun_is_done_at_once() -> None:
    peer = TargetPeer()
    done: list[str] = []
    peer.connection.logout(lambda: done.append("first"))
    peer.connection.logout(lambda: done.append("second"))
    assert done == ["first", "second"]
    assert peer.connection.closing


@pytest.mark.parametrize("event", [1, 4])
def test_a_target_that_asks_for_a_logout_gets_it(event: int) -> None:
    peer = logged_in()
    peer.send(peer.other(0x32, NO_TAG, tail=bytes([event]) + bytes(11)))
    logout = peer.request()
    assert logout.opcode == LOGOUT
    peer.send(peer.other(0x26, logout.task_tag))
    assert reason(peer) == "logged out"


@pytest.mark.parametrize("event", [2, 3])
def test_a_target_that_drops_the_connection_is_believed(event: int) -> None:
    peer = logged_in()
    tasks = peer.submit()
    peer.send(peer.other(0x32, NO_TAG, tail=bytes([event]) + bytes(11)))
    assert "drops" in reason(peer)
    assert tasks[0].undelivered is Undelivered.LINK_LOST


def test_a_scsi_event_disturbs_nothing() -> None:
    peer = logged_in()
    tasks = peer.submit()
    peer.send(peer.other(0x32, NO_TAG, data=b"\0\2xx"))
    peer.send(peer.response(peer.request().task_tag))
    assert outcome(tasks) == GOOD


def test_a_rejected_ping_is_an_answer() -> None:
    peer = logged_in()
    peer.advance(OPTIONS.nop_interval_s + 0.1)
    peer.requests()
    peer.send(peer.other(0x3F, NO_TAG, code=5, data=b"\x40" + bytes(47)))
    peer.advance(OPTIONS.nop_timeout_s - 0.5)
    assert peer.over is None


def test_discovery_lists_targets_in_parts() -> None:
    peer = TargetPeer(target_name="")
    peer.request()
    peer.send(peer.login_response({"AuthMethod": "None"}, stage=0, next_stage=1))
    offered = peer.request().text
    assert "MaxBurstLength" not in offered
    peer.send(peer.login_response({}, stage=1, next_stage=3))
    assert peer.events == [SessionReady(None)]
    lists: list[Any] = []
    peer.connection.send_targets(lists.append)
    request = peer.request()
    assert (request.opcode, request.text) == (TEXT, {"SendTargets": "All"})
    text = b"TargetName=iqn.a\0TargetAddress=192.0.2.1:3260,1\0TargetAddress=[2001:db8::1]:3260,1\0TargetName=iqn.b\0"
    peer.send(peer.other(0x24, request.task_tag, transfer_tag=9, flags=0x40, data=text[:30]))
    more = peer.request()
    assert (more.task_tag, more.transfer_tag, more.data) == (request.task_tag, 9, b"")
    peer.send(peer.other(0x24, request.task_tag, data=text[30:]))
    assert lists == [[("iqn.a", ["192.0.2.1:3260,1", "[2001:db8::1]:3260,1"]), ("iqn.b", [])]]


def test_a_list_of_targets_that_never_ends_ends_the_connection() -> None:
    peer = logged_in()
    lists: list[Any] = []
    peer.connection.send_targets(lists.append)
    tag = peer.request().task_tag
    for _ in range(200):
        peer.send(peer.other(0x24, tag, transfer_tag=9, flags=0x40, data=bytes(8192)))
        peer.requests()
    assert lists == [None]
    assert "does not end" in reason(peer)


def test_a_list_of_targets_that_does_not_come_ends_the_connection() -> None:
    peer = logged_in()
    lists: list[Any] = []
    peer.connection.send_targets(lists.append)
    peer.requests()
    for _ in range(10):
        peer.advance(1)
        for pdu in peer.requests():
            if pdu.opcode == NOP_OUT and peer.over is None:
                peer.send(peer.other(0x20, pdu.task_tag))
    assert lists == [None]


# --- the end ---


def test_a_lost_connection_ends_everything_once() -> None:
    peer = TargetPeer()
    peer.window = 1
    peer.log_in()
    sent, waiting = peer.submit(WRITE_CDB, data_of(512)), peer.submit()
    resets: list[bool] = []
    peer.connection.reset_unit(LUN, resets.append)
    peer.lose()
    peer.lose()
    assert sent[0].undelivered is Undelivered.LINK_LOST
    assert waiting[0].undelivered is Undelivered.NOT_SENT
    assert (len(sent), len(waiting), resets) == (1, 1, [False])
    assert [type(event) for event in peer.events] == [SessionReady, SessionOver]
    assert peer.connection.next_deadline() is None
    assert peer.connection.on_timer(1e9) == []


def test_before_there_is_a_session_nothing_is_sent() -> None:
    peer = TargetPeer()
    assert outcome(peer.submit())[4] is Undelivered.NOT_SENT
    answers: list[Any] = []
    peer.connection.reset_unit(LUN, answers.append)
    peer.connection.send_targets(answers.append)
    assert answers == [False, None]
