"""Every request that the control API answers, as one table: dispatch, rights and the OpenAPI document read it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from config import model, store
from config.changes import Change
from config.errors import ConfigError
from daemon import statistics
from daemon.control import edits, views
from daemon.control.authorization import Right
from daemon.control.errors import ForbiddenError, RefusedError, UnknownError
from daemon.control.jobs import JobRow, Jobs
from daemon.control.pair_orders import ORDERS, PairAnswer, PairForm, PairOrders
from daemon.daemon import Daemon


class ConfigAnswer(msgspec.Struct):
    """The configuration in force; `file` is where changes are saved, None when they are not."""

    revision: int
    config: dict[str, Any]
    file: str | None


class ChangeAnswer(msgspec.Struct):
    """What a change came to."""

    revision: int
    changes: list[Change]


class DrainForm(msgspec.Struct, forbid_unknown_fields=True):
    """Whether a portal is to take no more connections."""

    drain: bool


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """No body, or an empty object."""


class Asked(NamedTuple):
    """A request that may be made and whose body is of its type.

    Attributes:
        names: the variable parts of the path.
        query: of the URL.
        body: of the route's type; bytes for `Raw`.
        right: what the asker may do.
    """

    names: Mapping[str, str]
    query: Mapping[str, str]
    body: Any
    right: Right


class Raw(msgspec.Struct):
    """A whole configuration, which `config.store` reads with its own checks."""


class Control:
    """A running daemon, as the routes see it.

    Attributes:
        daemon: the daemon.
        jobs: what goes on.
        pairs: orders to pairs.
    """

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.jobs = Jobs(time.time)
        self.pairs = PairOrders(daemon, self.jobs)

    async def change(self, edit: Callable[[model.Config], None], query: Mapping[str, str]) -> ChangeAnswer:
        """Change the configuration by a function that changes a copy of it."""

        def edited(config: model.Config) -> model.Config:
            edit(config)
            return config

        return await self.replace(edited, query)

    async def replace(self, edit: Callable[[model.Config], model.Config], query: Mapping[str, str]) -> ChangeAnswer:
        """Change the configuration by a function that gives another one."""
        revision = query.get("expected_revision")
        if revision is not None and not (revision.isascii() and revision.isdigit()):
            raise ConfigError("expected_revision", f"{revision[:40]!r} is not a number")
        dry_run = query.get("dry_run", "false")
        if dry_run not in {"true", "false"}:
            raise ConfigError("dry_run", f"{dry_run[:40]!r} is neither true nor false")
        applied = await self.daemon.reconfiguration.change(
            edit, dry_run=dry_run == "true", expected_revision=None if revision is None else int(revision)
        )
        return ChangeAnswer(applied.revision, applied.changes)


Handler = Callable[[Control, Asked], Awaitable[Any]]


class Route(NamedTuple):
    """One kind of request.

    Attributes:
        method, path: of HTTP; the variable parts of the path in braces.
        right: what the asker must have.
        words: what it does.
        answer: type of the answer.
        handle: does it.
        body: type of the body, None for requests without one.
        status: of the answer.
        query: names of the parameters that the URL may have.
    """

    method: str
    path: str
    right: Right
    words: str
    answer: Any
    handle: Handler
    body: type[msgspec.Struct] | None = None
    status: int = 200
    query: tuple[str, ...] = ()


# --- The daemon and its configuration ---------------------------------------------------------------------------------


async def _status(control: Control, asked: Asked) -> views.Status:
    return views.status(control.daemon, asyncio.get_running_loop().time())


async def _statistics(control: Control, asked: Asked) -> statistics.Statistics:
    return statistics.collect(control.daemon, asyncio.get_running_loop().time())


async def _config(control: Control, asked: Asked) -> ConfigAnswer:
    reconfiguration = control.daemon.reconfiguration
    config = reconfiguration.config
    wants_secrets = asked.query.get("secrets", "false") == "true"
    if wants_secrets and asked.right < Right.SECRETS:
        raise ForbiddenError("secrets", "are shown to root and to annexd's own user, on the control socket only")
    document = msgspec.to_builtins(config) if wants_secrets else edits.redacted(config)
    file = reconfiguration.file
    return ConfigAnswer(reconfiguration.revision, document, None if file is None else str(file))


async def _put_config(control: Control, asked: Asked) -> ChangeAnswer:
    # A large document takes its time; the event loop does not.
    wanted = await asyncio.to_thread(store.decode, asked.body, "body")
    return await control.replace(lambda _: wanted, asked.query)


_IN_CHANGE = ("dry_run", "expected_revision")

_DAEMON = [
    Route("GET", "/v1/status", Right.READ, "The daemon at a glance", views.Status, _status),
    Route("GET", "/v1/statistics", Right.READ, "What it has done, in numbers", statistics.Statistics, _statistics),
    Route("GET", "/v1/config", Right.READ, "The configuration in force", ConfigAnswer, _config, query=("secrets",)),
    Route(
        "PUT", "/v1/config", Right.CHANGE, "Make another configuration the one in force", ChangeAnswer, _put_config,
        body=Raw, query=_IN_CHANGE,
    ),
]  # fmt: skip


# --- Lists of the configuration ---------------------------------------------------------------------------------------

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
        return [views.portal_row(daemon, entry) if noun == "portals" else edits.redacted(entry) for entry in entries]

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
              body=noun.entry, status=201, query=_IN_CHANGE),
        Route("GET", one, Right.READ, f"See one: {noun.words}", answer, seen),
        Route("DELETE", one, Right.CHANGE, f"Remove one: {noun.words}", ChangeAnswer, removed, query=_IN_CHANGE),
    ]  # fmt: skip
    if patched:
        made.append(
            Route("PATCH", one, Right.CHANGE, f"Change some fields: {noun.words}", ChangeAnswer, patched_one,
                  body=Fields, query=_IN_CHANGE)
        )  # fmt: skip
    return made


class Fields(msgspec.Struct):
    """Some fields of an entry; null is the default."""


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
    found = control.daemon.portals.find(address)
    if found is None:
        raise RefusedError(edits.shell_path(place), "is not open")
    if asked.body.drain:
        control.daemon.portals.make_way(address)
    elif not found.listening:
        await control.daemon.portals.resume(address)
    return views.portal_row(control.daemon, portal)


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
              body=edits.SECTIONS[name], query=_IN_CHANGE),
    ]  # fmt: skip
    if removable:
        made.append(Route("DELETE", path, Right.CHANGE, f"Remove it: {name}", ChangeAnswer, removed, query=_IN_CHANGE))
    return made


_SECTIONS = [
    *_section_routes("/v1/targets/{target}/anyone", "anyone", removable=True),
    *_section_routes("/v1/discovery", "discovery", removable=True),
    *_section_routes("/v1/control", "control", removable=False),
    *_section_routes("/v1/metrics", "metrics", removable=True),
    Route(
        "POST", "/v1/targets/{target}/portals/{portal}/drain", Right.CHANGE,
        "Take no more connections at a portal, or take them again; it is not saved", _Row, _drain, body=DrainForm,
    ),
]  # fmt: skip


# --- Pairs and jobs ---------------------------------------------------------------------------------------------------


async def _pairs(control: Control, asked: Asked) -> list[views.PairRow]:
    return [views.pair_row(control.daemon, pair) for pair in control.daemon.assembly.pairs.pairs()]


async def _pair(control: Control, asked: Asked) -> views.PairRow:
    return views.pair_row(control.daemon, views.pair_by_number(control.daemon, asked.names["number"]))


async def _form(control: Control, asked: Asked) -> PairAnswer:
    return await control.pairs.form(asked.body)


async def _dissolve(control: Control, asked: Asked) -> Nothing:
    await control.pairs.dissolve(views.pair_by_number(control.daemon, asked.names["number"]))
    return Nothing()


def _order(name: str) -> Route:
    async def ordered(control: Control, asked: Asked) -> PairAnswer:
        return await control.pairs.order(views.pair_by_number(control.daemon, asked.names["number"]), name)

    return Route("POST", f"/v1/pairs/{{number}}/{name}", Right.CHANGE, f"Order a pair: {name}", PairAnswer, ordered,
                 body=Nothing)  # fmt: skip


async def _verify(control: Control, asked: Asked) -> PairAnswer:
    return control.pairs.verify(views.pair_by_number(control.daemon, asked.names["number"]))


async def _jobs(control: Control, asked: Asked) -> list[JobRow]:
    return control.jobs.rows()


async def _job(control: Control, asked: Asked) -> JobRow:
    return control.jobs.row(asked.names["id"])


async def _forget(control: Control, asked: Asked) -> Nothing:
    control.jobs.forget(asked.names["id"])
    return Nothing()


_PAIRS = [
    Route("GET", "/v1/pairs", Right.READ, "List the pairs", list[views.PairRow], _pairs),
    Route("POST", "/v1/pairs", Right.CHANGE, "Form a pair", PairAnswer, _form, body=PairForm, status=201),
    Route("GET", "/v1/pairs/{number}", Right.READ, "See a pair", views.PairRow, _pair),
    Route("DELETE", "/v1/pairs/{number}", Right.CHANGE, "End a pair", Nothing, _dissolve),
    *map(_order, ORDERS),
    Route("POST", "/v1/pairs/{number}/verify", Right.CHANGE, "Compare both sides", PairAnswer, _verify,
          body=Nothing, status=202),
    Route("GET", "/v1/jobs", Right.READ, "List the jobs", list[JobRow], _jobs),
    Route("GET", "/v1/jobs/{id}", Right.READ, "See a job", JobRow, _job),
    Route("DELETE", "/v1/jobs/{id}", Right.CHANGE, "Forget a job that has ended", Nothing, _forget),
]  # fmt: skip


# --- Hosts ------------------------------------------------------------------------------------------------------------


async def _sessions(control: Control, asked: Asked) -> list[views.SessionRow]:
    return [views.session_row(session) for session in control.daemon.registry]


async def _session(control: Control, asked: Asked) -> views.SessionRow:
    return views.session_row(views.session_by_tsih(control.daemon, asked.names["tsih"]))


async def _end_session(control: Control, asked: Asked) -> Nothing:
    session = views.session_by_tsih(control.daemon, asked.names["tsih"])
    if session.discovery:
        raise RefusedError(f"/sessions/{session.tsih}", "is a discovery session, which ends by itself")
    control.daemon.sessions.end(session, "the admin wants it")
    return Nothing()


async def _acquisitions(control: Control, asked: Asked) -> list[views.AcquisitionRow]:
    found = control.daemon.assembly.acquisitions.all()
    return [views.acquisition_row(control.daemon, acquisition) for acquisition in found]


async def _end_acquisition(control: Control, asked: Asked) -> Nothing:
    views.acquisition_by_identifier(control.daemon, asked.names["identifier"]).end()
    return Nothing()


_HOSTS = [
    Route("GET", "/v1/sessions", Right.READ, "List the sessions", list[views.SessionRow], _sessions),
    Route("GET", "/v1/sessions/{tsih}", Right.READ, "See a session", views.SessionRow, _session),
    Route("DELETE", "/v1/sessions/{tsih}", Right.CHANGE, "End a session", Nothing, _end_session),
    Route("GET", "/v1/acquisitions", Right.READ, "List the acquisitions", list[views.AcquisitionRow], _acquisitions),
    Route("DELETE", "/v1/acquisitions/{identifier}", Right.CHANGE, "End an acquisition", Nothing, _end_acquisition),
]

ROUTES = (*_DAEMON, *_LISTS, *_SECTIONS, *_PAIRS, *_HOSTS)
