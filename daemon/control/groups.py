"""Groups of pairs: which there are, and orders to all pairs of one at once."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import msgspec

from backends.pairs.group_run import GroupNotStored
from backends.pairs.group_store import PairGroup
from backends.pairs.groups import PairGroups, of_one_moment
from backends.pairs.pair import Pair
from backends.pairs.states import PairCommand
from config.errors import NotSavedError
from daemon.callbacks import answered
from daemon.control.authorization import Right
from daemon.control.errors import ExistsError, RefusedError, UnknownError
from daemon.control.jobs import JobRow
from daemon.control.route import Asked, Control, Nothing, Route
from scsi.array_commands import PairState

COMMANDS = {
    "split": PairCommand.SPLIT,
    "resync": PairCommand.RESYNC,
    "reverse": PairCommand.REVERSE,
    "swap": PairCommand.SWAP,
    "takeover": PairCommand.TAKEOVER,
}

Suspend = Literal["together", "alone"]
Numbers = list[Annotated[int, msgspec.Meta(ge=1, le=0xFFFFFFFF)]]
# How the secondaries stand to each other: all are written to all the time, or all stopped at one moment, or neither.
Secondaries = Literal["mirrored", "one_moment", "mixed"]


class GroupForm(msgspec.Struct, forbid_unknown_fields=True):
    """A group: numbers of pairs, and whether all stop when one of them loses its secondary by an error."""

    name: str
    pairs: Numbers
    suspend: Suspend = "together"


class GroupChange(msgspec.Struct, forbid_unknown_fields=True):
    """What is to be another; what is left out stays."""

    pairs: Numbers | msgspec.UnsetType = msgspec.UNSET
    suspend: Suspend | msgspec.UnsetType = msgspec.UNSET


class GroupRow(msgspec.Struct):
    """A group; `state` is that of its pairs, or "mixed"."""

    name: str
    pairs: list[int]
    suspend: Suspend
    state: str
    secondaries: Secondaries
    fault: str | None


class StepRow(msgspec.Struct):
    """What an order does to one pair of the group; `refusal` None: it is allowed."""

    pair: int
    state: str
    next_state: str
    refusal: str | None


class GroupAnswer(msgspec.Struct):
    """The group after an order, what that did to each pair, and the jobs that go on because of it."""

    group: GroupRow
    steps: list[StepRow]
    jobs: list[JobRow]


def group_row(groups: PairGroups, group: PairGroup) -> GroupRow:
    """Show a group."""
    pairs = groups.members(group)
    states = {pair.state.name for pair in pairs}
    lost = [f"pair {pair.number} is {pair.state.name}" for pair in pairs if pair.state is PairState.PSUE]
    return GroupRow(
        group.name,
        list(group.pairs),
        "together" if group.together else "alone",
        states.pop() if len(states) == 1 else "mixed",
        _secondaries(pairs),
        ", ".join(lost) or None,
    )


def _secondaries(pairs: list[Pair]) -> Secondaries:
    if pairs and all(pair.in_sync() and not pair.mirror.lapsed for pair in pairs):
        return "mirrored"
    return "one_moment" if of_one_moment(pairs) else "mixed"


def _groups(control: Control) -> PairGroups:
    return control.daemon.assembly.pairs.groups


def _find(control: Control, asked: Asked) -> PairGroup:
    name = asked.names["name"]
    group = _groups(control).by_name.get(name)
    if group is None:
        raise UnknownError(f"/groups/{name}", "there is no such group")
    return group


async def _list(control: Control, asked: Asked) -> list[GroupRow]:
    groups = _groups(control)
    return [group_row(groups, groups.by_name[name]) for name in sorted(groups.by_name)]


async def _show(control: Control, asked: Asked) -> GroupRow:
    return group_row(_groups(control), _find(control, asked))


async def _form(control: Control, asked: Asked) -> GroupRow:
    form: GroupForm = asked.body
    if form.name in _groups(control).by_name:
        raise ExistsError(f"/groups/{form.name}", "is there already")
    return await _put(control, PairGroup(form.name, tuple(form.pairs), form.suspend == "together"))


async def _change(control: Control, asked: Asked) -> GroupRow:
    group, change = _find(control, asked), asked.body
    if change.pairs is not msgspec.UNSET:
        group = group._replace(pairs=tuple(change.pairs))
    if change.suspend is not msgspec.UNSET:
        group = group._replace(together=change.suspend == "together")
    return await _put(control, group)


async def _put(control: Control, group: PairGroup) -> GroupRow:
    groups = _groups(control)
    _check(f"/groups/{group.name}", await answered(partial(groups.put, group)))
    return group_row(groups, groups.by_name[group.name])


async def _end(control: Control, asked: Asked) -> Nothing:
    group = _find(control, asked)
    _check(f"/groups/{group.name}", await answered(partial(_groups(control).remove, group.name)))
    return Nothing()


async def _dissolve(control: Control, asked: Asked) -> Nothing:
    group = _find(control, asked)
    groups = _groups(control)
    await control.pairs.dissolve_all(f"/groups/{group.name}", groups.members(group))
    _check(f"/groups/{group.name}", await answered(partial(groups.remove, group.name)))
    return Nothing()


def _order(name: str) -> Route:
    async def ordered(control: Control, asked: Asked) -> GroupAnswer:
        group, groups, command = _find(control, asked), _groups(control), COMMANDS[name]
        steps = [
            StepRow(step.number, step.state.name, step.next_state.name, step.refusal or None)
            for step in groups.plan(group, command)
        ]
        jobs: list[JobRow] = []
        if asked.query.get("dry_run", "false") != "true":
            tell = control.daemon.assembly.pairs.tell_hosts
            _check(f"/groups/{group.name}", await answered(lambda done: groups.run(group, command, tell, done)))
            copying = [pair for pair in groups.members(group) if pair.state is PairState.COPY]
            jobs = [control.jobs.begin(name, pair).refresh() for pair in copying]
        return GroupAnswer(group_row(groups, group), steps, jobs)

    return Route("POST", f"/v1/groups/{{name}}/{name}", Right.CHANGE, f"Order all pairs of a group: {name}",
                 GroupAnswer, ordered, body=Nothing, query=("dry_run",))  # fmt: skip


def _check(place: str, error: Exception | None) -> None:
    if isinstance(error, GroupNotStored):
        raise NotSavedError(place, str(error))
    if error is not None:
        raise RefusedError(place, str(error))


GROUPS = (
    Route("GET", "/v1/groups", Right.READ, "List the groups of pairs", list[GroupRow], _list),
    Route("POST", "/v1/groups", Right.CHANGE, "Make a group of pairs", GroupRow, _form, body=GroupForm, status=201),
    Route("GET", "/v1/groups/{name}", Right.READ, "See a group", GroupRow, _show),
    Route("PATCH", "/v1/groups/{name}", Right.CHANGE, "Change a group", GroupRow, _change, body=GroupChange),
    Route("DELETE", "/v1/groups/{name}", Right.CHANGE, "End a group; its pairs stay", Nothing, _end),
    *map(_order, COMMANDS),
    Route("POST", "/v1/groups/{name}/dissolve", Right.CHANGE, "End all pairs of a group, and the group", Nothing,
          _dissolve, body=Nothing),
)  # fmt: skip
