"""What hosts have done: their sessions, those that have ended among them, and the logins that were refused.

Sessions come and go, and what a host has done goes on from one to the next. Its name is whatever the initiator says, so
there is a limit on how many names are told apart.
"""

from __future__ import annotations

from collections import Counter

from daemon.traffic import Traffic, named_errors
from scsi.counters import ErrorKind, Latencies, count_error
from scsi.iscsi.session import Session
from scsi.sense import decode_sense

MOST_HOSTS = 1024  # that are told apart; with `anyone` a host may call itself whatever it wants, and another each time
OTHER_HOSTS = "(others)"


class HostStatistics(Traffic, kw_only=True):
    """A host; `reads` are all commands that brought data to it, `writes` all that took data from it."""

    sessions: int = 0


class SessionCounts:
    """What is counted of a session apart from what it counts itself.

    Attributes:
        reads, writes: how long they took.
        errors: how many there were of each kind.
    """

    def __init__(self) -> None:
        self.reads = Latencies()
        self.writes = Latencies()
        self.errors: dict[ErrorKind, int] = {}

    def error(self, status: int, sense: bytes) -> None:
        """Count an answer that is not GOOD."""
        try:
            decoded = decode_sense(sense)
        except ValueError:  # a status that comes without
            count_error(self.errors, (status, 0, 0, 0))
        else:
            count_error(self.errors, (status, decoded.key, decoded.asc, decoded.ascq))


class HostHistory:
    """What came in from hosts and is over: sessions that have ended, logins that were refused.

    Attributes:
        accepted: logins that worked.
        refused: those that did not, by login status.
        protocol_faults: what hosts have done wrong.
    """

    def __init__(self, most_hosts: int = MOST_HOSTS) -> None:
        self.accepted = 0
        self.refused: Counter[str] = Counter()
        self.protocol_faults = 0
        self._most_hosts = most_hosts
        self._ended: dict[str, HostStatistics] = {}
        self._live: dict[Session, SessionCounts] = {}

    def session_begun(self, session: Session) -> None:
        """Take note of a login that worked."""
        self.accepted += 1
        if not session.discovery:
            session.on_error = self.counts(session).error

    def counts(self, session: Session) -> SessionCounts:
        """Give where a session is counted, the same when it goes on with another connection."""
        return self._live.setdefault(session, SessionCounts())

    def session_ended(self, session: Session) -> None:
        """Keep what a session did, now that it is over."""
        counts = self._live.pop(session, None)
        if counts is None:
            return
        name = session.initiator_name
        if name not in self._ended and len(self._ended) >= self._most_hosts:
            name = OTHER_HOSTS
        row = self._ended.setdefault(name, HostStatistics())
        _add_session(row, session, counts)

    def hosts(self) -> dict[str, HostStatistics]:
        """Give every host that is known: what all its sessions did."""
        rows: dict[str, HostStatistics] = {}
        for name, ended in self._ended.items():
            rows[name] = HostStatistics()
            rows[name].add(ended)
        for session, counts in self._live.items():
            name = session.initiator_name
            if name not in rows and len(rows) >= self._most_hosts:
                name = OTHER_HOSTS
            row = rows.setdefault(name, HostStatistics())
            row.sessions += 1
            row.queue += len(session.tasks)
            _add_session(row, session, counts)
        return rows


def _add_session(row: HostStatistics, session: Session, counts: SessionCounts) -> None:
    row.reads += session.reads
    row.writes += session.writes
    row.others += session.others
    row.read_bytes += session.read_bytes
    row.written_bytes += session.written_bytes
    row.busy_s += counts.reads.sum_s + counts.writes.sum_s
    row.add_errors(named_errors(counts.errors))
    row.read_latency.add(counts.reads)
    row.write_latency.add(counts.writes)
