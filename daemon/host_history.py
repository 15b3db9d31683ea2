"""What hosts have done: their sessions, those that have ended among them, and the logins that were refused.

Sessions come and go, and what a host has done goes on from one to the next. Its name is whatever the initiator says, so
there is a limit on how many names are told apart.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from scsi.iscsi.session import Session

MOST_HOSTS = 1024  # that are told apart; with `anyone` a host may call itself whatever it wants, and another each time
OTHER_HOSTS = "(others)"


class Traffic(msgspec.Struct, kw_only=True):
    """Commands, and what they were about.

    Attributes:
        reads, writes, others: commands.
        read_bytes, written_bytes: of the reads and writes.
        busy_s: see `daemon.statistics`; of reads and writes.
        queue: commands in progress now.
    """

    reads: int = 0
    writes: int = 0
    others: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    busy_s: float = 0.0
    queue: int = 0


class HostStatistics(Traffic, kw_only=True):
    """A host; `reads` are all commands that brought data to it, `writes` all that took data from it."""

    sessions: int = 0
    errors: int = 0


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
        self._busy_s: dict[Session, float] = {}

    def session_begun(self, session: Session) -> None:
        """Take note of a login that worked."""
        self.accepted += 1
        if not session.discovery:
            self._busy_s.setdefault(session, 0.0)  # it may have been there before, on another connection

    def sampled(self, session: Session, seconds: float) -> None:
        """Take note of time that commands of a session took."""
        if session in self._busy_s:
            self._busy_s[session] += seconds

    def session_ended(self, session: Session) -> None:
        """Keep what a session did, now that it is over."""
        busy_s = self._busy_s.pop(session, None)
        if busy_s is None:
            return
        name = session.initiator_name
        if name not in self._ended and len(self._ended) >= self._most_hosts:
            name = OTHER_HOSTS
        row = self._ended.setdefault(name, HostStatistics())
        _add_session(row, session, busy_s)

    def hosts(self) -> dict[str, HostStatistics]:
        """Give every host that is known: what all its sessions did."""
        rows = {name: msgspec.structs.replace(row) for name, row in self._ended.items()}
        for session, busy_s in self._busy_s.items():
            name = session.initiator_name
            if name not in rows and len(rows) >= self._most_hosts:
                name = OTHER_HOSTS
            row = rows.setdefault(name, HostStatistics())
            row.sessions += 1
            row.queue += len(session.tasks)
            _add_session(row, session, busy_s)
        return rows


def _add_session(row: HostStatistics, session: Session, busy_s: float) -> None:
    row.reads += session.reads
    row.writes += session.writes
    row.others += session.others
    row.read_bytes += session.read_bytes
    row.written_bytes += session.written_bytes
    row.errors += session.errors
    row.busy_s += busy_s
