"""What login and SendTargets ask of the configuration, which the daemon answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from scsi.iscsi.chap import ChapPolicy
from scsi.iscsi.options import TargetOptions


class Addresses(NamedTuple):
    """The two ends of a TCP connection, as text and numbers; IPv6 addresses without brackets."""

    peer_address: str
    peer_port: int
    local_address: str
    local_port: int


@dataclass(frozen=True, slots=True)
class Admission:
    """How an initiator may log in.

    Attributes:
        chap: what it has to prove, or None when anybody may have this name.
        target_portal_group_tag: of the portal that it came in by.
        target_alias: told to the initiator when not empty.
        options: what this session may do; None for the connection's own options.
        context: for who makes the nexus; comes back as `session.admission.context`.
    """

    chap: ChapPolicy | None = None
    target_portal_group_tag: int = 1
    target_alias: str = ""
    options: TargetOptions | None = None
    context: Any = None


class Portal(NamedTuple):
    """One address of a target; an IPv6 address without brackets."""

    address: str
    port: int
    target_portal_group_tag: int


class TargetListing(NamedTuple):
    """One target as SendTargets lists it."""

    target_name: str
    portals: Iterable[Portal]


class TargetDirectory(Protocol):
    """The configuration, as far as iSCSI asks for it; answers at once and never blocks."""

    def admit(self, initiator_name: str, target_name: str, addresses: Addresses) -> Admission:
        """Say how this initiator may use this target.

        Raises:
            LoginRefused: it may not, or there is no such target, or it has moved.
        """

    def admit_discovery(self, initiator_name: str, addresses: Addresses) -> Admission:
        """Say how this initiator may ask for targets.

        Raises:
            LoginRefused: it may not.
        """

    def targets(self, initiator_name: str, addresses: Addresses) -> Iterable[TargetListing]:
        """Return the targets that this initiator may know of, with the portals to use from where it asks."""
