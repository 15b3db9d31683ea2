from dataclasses import replace

import pytest

from scsi.iscsi.events import ScsiCommand
from scsi.iscsi.options import TargetOptions
from tests.support.iscsi_peer import NO_TAG, Pdu, Peer

READ = bytes.fromhex("28000000000000000800")
WRITE = bytes.fromhex("2a000000000000000800")
DATA_IN, RESPONSE, R2T, REJECT = 0x25, 0x21, 0x31, 0x3F


def logged_in(options: TargetOptions | None = None, **keys: str) -> Peer:
    peer = Peer(options=options)
    peer.log_in(**keys)
    return peer


def test_a_command_carries_what_the_host_said() -> None:
    peer = logged_in()
    lun = bytes.fromhex("4005000000000000")
    peer.send(peer.command_pdu(READ, read=4096, lun=lun, tag=9, attribute=3))
    (command,) = peer.commands
    assert (command.lun, command.cdb, command.attribute) == (lun, READ + bytes(6), 3)
    assert (command.initiator_task_tag, command.data_in_bytes, command.data_out_bytes) == (9, 4096, 0)
    assert command.session is peer.session
    assert (command.data_out, command.aborted, command.finished) == (b"", False, False)
    assert peer.session.admission.context == "context"


def test_a_long_cdb_comes_whole() -> None:
    peer = logged_in()
    peer.send(peer.command_pdu(b"\x7f" * 16, read=4, ahs=b"\0\x11\1\0" + b"\x11" * 16))
    assert peer.commands[0].cdb == b"\x7f" * 16 + b"\x11" * 16


@pytest.mark.parametrize("digest", ["None", "CRC32C"])
@pytest.mark.parametrize("length", [1, 5, 8192, 65536])
def test_immediate_data_comes_with_its_command(length: int, digest: str) -> None:
    peer = logged_in(DataDigest=digest)
    data = bytes(at % 251 for at in range(length))
    stream = peer.command_pdu(WRITE, write=length, data=data)
    peer.send(stream[:1000])
    peer.send(stream[1000:])
    assert bytes(peer.commands[0].data_out) == data


def test_data_that_was_handed_up_is_not_overwritten_by_what_comes_later() -> None:
    peer = logged_in()
    for letter in b"abc":
        peer.send(peer.command_pdu(WRITE, write=512, data=bytes([letter]) * 512))
    assert [bytes(command.data_out)[:2] for command in peer.commands] == [b"aa", b"bb", b"cc"]


def test_answers_may_come_in_any_order() -> None:
    peer = logged_in()
    for tag in (1, 2, 3):
        peer.send(peer.command_pdu(READ, read=4, tag=tag))
    for at in (2, 0, 1):
        peer.commands[at].complete(0, b"data")
    answers = peer.look()
    assert [pdu.task_tag for pdu in answers] == [3, 1, 2]
    assert [pdu.stat_sn - answers[0].stat_sn for pdu in answers] == [0, 1, 2]


def test_one_wake_is_enough_for_many_answers() -> None:
    peer = logged_in()
    for _ in range(5):
        peer.send(peer.command_pdu())
    for command in peer.commands:
        command.complete(0)
    assert peer.wakes == 1
    assert len(peer.look()) == 5


def test_the_adapter_is_woken_again_when_many_answers_wait() -> None:
    peer = logged_in()
    for _ in range(8):
        peer.send(peer.command_pdu())
    for command in peer.commands[:7]:
        command.complete(0)
    assert peer.wakes == 1
    peer.commands[7].complete(0)
    assert peer.wakes == 2
    assert len(peer.look()) == 8


def test_many_answers_at_once_do_not_wake_the_adapter_that_is_looking() -> None:
    peer = logged_in()
    peer.received.clear()
    peer.handle = lambda event: event.complete(0) if isinstance(event, ScsiCommand) else None
    peer.send(b"".join(peer.command_pdu() for _ in range(20)))
    assert (peer.wakes, len(peer.received)) == (0, 20)


def test_completing_a_command_twice_is_a_bug_that_is_noticed() -> None:
    peer = logged_in()
    peer.send(peer.command_pdu())
    peer.commands[0].complete(0)
    with pytest.raises(AssertionError):
        peer.commands[0].complete(0)


def test_a_tag_may_be_used_again_once_its_task_was_answered_or_aborted() -> None:
    peer = logged_in()
    peer.send(peer.command_pdu(tag=7))
    peer.commands[0].complete(0)
    peer.look()
    peer.send(peer.command_pdu(tag=7))
    peer.commands[1].aborted = True
    peer.send(peer.command_pdu(READ, read=4, tag=7))
    peer.commands[1].complete(0)
    assert peer.look() == []
    peer.commands[2].complete(0, b"data")
    assert [(pdu.opcode, pdu.task_tag) for pdu in peer.look()] == [(DATA_IN, 7)]
    assert peer.session.tasks == {}


def test_the_reserved_tag_is_no_task() -> None:
    peer = logged_in()
    (reject,) = peer.send(peer.command_pdu(tag=NO_TAG))
    assert (reject.opcode, reject.raw[2]) == (REJECT, 0x09)


@pytest.mark.parametrize("pdu", ["data with a read", "more to come of a read"])
def test_a_command_that_reads_can_not_bring_data(pdu: str) -> None:
    peer = logged_in()
    stream = (
        peer.command_pdu(READ, read=512, data=b"data") if pdu == "data with a read" else peer.command_pdu(final=False)
    )
    (reject,) = peer.send(stream)
    assert (reject.opcode, reject.raw[2], reject.exp_cmd_sn) == (REJECT, 0x09, 1)
    assert peer.commands == []


def test_an_early_command_that_is_rejected_stops_those_behind_it() -> None:
    peer = logged_in()
    peer.send(peer.command_pdu(tag=NO_TAG, cmd_sn=2))
    peer.send(peer.command_pdu(cmd_sn=3))
    (reject,) = peer.send(peer.command_pdu(cmd_sn=1))
    assert (reject.opcode, reject.exp_cmd_sn) == (REJECT, 2)
    peer.send(peer.command_pdu(cmd_sn=2))
    assert [command.cmd_sn for command in peer.commands] == [1, 2, 3]


def test_data_of_early_commands_is_bounded() -> None:
    peer = logged_in(TargetOptions(session_memory_bytes=1 << 20, max_data_out_bytes=1 << 20))
    data = bytes(200_000)
    for number in range(2, 8):
        peer.send(peer.command_pdu(WRITE, write=len(data), data=data, cmd_sn=number))
    assert peer.is_closed()


def test_a_snack_is_refused() -> None:
    peer = logged_in()
    (reject,) = peer.send(peer.pack(b"\x10\x80" + bytes(46)))
    assert (reject.opcode, reject.raw[2]) == (REJECT, 0x03)


@pytest.mark.parametrize("opcode", [0x07, 0x1C, 0x1E, 0x20, 0x25, 0x31, 0x3F, 0x03])
def test_an_opcode_that_is_not_an_initiators_is_refused(opcode: int) -> None:
    peer = logged_in()
    (reject,) = peer.send(peer.pack(bytes([opcode, 0x80]) + bytes(46)))
    assert (reject.opcode, reject.raw[2]) == (REJECT, 0x05)
    assert reject.data[0] == opcode


# --- memory ---

SMALL = TargetOptions(session_memory_bytes=1 << 20, max_data_out_bytes=1 << 20)


def test_commands_above_the_memory_of_a_session_wait_in_order_and_are_not_refused() -> None:
    peer = logged_in(SMALL, MaxRecvDataSegmentLength="1048576")
    half = 1 << 19
    for _ in range(3):
        peer.send(peer.command_pdu(READ, read=half))
    peer.send(peer.command_pdu())  # needs no memory, and waits for its turn all the same
    assert len(peer.commands) == 2
    peer.commands[0].complete(0, bytes(half))
    assert len(peer.commands) == 2  # the answer has not been taken yet
    peer.look()
    assert len(peer.commands) == 4
    assert [command.cmd_sn for command in peer.commands] == [1, 2, 3, 4]


def test_what_the_adapter_does_not_take_stays_charged() -> None:
    peer = logged_in(SMALL, MaxRecvDataSegmentLength="1048576")
    for _ in range(4):
        peer.send(peer.command_pdu(READ, read=1 << 19))
    for command in peer.commands[:]:
        command.complete(0, bytes(1 << 19))
    assert peer.connection.take_events() == []
    assert peer.session.line.charged_bytes == 1 << 20
    peer.connection.data_to_send()
    assert len(peer.connection.take_events()) == 2


def test_a_write_that_waits_is_asked_for_its_data_only_when_there_is_memory() -> None:
    peer = logged_in(SMALL, MaxRecvDataSegmentLength="1048576")
    peer.send(peer.command_pdu(READ, read=1 << 20))
    assert peer.send(peer.command_pdu(WRITE, write=1 << 19, tag=7)) == []
    peer.commands[0].complete(0, bytes(1 << 20))
    answers = peer.look()
    assert [pdu.opcode for pdu in answers][-1] == R2T
    assert answers[-1].task_tag == 7


def test_unsolicited_data_of_a_write_that_waits_is_kept() -> None:
    peer = logged_in(SMALL, InitialR2T="No", MaxRecvDataSegmentLength="1048576", FirstBurstLength="65536")
    peer.send(peer.command_pdu(READ, read=1 << 20))
    peer.send(peer.command_pdu(WRITE, write=70_000, data=b"a" * 1000, tag=7, final=False))
    assert peer.send(peer.data_out_pdu(7, b"b" * 64_536, offset=1000)) == []
    peer.commands[0].complete(0, bytes(1 << 20))
    r2t = peer.look()[-1]
    assert (r2t.opcode, r2t.word(40), r2t.word(44)) == (R2T, 65_536, 70_000 - 65_536)
    peer.send(peer.data_out_pdu(7, b"c" * 4464, offset=65_536, transfer_tag=r2t.transfer_tag))
    assert bytes(peer.commands[1].data_out) == b"a" * 1000 + b"b" * 64_536 + b"c" * 4464


def test_many_complete_writes_that_waited_all_go_on_at_once() -> None:
    peer = logged_in(replace(SMALL, window_commands=1000), InitialR2T="No", MaxRecvDataSegmentLength="1048576")
    peer.send(peer.command_pdu(READ, read=1 << 20))
    for _ in range(600):  # each would go one call deeper if it woke the next
        peer.send(peer.command_pdu(WRITE, write=16, data=b"d" * 8, tag=(tag := peer.tag()), final=False))
        peer.send(peer.data_out_pdu(tag, b"d" * 8, offset=8))
    assert len(peer.commands) == 1
    peer.commands[0].complete(0, bytes(1 << 20))
    peer.look()
    assert len(peer.commands) == 601


def test_a_command_that_expects_more_than_there_is_memory_starts_all_the_same() -> None:
    peer = logged_in(SMALL)
    peer.send(peer.command_pdu(READ, read=0xFFFFFFFF))
    assert len(peer.commands) == 1
    assert peer.session.line.charged_bytes == 1 << 20


def test_no_more_is_asked_for_than_a_write_may_bring() -> None:
    options = TargetOptions(session_memory_bytes=1 << 20, max_data_out_bytes=1 << 18, max_burst_length=1 << 18)
    peer = logged_in(options, InitialR2T="Yes", ImmediateData="No")
    (r2t,) = peer.send(peer.command_pdu(WRITE, write=0xFFFFFFF0, tag=7))
    assert (r2t.word(40), r2t.word(44)) == (0, 1 << 18)
    peer.send(peer.data_out_pdu(7, bytes(1 << 18), offset=0, transfer_tag=r2t.transfer_tag))
    assert (len(peer.commands[0].data_out), peer.commands[0].data_out_bytes) == (1 << 18, 0xFFFFFFF0)
    peer.commands[0].complete(2, sense=bytes(18))
    assert [pdu.opcode for pdu in peer.look()] == [RESPONSE]


# --- task attributes ---


def delivered_order(peer: Peer) -> list[int]:
    return [command.initiator_task_tag for command in peer.commands]


def test_an_ordered_command_is_delivered_after_the_writes_before_it() -> None:
    peer = logged_in(InitialR2T="Yes", ImmediateData="No")
    (r2t,) = peer.send(peer.command_pdu(WRITE, write=8, tag=1))
    peer.send(peer.command_pdu(READ, read=4, tag=2))
    peer.send(peer.command_pdu(READ, read=4, tag=3, attribute=2))
    peer.send(peer.command_pdu(READ, read=4, tag=4))
    assert delivered_order(peer) == [2]
    peer.send(peer.data_out_pdu(1, b"12345678", offset=0, transfer_tag=r2t.transfer_tag))
    assert delivered_order(peer) == [2, 1, 3, 4]


def test_nothing_overtakes_an_ordered_write_that_collects_its_data() -> None:
    peer = logged_in(InitialR2T="Yes", ImmediateData="No")
    (r2t,) = peer.send(peer.command_pdu(WRITE, write=8, tag=1, attribute=2))
    peer.send(peer.command_pdu(READ, read=4, tag=2))
    assert delivered_order(peer) == []
    peer.send(peer.data_out_pdu(1, b"12345678", offset=0, transfer_tag=r2t.transfer_tag))
    assert delivered_order(peer) == [1, 2]


def test_simple_commands_overtake_a_write_that_collects_its_data() -> None:
    peer = logged_in(InitialR2T="Yes", ImmediateData="No")
    peer.send(peer.command_pdu(WRITE, write=8, tag=1))
    peer.send(peer.command_pdu(READ, read=4, tag=2))
    assert delivered_order(peer) == [2]


# --- unsolicited and solicited data together ---


@pytest.mark.parametrize("immediate", [0, 4, 1000])
@pytest.mark.parametrize("unsolicited", [False, True])
@pytest.mark.parametrize("total", [1000, 4096, 5000, 20_001])
def test_a_write_gets_its_data_whole_by_whatever_way_it_comes(immediate: int, unsolicited: bool, total: int) -> None:
    peer = logged_in(
        InitialR2T="No", FirstBurstLength="4096", MaxBurstLength="8192", MaxOutstandingR2T="3", ImmediateData="Yes"
    )
    data = bytes(at % 251 for at in range(total))
    first = min(4096, total)
    unsolicited = unsolicited and immediate < first
    answers = peer.send(peer.command_pdu(WRITE, write=total, data=data[:immediate], tag=7, final=not unsolicited))
    if unsolicited:
        half = (immediate + first) // 2
        assert peer.send(peer.data_out_pdu(7, data[immediate:half], offset=immediate, final=False)) == []
        answers = peer.send(peer.data_out_pdu(7, data[half:first], offset=half, data_sn=1))
    while answers:
        r2t = answers.pop(0)
        assert r2t.opcode == R2T
        offset, length = r2t.word(40), r2t.word(44)
        answers += send_burst(peer, r2t, data[offset : offset + length], offset)
    (command,) = peer.commands
    assert bytes(command.data_out) == data
    command.complete(0)
    (answer,) = peer.look()
    assert (answer.opcode, answer.raw[3], answer.flags & 0x1E) == (RESPONSE, 0, 0)
    assert peer.session.line.charged_bytes == 0


def send_burst(peer: Peer, r2t: Pdu, data: bytes, offset: int) -> list[Pdu]:
    answers = []
    for number, at in enumerate(range(0, len(data), 1500)):
        piece = data[at : at + 1500]
        final = at + len(piece) == len(data)
        pdu = peer.data_out_pdu(
            7, piece, offset=offset + at, data_sn=number, transfer_tag=r2t.transfer_tag, final=final
        )
        answers += peer.send(pdu)
    return answers


def test_less_unsolicited_data_than_a_short_write_needs_is_asked_for() -> None:
    peer = logged_in(InitialR2T="No", FirstBurstLength="4096")
    peer.send(peer.command_pdu(WRITE, write=1000, tag=7, final=False))
    (r2t,) = peer.send(peer.data_out_pdu(7, b"d" * 400, offset=0))
    assert (r2t.word(40), r2t.word(44)) == (400, 600)


def test_answers_to_r2ts_out_of_order_close_the_connection() -> None:
    peer = logged_in(InitialR2T="Yes", ImmediateData="No", MaxBurstLength="512", MaxOutstandingR2T="2")
    _, second = peer.send(peer.command_pdu(WRITE, write=1024, tag=7))
    peer.send(peer.data_out_pdu(7, b"d" * 512, offset=512, transfer_tag=second.transfer_tag))
    assert peer.is_closed()


def test_commands_of_one_batch_are_delivered_and_a_bad_pdu_is_the_last_event() -> None:
    peer = logged_in()
    bad = bytearray(peer.nop_pdu())
    bad[5:8] = b"\xff\xff\xff"
    stream = peer.command_pdu(READ, read=4) + peer.command_pdu(READ, read=4) + bytes(bad) + peer.command_pdu()
    events = peer.connection.receive_data(stream)
    assert [type(event).__name__ for event in events] == ["ScsiCommand", "ScsiCommand", "ProtocolFault", "SessionEnded"]
    commands = [event for event in events if isinstance(event, ScsiCommand)]
    assert [command.aborted for command in commands] == [True, True]
