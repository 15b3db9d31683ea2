"""The routes of what stands in the configuration: its lists, from devices to the LUNs of an ACL, and its sections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import msgspec

from config import model
from daemon import external_units
from daemon.control import edits, views
from daemon.control.authorization import Right
from daemon.control.errors import RefusedError, UnknownError
from daemon.control.route import IN_CHANGE, Asked, ChangeAnswer, Control, Fields, Nothing, Route
from daemon.daemon import Daemon
from daemon.portals import LOGOUT_WITHIN_S
from scsi.access_states import AccessState


class DrainForm(msgspec.Struct, forbid_unknown_fields=True):
    """Whether a portal is to admit no sessions, and the time that hosts have to log out before they are dropped."""

    drain: bool
    within_s: Annotated[int, msgspec.Meta(ge=1, le=3600)] = LOGOUT_WITHIN_S


class AccessForm(msgspec.Struct, forbid_unknown_fields=True):
    """In what way hosts are to use a path: the states of SPC's asymmetric logical unit access."""

    access: Literal["active_optimized", "active_non_optimized", "standby", "unavailable", "transitioning"]


class GroupForm(msgspec.Struct, forbid_unknown_fields=True):
    """The tag of a portal group."""

    group: Annotated[int, msgspec.Meta(ge=1, le=0xFFFF)]


# --- Lists ------------------------------------------------------------------------------------------------------------

Rows = Callable[[Daemon, Mapping[str, str]], list[Any]]


def _devices(daemon: Daemon, _: Mapping[str, str]) -> list[Any]:
    return [views.device_row(daemon, device) for device in daemon.assembly.devices.values()]


def _arrays(daemon: Daemon, _: Mapping[str, str]) -> list[Any]:
    return [views.array_row(daemon, array) for array in daemon.assembly.arrays.values()]


def _vdevs(daemon: Daemon, _: Mapping[str, str]) -> list[Any]:
    return [views.virtual_device_row(daemon, device) for device in daemon.assembly.virtual_devices.values()]


def _targets(daemon: Daemon, _: Mapping[str, str]) -> list[Any]:
    return [views.target_row(daemon, target) for target in daemon.config.targets]


def _entries(noun: str, *holders: str) -> Rows:
    """Make what lists the entries of a target or an ACL as they stand in the configuration."""

    def rows(daemon: Daemon, names: Mapping[str, str]) -> list[Any]:
        holder = edits.find(daemon.config, _place(holders, names))
        entries = getattr(holder, edits.NOUNS[noun].field) or []
        return [
            views.portal_row(daemon, holder, entry) if noun == "portals" else edits.redacted(entry) for entry in entries
        ]

    return rows


def _place(nouns: tuple[str, ...], names: Mapping[str, str]) -> list[str]:
    """Give the place of an entry: ("targets", "acls") → ["targets", its name, "acls", its initiator]."""
    place = []
    for at, noun in enumerate(nouns):
        key = edits.NOUNS[noun].key
        place += [noun, names[_variable(noun, key, nouns[:at])]]
    return place


def _variable(noun: str, key: str, above: tuple[str, ...]) -> str:
    """Give the name that a variable part of a path has; that of a target is never "name" twice."""
    return "target" if noun == "targets" and not above else key


def _list_routes(nouns: tuple[str, ...], rows: Rows, answer: Any, *, patched: bool) -> list[Route]:
    """Make the routes of one list: see it, add to it, see one, change one, remove one."""
    noun = edits.NOUNS[nouns[-1]]
    above, variable = nouns[:-1], _variable(nouns[-1], noun.key, nouns[:-1])
    path = "/v1"
    for at, holder in enumerate(above):
        path += f"/{holder}/{{{_variable(holder, edits.NOUNS[holder].key, above[:at])}}}"
    path += f"/{nouns[-1]}"

    async def listed(control: Control, asked: Asked) -> list[Any]:
        return rows(control.daemon, asked.names)

    async def seen(control: Control, asked: Asked) -> Any:
        wanted = asked.names[variable]
        for row in rows(control.daemon, asked.names):
            name = row[noun.key] if isinstance(row, dict) else getattr(row, noun.key)
            if str(name) == wanted:
                return row
        raise UnknownError(edits.shell_path(_place(nouns, asked.names)), f"there is no such {noun.words}")

    async def added(control: Control, asked: Asked) -> ChangeAnswer:
        place = [*_place(above, asked.names), nouns[-1]]
        return await control.change(lambda config: edits.add(config, place, asked.body), asked.query)

    async def patched_one(control: Control, asked: Asked) -> ChangeAnswer:
        place = _place(nouns, asked.names)
        return await control.change(lambda config: edits.patch(config, place, asked.body), asked.query)

    async def removed(control: Control, asked: Asked) -> ChangeAnswer:
        place = _place(nouns, asked.names)
        return await control.change(lambda config: edits.remove(config, place), asked.query)

    one = f"{path}/{{{variable}}}"
    made = [
        Route("GET", path, Right.READ, f"List them: {noun.words}", list[answer], listed),
        Route("POST", path, Right.CHANGE, f"Add one: {noun.words}", ChangeAnswer, added,
              body=noun.entry, status=201, query=IN_CHANGE),
        Route("GET", one, Right.READ, f"See one: {noun.words}", answer, seen),
        Route("DELETE", one, Right.CHANGE, f"Remove one: {noun.words}", ChangeAnswer, removed, query=IN_CHANGE),
    ]  # fmt: skip
    if patched:
        made.append(
            Route("PATCH", one, Right.CHANGE, f"Change some fields: {noun.words}", ChangeAnswer, patched_one,
                  body=Fields, query=IN_CHANGE)
        )  # fmt: skip
    return made


_Row = dict[str, Any]
_LISTS = [
    *_list_routes(("devices",), _devices, views.DeviceRow, patched=False),
    *_list_routes(("arrays",), _arrays, _Row, patched=True),
    *_list_routes(("vdevs",), _vdevs, views.VirtualDeviceRow, patched=False),
    *_list_routes(("targets",), _targets, _Row, patched=False),
    *_list_routes(("targets", "luns"), _entries("luns", "targets"), _Row, patched=True),
    *_list_routes(("targets", "acls"), _entries("acls", "targets"), _Row, patched=True),
    *_list_routes(("targets", "acls", "luns"), _entries("luns", "targets", "acls"), _Row, patched=True),
    *_list_routes(("targets", "portals"), _entries("portals", "targets"), _Row, patched=False),
]


async def _drain(control: Control, asked: Asked) -> dict[str, Any]:
    place = _place(("targets", "portals"), asked.names)
    portal: str = edits.find(control.daemon.config, place)
    address = model.split_portal(portal)
    portals = control.daemon.portals
    if portals.find(address) is None:
        raise RefusedError(edits.shell_path(place), "is not open")
    if asked.body.drain:
        portals.drain(address, asked.body.within_s)
    else:
        portals.undrain(address)
    return views.portal_row(control.daemon, edits.find(control.daemon.config, place[:2]), portal)


async def _set_access(control: Control, asked: Asked) -> dict[str, Any]:
    place = _place(("targets", "portals"), asked.names)
    portal: str = edits.find(control.daemon.config, place)
    target: model.Target = edits.find(control.daemon.config, place[:2])
    tag = model.portal_group_tag(target, model.split_portal(portal))
    control.daemon.sessions.port(target.name).groups.hold(tag, AccessState[asked.body.access.upper()])
    return views.portal_row(control.daemon, target, portal)


async def _put_group(control: Control, asked: Asked) -> ChangeAnswer:
    place = _place(("targets", "portals"), asked.names)
    return await control.change(lambda config: edits.put_portal_group(config, place, asked.body.group), asked.query)


async def _accept_size(control: Control, asked: Asked) -> dict[str, Any]:
    name, lun = asked.names["name"], asked.names["lun"]
    array = control.daemon.assembly.arrays.get(name)
    units = array.units() if array is not None else []
    unit = next((unit for unit in units if str(unit.lun_number) == lun), None)
    if array is None or unit is None:
        raise UnknownError(f"/arrays/{name}/{lun}", "there is no such LU")
    if not await external_units.accept_size(control.daemon, array, unit):
        raise RefusedError(f"/arrays/{name}/{lun}", "has the size that is recorded: there is nothing to accept")
    return views.array_row(control.daemon, array)


_EXTERNAL_UNITS = [
    Route(
        "POST", "/v1/arrays/{name}/luns/{lun}/accept_size", Right.CHANGE,
        "Take the size that a LU of an array has now; what reaches to its end grows", _Row, _accept_size, body=Nothing,
    )
]  # fmt: skip


# --- Sections ---------------------------------------------------------------------------------------------------------


def _section_routes(path: str, name: str, *, removable: bool) -> list[Route]:
    def place(asked: Asked) -> list[str]:
        return [*(["targets", asked.names["target"]] if "{target}" in path else []), name]

    async def seen(control: Control, asked: Asked) -> Any:
        at = place(asked)
        holder = edits.find(control.daemon.config, at[:-1]) if len(at) > 1 else control.daemon.config
        section = getattr(holder, name)
        if section is None and name == "control":
            section = model.Control()
        if section is None:
            raise UnknownError(edits.shell_path(at), "is not there")
        return edits.redacted(section)

    async def put(control: Control, asked: Asked) -> ChangeAnswer:
        return await control.change(lambda config: edits.put_section(config, place(asked), asked.body), asked.query)

    async def removed(control: Control, asked: Asked) -> ChangeAnswer:
        return await control.change(lambda config: edits.put_section(config, place(asked), None), asked.query)

    made = [
        Route("GET", path, Right.READ, f"See it: {name}", _Row, seen),
        Route("PUT", path, Right.CHANGE, f"Set it: {name}", ChangeAnswer, put,
              body=edits.SECTIONS[name], query=IN_CHANGE),
    ]  # fmt: skip
    if removable:
        made.append(Route("DELETE", path, Right.CHANGE, f"Remove it: {name}", ChangeAnswer, removed, query=IN_CHANGE))
    return made


_SECTIONS = [
    *_section_routes("/v1/targets/{target}/anyone", "anyone", removable=True),
    *_section_routes("/v1/discovery", "discovery", removable=True),
    *_section_routes("/v1/control", "control", removable=False),
    *_section_routes("/v1/metrics", "metrics", removable=True),
    Route(
        "POST", "/v1/targets/{target}/portals/{portal}/drain", Right.CHANGE,
        "Send the sessions of a portal away and admit none, or admit them again; it is not saved", _Row, _drain,
        body=DrainForm,
    ),
    Route(
        "POST", "/v1/targets/{target}/portals/{portal}/access", Right.CHANGE,
        "Set the access state (ALUA) of the portal's group, for all hosts; it is not saved", _Row, _set_access,
        body=AccessForm,
    ),
    Route(
        "PUT", "/v1/targets/{target}/portals/{portal}/group", Right.CHANGE,
        "Put a portal into a portal group; its sessions end", ChangeAnswer, _put_group, body=GroupForm, query=IN_CHANGE,
    ),
]  # fmt: skip

ENTRIES = (*_LISTS, *_EXTERNAL_UNITS, *_SECTIONS)
