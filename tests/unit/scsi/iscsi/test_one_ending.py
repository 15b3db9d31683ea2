"""Whatever comes between a command and its end, each task has exactly one final PDU, or none when it was aborted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.support.target_stack import TargetStack

READ = bytes.fromhex("28000000000000000800")
WRITE = bytes.fromhex("2a000000000000000800")
BYTES = 4096
ABORT_TASK, ABORT_TASK_SET, CLEAR_TASK_SET, LOGICAL_UNIT_RESET = 1, 2, 4, 5
FUNCTION_COMPLETE, TASK_DOES_NOT_EXIST = 0, 1
R2T = 0x31
TIDY = settings(derandomize=True, max_examples=120, stateful_step_count=40, deadline=None)


class Tasks(RuleBasedStateMachine):
    """Commands, completions in any order, aborts and a lost connection; the model is three sets of tags."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = TargetStack(InitialR2T="Yes")
        self.stack.volume.hold = True
        self.tag = 0x100
        self.sent: dict[int, int] = {}  # tag -> CmdSN
        self.aborted: set[int] = set()
        self.collecting: dict[int, int] = {}  # tag -> target transfer tag of its R2T

    def _next_tag(self) -> int:
        self.tag += 1
        self.sent[self.tag] = self.stack.peer.cmd_sn
        return self.tag

    def _open(self) -> set[int]:
        return set(self.sent) - self.aborted - set(self.stack.final_pdus())

    @rule()
    def read(self) -> None:
        self.stack.peer.send(self.stack.peer.command_pdu(READ, read=BYTES, tag=self._next_tag()))

    @rule()
    def write_with_immediate_data(self) -> None:
        peer = self.stack.peer
        peer.send(peer.command_pdu(WRITE, write=BYTES, data=bytes(BYTES), tag=self._next_tag()))

    @rule()
    def write(self) -> None:
        peer, tag = self.stack.peer, self._next_tag()
        (r2t,) = peer.send(peer.command_pdu(WRITE, write=BYTES, tag=tag))
        assert r2t.opcode == R2T
        self.collecting[tag] = r2t.transfer_tag

    @precondition(lambda self: self.collecting)
    @rule(pick=st.integers(0, 1000))
    def send_its_data(self, pick: int) -> None:
        peer = self.stack.peer
        tag = sorted(self.collecting)[pick % len(self.collecting)]
        peer.send(peer.data_out_pdu(tag, bytes(BYTES), offset=0, transfer_tag=self.collecting.pop(tag)))

    @precondition(lambda self: self.stack.volume.held)
    @rule(pick=st.integers(0, 1000))
    def complete_one(self, pick: int) -> None:
        self.stack.release(pick % len(self.stack.volume.held))

    @precondition(lambda self: self.sent)
    @rule(pick=st.integers(0, 1000))
    def abort_one(self, pick: int) -> None:
        peer = self.stack.peer
        tag = sorted(self.sent)[pick % len(self.sent)]
        was_open = tag in self._open()
        (answer,) = peer.send(peer.task_management_pdu(ABORT_TASK, referenced=tag, ref_cmd_sn=self.sent[tag]))
        assert answer.raw[2] == (FUNCTION_COMPLETE if was_open else TASK_DOES_NOT_EXIST)
        if was_open:
            self.aborted.add(tag)

    @rule(function=st.sampled_from([ABORT_TASK_SET, CLEAR_TASK_SET, LOGICAL_UNIT_RESET]))
    def abort_all(self, function: int) -> None:
        peer = self.stack.peer
        self.aborted |= self._open()
        peer.send(peer.task_management_pdu(function))
        # The response may wait for the data that was asked for.
        for tag, transfer_tag in sorted(self.collecting.items()):
            peer.send(peer.data_out_pdu(tag, bytes(BYTES), offset=0, transfer_tag=transfer_tag))
        self.collecting.clear()

    @invariant()
    def no_task_ends_twice_and_no_aborted_one_at_all(self) -> None:
        ended = self.stack.final_pdus()
        assert len(ended) == len(set(ended))
        assert not set(ended) & self.aborted
        assert not self.stack.peer.faults

    def teardown(self) -> None:
        peer = self.stack.peer
        for tag, transfer_tag in sorted(self.collecting.items()):
            peer.send(peer.data_out_pdu(tag, bytes(BYTES), offset=0, transfer_tag=transfer_tag))
        while self.stack.volume.held:
            self.stack.release()
        assert self._open() == set()
        assert self.stack.unit.queue == 0
        assert peer.session.tasks == {}
        assert peer.session.line.charged_bytes == 0


@pytest.mark.slow
def test_v43_each_task_has_exactly_one_final_pdu() -> None:
    run_state_machine_as_test(Tasks, settings=TIDY)


def sends_nothing(stack: TargetStack) -> None:
    pass


def sends_the_command(stack: TargetStack) -> None:
    stack.peer.send(stack.peer.command_pdu(WRITE, write=BYTES, tag=0x7000))


def sends_half_of_its_data(stack: TargetStack) -> None:
    (r2t,) = stack.peer.send(stack.peer.command_pdu(WRITE, write=BYTES, tag=0x7000))
    half = bytes(BYTES // 2)
    stack.peer.send(stack.peer.data_out_pdu(0x7000, half, offset=0, transfer_tag=r2t.transfer_tag, final=False))


def sends_all_of_its_data(stack: TargetStack) -> None:
    (r2t,) = stack.peer.send(stack.peer.command_pdu(WRITE, write=BYTES, tag=0x7000))
    stack.peer.send(stack.peer.data_out_pdu(0x7000, bytes(BYTES), offset=0, transfer_tag=r2t.transfer_tag))
    assert len(stack.volume.held) == 1


def waits_behind_another(stack: TargetStack) -> None:
    sends_all_of_its_data(stack)
    stack.peer.send(stack.peer.command_pdu(WRITE, write=BYTES, data=bytes(BYTES), tag=0x7001, attribute=2))  # ORDERED


def has_its_answer(stack: TargetStack) -> None:
    sends_all_of_its_data(stack)
    stack.release()
    assert stack.final_pdus() == [0x7000]


POINTS = [
    sends_nothing,
    sends_the_command,
    sends_half_of_its_data,
    sends_all_of_its_data,
    waits_behind_another,
    has_its_answer,
]


@pytest.mark.parametrize("point", POINTS)
def test_v23_a_lun_taken_away_at_any_point_of_a_write_ends_it_once(
    point: Callable[[TargetStack], None],
) -> None:
    stack = TargetStack(InitialR2T="Yes")
    stack.volume.hold = True
    point(stack)
    answered = stack.final_pdus()
    stack.port.remap(stack.peer.session.nexus, {})
    stack.peer.look()
    while stack.volume.held:
        stack.release()
    at_the_unit = [tag for command in stack.peer.commands if (tag := command.initiator_task_tag) in (0x7000, 0x7001)]
    assert sorted(stack.final_pdus()) == at_the_unit
    assert stack.final_pdus()[: len(answered)] == answered
    assert stack.unit.queue == 0
    assert stack.unit.nexuses == set()
    # The session lives, and LUN 0 is not there.
    (answer,) = stack.peer.send(stack.peer.command_pdu(READ, read=BYTES))
    assert answer.raw[3] == 2
    assert answer.data[2:][12:14] == b"\x25\x00"


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("ending", ["logout", "loss"])
def test_v23_a_session_that_ends_at_any_point_of_a_write_leaves_nothing_behind(
    point: Callable[[TargetStack], None], ending: str
) -> None:
    stack = TargetStack(InitialR2T="Yes")
    stack.volume.hold = True
    point(stack)
    session = stack.peer.session
    if ending == "logout":
        stack.peer.send(stack.peer.logout_pdu())
        stack.peer.lose()
    else:
        stack.peer.lose()
    ended = list(stack.peer.received)
    while stack.volume.held:
        stack.release()
    assert stack.peer.received == ended, "nothing is sent after the end"
    assert session.tasks == {}
    assert session.line.charged_bytes == 0
    assert (stack.unit.queue, stack.unit.nexuses, stack.port.nexuses) == (0, set(), set())


def test_v23_a_timer_that_fires_on_a_closed_connection_does_nothing() -> None:
    stack = TargetStack()
    deadline = stack.peer.connection.next_deadline()
    assert deadline is not None, "a NOP-In will be due"
    stack.peer.lose()
    assert stack.peer.connection.next_deadline() is None
    assert stack.peer.timer(deadline) == []
    assert len(stack.peer.ends) == 1
