"""The configuration of one annexd, as it stands in its file: what each entry means.

The file is one JSON object. `load` (config.store) reads it, and `checks.check` tells whether its parts fit together;
nothing of it is acted on before both have passed, so a bad file never leaves a half-made daemon.

    devices            local block devices and files, by name
    arrays             external arrays, reached over iSCSI, by name
    virtual_devices    ordered lists of regions of the two
    targets            what hosts log in to: portals, LUNs, and which host sees what
    control, metrics   where admins and monitoring reach the daemon

Sizes and LBAs are in logical blocks of the device that they lie on.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Literal

import msgspec

VERSION: Literal[2] = 2
MAX_LUN = 255
DEFAULT_PORTAL_GROUP = 1

_PORTAL = re.compile(r"(\[(?P<six>[0-9A-Fa-f:.]{2,45})\]|(?P<host>[A-Za-z0-9.-]{1,253}))(:(?P<port>\d{1,5}))?")


class Entry(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A part of the file. Unknown keys are refused, so that a misspelt one is never silently ignored."""


class Chap(Entry):
    """One direction of CHAP: the name sent, and the secret shared (UTF-8; 12 to 256 bytes for a host).

    The secret stands here, or in the file `credential` of the service's credentials directory (systemd LoadCredential).
    """

    name: str
    secret: str = ""
    credential: str | None = None

    def __repr__(self) -> str:
        return f"Chap(name={self.name!r}, secret=…)"  # secrets never reach a log


class Device(Entry):
    """A local block device, or a file that stands in for one."""

    name: str
    path: str


class Array(Entry):
    """An external array: one iSCSI target that annexd logs in to."""

    name: str
    portal: str
    target: str
    chap: Chap | None = None
    mutual_chap: Chap | None = None
    header_digest: bool = False
    data_digest: bool = False
    command_timeout_s: float = 10.0


class Region(Entry):
    """A run of blocks of one device (`device`) or of one external LU (`array` with `lun`).

    `blocks` left out: all from `first_lba` to the end, as measured at first contact and kept in the mapping table.
    `id` left out: whatever LU answers at `lun` at first contact, by its VPD 83 id from then on.
    """

    device: str | None = None
    array: str | None = None
    lun: int | None = None
    id: str | None = None
    first_lba: int = 0
    blocks: int | None = None


class VirtualDevice(Entry):
    """An ordered list of regions; an LU sits on it.

    `naa` left out: the id that its name has had, or one that is made for it. annexd saves it with the next change, so
    that what comes back from a saved configuration is the disk that hosts knew.
    """

    name: str
    regions: list[Region]
    naa: str | None = None


class Lun(Entry):
    """A logical unit number and the virtual device whose LU it shows.

    `max_iops` and `max_bytes_per_s` bound what each host does through this LUN, reads and writes together.
    """

    lun: int
    virtual_device: str
    read_only: bool = False
    max_iops: int | None = None
    max_bytes_per_s: int | None = None


class Acl(Entry):
    """What one host may do at one target. `luns` left out: the target's own list.

    `addresses` given: only when it comes from these networks.
    """

    initiator: str
    addresses: list[str] | None = None
    luns: list[Lun] | None = None
    chap: Chap | None = None
    mutual_chap: Chap | None = None
    array_control: bool = True


class Anyone(Entry):
    """Hosts without an ACL of their own: admitted from the networks `addresses`, to the target's LUNs."""

    addresses: list[str]
    array_control: bool = False
    read_only: bool = False


class Target(Entry):
    """A target name, the portals it answers on, its LUNs, and its hosts. No `anyone`: only hosts with an ACL.

    `portal_groups` gives the portal group tag of a portal; those that it does not name are group 1. The portals of one
    group are one path to hosts: one target port, and one target port group.
    """

    name: str
    portals: list[str]
    luns: list[Lun]
    acls: list[Acl] = []
    anyone: Anyone | None = None
    portal_groups: dict[str, int] = {}


class Discovery(Entry):
    """CHAP for discovery sessions; `mutual_chap` makes the target prove itself as well."""

    chap: Chap
    mutual_chap: Chap | None = None


class ControlTcp(Entry):
    """The control API for admins on other machines: TLS and a bearer token, never without.

    `certificate` and `key` are PEM files; `token_file` holds the token (32 to 512 printable characters), mode 0600.
    """

    listen: str
    certificate: str
    key: str
    token_file: str


class Control(Entry):
    """Where admins reach the daemon.

    `socket` may change everything and is open to root, annexd's own user and `admin_groups`; `read_only_socket` answers
    questions, and is open to `reader_groups` as well. Their folder is made with mode 0750 when it is not there.
    """

    socket: str = "/run/annex/control.sock"
    read_only_socket: str | None = None
    admin_groups: list[str] = []
    reader_groups: list[str] = []
    tcp: ControlTcp | None = None


class Metrics(Entry):
    """Where Prometheus finds /metrics: host:port."""

    listen: str


class Config(Entry):
    """The whole file."""

    version: Literal[2]
    state_directory: str
    devices: list[Device] = []
    arrays: list[Array] = []
    virtual_devices: list[VirtualDevice] = []
    targets: list[Target] = []
    discovery: Discovery | None = None
    control: Control | None = None
    metrics: Metrics | None = None


def split_portal(portal: str, default_port: int = 3260) -> tuple[str, int]:
    """Give the host and the port of "host", "host:port", "[v6]" or "[v6]:port".

    Raises:
        ValueError: it is none of these, or the port is not in 0 … 65535.
    """
    match = _PORTAL.fullmatch(portal)
    port = int(match["port"]) if match and match["port"] else default_port
    if not match or port > 65535:
        raise ValueError(f"{portal[:300]!r} is not host:port or [address]:port")
    if match["six"]:
        ipaddress.IPv6Address(match["six"])
    return match["six"] or match["host"], port


def join_portal(host: str, port: int) -> str:
    """Give "host:port", or "[v6]:port"."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def portal_group_tag(target: Target, address: tuple[str, int]) -> int:
    """Give the tag of the portal group that a portal is in; `address` as `split_portal` gives it."""
    tags = (tag for portal, tag in target.portal_groups.items() if split_portal(portal) == address)
    return next(tags, DEFAULT_PORTAL_GROUP)


def portal_group_tags(target: Target) -> set[int]:
    """Give the tags of all portal groups of a target."""
    return {portal_group_tag(target, split_portal(portal)) for portal in target.portals}
