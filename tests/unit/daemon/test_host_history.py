from typing import Any

import pytest

from daemon.host_history import OTHER_HOSTS, HostHistory
from scsi.counters import MOST_ERROR_KINDS
from scsi.iscsi.session import Session
from tests.support.iscsi_peer import INITIATOR, Peer

SENSE = bytes.fromhex("70 00 05 00000000 0a 00000000 24 00 00000000")


def session(name: str = INITIATOR, **counts: Any) -> Session:
    """Give a session that has answered a few commands."""
    peer = Peer()
    answer = peer.login_step(peer.names() | {"InitiatorName": name})
    assert answer.login_status == 0
    (made,) = peer.logins
    for field, value in counts.items():
        setattr(made, field, value)
    return made


def test_a_host_is_the_sum_of_its_sessions_those_that_have_ended_among_them() -> None:
    history = HostHistory()
    ended, alive = session(reads=3, read_bytes=100), session(reads=4, written_bytes=7, writes=1)
    for made in (ended, alive):
        history.session_begun(made)
    history.counts(ended).reads.add(0.5, 1)
    for _ in range(2):
        alive.on_error(0x02, SENSE)
    ended.on_error(0x02, SENSE)
    alive.on_error(0x18, b"")
    history.counts(alive).writes.add(0.25, 2)
    history.session_ended(ended)
    row = history.hosts()[INITIATOR]
    assert (row.reads, row.read_bytes, row.writes, row.written_bytes) == (7, 100, 1, 7)
    assert row.errors == {"5/24/00": 3, "RESERVATION_CONFLICT": 1}
    assert (row.busy_s, row.sessions, history.accepted) == (1.0, 1, 2)
    assert (sum(row.read_latency.counts), sum(row.write_latency.counts)) == (1, 2)
    assert (row.read_latency.sum_s, row.write_latency.sum_s) == (0.5, 0.5)


def test_asking_twice_counts_nothing_twice() -> None:
    history = HostHistory()
    one = session(reads=3)
    history.session_begun(one)
    history.counts(one).reads.add(0.5, 1)
    one.on_error(0x02, SENSE)
    assert history.hosts() == history.hosts()
    history.session_ended(one)
    assert history.hosts() == history.hosts()
    history.session_ended(one)
    row = history.hosts()[INITIATOR]
    assert (row.reads, row.errors, row.busy_s) == (3, {"5/24/00": 1}, 0.5)


def test_a_session_that_goes_on_with_another_connection_keeps_its_time() -> None:
    history = HostHistory()
    one = session()
    history.session_begun(one)
    history.counts(one).reads.add(1.0, 1)
    history.session_begun(one)
    assert history.hosts()[INITIATOR].busy_s == 1.0


def test_a_host_that_gets_ever_new_errors_uses_up_no_memory() -> None:
    history = HostHistory()
    for asc in range(200):
        one = session()
        history.session_begun(one)
        one.on_error(0x02, bytes((0x72, 0x05, asc, 0x00, 0, 0, 0, 0)))
        history.session_ended(one)
    errors = history.hosts()[INITIATOR].errors
    assert len(errors) <= MOST_ERROR_KINDS + 1
    assert sum(errors.values()) == 200


@pytest.mark.parametrize("end", [True, False])
def test_a_host_with_ever_new_names_uses_up_no_memory(end: bool) -> None:
    history = HostHistory(most_hosts=3)
    made = [session(f"iqn.2026-11.io.annex:{number}", reads=1) for number in range(10)]
    for one in made:
        history.session_begun(one)
        if end:
            history.session_ended(one)
    rows = history.hosts()
    assert len(rows) == 4
    assert rows[OTHER_HOSTS].reads == 7
    assert sum(row.sessions for row in rows.values()) == (0 if end else 10)
