"""What differs between two configurations, entry by entry, in the order in which annexd brings it about.

New and changed entries come first, from the storage up to the hosts; then what goes, from the hosts down to the
storage. Each entry has the path at which the shell shows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from config import model

Action = Literal["create", "modify", "delete"]

# What has entries of its own in the tree, and so is no field of the one that holds it.
_CHILDREN = {"acls", "anyone", "luns", "portals"}
_NAMES = {"name", "initiator", "lun"}  # the last part of the path


class Change(msgspec.Struct, frozen=True):
    """One entry that comes, goes or becomes another.

    Attributes:
        action: which of these.
        path: of the entry in the shell's tree, e.g. "/devices/disk0" or "/iscsi/iqn…/tpg1/luns/0".
        detail: what it is, or what of it changes, in words for a person; no secrets.
    """

    action: Action
    path: str
    detail: str

    def __str__(self) -> str:
        return f"{self.action} {self.path}" + (f": {self.detail}" if self.detail else "")


def difference(old: model.Config, new: model.Config) -> list[Change]:
    """List what makes `new` of `old`, in the order in which it is applied."""
    before, after = dict(_entries(old)), dict(_entries(new))
    changes = []
    for path, entry in after.items():
        if path not in before:
            changes.append(Change("create", path, _words(entry)))
        elif before[path] != entry:
            changes.append(Change("modify", path, _changed_words(before[path], entry)))
    changes += [Change("delete", path, "") for path in reversed(before) if path not in after]
    return changes


def _entries(config: model.Config) -> Iterator[tuple[str, dict[str, object]]]:
    """Go through the tree: path of each entry, and its own fields."""
    for device in config.devices:
        yield f"/devices/{device.name}", _fields(device)
    for array in config.arrays:
        yield f"/arrays/{array.name}", _fields(array)
    for virtual_device in config.virtual_devices:
        yield f"/vdevs/{virtual_device.name}", _fields(virtual_device)
    for target in config.targets:
        yield from _target_entries(target)
    for name, section in (("discovery", config.discovery), ("control", config.control), ("metrics", config.metrics)):
        if section is not None:
            yield f"/{name}", _fields(section)


def _target_entries(target: model.Target) -> Iterator[tuple[str, dict[str, object]]]:
    yield f"/iscsi/{target.name}", {}
    group = f"/iscsi/{target.name}/tpg1"
    for portal in target.portals:
        address = model.split_portal(portal)
        tag = model.portal_group_tag(target, address)
        own: dict[str, object] = {} if tag == model.DEFAULT_PORTAL_GROUP else {"group": tag}
        yield f"{group}/portals/{model.join_portal(*address)}", own
    for lun in target.luns:
        yield f"{group}/luns/{lun.lun}", _fields(lun)
    for acl in target.acls:
        own = {} if acl.luns is None else {"own LUNs": True}
        yield f"{group}/acls/{acl.initiator}", _fields(acl) | own
        for lun in acl.luns or []:
            yield f"{group}/acls/{acl.initiator}/luns/{lun.lun}", _fields(lun)
    if target.anyone is not None:
        yield f"{group}/anyone", _fields(target.anyone)


def _fields(entry: model.Entry) -> dict[str, object]:
    """Give the fields of an entry that are not what names it, nor entries of their own."""
    fields = msgspec.structs.asdict(entry)
    return {name: value for name, value in fields.items() if name not in _NAMES and name not in _CHILDREN}


def _words(fields: dict[str, object]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in fields.items() if value not in (None, False, []))


def _changed_words(before: dict[str, object], after: dict[str, object]) -> str:
    words = []
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        if old != new:
            same = _value(old) == _value(new)  # a secret
            words.append(f"{name} changed" if same else f"{name} {_value(old)} → {_value(new)}")
    return ", ".join(words)


def _value(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case model.Chap():
            return f"as {value.name!r}"
        case model.Region():
            where = value.device if value.device is not None else f"{value.array}/{value.lun}"
            return f"{where} from {value.first_lba}, {value.blocks or 'all'} blocks"
        case model.Entry():
            return _words(msgspec.structs.asdict(value))
        case list():
            return " + ".join(map(_value, value)) or "none"
        case _:
            return str(value)
