"""Every request that the control API answers, as one table: dispatch, rights and the OpenAPI document read it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from config import store
from daemon import growth, orphans, statistics
from daemon.control import edits, views
from daemon.control.authorization import Right
from daemon.control.entries import ENTRIES
from daemon.control.errors import ForbiddenError, RefusedError, UnknownError
from daemon.control.groups import GROUPS
from daemon.control.jobs import JobRow
from daemon.control.out_of_sync import OutOfSync, out_of_sync
from daemon.control.pair_orders import ORDERS, PaceForm, PairAnswer, PairForm
from daemon.control.reservations import RESERVATIONS
from daemon.control.route import IN_CHANGE, Asked, ChangeAnswer, Control, Nothing, Raw, Route
from daemon.control.session_rows import SessionRow, session_by_tsih, session_rows


class ConfigAnswer(msgspec.Struct):
    """The configuration in force; `file` is where changes are saved, None when they are not."""

    revision: int
    config: dict[str, Any]
    file: str | None


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


_DAEMON = [
    Route("GET", "/v1/status", Right.READ, "The daemon at a glance", views.Status, _status),
    Route("GET", "/v1/statistics", Right.READ, "What it has done, in numbers", statistics.Statistics, _statistics),
    Route("GET", "/v1/config", Right.READ, "The configuration in force", ConfigAnswer, _config, query=("secrets",)),
    Route(
        "PUT", "/v1/config", Right.CHANGE, "Make another configuration the one in force", ChangeAnswer, _put_config,
        body=Raw, query=IN_CHANGE,
    ),
]  # fmt: skip


async def _orphans(control: Control, asked: Asked) -> list[orphans.Orphan]:
    return orphans.orphans(control.daemon.assembly)


async def _forget_orphan(control: Control, asked: Asked) -> Nothing:
    name = asked.names["name"]
    if not await orphans.forget(control.daemon, name):
        raise UnknownError(f"/vdevs/{name}", "there is no such orphan")
    return Nothing()


async def _grow(control: Control, asked: Asked) -> growth.Growth:
    name = asked.names["name"]
    grown = await growth.grow(control.daemon, name)
    if grown is None:
        raise UnknownError(f"/vdevs/{name}", "there is no such virtual device")
    return grown


_VIRTUAL_DEVICES = [
    Route("GET", "/v1/orphans", Right.READ, "List the virtual devices that the configuration has lost",
          list[orphans.Orphan], _orphans),
    Route("DELETE", "/v1/orphans/{name}", Right.CHANGE, "Forget the ids of one of them", Nothing, _forget_orphan),
    Route("POST", "/v1/vdevs/{name}/grow", Right.CHANGE, "Let it have all that the device at its end has now",
          growth.Growth, _grow),
]  # fmt: skip


# --- Pairs and jobs ---------------------------------------------------------------------------------------------------


async def _pairs(control: Control, asked: Asked) -> list[views.PairRow]:
    return [views.pair_row(control.daemon, pair) for pair in control.daemon.assembly.pairs.pairs()]


async def _pair(control: Control, asked: Asked) -> views.PairRow:
    return views.pair_row(control.daemon, views.pair_by_number(control.daemon, asked.names["number"]))


async def _set_pace(control: Control, asked: Asked) -> views.PairRow:
    return await control.pairs.set_pace(views.pair_by_number(control.daemon, asked.names["number"]), asked.body)


async def _out_of_sync(control: Control, asked: Asked) -> OutOfSync:
    return out_of_sync(views.pair_by_number(control.daemon, asked.names["number"]), asked.query)


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


async def _cancel(control: Control, asked: Asked) -> JobRow:
    return control.jobs.cancel(asked.names["id"])


async def _forget(control: Control, asked: Asked) -> Nothing:
    control.jobs.forget(asked.names["id"])
    return Nothing()


_PAIRS = [
    Route("GET", "/v1/pairs", Right.READ, "List the pairs", list[views.PairRow], _pairs),
    Route("POST", "/v1/pairs", Right.CHANGE, "Form a pair", PairAnswer, _form, body=PairForm, status=201),
    Route("GET", "/v1/pairs/{number}", Right.READ, "See a pair", views.PairRow, _pair),
    Route("PATCH", "/v1/pairs/{number}", Right.CHANGE, "Change how fast a pair copies", views.PairRow, _set_pace,
          body=PaceForm),
    Route("DELETE", "/v1/pairs/{number}", Right.CHANGE, "End a pair", Nothing, _dissolve),
    Route("GET", "/v1/pairs/{number}/out_of_sync", Right.READ, "List the blocks that are not known to be equal",
          OutOfSync, _out_of_sync, query=("first_lba", "limit")),
    *map(_order, ORDERS),
    Route("POST", "/v1/pairs/{number}/verify", Right.CHANGE, "Compare both sides", PairAnswer, _verify,
          body=Nothing, status=202),
    *GROUPS,
    Route("GET", "/v1/jobs", Right.READ, "List the jobs", list[JobRow], _jobs),
    Route("GET", "/v1/jobs/{id}", Right.READ, "See a job", JobRow, _job),
    Route("POST", "/v1/jobs/{id}/cancel", Right.CHANGE, "End a comparison before its time", JobRow, _cancel,
          body=Nothing),
    Route("DELETE", "/v1/jobs/{id}", Right.CHANGE, "Forget a job that has ended", Nothing, _forget),
]  # fmt: skip


# --- Hosts ------------------------------------------------------------------------------------------------------------


async def _sessions(control: Control, asked: Asked) -> list[SessionRow]:
    return session_rows(control.daemon, asyncio.get_running_loop().time())


async def _session(control: Control, asked: Asked) -> SessionRow:
    session = session_by_tsih(control.daemon, asked.names["tsih"])
    rows = session_rows(control.daemon, asyncio.get_running_loop().time())
    return next(row for row in rows if row.tsih == session.tsih)


async def _end_session(control: Control, asked: Asked) -> Nothing:
    session = session_by_tsih(control.daemon, asked.names["tsih"])
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
    Route("GET", "/v1/sessions", Right.READ, "List the sessions", list[SessionRow], _sessions),
    Route("GET", "/v1/sessions/{tsih}", Right.READ, "See a session", SessionRow, _session),
    Route("DELETE", "/v1/sessions/{tsih}", Right.CHANGE, "End a session", Nothing, _end_session),
    Route("GET", "/v1/acquisitions", Right.READ, "List the acquisitions", list[views.AcquisitionRow], _acquisitions),
    Route("DELETE", "/v1/acquisitions/{identifier}", Right.CHANGE, "End an acquisition", Nothing, _end_acquisition),
    *RESERVATIONS,
]

ROUTES = (*_DAEMON, *ENTRIES, *_VIRTUAL_DEVICES, *_PAIRS, *_HOSTS)
