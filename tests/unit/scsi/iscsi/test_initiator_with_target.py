"""Both session machines of annex, joined in memory: what one sends, the other must take, however it is cut."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from scsi.iscsi.chap import ChapPolicy, Credentials
from scsi.iscsi.connection import Connection
from scsi.iscsi.events import ScsiCommand, TaskManagement
from scsi.iscsi.initiator import InitiatorConnection
from scsi.iscsi.initiator_options import InitiatorEvent, InitiatorOptions, SessionOver, SessionReady
from scsi.iscsi.initiator_task import CallbackTask, Task, Undelivered
from scsi.iscsi.keys import CRC32C, NONE
from scsi.iscsi.options import TargetOptions
from scsi.iscsi.registry import SessionRegistry
from tests.support.iscsi_peer import ADDRESSES, INITIATOR, ISID, TARGET, Clock, FakeDirectory
from tests.support.target_peer import LUN, Collector

Cut = Callable[[bytes], Iterator[bytes]]
READ, WRITE = 0x28, 0x2A


def whole(stream: bytes) -> Iterator[bytes]:
    if stream:
        yield stream


def byte_by_byte(stream: bytes) -> Iterator[bytes]:
    return (stream[at : at + 1] for at in range(len(stream)))


def in_random_pieces(stream: bytes) -> Iterator[bytes]:
    rng = random.Random(len(stream))
    while stream:
        size = rng.randrange(1, 5000)
        yield stream[:size]
        stream = stream[size:]


class Join:
    """An initiator and a target on one wire, and a disk behind the target."""

    def __init__(
        self,
        cut: Cut = whole,
        *,
        directory: FakeDirectory | None = None,
        options: TargetOptions | None = None,
        target_name: str = TARGET,
        **changes: Any,
    ) -> None:
        self.clock = Clock()
        self.cut = cut
        self.disk = bytearray(1 << 20)
        self.target = Connection(
            directory or FakeDirectory(),
            SessionRegistry(),
            ADDRESSES,
            clock=self.clock,
            wake=lambda: None,
            options=options,
        )
        wanted = replace(InitiatorOptions(INITIATOR, target_name, ISID), **changes)
        self.initiator = InitiatorConnection(wanted, self.clock, random.Random(1).randbytes)
        self.events: list[InitiatorEvent] = []
        self.held: list[ScsiCommand] | None = None
        self.run()

    def run(self) -> None:
        """Carry bytes to and fro until both are silent."""
        while True:
            forth = b"".join(self.initiator.data_to_send())
            for piece in self.cut(forth):
                self._act(self.target.receive_data(piece))
            self._act(self.target.take_events())
            back = b"".join(self.target.data_to_send())
            for piece in self.cut(back):
                self.events += self.initiator.receive_data(piece)
            if not forth and not back:
                return

    def _act(self, events: list[Any]) -> None:
        for event in events:
            if isinstance(event, ScsiCommand):
                if self.held is None:
                    self.serve(event)
                else:
                    self.held.append(event)
            elif isinstance(event, TaskManagement):
                if event.referenced is not None:
                    event.referenced.aborted = True
                event.complete(0)

    def serve(self, command: ScsiCommand) -> None:
        offset = int.from_bytes(command.cdb[2:6], "big")
        if command.cdb[0] == WRITE:
            self.disk[offset : offset + len(command.data_out)] = command.data_out
            command.complete(0)
        elif command.cdb[0] == READ:
            length = int.from_bytes(command.cdb[6:10], "big")
            command.complete(0, bytes(self.disk[offset : offset + length]))
        else:
            command.complete(2, sense=bytes.fromhex("700005000000000a00000000200000000000"))

    def submit(self, code: int, offset: int, data: bytes = b"", length: int = 0, asked: int | None = None) -> Collector:
        done = Collector()
        cdb = bytes([code, 0]) + offset.to_bytes(4, "big") + length.to_bytes(4, "big")
        self.initiator.submit(CallbackTask(LUN, cdb, data, length if asked is None else asked, 10.0, done))
        return done


@pytest.mark.parametrize("cut", [whole, byte_by_byte, in_random_pieces])
@pytest.mark.parametrize("digests", [False, True])
def test_reads_and_writes_of_every_length(cut: Cut, digests: bool) -> None:
    options = TargetOptions(
        max_recv_data_segment_length=2048, first_burst_length=4096, max_burst_length=8192, window_commands=4
    )
    join = Join(cut, options=options, header_digest=digests, data_digest=digests, max_recv_data_segment_length=3000)
    assert isinstance(join.events[0], SessionReady)
    assert join.initiator.parameters.header_digest is digests
    rng = random.Random(7)
    lengths = [1, 3, 512, 2047, 2048, 2049, 4096, 4097, 8191, 12288, 20001]
    offset = 0
    expected = []
    for length in lengths:
        data = rng.randbytes(length)
        expected.append((offset, data, join.submit(WRITE, offset, data)))
        offset += length
    join.run()
    assert [task[0].status for _, _, task in expected] == [0] * len(lengths)
    reads = [(data, join.submit(READ, offset, length=len(data))) for offset, data, _ in expected]
    join.run()
    for data, (task,) in reads:
        assert (task.status, bytes(task.data_in), task.residual) == (0, data, 0)
    assert len(join.events) == 1


@pytest.mark.parametrize("initial_r2t", [True, False])
@pytest.mark.parametrize("immediate_data", [True, False])
def test_unsolicited_data_as_either_side_wants_it(initial_r2t: bool, immediate_data: bool) -> None:
    for join in (
        Join(in_random_pieces, options=TargetOptions(initial_r2t=initial_r2t, immediate_data=immediate_data)),
        Join(in_random_pieces, initial_r2t=initial_r2t, immediate_data=immediate_data),
    ):
        assert join.initiator.parameters.initial_r2t is initial_r2t
        assert join.initiator.parameters.immediate_data is immediate_data
        data = random.Random(3).randbytes(700_000)
        (task,) = _after(join, join.submit(WRITE, 0, data))
        assert task.status == 0
        assert join.disk[: len(data)] == data


def _after(join: Join, done: Collector) -> Collector:
    join.run()
    return done


def test_residuals_agree() -> None:
    join = Join()
    (short,) = _after(join, join.submit(READ, 0, length=100, asked=512))
    assert (short.status, len(short.data_in), short.residual) == (0, 100, 412)
    (long,) = _after(join, join.submit(READ, 0, length=600, asked=512))
    assert (long.status, len(long.data_in), long.residual) == (0, 512, -88)
    (bad,) = _after(join, join.submit(0xFF, 0, length=100))
    assert (bad.status, bad.sense[2], bad.residual) == (2, 5, 100)


@pytest.mark.parametrize("algorithm", [5, 6, 7, 8])
@pytest.mark.parametrize("cut", [whole, byte_by_byte])
def test_mutual_chap(cut: Cut, algorithm: int) -> None:
    own, theirs = Credentials("annex", b"a secret of annex"), Credentials("array", b"the array's secret")
    directory = FakeDirectory(ChapPolicy(own, mutual=True, own=theirs, algorithms=(algorithm,)))
    assert isinstance(Join(cut, directory=directory, chap=own, mutual_chap=theirs).events[0], SessionReady)
    wrong = Join(cut, directory=directory, chap=own, mutual_chap=Credentials("array", b"another secret"))
    assert isinstance(wrong.events[0], SessionOver)
    wrong = Join(cut, directory=directory, chap=Credentials("annex", b"another secret"), mutual_chap=theirs)
    assert isinstance(wrong.events[0], SessionOver)
    assert wrong.events[0].status == 0x0201


def test_a_target_that_requires_digests_gets_them() -> None:
    join = Join(options=TargetOptions(header_digests=(CRC32C,), data_digests=(CRC32C, NONE)))
    assert join.initiator.parameters.header_digest
    assert not join.initiator.parameters.data_digest
    (task,) = _after(join, join.submit(READ, 0, length=5000))
    assert task.status == 0


def test_an_unknown_target_is_not_found() -> None:
    (over,) = Join(target_name="iqn.2026-11.io.annex.test:other").events
    assert isinstance(over, SessionOver)
    assert over.status == 0x0203


def test_discovery() -> None:
    join = Join(target_name="")
    lists: list[Any] = []
    join.initiator.send_targets(lists.append)
    join.run()
    assert lists == [[(TARGET, ["192.0.2.2:3260,1", "[2001:db8::2]:3260,1"])]]


def test_pings_both_ways() -> None:
    join = Join()
    join.clock.now += 5.0
    join.events += join.initiator.on_timer(join.clock.now)
    join.run()
    join.clock.now += 4.0
    join.events += join.initiator.on_timer(join.clock.now)
    join.run()
    join.target.on_timer(join.clock.now + 16)
    join.run()
    assert len(join.events) == 1


def test_an_overdue_command_is_aborted_at_the_target() -> None:
    join = Join()
    join.held = []
    done = join.submit(READ, 0, length=512)
    join.run()
    (command,) = join.held
    join.clock.now += 10.0
    join.events += join.initiator.on_timer(join.clock.now)
    join.run()
    assert command.aborted
    command.complete(0, bytes(512))
    join.run()
    assert [task.undelivered for task in done] == [Undelivered.TIMED_OUT]
    assert len(join.events) == 1


def test_logout_ends_both() -> None:
    join = Join()
    done: list[str] = []
    join.initiator.logout(lambda: done.append("out"))
    join.run()
    assert done == ["out"]
    assert join.initiator.closing
    assert join.target.closing


def test_a_completion_that_submits_again_keeps_the_machines_going() -> None:
    join = Join(options=TargetOptions(window_commands=8))
    left = 500
    ended: list[int] = []

    def again(task: Task) -> None:
        nonlocal left
        ended.append(task.status)
        if left:
            left -= 1
            join.initiator.submit(CallbackTask(LUN, bytes([READ]) + bytes(8) + b"\x10", b"", 16, 10.0, again))

    for _ in range(16):
        again(CallbackTask(LUN, b"", b"", 0, 10.0, again))
    join.run()
    assert ended.count(0) == 500
