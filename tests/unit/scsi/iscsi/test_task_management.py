import pytest

from scsi.iscsi.options import TargetOptions
from tests.support.iscsi_peer import LUN, Pdu, Peer

WRITE = bytes.fromhex("2a000000000000000800")
READ = bytes.fromhex("28000000000000000800")
OTHER_LUN = bytes([0, 1, 0, 0, 0, 0, 0, 0])
RESPONSE, TMF_RESPONSE, R2T, REJECT, DATA_IN = 0x21, 0x22, 0x31, 0x3F, 0x25
ABORT_TASK, ABORT_TASK_SET, CLEAR_ACA, CLEAR_TASK_SET, LUN_RESET, WARM_RESET, COLD_RESET, REASSIGN = range(1, 9)


def logged_in(options: TargetOptions | None = None) -> Peer:
    peer = Peer(options=options)
    peer.log_in(InitialR2T="Yes", ImmediateData="No")
    return peer


def response(pdus: list[Pdu]) -> int:
    (pdu,) = pdus
    assert pdu.opcode == TMF_RESPONSE
    return pdu.raw[2]


@pytest.mark.parametrize("function", [ABORT_TASK_SET, CLEAR_ACA, CLEAR_TASK_SET, LUN_RESET, WARM_RESET, COLD_RESET])
@pytest.mark.parametrize("immediate", [True, False])
def test_a_function_of_scsi_is_handed_up_and_answered_as_scsi_says(function: int, immediate: bool) -> None:
    peer = logged_in()
    assert peer.send(peer.task_management_pdu(function, tag=50, lun=OTHER_LUN, immediate=immediate)) == []
    (event,) = peer.functions
    assert (event.function, event.lun, event.referenced, event.initiator_task_tag) == (function, OTHER_LUN, None, 50)
    event.complete(5)
    assert response(peer.look()) == 5


@pytest.mark.parametrize(("function", "code"), [(REASSIGN, 4), (0, 5), (9, 5), (0x7F, 5)])
def test_a_function_that_is_not_scsis_is_answered_at_once(function: int, code: int) -> None:
    peer = logged_in()
    assert response(peer.send(peer.task_management_pdu(function))) == code
    assert peer.functions == []


def test_abort_task_names_the_command_that_scsi_has() -> None:
    peer = logged_in()
    peer.send(peer.command_pdu(READ, read=4, tag=7))
    peer.send(peer.task_management_pdu(ABORT_TASK, referenced=7, ref_cmd_sn=1))
    (event,) = peer.functions
    assert event.referenced is peer.commands[0]
    peer.commands[0].aborted = True
    event.complete(0)
    assert response(peer.look()) == 0
    assert peer.session.tasks == {}
    peer.commands[0].complete(0, b"late")
    assert peer.look() == []


def test_abort_task_that_comes_too_late_is_answered_after_the_command() -> None:
    peer = logged_in()
    peer.send(peer.command_pdu(READ, read=4, tag=7))
    peer.send(peer.task_management_pdu(ABORT_TASK, referenced=7, ref_cmd_sn=1))
    peer.commands[0].complete(0, b"data")
    peer.functions[0].complete(1)
    assert [pdu.opcode for pdu in peer.look()] == [DATA_IN, TMF_RESPONSE]


def test_abort_task_with_another_lun_is_rejected() -> None:
    peer = logged_in()
    peer.send(peer.command_pdu(READ, read=4, tag=7))
    assert response(peer.send(peer.task_management_pdu(ABORT_TASK, referenced=7, lun=OTHER_LUN))) == 255
    assert not peer.commands[0].aborted


def test_abort_task_of_a_write_that_collects_ends_it_here() -> None:
    peer = logged_in()
    (r2t,) = peer.send(peer.command_pdu(WRITE, write=512, tag=7))
    assert response(peer.send(peer.task_management_pdu(ABORT_TASK, referenced=7, ref_cmd_sn=1))) == 0
    assert peer.functions == []
    # The data was on its way already, and is dropped without a word.
    assert peer.send(peer.data_out_pdu(7, b"d" * 512, offset=0, transfer_tag=r2t.transfer_tag)) == []
    assert peer.send(peer.nop_pdu())[0].max_cmd_sn == 129
    assert peer.faults == []


@pytest.mark.parametrize("function", [ABORT_TASK_SET, CLEAR_TASK_SET, LUN_RESET])
def test_a_function_of_one_unit_ends_the_writes_that_collect_for_it_and_no_others(function: int) -> None:
    peer = logged_in()
    (mine,) = peer.send(peer.command_pdu(WRITE, write=4, tag=1))
    (other,) = peer.send(peer.command_pdu(WRITE, write=4, tag=2, lun=OTHER_LUN))
    peer.send(peer.task_management_pdu(function, tag=50))
    peer.functions[0].complete(0)
    assert peer.look() == []
    assert peer.send(peer.data_out_pdu(2, b"data", offset=0, transfer_tag=other.transfer_tag, lun=OTHER_LUN)) == []
    assert [command.initiator_task_tag for command in peer.commands] == [2]
    assert response(peer.send(peer.data_out_pdu(1, b"data", offset=0, transfer_tag=mine.transfer_tag))) == 0


def test_a_target_reset_ends_all_writes_that_collect() -> None:
    peer = logged_in()
    r2ts = peer.send(peer.command_pdu(WRITE, write=4, tag=1)) + peer.send(
        peer.command_pdu(WRITE, write=4, tag=2, lun=OTHER_LUN)
    )
    peer.send(peer.task_management_pdu(WARM_RESET, tag=50))
    peer.functions[0].complete(0)
    assert peer.send(peer.data_out_pdu(1, b"data", offset=0, transfer_tag=r2ts[0].transfer_tag)) == []
    last = peer.data_out_pdu(2, b"data", offset=0, transfer_tag=r2ts[1].transfer_tag, lun=OTHER_LUN)
    assert response(peer.send(last)) == 0
    assert peer.commands == []


def test_a_cold_reset_ends_the_session_after_its_answer() -> None:
    peer = logged_in()
    peer.send(peer.task_management_pdu(COLD_RESET, tag=50))
    peer.functions[0].complete(0)
    assert response(peer.look()) == 0
    assert peer.is_closed()
    assert len(peer.ends) == 1


def test_commands_that_wait_for_memory_are_ended_too() -> None:
    peer = logged_in(TargetOptions(session_memory_bytes=1 << 20, max_data_out_bytes=1 << 20))
    peer.send(peer.command_pdu(READ, read=1 << 20, tag=1))
    peer.send(peer.command_pdu(READ, read=1 << 20, tag=2))
    peer.send(peer.command_pdu(WRITE, write=512, tag=3))
    assert response(peer.send(peer.task_management_pdu(ABORT_TASK, tag=51, referenced=2, ref_cmd_sn=2))) == 0
    peer.send(peer.task_management_pdu(LUN_RESET, tag=50))
    peer.commands[0].aborted = True
    peer.functions[0].complete(0)
    assert response(peer.look()) == 0
    peer.commands[0].complete(0)
    assert len(peer.commands) == 1
    assert peer.session.tasks == {}
    assert peer.session.line.charged_bytes == 0
    assert peer.send(peer.nop_pdu())[0].max_cmd_sn == peer.cmd_sn + 127


def test_a_function_can_not_have_the_tag_of_a_task_nor_a_task_that_of_a_function() -> None:
    peer = logged_in()
    peer.send(peer.command_pdu(READ, read=4, tag=7))
    (reject,) = peer.send(peer.task_management_pdu(LUN_RESET, tag=7))
    assert (reject.opcode, reject.raw[2]) == (REJECT, 0x07)
    peer.send(peer.task_management_pdu(LUN_RESET, tag=50))
    (reject,) = peer.send(peer.task_management_pdu(LUN_RESET, tag=50))
    assert (reject.opcode, reject.raw[2]) == (REJECT, 0x07)
    (reject,) = peer.send(peer.command_pdu(READ, read=4, tag=50))
    assert (reject.opcode, reject.raw[2]) == (REJECT, 0x07)
    (reject,) = peer.send(peer.task_management_pdu(LUN_RESET, tag=0xFFFFFFFF))
    assert (reject.opcode, reject.raw[2]) == (REJECT, 0x09)


def test_functions_in_progress_are_bounded() -> None:
    peer = logged_in(TargetOptions(max_immediate_commands=4))
    for _ in range(4):
        assert peer.send(peer.task_management_pdu(LUN_RESET)) == []
    (reject,) = peer.send(peer.task_management_pdu(LUN_RESET))
    assert (reject.opcode, reject.raw[2]) == (REJECT, 0x06)


def test_a_function_that_is_completed_after_its_session_is_not_answered() -> None:
    peer = logged_in()
    peer.send(peer.task_management_pdu(LUN_RESET, lun=LUN))
    peer.connection.connection_lost()
    peer.functions[0].complete(0)
    assert peer.connection.data_to_send() == []
