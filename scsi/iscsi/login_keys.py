"""The operational keys of a login at a target: answered by the table of `keys`, and made into parameters.

Spec: RFC 7143 6.2 "Text Mode Negotiation", 13.
"""

from __future__ import annotations

from scsi.iscsi.keys import (
    DEFAULT_DATA_SEGMENT_BYTES,
    IRRELEVANT,
    KEYS,
    NOT_UNDERSTOOD,
    REJECT,
    Key,
    Parameters,
    Rule,
    Scope,
    TextError,
    Value,
    answer_offer,
    make_parameters,
)
from scsi.iscsi.login_security import is_security_key
from scsi.iscsi.options import TargetOptions


class OperationalKeys:
    """The operational negotiation of one login.

    Attributes:
        values: the results so far, and what the initiator declared.
    """

    def __init__(self, options: TargetOptions, *, discovery: bool, existing: bool) -> None:
        """Begin.

        Args:
            options: what this side wants.
            discovery: for a Discovery session, to which keys about data mean nothing.
            existing: for a connection of a session that exists, whose keys can not change any more.
        """
        self.values: dict[str, Value] = {}
        self._options = options
        self._discovery = discovery
        self._existing = existing
        self._declared_recv_bytes = 0  # what we declared, 0 while we have not

    def declare(self) -> list[tuple[str, str]]:
        """Return what this side says unasked, once, in the operational stage."""
        if self._declared_recv_bytes:
            return []
        self._declared_recv_bytes = self._options.max_recv_data_segment_length
        return [("MaxRecvDataSegmentLength", str(self._declared_recv_bytes))]

    def answer(self, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Answer the keys of one text that are not about security.

        Raises:
            TextError: a key is not for an initiator to send now, or is offered with a word that only answers may have.
        """
        answers: list[tuple[str, str]] = []
        # FirstBurstLength last, because MaxBurstLength bounds it whatever the order they come in (13.14).
        for name, value in sorted(pairs, key=lambda pair: pair[0] == "FirstBurstLength"):
            answer = "" if is_security_key(name) else self._answer(name, value)
            if answer:
                answers.append((name, answer))
        return answers

    def make_parameters(self) -> Parameters:
        """Return what the negotiation has come to."""
        return make_parameters(self.values, self._declared_recv_bytes or DEFAULT_DATA_SEGMENT_BYTES)

    def _answer(self, name: str, value: str) -> str:
        """Answer one key; `""` when there is nothing to say."""
        key = KEYS.get(name)
        if key is None:
            return NOT_UNDERSTOOD
        if not key.from_initiator or key.scope is Scope.FULL_FEATURE:
            raise TextError(f"{name} is not for an initiator to send during login")
        if self._discovery and not key.in_discovery:
            return IRRELEVANT
        if self._existing and key.scope is Scope.LEADING and key.rule is not Rule.DECLARE:
            return REJECT
        answer, result = answer_offer(key, value, self._wanted(key))
        if result is not None:
            self.values[name] = result
        return answer

    def _wanted(self, key: Key) -> Value | tuple[str, ...] | None:
        wanted = self._options.wanted().get(key.name)
        if key.name == "FirstBurstLength":
            max_burst_length = self.values.get("MaxBurstLength", KEYS["MaxBurstLength"].default)
            assert isinstance(wanted, int)
            assert isinstance(max_burst_length, int)
            return min(wanted, max_burst_length)
        return wanted
