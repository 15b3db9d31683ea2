"""What is fuzzed: functions from bytes to the name of what became of them.

Each target hands bytes to a part of annex as a stranger would, and names the outcome. Only the outcomes of `TARGETS`
are right; another one, an exception, or state that does not add up is a finding. `run.py` lets atheris look for
inputs; `test_fuzz.py` tries every input of `corpus/` again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from backends.external.array import ExternalArray
from backends.external.fence import FenceKeeper
from scsi.iscsi.chap import ChapPolicy, Credentials
from scsi.iscsi.initiator_task import Undelivered
from scsi.iscsi.options import TargetOptions
from scsi.logical_unit import LogicalUnit
from scsi.sense import decode_sense
from scsi.status import Status
from scsi.target import TargetPort
from tests.support.clock import VirtualScheduler
from tests.support.commands import NAA, FakeCommand, Host
from tests.support.fake_array import FakeAnswer, FakeArray, Queued, Results
from tests.support.iscsi_peer import FakeDirectory, Peer
from tests.support.memory_volume import MemoryVolume
from tests.support.saved import FakeSaved
from tests.support.target_peer import OPTIONS, Collector, TargetPeer
from tests.support.target_stack import TargetStack

HOST = Credentials("host", b"a secret of the host")
ARRAY = Credentials("array", b"a secret of the array")
POLICY = ChapPolicy(HOST, mutual=True, own=ARRAY)
SMALL = TargetOptions(
    max_recv_data_segment_length=4096,
    max_burst_length=8192,
    first_burst_length=4096,
    session_memory_bytes=65536,
    max_data_out_bytes=65536,
)
MOST_TEXT_BYTES = 65536
LOGIN_RESPONSE = 0x23
CONDITION_MET = 0x04
VARIABLE_LENGTH = 0x7F
STATUSES = {Status.GOOD, Status.CHECK_CONDITION, Status.RESERVATION_CONFLICT, CONDITION_MET}


def pieces(data: bytes) -> list[bytes]:
    """Cut bytes as their first two say, so that where a stream is cut is fuzzed too."""
    if len(data) < 3:
        return [data]
    cuts = sorted({0, data[0] * 4 % len(data), data[1] * 16 % len(data), len(data)} - {1, 2})
    return [data[max(first, 2) : last] for first, last in pairwise(cuts)]


def session(data: bytes) -> str:
    """Bytes that a host sends in full feature phase."""
    stack = TargetStack(options=SMALL, InitialR2T="No")
    peer = stack.peer
    for piece in pieces(data):
        if peer.is_closed():
            break
        peer.send(piece)
        line = peer.session.line
        assert 0 <= line.queued_bytes <= line.charged_bytes <= SMALL.session_memory_bytes + SMALL.max_data_out_bytes
        assert (peer.session.max_cmd_sn - peer.session.exp_cmd_sn + 1) & 0xFFFFFFFF <= SMALL.window_commands
    tags = stack.final_pdus()
    closed = peer.is_closed()
    peer.lose()
    assert peer.session.tasks == {}
    assert (stack.unit.queue, stack.unit.nexuses) == (0, set())
    return "closed" if closed else "answered" if tags else "waits"


def login(data: bytes) -> str:
    """Texts of a login with CHAP: each begins with a byte of stage and flags, and two of length."""
    peer = Peer(FakeDirectory(chap=POLICY, discovery_chap=POLICY), random_bytes=bytes)
    at = 0
    while at + 3 <= len(data) and not peer.is_closed():
        how, length = struct.unpack_from(">BH", data, at)
        at += 3
        text = data[at : at + length % 8192]
        at += len(text)
        peer.send(
            peer.login_pdu(
                text, stage=how & 3, next_stage=how >> 2 & 3, transit=bool(how & 0x10), more=bool(how & 0x20)
            )
        )
    answers = [pdu for pdu in peer.received if pdu.opcode == LOGIN_RESPONSE]
    assert sum(len(pdu.data) for pdu in answers) <= MOST_TEXT_BYTES
    if peer.logins:
        # Only who knows the secret can make the proof.
        assert b"CHAP_R" in data
        return "logged in"
    statuses = {pdu.login_status for pdu in answers}
    return "refused" if statuses - {0} else "closed" if peer.is_closed() else "waits"


def commands(data: bytes) -> str:
    """CDBs with their data-out: 16 bytes, or 32 of a long one; two of length; the data."""
    host = Host(TargetPort(), LogicalUnit(MemoryVolume(256, write_cache=True), NAA, saved=FakeSaved()))
    at = 0
    while at + 18 <= len(data):
        long = data[at] == VARIABLE_LENGTH
        cdb, length = struct.unpack_from(">32sH" if long else ">16sH", data.ljust(at + 34, b"\0"), at)
        at += 34 if long else 18
        data_out = data[at : at + length % 4096]
        at += len(data_out)
        command: FakeCommand = host.send(cdb, data_out)
        assert command.answer is not None, "nothing is left to wait for"
        assert command.answer.status in STATUSES
        if command.answer.status == Status.CHECK_CONDITION:
            sense = decode_sense(command.answer.sense)
            assert sense is not None
            assert (sense.asc, sense.ascq) != (0x44, 0), f"a bug behind {cdb.hex()}"
        else:
            assert not command.answer.sense
        assert len(command.answer.data_in) <= 1 << 20
    return "answered" if at else "nothing"


def array_stream(data: bytes) -> str:
    """Bytes that an external array sends in full feature phase, with four commands in flight."""
    peer = TargetPeer(OPTIONS)
    peer.log_in()
    done = Collector()
    for number in range(4):
        cdb = struct.pack(">BxIxHx", 0x28 if number % 2 else 0x2A, number * 8, 8)
        peer.submit(cdb, b"" if number % 2 else bytes(4096), 4096 * (number % 2), done=done)
    peer.requests()
    for piece in pieces(data):
        if peer.over is None:
            peer.send(piece)
            peer.requests()
    alive = peer.over is None
    if alive:
        peer.lose()
    assert len(done) == 4, "each command has ended, and ended once"
    for task in done:
        assert len(task.data_in) <= 4096
        assert task.undelivered is not None or task.status <= 0xFF
    delivered = sum(task.undelivered is None for task in done)
    return ("alive" if alive else "dropped") + (" with answers" if delivered else "")


class ScriptedArray(FakeArray):
    """An array that answers every command with the next answer of an input, and then no more."""

    def __init__(self, scheduler: VirtualScheduler, data: bytes) -> None:
        super().__init__(scheduler)
        self._data = data

    def _execute(self, command: Queued) -> FakeAnswer:
        if len(self._data) < 4:
            return FakeAnswer(-1, undelivered=Undelivered.TIMED_OUT)
        kind, status, length = struct.unpack_from(">BBH", self._data)
        body, self._data = self._data[4 : 4 + length % 2048], self._data[4 + length % 2048 :]
        if kind & 1:
            return FakeAnswer(status, sense=body)
        # What is longer than asked for the initiator's session has cut already.
        return FakeAnswer(status, data_in=body[: command.data_in_bytes], residual=(kind >> 1) - 64)


def array_answers(data: bytes) -> str:
    """Answers that an external array gives while its LUs are set up, read and written: kind, status, length, data."""
    clock = VirtualScheduler()
    path = ScriptedArray(clock, data).path()
    external = ExternalArray("old", path, clock, FenceKeeper(clock))
    external.start()
    path.up()
    clock.advance(30)
    units = external.units()
    for unit in units:
        read, written = Results(), Results()
        unit.read(0, 1, read)
        unit.write(0, bytes(unit.block_bytes or 512), False, written)
        clock.advance(60)
        assert (len(read), len(written)) == (1, 1), "each has ended, and ended once"
        if isinstance(read[0], bytes):
            assert len(read[0]) == unit.block_bytes
    return "units" if units else "no units"


class Target(NamedTuple):
    """One thing to fuzz.

    Attributes:
        run: gives the outcome of an input.
        outcomes: those that are right.
    """

    run: Callable[[bytes], str]
    outcomes: frozenset[str]


TARGETS: dict[str, Target] = {
    "session": Target(session, frozenset({"closed", "answered", "waits"})),
    "login": Target(login, frozenset({"logged in", "refused", "waits"})),
    "commands": Target(commands, frozenset({"answered", "nothing"})),
    "array_stream": Target(array_stream, frozenset({"alive", "dropped", "alive with answers", "dropped with answers"})),
    "array_answers": Target(array_answers, frozenset({"units", "no units"})),
}
