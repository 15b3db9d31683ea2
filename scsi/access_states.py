"""Asymmetric access: in what state the groups of target ports of a target are, and what a unit does by each of them.

How this works. The portals of one portal group are one target port, and one target port group of the same number. All
units are served alike by it. An admin sets its state, for work on a network path, say; hosts with the right to control
arrays may do so too (SET TARGET PORT GROUPS) as long as no admin has. A nexus knows its group; a unit looks at it only
while one of its nexuses has a group that is not active (`LogicalUnit.access_changed`).

Spec: SPC-6 "Asymmetric logical unit access".
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from scsi.errors import AccessStateTransition, PortInStandbyState, PortInUnavailableState, ScsiError

if TYPE_CHECKING:
    from scsi.nexus import Nexus


class AccessState(enum.IntEnum):
    """The states, by the number that REPORT TARGET PORT GROUPS has for them."""

    ACTIVE_OPTIMIZED = 0x0
    ACTIVE_NON_OPTIMIZED = 0x1
    STANDBY = 0x2
    UNAVAILABLE = 0x3
    TRANSITIONING = 0xF


ACTIVE: Final = frozenset({AccessState.ACTIVE_OPTIMIZED, AccessState.ACTIVE_NON_OPTIMIZED})

# Opcode and service action of what is done in any state, and of what is done in standby as well. That READ CAPACITY is
# among the latter, as with Linux's own target, lets a host find out about a disk by this path alone.
_IN_ANY_STATE: Final = frozenset({(0x03, 0), (0x12, 0), (0xA0, 0), (0xA3, 0x0A), (0xA3, 0x0C), (0xA4, 0x0A)})
_IN_STANDBY: Final = _IN_ANY_STATE | {
    (0x15, 0), (0x55, 0), (0x1A, 0), (0x5A, 0), (0x4C, 0), (0x4D, 0), (0x1C, 0), (0x1D, 0), (0x3B, 0), (0x3C, 0),
    (0x25, 0), (0x9E, 0x10), *((0x5E, action) for action in range(0x20)), *((0x5F, action) for action in range(0x20)),
}  # fmt: skip

_REFUSALS: Final[dict[AccessState, tuple[frozenset[tuple[int, int]], type[ScsiError]]]] = {
    AccessState.STANDBY: (_IN_STANDBY, PortInStandbyState),
    AccessState.UNAVAILABLE: (_IN_ANY_STATE, PortInUnavailableState),
    AccessState.TRANSITIONING: (_IN_ANY_STATE, AccessStateTransition),
}

# STATUS CODE: how a group came to its state.
STATUS_NONE, STATUS_BY_COMMAND, STATUS_IMPLICIT = range(3)


class TargetPortGroup:
    """One target port group, which is one target port.

    Attributes:
        identifier: of the group and of its port, 1 to 65535; no other target has the same.
        state: see the module.
        status: how it came to it.
        held: an admin has set the state, and hosts may not.
        groups: all of its target.
    """

    __slots__ = ("groups", "held", "identifier", "state", "status")

    def __init__(self, identifier: int, groups: TargetPortGroups) -> None:
        self.identifier = identifier
        self.state = AccessState.ACTIVE_OPTIMIZED
        self.status = STATUS_NONE
        self.held = False
        self.groups = groups

    @property
    def active(self) -> bool:
        """Tell whether every command is carried out."""
        return self.state in ACTIVE

    def refuse(self, key: tuple[int, int]) -> None:
        """Raise what a command is refused with in the present state, if it is; `key` as of `Command.key`."""
        refusal = _REFUSALS.get(self.state)
        if refusal is not None and key not in refusal[0]:
            raise refusal[1]


class TargetPortGroups:
    """The target port groups of one target, by portal group tag."""

    def __init__(self, number: Callable[[int], int] = lambda tag: tag or 0xFFFF) -> None:
        """Start without groups.

        Args:
            number: gives the identifier of the group with a tag.
        """
        self._number = number
        self._groups: dict[int, TargetPortGroup] = {}
        self.changed: Callable[[Iterable[TargetPortGroup], Nexus | None], None] = lambda _groups, _by: None

    def of(self, tag: int) -> TargetPortGroup:
        """Give the group with a tag."""
        group = self._groups.get(tag)
        if group is None:
            group = self._groups[tag] = TargetPortGroup(self._number(tag), self)
        return group

    def tag_of(self, identifier: int) -> int | None:
        """Give the tag of the group with an identifier, None when the target has no such group."""
        return next((tag for tag, group in self._groups.items() if group.identifier == identifier), None)

    def all(self) -> list[TargetPortGroup]:
        """List the groups, by identifier."""
        return sorted(self._groups.values(), key=lambda group: group.identifier)

    def keep(self, tags: Iterable[int]) -> None:
        """Have the groups with these tags and no others."""
        for tag in set(self._groups) - set(tags):
            del self._groups[tag]
        for tag in tags:
            self.of(tag)

    def hold(self, tag: int, state: AccessState) -> None:
        """Set a state as an admin: hosts can not change it until it is active and optimized again."""
        group = self.of(tag)
        group.held = state is not AccessState.ACTIVE_OPTIMIZED
        self._set({group: state}, STATUS_IMPLICIT, None)

    def set_by_host(self, states: dict[TargetPortGroup, AccessState], by: Nexus) -> None:
        """Set states as a host asks for; which of them it may is for the caller to have checked."""
        self._set(states, STATUS_BY_COMMAND, by)

    def _set(self, states: dict[TargetPortGroup, AccessState], status: int, by: Nexus | None) -> None:
        changed = [group for group, state in states.items() if group.state is not state]
        for group in changed:
            group.state, group.status = states[group], status
        if changed:
            self.changed(changed, by)
