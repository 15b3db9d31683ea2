from typing import Any

import pytest

from daemon.host_history import OTHER_HOSTS, HostHistory
from scsi.iscsi.session import Session
from tests.support.iscsi_peer import INITIATOR, Peer


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
    ended, alive = session(reads=3, read_bytes=100, errors=1), session(reads=4, written_bytes=7, writes=1)
    for made in (ended, alive):
        history.session_begun(made)
    history.sampled(ended, 0.5)
    history.sampled(alive, 0.25)
    history.session_ended(ended)
    row = history.hosts()[INITIATOR]
    assert (row.reads, row.read_bytes, row.writes, row.written_bytes, row.errors) == (7, 100, 1, 7, 1)
    assert (row.busy_s, row.sessions, history.accepted) == (0.75, 1, 2)


def test_asking_twice_counts_nothing_twice() -> None:
    history = HostHistory()
    one = session(reads=3)
    history.session_begun(one)
    assert history.hosts() == history.hosts()
    history.session_ended(one)
    assert history.hosts() == history.hosts()
    history.session_ended(one)
    assert history.hosts()[INITIATOR].reads == 3


def test_a_session_that_goes_on_with_another_connection_keeps_its_time() -> None:
    history = HostHistory()
    one = session()
    history.session_begun(one)
    history.sampled(one, 1.0)
    history.session_begun(one)
    assert history.hosts()[INITIATOR].busy_s == 1.0


def test_time_of_a_session_that_has_ended_is_nobodys() -> None:
    history = HostHistory()
    history.sampled(session(), 1.0)
    assert history.hosts() == {}


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
