"""Changes of the configuration, as functions from one to the next. They know nothing of a running daemon.

A place in the configuration is given as the API's path has it: ("devices", "disk0"), ("targets", iqn, "luns", "0"),
("targets", iqn, "acls", initiator, "luns", "0"). Each function changes the copy that `Reconfiguration` hands it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from config import model
from config.errors import ConfigError
from daemon.control.errors import ExistsError, UnknownError


class Noun(NamedTuple):
    """A list of entries.

    Attributes:
        field: where the list is, in the configuration or in the entry that holds it.
        key: the field of an entry that names it.
        entry: the type of an entry.
        words: what one is called.
    """

    field: str
    key: str
    entry: type[msgspec.Struct]
    words: str


class Portal(msgspec.Struct, forbid_unknown_fields=True):
    """A portal, host:port; in the configuration it is a string."""

    portal: str


NOUNS = {
    "devices": Noun("devices", "name", model.Device, "device"),
    "arrays": Noun("arrays", "name", model.Array, "array"),
    "vdevs": Noun("virtual_devices", "name", model.VirtualDevice, "virtual device"),
    "targets": Noun("targets", "name", model.Target, "target"),
    "luns": Noun("luns", "lun", model.Lun, "LUN"),
    "acls": Noun("acls", "initiator", model.Acl, "ACL"),
    "portals": Noun("portals", "portal", Portal, "portal"),
}
SECTIONS: dict[str, type[msgspec.Struct]] = {
    "discovery": model.Discovery,
    "control": model.Control,
    "metrics": model.Metrics,
    "anyone": model.Anyone,
}

Place = Sequence[str]


def shell_path(place: Place) -> str:
    """Give the path at which the shell shows a place, for errors."""
    if place[0] != "targets":
        return "/" + "/".join(place)
    return "/iscsi/" + "/".join([*place[1:2], *(["tpg1", *place[2:]] if len(place) > 2 else [])])


def find(config: model.Config, place: Place) -> Any:
    """Give the entry at a place.

    Raises:
        UnknownError: it is not there.
    """
    holder: Any = config
    for at in range(0, len(place), 2):
        noun = NOUNS[place[at]]
        entries = getattr(holder, noun.field)
        found = [entry for entry in entries or [] if _name(entry, noun) == _spelt(noun, place[at + 1])]
        if not found:
            raise UnknownError(shell_path(place[: at + 2]), f"there is no such {noun.words}")
        holder = found[0]
    return holder


def add(config: model.Config, place: Place, entry: Any) -> None:
    """Put an entry to the list that `place` ends with.

    Raises:
        UnknownError: what holds the list is not there.
        ExistsError: one of that name is there.
    """
    holder, noun = _list(config, place)
    name = _name(entry, noun)
    entries = getattr(holder, noun.field)
    if any(_name(other, noun) == name for other in entries or []):
        raise ExistsError(shell_path([*place, str(name)]), f"there is such a {noun.words} already")
    setattr(holder, noun.field, [*(entries or []), entry.portal if isinstance(entry, Portal) else entry])


def remove(config: model.Config, place: Place) -> None:
    """Take the entry at a place out of its list.

    Raises:
        UnknownError: it is not there.
    """
    entry = find(config, place)
    holder, noun = _list(config, place[:-1])
    if place[-2] == "portals":
        put_portal_group(config, place, model.DEFAULT_PORTAL_GROUP)
    # By identity: of two equal entries of a list this one is meant.
    setattr(holder, noun.field, [other for other in getattr(holder, noun.field) if other is not entry])


def put_portal_group(config: model.Config, place: Place, tag: int) -> None:
    """Put the portal at a place into a portal group.

    Raises:
        UnknownError: it is not there.
    """
    portal: str = find(config, place)
    target: model.Target = find(config, place[:2])
    others = {
        other: its
        for other, its in target.portal_groups.items()
        if model.split_portal(other) != model.split_portal(portal)
    }
    target.portal_groups = others if tag == model.DEFAULT_PORTAL_GROUP else others | {portal: tag}


def patch(config: model.Config, place: Place, fields: dict[str, Any]) -> None:
    """Give some fields of the entry at a place other values; None is the default.

    Raises:
        UnknownError: the entry is not there.
        ConfigError: there is no such field, or it is not for such a value.
    """
    entry = find(config, place)
    noun = NOUNS[place[-2]]
    if noun.key in fields and str(fields[noun.key]) != place[-1]:
        raise ConfigError(noun.key, "names it, and can not be changed", "delete it, and create another one")
    changed = msgspec.to_builtins(entry) | fields
    for name in [name for name, value in fields.items() if value is None]:
        del changed[name]
    _keep_secrets(entry, changed, fields)
    new = convert(changed, noun.entry)
    for name in entry.__struct_fields__:
        setattr(entry, name, getattr(new, name))


def put_section(config: model.Config, place: Place, section: Any) -> None:
    """Put a section where `place` says: ("metrics",) or ("targets", iqn, "anyone"); None removes it.

    Raises:
        UnknownError: the target, or the section that is to go, is not there.
    """
    holder = find(config, place[:-1]) if len(place) > 1 else config
    if section is None and getattr(holder, place[-1]) is None:
        raise UnknownError(shell_path(place), "is not there")
    setattr(holder, place[-1], section)


def convert(document: Any, wanted: type[Any]) -> Any:
    """Give `document` as a struct.

    Raises:
        ConfigError: it is none; with the place in it.
    """
    try:
        return msgspec.convert(document, wanted)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at `$")
        raise ConfigError(where.rstrip("`").lstrip(".") or "body", problem) from None


def redacted(value: Any) -> Any:
    """Give a configuration or an entry as plain JSON values, with `secret_set` in the place of each secret."""
    return _redacted(msgspec.to_builtins(value))


def _redacted(value: Any) -> Any:
    if isinstance(value, list):
        return [_redacted(item) for item in value]
    if not isinstance(value, dict):
        return value
    plain = {key: _redacted(item) for key, item in value.items() if key != "secret"}
    if "secret" in value:
        plain["secret_set"] = bool(value["secret"])
    return plain


def _keep_secrets(entry: Any, changed: dict[str, Any], fields: dict[str, Any]) -> None:
    """Let a `chap` without a secret keep the one that there is: an admin changes a name and can not see the secret."""
    for side in ("chap", "mutual_chap"):
        given, old = fields.get(side), getattr(entry, side, None)
        if isinstance(given, dict) and old is not None and not given.get("secret") and not given.get("credential"):
            given = {key: value for key, value in given.items() if key != "secret_set"}
            changed[side] = given | {"secret": old.secret, "credential": old.credential}


def _list(config: model.Config, place: Place) -> tuple[Any, Noun]:
    """Give what holds the list that a place ends with, and what it is a list of."""
    return (find(config, place[:-1]) if len(place) > 1 else config), NOUNS[place[-1]]


def _name(entry: Any, noun: Noun) -> str:
    return _spelt(noun, entry if isinstance(entry, str) else str(getattr(entry, noun.key)))


def _spelt(noun: Noun, name: str) -> str:
    """Give a name in the one way in which two that mean the same are equal."""
    if noun.key != "portal":
        return name
    try:
        return model.join_portal(*model.split_portal(name))
    except ValueError:
        return name
