"""Which sessions there are: found by who logged in, and by the handle that the target gave out.

Spec: RFC 7143 4.4.3.1 "I_T Nexus", 6.3.5 "Session Reinstatement, Closure, and Timeout", 4.2.7 on TSIH.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from scsi.iscsi.session import Session


class SessionKey(NamedTuple):
    """What makes two sessions the same I_T nexus, so that only one of them can exist.

    A Discovery session has no target name; two of them with one ISID may exist side by side, and are not registered by
    key.
    """

    initiator_name: str
    isid: bytes
    target_name: str
    target_portal_group_tag: int


class SessionRegistry:
    """The sessions of one daemon; all portals share it."""

    def __init__(self, max_sessions: int = 65535) -> None:
        """Begin empty.

        Args:
            max_sessions: how many there may be; 65535 is what a TSIH can tell apart.
        """
        self._max_sessions = min(max_sessions, 65535)
        self._by_key: dict[SessionKey, Session] = {}
        self._by_tsih: dict[int, Session] = {}
        self._draining: dict[SessionKey, set[Session]] = {}
        self._last_tsih = 0

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_tsih.values()))

    def __len__(self) -> int:
        return len(self._by_tsih)

    def find(self, key: SessionKey) -> Session | None:
        """Return the session that a login of this key would end."""
        return self._by_key.get(key)

    def find_tsih(self, tsih: int) -> Session | None:
        return self._by_tsih.get(tsih)

    def add(self, session: Session) -> bool:
        """Register a session and give it its TSIH; False when there are too many already."""
        if len(self._by_tsih) >= self._max_sessions:
            return False
        tsih = self._last_tsih
        while True:
            tsih = tsih % 65535 + 1
            if tsih not in self._by_tsih:
                break
        self._last_tsih = session.tsih = tsih
        self._by_tsih[tsih] = session
        if not session.discovery:
            self._by_key[session.key] = session
        return True

    def remove(self, session: Session) -> None:
        """Forget a session that has ended, but for what is still done on behalf of its tasks."""
        if self._by_tsih.get(session.tsih) is session:
            del self._by_tsih[session.tsih]
        if self._by_key.get(session.key) is session:
            del self._by_key[session.key]
        if not session.drained:
            self._draining.setdefault(session.key, set()).add(session)
            session.when_drained(lambda: self._drained(session))

    def _drained(self, session: Session) -> None:
        sessions = self._draining[session.key]
        sessions.remove(session)
        if not sessions:
            del self._draining[session.key]

    def draining(self, key: SessionKey) -> set[Session]:
        """Return the sessions of this key that have ended, and on behalf of whose tasks something is still done."""
        return set(self._draining.get(key, ()))
