"""Who is let in, to what, and from where."""

from __future__ import annotations

import pytest

from config import checks, model
from daemon.hosts import PortalHosts, read_write_hosts
from scsi.iscsi.directory import Addresses
from scsi.iscsi.errors import LoginRefused, LoginStatus

TARGET = "iqn.2026-11.org.example:annex"
OTHER = "iqn.2026-11.org.example:other"
KNOWN = "iqn.2026-11.org.example:known"
STRANGER = "iqn.2026-11.org.example:stranger"
FROM_HERE = Addresses("127.0.0.1", 40000, "127.0.0.1", 3260)
FROM_AFAR = Addresses("192.0.2.1", 40000, "192.0.2.9", 3260)


def configuration(*, anyone: bool = True) -> model.Config:
    return model.Config(
        version=2,
        state_directory="/state",
        devices=[model.Device(name="d", path="/d"), model.Device(name="e", path="/e")],
        virtual_devices=[
            model.VirtualDevice(name="v", regions=[model.Region(device="d")]),
            model.VirtualDevice(name="w", regions=[model.Region(device="e")]),
        ],
        targets=[
            model.Target(
                name=TARGET,
                portals=["0.0.0.0:3260", "[::1]:3261"],
                luns=[model.Lun(lun=0, virtual_device="v")],
                acls=[
                    model.Acl(
                        initiator=KNOWN,
                        chap=model.Chap(name="known", secret="known's own secret"),
                        mutual_chap=model.Chap(name="annex", secret="annex's own secret"),
                        luns=[
                            model.Lun(lun=5, virtual_device="v"),
                            model.Lun(lun=6, virtual_device="w", read_only=True),
                        ],
                    )
                ],
                anyone=model.Anyone(addresses=["127.0.0.0/8", "::1"]) if anyone else None,
            ),
            model.Target(name=OTHER, portals=["127.0.0.1:3262"], luns=[], anyone=model.Anyone(addresses=["0.0.0.0/0"])),
        ],
        discovery=model.Discovery(chap=model.Chap(name="disco", secret="a secret for discovery")),
    )


def hosts(*, anyone: bool = True) -> PortalHosts:
    config = configuration(anyone=anyone)
    checks.check(config)
    return PortalHosts(config, ("0.0.0.0", 3260))


def test_a_host_with_an_acl_gets_its_own_luns_and_must_prove_itself_both_ways() -> None:
    admission = hosts().admit(KNOWN, TARGET, FROM_AFAR)
    assert admission.chap is not None
    assert admission.chap.mutual
    assert admission.chap.own is not None
    assert (admission.chap.accepted.name, admission.chap.own.name) == ("known", "annex")
    assert [lun.lun for lun in admission.context.luns] == [5, 6]
    assert admission.context.array_control


def test_a_host_without_an_acl_is_let_in_only_from_the_networks_of_anyone() -> None:
    admission = hosts().admit(STRANGER, TARGET, FROM_HERE)
    assert [lun.lun for lun in admission.context.luns] == [0]
    assert not admission.context.array_control
    mapped = Addresses("::ffff:127.0.0.1", 1, "::ffff:127.0.0.1", 3260)
    assert hosts().admit(STRANGER, TARGET, mapped).chap is None
    with pytest.raises(LoginRefused) as refused:
        hosts().admit(STRANGER, TARGET, FROM_AFAR)
    assert refused.value.status is LoginStatus.AUTHORIZATION_FAILURE
    with pytest.raises(LoginRefused):
        hosts(anyone=False).admit(STRANGER, TARGET, FROM_HERE)


@pytest.mark.parametrize(
    ("address", "admitted"),
    [
        ("192.0.2.1", True), ("::ffff:192.0.2.1", True), ("2001:db8::1", True), ("2001:db8::1%eth0", True),
        ("192.0.3.1", False), ("127.0.0.1", False), ("::1", False), ("2001:db9::1", False),
    ],
)  # fmt: skip
def test_an_acl_with_addresses_admits_its_host_only_from_there_even_where_anyone_may_come(
    address: str, admitted: bool
) -> None:
    config = configuration()
    config.targets[0].acls[0].addresses = ["192.0.2.0/24", "2001:db8::/32"]
    checks.check(config)
    there = Addresses(address, 40000, "127.0.0.1", 3260)
    portal = PortalHosts(config, ("0.0.0.0", 3260))
    assert [listing.target_name for listing in portal.targets(KNOWN, there)] == ([TARGET] if admitted else [])
    if admitted:
        assert portal.admit(KNOWN, TARGET, there).chap is not None
        return
    with pytest.raises(LoginRefused) as refused:
        portal.admit(KNOWN, TARGET, there)
    assert refused.value.status is LoginStatus.AUTHORIZATION_FAILURE


def test_a_portal_that_is_drained_sends_hosts_to_another_and_is_not_listed() -> None:
    draining = {("0.0.0.0", 3260)}
    portal = PortalHosts(configuration(), ("0.0.0.0", 3260), draining)
    with pytest.raises(LoginRefused) as refused:
        portal.admit(KNOWN, TARGET, FROM_AFAR)
    assert refused.value.status is LoginStatus.TARGET_MOVED_TEMPORARILY
    assert refused.value.target_address == "[::1]:3261"
    (listing,) = portal.targets(KNOWN, FROM_AFAR)
    assert [(other.address, other.port) for other in listing.portals] == [("::1", 3261)]
    assert portal.rights(KNOWN, TARGET, FROM_AFAR).chap is not None  # for sessions that are there
    draining.add(("::1", 3261))
    with pytest.raises(LoginRefused) as refused:
        portal.admit(KNOWN, TARGET, FROM_AFAR)
    assert (refused.value.status, refused.value.target_address) == (LoginStatus.SERVICE_UNAVAILABLE, None)
    with pytest.raises(LoginRefused) as refused:  # who may not log in is not told
        portal.admit(STRANGER, TARGET, FROM_AFAR)
    assert refused.value.status is LoginStatus.AUTHORIZATION_FAILURE
    draining.clear()
    assert portal.admit(KNOWN, TARGET, FROM_AFAR).chap is not None


@pytest.mark.parametrize("name", [OTHER, "iqn.2026-11.org.example:none"])
def test_a_target_of_another_portal_is_as_one_that_does_not_exist(name: str) -> None:
    with pytest.raises(LoginRefused) as refused:
        hosts().admit(STRANGER, name, FROM_HERE)
    assert refused.value.status is LoginStatus.NOT_FOUND


def test_discovery_lists_what_would_admit_the_host_and_shows_a_wildcard_as_the_address_used() -> None:
    listed = list(hosts().targets(KNOWN, FROM_AFAR))
    assert [listing.target_name for listing in listed] == [TARGET]
    assert [(portal.address, portal.port) for portal in listed[0].portals] == [("192.0.2.9", 3260), ("::1", 3261)]
    assert list(hosts().targets(STRANGER, FROM_AFAR)) == []


def test_discovery_asks_for_its_own_chap() -> None:
    chap = hosts().admit_discovery(STRANGER, FROM_HERE).chap
    assert chap is not None
    assert (chap.accepted.name, chap.mutual) == ("disco", False)


def test_a_portal_is_of_the_group_that_its_target_gives_it() -> None:
    config = configuration()
    target = config.targets[0]
    target.portals = [*target.portals, "127.0.0.9:3260"]
    target.portal_groups = {"127.0.0.9": 7}
    checks.check(config)
    hosts = PortalHosts(config, ("127.0.0.9", 3260))
    admission = hosts.admit(KNOWN, target.name, FROM_HERE)
    assert admission.target_portal_group_tag == 7
    assert set(admission.context.portal_groups) == {1, 7}
    (listing,) = hosts.targets(KNOWN, FROM_HERE)
    assert [portal.target_portal_group_tag for portal in listing.portals] == [1, 1, 7]


def test_only_explicit_read_write_mappings_count_as_other_hosts() -> None:
    assert read_write_hosts(configuration(), "v") == {KNOWN}
    assert read_write_hosts(configuration(), "w") == frozenset()
