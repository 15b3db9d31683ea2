"""Which host may log in where, and which logical units it is shown: the configuration as login and SendTargets ask."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from config import model
from scsi.iscsi.chap import ChapPolicy, Credentials
from scsi.iscsi.directory import Addresses, Admission, Portal, TargetListing
from scsi.iscsi.errors import LoginRefused, LoginStatus
from scsi.logical_unit import LogicalUnit
from scsi.nexus import Limit, MappedUnit

_DISCOVERY_TAG = model.DEFAULT_PORTAL_GROUP  # of a session that is to no target
_WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - recognised here, bound only if the configuration says so


class Rights(NamedTuple):
    """What a host that was admitted may do: `Admission.context`, from which its nexus is made.

    Attributes:
        hosts: who admitted it, and may be asked again; `addresses` is where it came from.
        acl: its own, None for one of anyone.
        luns: that it is shown.
        array_control, read_only: see `config.model`.
        portal_groups: the tags of all portal groups of the target.
    """

    hosts: PortalHosts
    addresses: Addresses
    acl: model.Acl | None
    luns: list[model.Lun]
    array_control: bool
    read_only: bool
    portal_groups: Collection[int] = (model.DEFAULT_PORTAL_GROUP,)


class PortalHosts:
    """The hosts of one portal: a `scsi.iscsi.directory.TargetDirectory` over the targets that answer there.

    Args:
        config: checked.
        portal: host and port, as `config.model.split_portal` gives them.
        draining: the portals that admit no new sessions, of all that there are.
    """

    def __init__(
        self, config: model.Config, portal: tuple[str, int], draining: Collection[tuple[str, int]] = frozenset()
    ) -> None:
        self._portal = portal
        self._draining = draining
        self.use(config)

    def use(self, config: model.Config) -> None:
        """Answer as another configuration says, from now on."""
        self._discovery = config.discovery
        self._targets = {
            target.name: target
            for target in config.targets
            if self._portal in (model.split_portal(text) for text in target.portals)
        }

    def admit(self, initiator_name: str, target_name: str, addresses: Addresses) -> Admission:
        """Say how this host may log in to this target now.

        Raises:
            LoginRefused: see `rights`; and at a portal that is being drained TARGET_MOVED_TEMPORARILY, with another
                portal of the target to go to, or SERVICE_UNAVAILABLE where there is none.

        Spec: RFC 7143 11.13.5, status 0101 and 0301; 13.8 "TargetAddress": without a portal group tag.
        """
        admission = self.rights(initiator_name, target_name, addresses)
        if self._portal in self._draining:
            others = self._portals(self._targets[target_name], addresses)
            other = next((model.join_portal(portal.address, portal.port) for portal in others), None)
            status = LoginStatus.TARGET_MOVED_TEMPORARILY if other else LoginStatus.SERVICE_UNAVAILABLE
            raise LoginRefused(status, f"{initiator_name!r} comes by a portal that is being drained", other)
        return admission

    def rights(self, initiator_name: str, target_name: str, addresses: Addresses) -> Admission:
        """Say how this host may use this target, whether or not it may log in just now.

        Raises:
            LoginRefused: NOT_FOUND for a target that is not on this portal; AUTHORIZATION_FAILURE for a host that
                the target does not admit from where it comes. A host with an ACL is never one of `anyone`: else
                whoever calls itself so would get around the ACL's addresses and its CHAP.
        """
        target = self._targets.get(target_name)
        if target is None:
            raise LoginRefused(LoginStatus.NOT_FOUND, f"no target {target_name!r} on this portal")
        acl = _acl(target, initiator_name)
        if acl is not None:
            if not _admitted_from(acl.addresses, addresses.peer_address):
                raise LoginRefused(
                    LoginStatus.AUTHORIZATION_FAILURE,
                    f"the ACL at {target_name!r} of {initiator_name!r} does not admit it from {addresses.peer_address}",
                )
            luns = target.luns if acl.luns is None else acl.luns
            chap = _chap_policy(acl.chap, acl.mutual_chap)
            rights = Rights(self, addresses, acl, luns, acl.array_control, False, model.portal_group_tags(target))
            return Admission(chap, model.portal_group_tag(target, self._portal), context=rights)
        if target.anyone is None or not _admitted_from(target.anyone.addresses, addresses.peer_address):
            raise LoginRefused(LoginStatus.AUTHORIZATION_FAILURE, f"no ACL at {target_name!r} for {initiator_name!r}")
        anyone = target.anyone
        groups = model.portal_group_tags(target)
        rights = Rights(self, addresses, None, target.luns, anyone.array_control, anyone.read_only, groups)
        return Admission(None, model.portal_group_tag(target, self._portal), context=rights)

    def admit_discovery(self, initiator_name: str, addresses: Addresses) -> Admission:
        """Say how this host may ask for targets; what it then sees are only those that would admit it."""
        chap = _chap_policy(self._discovery.chap, self._discovery.mutual_chap) if self._discovery else None
        return Admission(chap, _DISCOVERY_TAG)

    def targets(self, initiator_name: str, addresses: Addresses) -> Iterator[TargetListing]:
        """List the targets that would admit this host on the portal where it asks, with their portals."""
        for target in self._targets.values():
            who = _acl(target, initiator_name) or target.anyone
            if who is not None and _admitted_from(who.addresses, addresses.peer_address):
                yield TargetListing(target.name, list(self._portals(target, addresses)))

    def _portals(self, target: model.Target, addresses: Addresses) -> Iterator[Portal]:
        """List the portals of a target that admit sessions, as seen by who came in at `addresses`.

        A wildcard is the address that it used.
        """
        for address, port in map(model.split_portal, target.portals):
            if (address, port) not in self._draining:
                seen = addresses.local_address if address in _WILDCARDS else address
                yield Portal(seen, port, model.portal_group_tag(target, (address, port)))


def read_write_hosts(config: model.Config, virtual_device: str) -> frozenset[str]:
    """Name the hosts to which an explicit ACL maps the LU on a virtual device read-write."""
    return frozenset(
        acl.initiator
        for target in config.targets
        for acl in target.acls
        for lun in (target.luns if acl.luns is None else acl.luns)
        if lun.virtual_device == virtual_device and not lun.read_only
    )


def lun_map(
    rights: Rights, units: Mapping[str, LogicalUnit], limit_of: Callable[[model.Lun], Limit | None]
) -> dict[bytes, MappedUnit]:
    """Make the LUN map of a nexus: raw 8-byte LUN → logical unit.

    Args:
        rights: of the host.
        units: logical units by the name of their virtual device.
        limit_of: gives the limit of the host at a LUN.

    Spec: SAM-5 4.7.7.1 "Simple LU addressing", peripheral device addressing with bus 0.
    """
    return {
        bytes((0, lun.lun)) + bytes(6): MappedUnit(
            units[lun.virtual_device], rights.read_only or lun.read_only, limit_of(lun)
        )
        for lun in rights.luns
    }


def _acl(target: model.Target, initiator_name: str) -> model.Acl | None:
    return next((acl for acl in target.acls if acl.initiator == initiator_name), None)


def _admitted_from(allowed: list[str] | None, address: str) -> bool:
    """Tell whether an address is in one of the networks; None is all of them."""
    if allowed is None:
        return True
    # An IPv4 host on a dual-stack socket shows up as ::ffff:a.b.c.d; a link-local one carries its zone.
    peer = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped:
        peer = peer.ipv4_mapped
    networks = (ipaddress.ip_network(network) for network in allowed)
    return any(peer in network for network in networks if network.version == peer.version)


def _chap_policy(chap: model.Chap | None, mutual: model.Chap | None) -> ChapPolicy | None:
    if chap is None:
        return None
    own = Credentials(mutual.name, mutual.secret.encode()) if mutual else None
    return ChapPolicy(Credentials(chap.name, chap.secret.encode()), mutual is not None, own)
