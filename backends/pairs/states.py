"""The life of a pair as a table: what each command and each event does in each state.

How this works: `COMMANDS` has one row for every (state, command) in which the command is allowed, and says where it
leads; a pair that is not in a row refuses. `EVENTS` does the same for what happens to a pair by itself. Nothing here
does I/O, keeps time or holds a pair: the engine (`backends.pairs.pair`) asks, acts, and stores the new state before
anybody hears of it.

The states and their promises are those of the pairs specification:

    COPY   the source (the *current* leg) is being copied to the other one; every write goes to both
    PAIR   every acknowledged write is on both
    PSUS   split by command; each side that is written marks what it changed
    PSUE   one leg is lost; hosts of the primary are served from the current leg
    SSWS   the secondary was taken over; its changes lead
    SMPL   not paired: no pair object has this state, it is where CREATE starts and DELETE ends

Of the two legs of a pair, numbered 0 and 1, one is the *primary's* and one is *current*: the one that the primary's
host reads, and the source of every copy.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from scsi.array_commands import PairState


class PairCommand(enum.Enum):
    """What a host can ask of a pair; RESYNC is three commands, by its flags."""

    CREATE = "create"
    SPLIT = "split"
    RESYNC = "resync"
    REVERSE = "resync reverse"
    SWAP = "resync swap"
    DELETE = "delete"
    TAKEOVER = "takeover"
    VERIFY = "verify"


class PairEvent(enum.Enum):
    """What happens to a pair without a command."""

    COPIED = "everything is copied and flushed"
    COPY_FAILED = "the copy ended with blocks that could not be copied"
    OTHER_LEG_LOST = "the leg that is not current failed"
    CURRENT_LEG_LOST = "the current leg failed, the other one has every acknowledged write"
    SOURCE_LEG_LOST = "the current leg failed, the other one lacks acknowledged writes"
    FOUND_DIRTY = "blocks of the two legs are not known to be equal"


class Roles(enum.Enum):
    """What a step does to the roles of the legs."""

    KEEP = "keep"
    SWAP = "swap"  # primary and secondary change places; the new primary's leg is current
    SECONDARY_LEADS = "secondary leads"  # the secondary's leg becomes current, roles stay
    OTHER_LEADS = "other leads"  # the leg that is not current becomes it


class Step(NamedTuple):
    """Where a command or event leads.

    Attributes:
        state: the next state; the same one for "no state change".
        roles: what becomes of the roles and the current leg.
        attention: True when hosts get the unit attention 06/80/80.
        no_op: True when the command is answered GOOD and nothing is done.
    """

    state: PairState
    roles: Roles = Roles.KEEP
    attention: bool = True
    no_op: bool = False


def _no_op(state: PairState) -> Step:
    return Step(state, attention=False, no_op=True)


_S, _C, _E = PairState, PairCommand, PairEvent

# Absent: refused (05/80/09; in SMPL 05/80/08).
COMMANDS: dict[tuple[PairState, PairCommand], Step] = {
    (_S.SMPL, _C.CREATE): Step(_S.COPY),
    (_S.COPY, _C.CREATE): _no_op(_S.COPY),
    (_S.PAIR, _C.CREATE): _no_op(_S.PAIR),
    (_S.COPY, _C.SPLIT): Step(_S.PSUS),
    (_S.PAIR, _C.SPLIT): Step(_S.PSUS),
    (_S.PSUS, _C.SPLIT): _no_op(_S.PSUS),
    (_S.COPY, _C.RESYNC): _no_op(_S.COPY),
    (_S.PAIR, _C.RESYNC): Step(_S.COPY),
    (_S.PSUS, _C.RESYNC): Step(_S.COPY),
    (_S.PSUE, _C.RESYNC): Step(_S.COPY),
    (_S.PSUS, _C.REVERSE): Step(_S.COPY, Roles.SECONDARY_LEADS),
    (_S.SSWS, _C.SWAP): Step(_S.COPY, Roles.SWAP),
    (_S.COPY, _C.DELETE): Step(_S.SMPL),
    (_S.PAIR, _C.DELETE): Step(_S.SMPL),
    (_S.PSUS, _C.DELETE): Step(_S.SMPL),
    (_S.PSUE, _C.DELETE): Step(_S.SMPL),
    (_S.SSWS, _C.DELETE): Step(_S.SMPL),
    (_S.PAIR, _C.TAKEOVER): Step(_S.PAIR, Roles.SWAP),
    (_S.PSUS, _C.TAKEOVER): Step(_S.SSWS),
    (_S.PSUE, _C.TAKEOVER): Step(_S.SSWS),
    (_S.SSWS, _C.TAKEOVER): _no_op(_S.SSWS),
    (_S.PAIR, _C.VERIFY): Step(_S.PAIR, attention=False),
}

# Rows that an option of the command, or what is known of the pair, puts in place of the one above.
CREATED_EQUAL = Step(_S.PAIR)  # CREATE with NOCOPY, in SMPL
NOTHING_OUT_OF_SYNC = _no_op(_S.PAIR)  # RESYNC in PAIR
PRIMARY_LEG_LOST = Step(_S.SSWS, Roles.SECONDARY_LEADS)  # TAKEOVER in PAIR

# Absent: the event changes nothing in that state. Changes between COPY and PAIR that annex makes itself raise no
# attention.
EVENTS: dict[tuple[PairState, PairEvent], Step] = {
    (_S.COPY, _E.COPIED): Step(_S.PAIR, attention=False),
    (_S.PAIR, _E.FOUND_DIRTY): Step(_S.COPY, attention=False),
    (_S.COPY, _E.COPY_FAILED): Step(_S.PSUE),
    (_S.COPY, _E.OTHER_LEG_LOST): Step(_S.PSUE),
    (_S.PAIR, _E.OTHER_LEG_LOST): Step(_S.PSUE),
    (_S.COPY, _E.CURRENT_LEG_LOST): Step(_S.PSUE, Roles.OTHER_LEADS),
    (_S.PAIR, _E.CURRENT_LEG_LOST): Step(_S.PSUE, Roles.OTHER_LEADS),
    (_S.COPY, _E.SOURCE_LEG_LOST): Step(_S.PSUE),
    (_S.PAIR, _E.SOURCE_LEG_LOST): Step(_S.PSUE),
}

# States in which a write of the primary goes to both legs.
MIRRORED = frozenset({_S.COPY, _S.PAIR})


def command_step(
    state: PairState,
    command: PairCommand,
    *,
    nocopy: bool = False,
    in_sync: bool = False,
    primary_leg_lost: bool = False,
) -> Step | None:
    """Tell where a command leads.

    Args:
        state: of the pair, SMPL when there is none.
        command: what the host asks.
        nocopy: of CREATE: the host says that both sides are equal.
        in_sync: of RESYNC in PAIR: no block is out of sync.
        primary_leg_lost: of TAKEOVER in PAIR: the primary's leg does not answer.

    Returns:
        The step, or None when the command is refused in that state.
    """
    if state is _S.SMPL and command is _C.CREATE and nocopy:
        return CREATED_EQUAL
    if state is _S.PAIR and command is _C.RESYNC and in_sync:
        return NOTHING_OUT_OF_SYNC
    if state is _S.PAIR and command is _C.TAKEOVER and primary_leg_lost:
        return PRIMARY_LEG_LOST
    return COMMANDS.get((state, command))


def event_step(state: PairState, event: PairEvent) -> Step | None:
    """Tell where an event leads, or None when it changes nothing in that state."""
    return EVENTS.get((state, event))


def turn(roles: Roles, primary: int, current: int) -> tuple[int, int]:
    """Apply a step's `roles` to the leg numbers (0 or 1) of the primary and of the current leg."""
    if roles is Roles.SWAP:
        return 1 - primary, 1 - primary
    if roles is Roles.SECONDARY_LEADS:
        return primary, 1 - primary
    if roles is Roles.OTHER_LEADS:
        return primary, 1 - current
    return primary, current
