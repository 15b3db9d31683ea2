"""The security keys of a login at a target: whether somebody has to prove who they are, and whether they have.

Spec: RFC 7143 12 "iSCSI Security Text Keys and Authentication Methods".
"""

from __future__ import annotations

from collections.abc import Sequence

from scsi.iscsi.chap import ChapPolicy, ChapTarget, RandomBytes
from scsi.iscsi.errors import LoginRefused, LoginStatus
from scsi.iscsi.keys import KEYS, NONE, REJECT, answer_offer


def is_security_key(name: str) -> bool:
    """Say whether a key is answered here."""
    return name == "AuthMethod" or name.startswith("CHAP_")


class SecurityNegotiation:
    """The security negotiation of one login."""

    def __init__(self, policy: ChapPolicy | None, random_bytes: RandomBytes) -> None:
        """Begin.

        Args:
            policy: what is asked of the initiator; None when nothing is.
            random_bytes: where challenges come from.
        """
        self._policy = policy
        self._random_bytes = random_bytes
        self._chap: ChapTarget | None = None

    @property
    def authenticated(self) -> bool:
        """Whether the initiator may use what it wants to."""
        return self._policy is None or (self._chap is not None and self._chap.done)

    @property
    def algorithm(self) -> str:
        """The digest with which the initiator has proved itself, as hashlib calls it; "" when it had nothing to."""
        agreed = self._chap.algorithm if self._chap is not None and self._chap.done else None
        return agreed.hash_name if agreed else ""

    def check_progress(self) -> bool:
        """Say whether the security stage may end now.

        Raises:
            LoginRefused: it never will, because authentication is required and the initiator does not offer it.
        """
        if not self.authenticated and self._chap is None:
            raise LoginRefused(LoginStatus.AUTHENTICATION_FAILURE, "CHAP is required and not offered")
        return self.authenticated

    def answer(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Answer the security keys of one text.

        Raises:
            LoginRefused: no method in common, or CHAP without its method.
            ChapFailure: the initiator fails.
            TextError: it offers what can only be an answer.
        """
        keys = {name: value for name, value in pairs if is_security_key(name)}
        answers: list[tuple[str, str]] = []
        offered = keys.pop("AuthMethod", None)
        if offered is not None:
            method, _ = answer_offer(KEYS["AuthMethod"], offered, (NONE,) if self._policy is None else ("CHAP",))
            if method == REJECT:
                raise LoginRefused(LoginStatus.AUTHENTICATION_FAILURE, "no authentication method in common")
            answers.append(("AuthMethod", method))
            if self._policy is not None:
                self._chap = ChapTarget(self._policy, self._random_bytes)
        if keys:
            if self._chap is None:
                raise LoginRefused(LoginStatus.INITIATOR_ERROR, "CHAP keys without AuthMethod=CHAP")
            answers += self._chap.step(keys)
        return answers
