"""What annex wants when it logs in to another target, and what happened that is not the answer to a command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from scsi.iscsi.chap import STRONGEST_FIRST, Credentials
from scsi.iscsi.errors import LoginStatus


@dataclass(frozen=True, slots=True)
class InitiatorOptions:
    """One session to be, as configured.

    Attributes:
        initiator_name: annex's own InitiatorName.
        target_name: the target's; "" asks for a Discovery session.
        isid: 6 bytes; the same again for the same path, because reservations belong to name + ISID.
        chap: what the target knows annex by; None offers no authentication.
        mutual_chap: what the target has to prove itself with; needs `chap`.
        chap_algorithms: numbers (`chap.ALGORITHMS`), the preferred ones first.
        header_digest, data_digest: insist on CRC32C; else it is used only where the target wants it.
        initial_r2t: ask for R2T before any Data-Out; the target may insist on it.
        immediate_data: send the beginning of a write within its command, if the target agrees.
        max_recv_data_segment_length, max_burst_length, first_burst_length, max_outstanding_r2t: what is declared or
            offered, bytes and a count.
        nop_interval_s: a silent target is pinged after this.
        nop_timeout_s: the connection ends when a ping has no answer for this long.
        management_timeout_s: the same for ABORT TASK and LOGICAL UNIT RESET.
        logout_timeout_s: the same for Logout.
    """

    initiator_name: str
    target_name: str
    isid: bytes
    chap: Credentials | None = None
    mutual_chap: Credentials | None = None
    chap_algorithms: tuple[int, ...] = STRONGEST_FIRST
    header_digest: bool = False
    data_digest: bool = False
    initial_r2t: bool = False
    immediate_data: bool = True
    max_recv_data_segment_length: int = 262144
    max_burst_length: int = 1048576
    first_burst_length: int = 262144
    max_outstanding_r2t: int = 8
    nop_interval_s: float = 5.0
    nop_timeout_s: float = 5.0
    management_timeout_s: float = 3.0
    logout_timeout_s: float = 3.0


class SessionReady(NamedTuple):
    """The login is done; commands can be submitted."""

    target_portal_group_tag: int | None


class SessionOver(NamedTuple):
    """The connection is of no more use: the socket is to be closed. The last event of a connection.

    Attributes:
        reason: for the log and the admin.
        status: what the target said when it refused the login, else None.
        moved_to: where the target says it is now, "" when it does not.
        chap_algorithm: the number that the target had chosen when it refused.
    """

    reason: str
    status: LoginStatus | int | None = None
    moved_to: str = ""
    chap_algorithm: int | None = None


InitiatorEvent = SessionReady | SessionOver
