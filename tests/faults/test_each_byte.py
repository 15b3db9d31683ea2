"""F12: the connection to the array ends at each byte of a session, towards the array and from it, by RST and by FIN.

A session is the login, the search for LUs, the fence, a write to a pair and a read of an LU that is in none. By hand:
`ANNEX_CUT_STEP=1 pytest -m '' tests/faults/test_each_byte.py` ends it at each single byte.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from scsi.array_commands import FenceLevel, PairState
from scsi.iscsi.initiator_task import Task
from tests.support.annexd import TARGET_NAME, Annexd
from tests.support.host import GOOD, UNIT_ATTENTION, Host, read_cdb, sense_of, write_cdb
from tests.support.journal import Journal
from tests.support.link_proxy import LinkProxy
from tests.support.pair_commands import create_pair, wait_for_pair
from tests.support.tgt import Tgt

pytestmark = [pytest.mark.interop, pytest.mark.slow]

ARRAY_TARGET = "iqn.2026-11.org.example:array"
BLOCK_BYTES = 512
LEG_BYTES = 32 << 10  # a pair whose fence has lapsed compares its legs: these bytes too can be the last
LONE_LUN = 2
FEWEST_BYTES = 1000  # of a session, either way
STEP = int(os.environ.get("ANNEX_CUT_STEP", "0"))
SHORT_STEP, LONG_STEP = 499, 149


class ImpatientAnnexd(Annexd):
    """annexd by `tests.support.impatient_annexd`."""

    def _command(self) -> list[str]:
        program = Path(__file__).resolve().parents[1] / "support" / "impatient_annexd.py"
        _python, _isolated, _root, *arguments = super()._command()
        return [sys.executable, "-I", str(program), *arguments]


class Linked(NamedTuple):
    """annexd with a pair (LUN 0 and 1) and another external LU (LUN 2) over a link, and the files under the legs."""

    annexd: Annexd
    link: LinkProxy
    local: Path
    remote: Path
    lone: Journal


@pytest.fixture(params=["tgt", "annexd"])
def linked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Linked]:
    local, remote, lone = (tmp_path / f"{name}.img" for name in ("local", "remote", "lone"))
    for path in (local, remote):
        path.write_bytes(bytes(LEG_BYTES))
    journal = Journal(BLOCK_BYTES)
    lone.write_bytes(journal.issue(0, LEG_BYTES // BLOCK_BYTES))
    journal.acknowledge(0, LEG_BYTES // BLOCK_BYTES)
    with ExitStack() as running:
        if request.param == "tgt":
            array = running.enter_context(Tgt(tmp_path))
            target, first = ARRAY_TARGET, 1
            number = array.add_target(target)
            for lun, path in ((1, remote), (2, lone)):
                array.add_lun(number, path, lun=lun, parameters={"scsi_id": f"lu{lun}", "scsi_sn": f"serial{lun}"})
            port = array.port
        else:
            (tmp_path / "array").mkdir()
            port = running.enter_context(Annexd(tmp_path / "array", ("--local", remote), ("--local", lone))).port
            target, first = TARGET_NAME, 0
        link = running.enter_context(LinkProxy(port))
        urls = [("--array", f"iscsi://127.0.0.1:{link.port}/{target}/{first + index}") for index in (0, 1)]
        annexd = running.enter_context(ImpatientAnnexd(tmp_path, ("--local", local), *urls))
        with Host(annexd.port) as host:
            assert create_pair(host, 1, FenceLevel.STATUS).status == GOOD
            wait_for_pair(host, PairState.PAIR)
        yield Linked(annexd, link, local, remote, journal)


class Exchange:
    """What a host does during one session of annexd with the array."""

    def __init__(self, linked: Linked, host: Host) -> None:
        self.journal = Journal(BLOCK_BYTES)
        self._linked = linked
        self._host = host
        self._round = 0

    def run(self) -> None:
        """Write to the pair and read the other LU, until both are answered; annexd waits with them for its array."""
        self._round += 1
        blocks = 1 + self._round % 4
        lba = self._round * 8 % (LEG_BYTES // BLOCK_BYTES - blocks)
        place = self._round * 5 % (LEG_BYTES // BLOCK_BYTES - blocks)
        written: list[Task] = []
        read: list[Task] = []
        self._host.submit(write_cdb(lba, blocks), written.append, data_out=self.journal.issue(lba, blocks))
        self._host.submit(read_cdb(place, blocks), read.append, data_in_bytes=blocks * BLOCK_BYTES, lun=LONE_LUN)
        self._host.wait(lambda: bool(written and read))
        while read[0].status != GOOD:
            read = [self._host.command(read_cdb(place, blocks), data_in_bytes=blocks * BLOCK_BYTES, lun=LONE_LUN)]
        assert len(read[0].data_in) == blocks * BLOCK_BYTES
        assert list(self._linked.lone.wrong(place, bytes(read[0].data_in))) == []
        while sense_of(written[0])[0] == UNIT_ATTENTION:
            written = [self._host.command(write_cdb(lba, blocks), data_out=self.journal.issue(lba, blocks))]
        assert written[0].status == GOOD
        self.journal.acknowledge(lba, blocks)

    def outlives(self, link: LinkProxy) -> bool:
        """Tell whether the session that is to end at a byte is over before it comes to that."""
        before = link.connections
        link.break_now()
        self._host.wait(lambda: link.connections > before)
        self.run()
        return link.connections == before + 1


def end_at_each_byte(linked: Linked, host: Host, exchange: Exchange, step: int, towards_array: bool) -> None:
    """End one session after another, each later than the one before, until one is over before it is to end."""
    for last in itertools.count(1, step):
        once = iter([(last, None) if towards_array else (None, last)])
        linked.link.limit = lambda once=once: next(once, (None, None))  # type: ignore[misc]  # a default binds it
        if exchange.outlives(linked.link):
            assert last > FEWEST_BYTES
            return


@pytest.mark.parametrize(
    "resets", [pytest.param(True, id="RST"), pytest.param(False, id="FIN", marks=pytest.mark.long)]
)
@pytest.mark.parametrize(
    "step", [pytest.param(STEP or LONG_STEP, marks=pytest.mark.long, id="long"), pytest.param(SHORT_STEP, id="short")]
)
@pytest.mark.timeout(3600 if STEP else 120)
def test_f12_no_reply_of_a_session_that_ends_at_any_byte_is_taken_for_another(
    linked: Linked, step: int, resets: bool
) -> None:
    linked.link.resets = resets
    with Host(linked.annexd.port) as host:
        exchange = Exchange(linked, host)
        for towards_array in (True, False):
            end_at_each_byte(linked, host, exchange, step, towards_array)
        print(f"{linked.link.connections} sessions")
        wait_for_pair(host, PairState.PAIR)
        data = host.command(read_cdb(0, LEG_BYTES // BLOCK_BYTES), data_in_bytes=LEG_BYTES).data_in
        assert list(exchange.journal.wrong(0, bytes(data))) == []
    assert linked.local.read_bytes() == linked.remote.read_bytes()
    log = linked.annexd.log()
    assert "differ between its legs" not in log, "what a comparison read was another answer, or a write went elsewhere"
    assert "Traceback" not in log
