"""What makes a configuration valid: each part of it, and the parts together.

One generator per noun gives what is wrong with it, each with its place in the file; `check` raises the first.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from config.errors import ConfigError
from config.model import (
    MAX_LUN,
    Array,
    Chap,
    Config,
    Control,
    Device,
    Lun,
    Region,
    Target,
    VirtualDevice,
    split_portal,
)

MAX_BLOCKS = 1 << 64  # SBC-4: an LBA has at most 8 bytes
MAX_PATH_BYTES = 4095  # PATH_MAX with its NUL
MAX_CHAP_NAME_BYTES = 255  # RFC 7143 9.2.1 leaves it open; what Linux and libiscsi take
ISCSI_NAME_BYTES = 223  # RFC 7143 4.2.7.1
HOST_SECRET_BYTES = range(12, 257)  # RFC 7143 9.2.1: at least 96 bits; libiscsi and open-iscsi stop at 255
ARRAY_SECRET_BYTES = range(1, 257)  # what an array was given is its admin's choice, and annex can only use it

_ISCSI_NAME = re.compile(
    r"(iqn\.\d{4}-(0[1-9]|1[0-2])\.[a-z0-9.-]+(:[a-z0-9.:-]+)?|eui\.[0-9A-Fa-f]{16}|naa\.[0-9A-Fa-f]{16}([0-9A-Fa-f]{16})?)"
)
_NAA = re.compile(r"602616e[0-9a-f]{25}")  # the form that backends.naa gives
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,254}")  # no "/": names are parts of paths in the shell and the API


def check(config: Config) -> None:
    """Check that the parts of a configuration fit together: names, references, ranges, overlaps.

    Raises:
        ConfigError: the first thing that does not; place is its path in the file.
    """
    for problem in _problems(config):
        raise problem


def _problems(config: Config) -> Iterator[ConfigError]:
    yield from _names(config)
    yield from _arrays(config)
    yield from _virtual_devices(config)
    yield from _targets(config)
    if config.discovery:
        yield from _chap("discovery", config.discovery.chap, config.discovery.mutual_chap)
    if config.control:
        yield from _control(config.control)
    if config.metrics:
        yield from _portal("metrics.listen", config.metrics.listen)
        yield from _loopback("metrics.listen", config.metrics.listen)


def _loopback(place: str, listen: str) -> Iterator[ConfigError]:
    """Keep what asks nobody who they are off the network."""
    try:
        own = ipaddress.ip_address(split_portal(listen)[0]).is_loopback
    except ValueError:
        own = False
    if not own:
        yield ConfigError(
            place, f"{listen!r} is not a loopback address", "127.0.0.1:9464, and a proxy with TLS before it"
        )


def _control(control: Control) -> Iterator[ConfigError]:
    paths = {"socket": control.socket, "read_only_socket": control.read_only_socket}
    if control.tcp:
        tcp = control.tcp
        paths |= {"tcp.certificate": tcp.certificate, "tcp.key": tcp.key, "tcp.token_file": tcp.token_file}
        yield from _portal("control.tcp.listen", tcp.listen)
    for key, path in paths.items():
        yield from _path(f"control.{key}", "/" if path is None else path)
        # sun_path has 108 bytes with its NUL: unix(7)
        if path is not None and key.endswith("socket") and len(path.encode()) > 107:
            yield ConfigError(f"control.{key}", "is longer than the 107 bytes of a socket's path")
    for key, groups in (("admin_groups", control.admin_groups), ("reader_groups", control.reader_groups)):
        if len(groups) > 1:
            yield ConfigError(f"control.{key}", "names several groups, and a socket has one", "make a group of them")
    if control.socket == control.read_only_socket:
        yield ConfigError("control.read_only_socket", "is the same as control.socket")


def _names(config: Config) -> Iterator[ConfigError]:
    yield from _path("state_directory", config.state_directory)
    named: list[tuple[str, Iterable[Device | Array | VirtualDevice]]] = [
        ("devices", config.devices), ("arrays", config.arrays), ("virtual_devices", config.virtual_devices),
    ]  # fmt: skip
    for group, entries in named:
        yield from _duplicates(group, "name", [entry.name for entry in entries])
        for index, entry in enumerate(entries):
            if not _LABEL.fullmatch(entry.name):
                yield ConfigError(
                    f"{group}[{index}].name", f"{entry.name!r} is not a name", "letters, digits and ._:@+- up to 255"
                )
    yield from _duplicates("devices", "path", [device.path for device in config.devices])
    for index, device in enumerate(config.devices):
        yield from _path(f"devices[{index}].path", device.path)


def _path(place: str, path: str) -> Iterator[ConfigError]:
    if not path.startswith("/"):
        yield ConfigError(place, f"{path!r} is not an absolute path")
    if not path.isprintable() or len(path.encode()) > MAX_PATH_BYTES:
        yield ConfigError(place, f"{path!r:.80} is not a path", f"up to {MAX_PATH_BYTES} printable characters")


def _arrays(config: Config) -> Iterator[ConfigError]:
    yield from _duplicates("arrays", "portal and target", [f"{array.portal} {array.target}" for array in config.arrays])
    for index, array in enumerate(config.arrays):
        place = f"arrays[{index}]"
        yield from _iscsi_name(f"{place}.target", array.target)
        yield from _portal(f"{place}.portal", array.portal)
        yield from _chap(place, array.chap, array.mutual_chap, ARRAY_SECRET_BYTES)
        if not 1.0 <= array.command_timeout_s <= 14.0:
            yield ConfigError(f"{place}.command_timeout_s", f"{array.command_timeout_s} is not within 1 … 14 s",
                              "a mirrored write is answered within 15 s")  # fmt: skip


def _virtual_devices(config: Config) -> Iterator[ConfigError]:
    devices = {device.name for device in config.devices}
    arrays = {array.name for array in config.arrays}
    yield from _duplicates("virtual_devices", "naa", [virtual_device.naa for virtual_device in config.virtual_devices])
    for index, virtual_device in enumerate(config.virtual_devices):
        place = f"virtual_devices[{index}].regions"
        if virtual_device.naa is not None and not _NAA.fullmatch(virtual_device.naa):
            problem = f"{virtual_device.naa[:80]!r} is no id that annexd makes"
            yield ConfigError(
                f"virtual_devices[{index}].naa", problem, "as a saved configuration has it, or leave it out"
            )
        if not virtual_device.regions:
            yield ConfigError(place, "a virtual device needs at least one region")
        for number, region in enumerate(virtual_device.regions):
            yield from _region(f"{place}[{number}]", region, devices, arrays)
    yield from _overlaps(config)


def _region(place: str, region: Region, devices: set[str], arrays: set[str]) -> Iterator[ConfigError]:
    if (region.device is None) == (region.array is None):
        yield ConfigError(place, "a region lies on a device or on an array", "give one of 'device' and 'array'")
    elif region.device is not None:
        if region.device not in devices:
            yield ConfigError(f"{place}.device", f"no device is named {region.device!r}")
        if region.lun is not None or region.id is not None:
            yield ConfigError(place, "'lun' and 'id' belong to a region of an array")
    elif region.array not in arrays:
        yield ConfigError(f"{place}.array", f"no array is named {region.array!r}")
    elif region.lun is None:
        yield ConfigError(f"{place}.lun", "a region of an array needs its LUN")
    elif not 0 <= region.lun < 16384:
        yield ConfigError(f"{place}.lun", f"{region.lun} is not within 0 … 16383")
    if region.first_lba < 0:
        yield ConfigError(f"{place}.first_lba", f"{region.first_lba} is negative")
    if region.blocks is not None and region.blocks <= 0:
        yield ConfigError(
            f"{place}.blocks", f"{region.blocks} is not a number of blocks", "leave it out for all to the end"
        )
    if region.first_lba + (region.blocks or 1) > MAX_BLOCKS:
        yield ConfigError(place, "ends after the last block that there can be", "an LBA has 8 bytes")
    if region.id is not None and not re.fullmatch(r"([0-9A-Fa-f]{2}){1,64}", region.id):
        yield ConfigError(f"{place}.id", f"{region.id!r} is not hexadecimal bytes", "as `annexhost regions` shows it")


class _Run(NamedTuple):
    """The blocks of a region; `order` is that of the file."""

    first_lba: int
    end_lba: int
    order: int
    place: str


def _overlaps(config: Config) -> Iterator[ConfigError]:
    """No block belongs to two regions: two LUs would change each other's data unseen."""
    taken: dict[tuple[str, int], list[_Run]] = {}
    count = itertools.count()
    for index, virtual_device in enumerate(config.virtual_devices):
        for number, region in enumerate(virtual_device.regions):
            store = (
                (f"device {region.device}", 0)
                if region.device is not None
                else (f"array {region.array}", region.lun or 0)
            )
            end = region.first_lba + region.blocks if region.blocks is not None else MAX_BLOCKS
            run = _Run(region.first_lba, end, next(count), f"virtual_devices[{index}].regions[{number}]")
            taken.setdefault(store, []).append(run)
    for runs in taken.values():
        for run, following in itertools.pairwise(sorted(runs)):
            if following.first_lba < run.end_lba:  # sorted: when any two share blocks then two neighbours do
                other, late = sorted((run, following), key=lambda one: one.order)
                yield ConfigError(late.place, f"shares blocks with {other.place}")


def _portal_groups(place: str, target: Target) -> Iterator[ConfigError]:
    known = [split_portal(portal) for portal in target.portals if not any(_portal(place, portal))]
    for portal, tag in target.portal_groups.items():
        problems = list(_portal(place, portal))
        yield from problems
        if not problems and split_portal(portal) not in known:
            yield ConfigError(place, f"{portal!r} is not a portal of the target")
        if not 1 <= tag <= 0xFFFF:
            yield ConfigError(place, f"{tag} is not a portal group tag", "1 … 65535")


def _targets(config: Config) -> Iterator[ConfigError]:
    virtual_devices = {virtual_device.name for virtual_device in config.virtual_devices}
    yield from _duplicates("targets", "name", [target.name for target in config.targets])
    for index, target in enumerate(config.targets):
        place = f"targets[{index}]"
        yield from _iscsi_name(f"{place}.name", target.name)
        if not target.portals:
            yield ConfigError(f"{place}.portals", "a target needs at least one portal")
        for number, portal in enumerate(target.portals):
            yield from _portal(f"{place}.portals[{number}]", portal)
        yield from _portal_groups(f"{place}.portal_groups", target)
        yield from _luns(f"{place}.luns", target.luns, virtual_devices)
        yield from _duplicates(f"{place}.acls", "initiator", [acl.initiator for acl in target.acls])
        for number, acl in enumerate(target.acls):
            yield from _iscsi_name(f"{place}.acls[{number}].initiator", acl.initiator)
            yield from _luns(f"{place}.acls[{number}].luns", acl.luns or [], virtual_devices)
            yield from _chap(f"{place}.acls[{number}]", acl.chap, acl.mutual_chap)
            yield from _networks(f"{place}.acls[{number}].addresses", acl.addresses or [])
        yield from _networks(f"{place}.anyone.addresses", target.anyone.addresses if target.anyone else [])


def _networks(place: str, networks: list[str]) -> Iterator[ConfigError]:
    for index, network in enumerate(networks):
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            yield ConfigError(f"{place}[{index}]", str(error), "an address, or a network such as 192.0.2.0/24")


def _luns(place: str, luns: list[Lun], virtual_devices: set[str]) -> Iterator[ConfigError]:
    yield from _duplicates(place, "lun", [str(lun.lun) for lun in luns])
    yield from _duplicates(place, "virtual_device", [lun.virtual_device for lun in luns])
    for index, lun in enumerate(luns):
        if not 0 <= lun.lun <= MAX_LUN:
            yield ConfigError(f"{place}[{index}].lun", f"{lun.lun} is not within 0 … {MAX_LUN}")
        if lun.virtual_device not in virtual_devices:
            yield ConfigError(f"{place}[{index}].virtual_device", f"no virtual device is named {lun.virtual_device!r}")
        for key, limit in (("max_iops", lun.max_iops), ("max_bytes_per_s", lun.max_bytes_per_s)):
            if limit is not None and limit <= 0:
                yield ConfigError(f"{place}[{index}].{key}", f"{limit} is not a limit", "leave it out for none")


def _iscsi_name(place: str, name: str) -> Iterator[ConfigError]:
    if len(name.encode()) > ISCSI_NAME_BYTES or not _ISCSI_NAME.fullmatch(name):
        yield ConfigError(
            place, f"{name[:80]!r} is not an iSCSI name", "iqn.YYYY-MM.reversed.domain[:string], RFC 7143 4.2.7"
        )


def _portal(place: str, portal: str) -> Iterator[ConfigError]:
    try:
        split_portal(portal)
    except ValueError as error:
        yield ConfigError(place, str(error))


def _chap(
    place: str, chap: Chap | None, mutual: Chap | None, lengths: range = HOST_SECRET_BYTES
) -> Iterator[ConfigError]:
    for key, side in (("chap", chap), ("mutual_chap", mutual)):
        if side and not (side.name.isprintable() and 0 < len(side.name.encode()) <= MAX_CHAP_NAME_BYTES):
            problem = f"is not 1 to {MAX_CHAP_NAME_BYTES} printable characters"
            yield ConfigError(f"{place}.{key}.name", problem)
        if side and side.credential is not None:
            if side.secret:
                yield ConfigError(f"{place}.{key}", "has both 'secret' and 'credential'", "give one of them")
            if not re.fullmatch(r"[A-Za-z0-9_.-]{1,255}", side.credential) or side.credential in {".", ".."}:
                yield ConfigError(
                    f"{place}.{key}.credential", f"{side.credential[:80]!r} is not the name of a credential"
                )
        elif side and len(side.secret.encode()) not in lengths:
            problem = f"is not {lengths.start} to {lengths.stop - 1} bytes long"
            yield ConfigError(f"{place}.{key}.secret", problem, "RFC 7143 9.2.1 asks for 96 random bits")
    if mutual and not chap:
        yield ConfigError(
            f"{place}.mutual_chap", "needs 'chap' as well", "the target proves itself only to a host that did"
        )
    if chap and mutual and (chap.secret, chap.credential) == (mutual.secret, mutual.credential):
        yield ConfigError(f"{place}.mutual_chap.secret", "is the same as chap.secret", "RFC 7143 9.2.1 forbids it")


def _duplicates(place: str, key: str, values: Sequence[str | None]) -> Iterator[ConfigError]:
    seen: set[str] = set()
    for index, value in enumerate(values):
        if value is None:
            continue
        if value in seen:
            yield ConfigError(f"{place}[{index}]", f"{key} {value!r} stands there twice")
        seen.add(value)
