import pytest

from scsi.iscsi.events import EndReason, SessionEnded
from scsi.iscsi.options import TargetOptions
from scsi.iscsi.registry import SessionRegistry
from tests.support.iscsi_peer import FakeDirectory, Peer

READ = bytes.fromhex("28000000000000000800")
ASYNC_MESSAGE, LOGOUT_RESPONSE, DATA_IN = 0x32, 0x26, 0x25


def logged_in(options: TargetOptions | None = None) -> Peer:
    peer = Peer(options=options)
    peer.log_in()
    return peer


def test_something_else_than_a_login_at_first_closes_the_connection() -> None:
    for stream in (
        Peer().command_pdu(READ, read=4),
        Peer().nop_pdu(),
        Peer().text_pdu({"SendTargets": "All"}),
        b"GET /" * 20,
    ):
        peer = Peer()
        assert peer.send(stream) == []
        assert peer.is_closed()
        assert len(peer.faults) == 1


def test_nothing_wakes_the_adapter_while_it_is_looking() -> None:
    peer = Peer(disk=lambda command: command.complete(0, b"r" * command.data_in_bytes))
    peer.log_in()
    peer.send(peer.command_pdu(READ, read=4) + peer.nop_pdu())
    assert peer.wakes == 0


def test_a_lost_connection_ends_its_session_once() -> None:
    peer = logged_in()
    (event,) = peer.connection.connection_lost()
    assert isinstance(event, SessionEnded)
    assert (event.session, event.reason) == (peer.session, EndReason.CONNECTION_LOST)
    assert peer.connection.connection_lost() == []
    assert len(peer.registry) == 0
    assert peer.connection.next_deadline() is None
    assert peer.connection.on_timer(1e9) == []
    assert peer.connection.receive_data(peer.nop_pdu()) == []
    assert len(peer.connection.receive_buffer())


def test_a_connection_that_is_lost_before_its_login_ends_nothing() -> None:
    peer = Peer()
    assert peer.connection.connection_lost() == []


def test_a_login_that_waits_for_an_old_session_can_be_lost() -> None:
    old = logged_in()
    old.send(old.command_pdu())
    new = Peer(registry=old.registry)
    new.send(new.login_pdu(new.names()))
    new.connection.connection_lost()
    old.commands[0].complete(0)
    assert new.look() == []
    assert len(new.registry) == 0


def test_a_login_that_waits_for_an_old_session_takes_nothing_else() -> None:
    old = logged_in()
    old.send(old.command_pdu())
    new = Peer(registry=old.registry)
    new.send(new.login_pdu(new.names()) + new.nop_pdu())
    assert new.is_closed()


def test_a_login_does_not_wait_for_an_old_session_for_ever() -> None:
    # A stalled backend must not keep hosts out; the SCSI layer keeps old writes from overtaking new commands.
    old = logged_in(TargetOptions(orphan_wait_s=5.0))
    old.send(old.command_pdu())
    new = Peer(registry=old.registry)
    new.send(new.login_pdu(new.names()))
    assert new.connection.next_deadline() == 1005.0
    (answer,) = new.timer(1005.0)
    assert answer.login_status == 0
    assert [type(event).__name__ for event in new.events] == ["SessionEnded", "ProtocolFault", "LoggedIn"]
    old.commands[0].complete(0)
    assert new.look() == []
    assert len(new.registry) == 1


def test_a_login_waits_for_commands_of_a_session_whose_connection_was_lost() -> None:
    old = logged_in()
    old.send(old.command_pdu() + old.command_pdu())
    old.connection.connection_lost()
    new = Peer(registry=old.registry)
    assert new.send(new.login_pdu(new.names())) == []
    old.commands[0].complete(0)
    assert new.look() == []
    old.commands[1].complete(0)
    (answer,) = new.look()
    assert answer.login_status == 0
    assert new.ends == []
    other = Peer(registry=old.registry)
    other.isid = b"\x80OTHER"
    other.log_in()


def test_a_login_waits_for_commands_that_had_been_aborted_before_the_connection_was_lost() -> None:
    old = logged_in()
    old.send(old.command_pdu(READ, read=4, tag=70))
    old.send(old.task_management_pdu(1, referenced=70, ref_cmd_sn=1))
    old.commands[0].aborted = True
    old.functions[0].complete(0)
    old.look()
    old.connection.connection_lost()
    new = Peer(registry=old.registry)
    assert new.send(new.login_pdu(new.names())) == []
    old.commands[0].complete(0)
    assert new.look()[0].login_status == 0


def test_a_login_that_takes_too_long_to_wait_for_a_connection_is_closed() -> None:
    old = logged_in()
    old.send(old.command_pdu())
    new = Peer(registry=old.registry)
    new.send(new.login_pdu(new.names(), tsih=old.session.tsih))
    new.timer(1015.0)
    assert new.is_closed()
    assert old.is_closed()
    assert old.session.end_reason is not None
    assert len(new.registry) == 0


def test_a_logout_does_not_wait_for_commands_for_ever() -> None:
    peer = logged_in(TargetOptions(orphan_wait_s=5.0))
    peer.send(peer.command_pdu(READ, read=4))
    peer.send(peer.logout_pdu())
    assert [pdu.opcode for pdu in peer.timer(1005.0)] == [LOGOUT_RESPONSE]
    assert peer.is_closed()
    peer.commands[0].complete(0, b"late")
    assert peer.look() == []


def test_the_admin_can_end_a_session_and_the_initiator_is_told() -> None:
    peer = logged_in()
    peer.send(peer.command_pdu(READ, read=4))
    (event,) = peer.connection.drop()
    assert isinstance(event, SessionEnded)
    assert event.reason is EndReason.ADMINISTRATIVE
    (message,) = peer.look()
    assert (message.opcode, message.raw[36]) == (ASYNC_MESSAGE, 2)
    assert peer.is_closed()
    assert peer.commands[0].aborted


def test_a_logout_is_requested_with_the_time_that_there_is_for_it() -> None:
    peer = Peer()
    peer.log_in()
    wakes = peer.wakes
    peer.connection.request_logout(30)
    assert peer.wakes == wakes + 1
    (message,) = peer.look()
    assert (message.opcode, message.raw[36]) == (ASYNC_MESSAGE, 1)
    assert (message.short(38), message.short(40), message.short(42)) == (0, 0, 30)
    assert not peer.connection.closing


def test_a_discovery_session_is_not_asked_to_log_out() -> None:
    peer = Peer()
    peer.connection.request_logout(30)
    peer.discover()
    peer.connection.request_logout(30)
    assert peer.look() == []


def test_a_connection_in_login_can_be_dropped() -> None:
    peer = Peer()
    assert peer.connection.drop() == []
    assert peer.look() == []
    assert peer.is_closed()


def test_a_logout_waits_for_commands_at_work_and_takes_nothing_more() -> None:
    peer = logged_in()
    peer.send(peer.command_pdu(READ, read=4))
    peer.send(peer.logout_pdu() + peer.command_pdu(READ, read=4))
    assert [end.reason for end in peer.ends] == [EndReason.LOGOUT]
    assert not peer.is_closed()
    assert len(peer.commands) == 1
    peer.commands[0].complete(0, b"data")
    assert [pdu.opcode for pdu in peer.look()] == [LOGOUT_RESPONSE]
    assert peer.is_closed()
    assert len(peer.ends) == 1


def test_a_logout_that_waits_can_be_lost() -> None:
    peer = logged_in()
    peer.send(peer.command_pdu(READ, read=4))
    peer.send(peer.logout_pdu())
    assert peer.connection.connection_lost() == []
    peer.commands[0].complete(0, b"data")
    assert peer.look() == []


def test_a_logout_that_is_numbered_comes_after_the_commands_before_it() -> None:
    peer = logged_in()
    peer.cmd_sn = 2
    logout = peer.logout_pdu(immediate=False)
    assert peer.send(logout) == []
    assert not peer.is_closed()
    peer.send(peer.command_pdu(READ, read=4, cmd_sn=1))
    peer.commands[0].complete(0, b"data")
    assert [pdu.opcode for pdu in peer.look()][-1] == LOGOUT_RESPONSE


def test_a_discovery_session_that_is_silent_is_closed_without_a_ping() -> None:
    peer = Peer(options=TargetOptions(ping_interval_s=10.0))
    peer.discover()
    assert peer.timer(1010.0) == []
    assert peer.timer(1020.0) == []
    assert peer.is_closed()


def test_an_initiator_that_keeps_talking_is_not_pinged() -> None:
    peer = logged_in(TargetOptions(ping_interval_s=10.0))
    for now in (1010.0, 1020.0, 1030.0):
        assert peer.timer(now) == []
        peer.send(peer.nop_pdu())
    assert not peer.is_closed()


def test_a_timer_that_fires_early_does_nothing() -> None:
    peer = logged_in()
    before = peer.connection.next_deadline()
    assert peer.timer(1000.5) == []
    assert peer.connection.next_deadline() == before


def test_a_fault_of_ours_costs_one_connection_and_no_exception(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = logged_in()

    def receive(*_: object) -> None:
        raise ZeroDivisionError  # stands for a bug

    monkeypatch.setattr(peer.session.text, "receive", receive)
    peer.send(peer.text_pdu({"SendTargets": ""}))
    assert peer.is_closed()
    assert peer.ends[0].reason is EndReason.PROTOCOL_ERROR
    assert "ZeroDivisionError" in caplog.text


def test_two_discovery_sessions_of_one_initiator_live_side_by_side() -> None:
    first = Peer()
    first.discover()
    second = Peer(registry=first.registry)
    second.discover()
    assert not first.is_closed()
    assert len(first.registry) == 2


def test_sessions_are_told_apart_by_their_handles_and_bounded() -> None:
    registry = SessionRegistry(max_sessions=3)
    peers = []
    for number in range(3):
        peers.append(Peer(registry=registry))
        peers[-1].isid = bytes([0x80, 0, 0, 0, 0, number])
        peers[-1].log_in()
    assert sorted(session.tsih for session in registry) == [1, 2, 3]
    late = Peer(registry=registry)
    assert late.login_step(late.names()).login_status == 0x0302
    peers[1].connection.connection_lost()
    again = Peer(registry=registry)
    again.log_in()
    assert again.session.tsih == 4
    assert registry.find_tsih(2) is None


def test_a_session_that_logs_in_straight_from_the_security_stage_works_with_the_defaults() -> None:
    peer = Peer()
    answer = peer.login_step(peer.names(AuthMethod="None"), stage=0, next_stage=3)
    assert (answer.flags, answer.text["AuthMethod"]) == (0x83, "None")
    assert "MaxRecvDataSegmentLength" not in answer.text
    assert peer.session.parameters.max_recv_data_segment_length == 8192


def test_the_alias_of_the_target_is_told_and_that_of_the_initiator_kept() -> None:
    peer = Peer(FakeDirectory(alias="the array"))
    answer = peer.log_in(InitiatorAlias="the host")
    assert answer.text["TargetAlias"] == "the array"
    assert peer.session.initiator_alias == "the host"


def test_an_admission_can_have_options_of_its_own() -> None:
    peer = Peer(
        FakeDirectory(options=TargetOptions(max_burst_length=65536, first_burst_length=4096, window_commands=2))
    )
    answer = peer.log_in(MaxBurstLength="262144", FirstBurstLength="65536")
    assert (answer.text["MaxBurstLength"], answer.text["FirstBurstLength"]) == ("65536", "4096")
    assert answer.max_cmd_sn == answer.exp_cmd_sn + 1
