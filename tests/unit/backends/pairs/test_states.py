from __future__ import annotations

import itertools

import pytest

from backends.pairs.states import EVENTS, PairCommand, PairEvent, Roles, command_step, event_step, turn
from scsi.array_commands import PairState

S, C, E = PairState, PairCommand, PairEvent

# The command table of the pairs specification, row by row: (state reached, answered without doing anything).
# A state that is absent in a row refuses.
ALLOWED: dict[PairCommand, dict[PairState, tuple[PairState, bool]]] = {
    C.CREATE: {S.SMPL: (S.COPY, False), S.COPY: (S.COPY, True), S.PAIR: (S.PAIR, True)},
    C.SPLIT: {S.COPY: (S.PSUS, False), S.PAIR: (S.PSUS, False), S.PSUS: (S.PSUS, True)},
    C.RESYNC: {
        S.COPY: (S.COPY, True),
        S.PAIR: (S.COPY, False),
        S.PSUS: (S.COPY, False),
        S.PSUE: (S.COPY, False),
    },
    C.REVERSE: {S.PSUS: (S.COPY, False)},
    C.SWAP: {S.SSWS: (S.COPY, False)},
    C.DELETE: {state: (S.SMPL, False) for state in S if state is not S.SMPL},
    C.TAKEOVER: {
        S.PAIR: (S.PAIR, False),
        S.PSUS: (S.SSWS, False),
        S.PSUE: (S.SSWS, False),
        S.SSWS: (S.SSWS, True),
    },
    C.VERIFY: {S.PAIR: (S.PAIR, False)},
}


@pytest.mark.parametrize(("state", "command"), list(itertools.product(S, C)))
def test_every_command_in_every_state_is_as_the_specification_says(state: PairState, command: PairCommand) -> None:
    step = command_step(state, command)
    expected = ALLOWED[command].get(state)
    assert (None if step is None else (step.state, step.no_op)) == expected


@pytest.mark.parametrize(("state", "command"), list(itertools.product(S, C)))
def test_options_change_three_rows_and_no_other(state: PairState, command: PairCommand) -> None:
    step = command_step(state, command, nocopy=True, in_sync=True, primary_leg_lost=True)
    plain = command_step(state, command)
    if (state, command) == (S.SMPL, C.CREATE):
        assert step is not None
        assert step.state is S.PAIR
    elif (state, command) == (S.PAIR, C.RESYNC):
        assert step is not None
        assert (step.state, step.no_op) == (S.PAIR, True)
    elif (state, command) == (S.PAIR, C.TAKEOVER):
        assert step is not None
        assert (step.state, step.roles) == (S.SSWS, Roles.SECONDARY_LEADS)
    else:
        assert step == plain


@pytest.mark.parametrize(
    ("state", "command", "roles"),
    [
        (S.PSUS, C.REVERSE, (0, 1)),  # the secondary's data is copied to the primary
        (S.SSWS, C.SWAP, (1, 1)),  # the secondary becomes primary and source
        (S.PAIR, C.TAKEOVER, (1, 1)),
        (S.PSUE, C.RESYNC, (0, 0)),  # from the current leg, whichever that is
        (S.PSUS, C.TAKEOVER, (0, 0)),
    ],
)
def test_steps_turn_the_roles_as_they_say(state: PairState, command: PairCommand, roles: tuple[int, int]) -> None:
    step = command_step(state, command)
    assert step is not None
    assert turn(step.roles, 0, 0) == roles


def test_resync_of_a_pair_that_runs_on_the_secondarys_leg_keeps_that_leg_as_source() -> None:
    step = command_step(S.PSUE, C.RESYNC)
    assert step is not None
    assert turn(step.roles, 0, 1) == (0, 1)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(S, E)))
def test_events_lead_only_where_annex_may_go_by_itself(state: PairState, event: PairEvent) -> None:
    step = event_step(state, event)
    if step is None:
        assert (state, event) not in EVENTS
        return
    assert state in (S.COPY, S.PAIR)
    assert step.state in (S.COPY, S.PAIR, S.PSUE)
    assert step.attention == (step.state is S.PSUE)


def test_only_a_lost_current_leg_with_an_equal_other_changes_the_current_leg() -> None:
    changing = {event for (_, event), step in EVENTS.items() if step.roles is not Roles.KEEP}
    assert changing == {E.CURRENT_LEG_LOST}
    assert turn(Roles.OTHER_LEADS, 0, 0) == (0, 1)
    assert turn(Roles.OTHER_LEADS, 0, 1) == (0, 0)
