"""F22: others reserve the LU of the array by persistent reservations, and preempt each other; the array is annexd."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from scsi.array_commands import ArrayOut, PairFlag, PairState
from scsi.iscsi.initiator_task import Task
from tests.support.host import GOOD, Host, HostLost, read_cdb, write_cdb
from tests.support.load import Load
from tests.support.pair_commands import array_out, the_pair, wait_for_pair, wait_until
from tests.support.paired import LEG_BYTES, SLOTS, TwoAnnexds, paired_with_annexd

pytestmark = [pytest.mark.interop, pytest.mark.slow]

ROBBER, MEDIATOR = "iqn.2026-11.org.example:robber", "iqn.2026-11.org.example:mediator"
KEY, OTHER_KEY = 0x1111, 0x2222
REGISTER, RESERVE, CLEAR, PREEMPT = 0, 1, 3, 4
EXCLUSIVE_ACCESS = 3
BLOCK_BYTES = 512
FREE_LBA = LEG_BYTES // BLOCK_BYTES - 8  # the load does not come here
MOMENT_S = 1.0
CONFLICT = 0x18


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[TwoAnnexds]:
    with paired_with_annexd(tmp_path) as running:
        yield running


def reserve_out(host: Host, action: int, key: int, new: int) -> int:
    data = struct.pack(">QQ8x", key, new)
    kind = EXCLUSIVE_ACCESS if action in (RESERVE, PREEMPT) else 0
    return host.command(struct.pack(">BBB2xIx", 0x5F, action, kind, len(data)), data_out=data).status


def rob(pair: TwoAnnexds, robber: Host) -> None:
    """Reset the LU, which ends annexd's reservation, and take one before annexd knows of it."""
    for _ in range(100):
        assert robber.reset_unit(0)
        if reserve_out(robber, REGISTER, 0, KEY) == GOOD and reserve_out(robber, RESERVE, KEY, 0) == GOOD:
            return
    pytest.fail(f"annexd was quicker each time\n{pair.annexd.log()}")


def preempt_and_go(mediator: Host) -> None:
    """Take the robber's reservation from it, and end it."""
    assert reserve_out(mediator, REGISTER, 0, OTHER_KEY) == GOOD
    assert reserve_out(mediator, PREEMPT, OTHER_KEY, KEY) == GOOD
    assert reserve_out(mediator, CLEAR, OTHER_KEY, 0) == GOOD


@pytest.mark.parametrize("given_up", [False, pytest.param(True, marks=pytest.mark.long)])
def test_f22_no_write_is_mirrored_while_another_has_the_reservation(pair: TwoAnnexds, given_up: bool) -> None:
    load = Load(SLOTS, seed=220)
    answers: list[Task] = []
    with (
        Host(pair.annexd.port) as host,
        Host(pair.array.port, name=ROBBER) as robber,
        Host(pair.array.port, name=MEDIATOR) as mediator,
    ):
        load.run(host, 50)
        rob(pair, robber)
        assert robber.command(write_cdb(FREE_LBA, 1), data_out=b"\x5a" * BLOCK_BYTES).status == GOOD
        at_array = pair.remote.read_bytes()
        host.submit(write_cdb(0, 8), answers.append, data_out=load.journal.issue(0, 8))
        if given_up:
            host.wait(lambda: bool(answers))
            assert the_pair(host).state == PairState.PSUE
        else:
            with suppress(HostLost):
                host.wait(lambda: bool(answers), MOMENT_S)
            assert not answers
        assert pair.remote.read_bytes() == at_array
        preempt_and_go(mediator)
        host.wait(lambda: bool(answers))
        assert answers[0].status == GOOD
        load.journal.acknowledge(0, 8)
        wait_until(host, lambda row: bool(row.flags & PairFlag.FENCE_HELD))
        assert robber.command(write_cdb(FREE_LBA, 1), data_out=bytes(BLOCK_BYTES)).status == CONFLICT
        if the_pair(host).state == PairState.PSUE:
            wait_until(host, lambda _: array_out(host, ArrayOut.PAIR_RESYNC).status == GOOD)
        load.run(host, 50)
        wait_for_pair(host, PairState.PAIR)
        assert bytes(host.command(read_cdb(FREE_LBA, 1), data_in_bytes=BLOCK_BYTES).data_in) == bytes(BLOCK_BYTES)
    assert load.failed == []
    pair.compare(load)
