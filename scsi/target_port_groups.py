"""REPORT TARGET PORT GROUPS and SET TARGET PORT GROUPS; what the states mean is in `scsi.access_states`.

Spec: SPC-6 "REPORT TARGET PORT GROUPS command", "SET TARGET PORT GROUPS command".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from scsi.access_states import AccessState, TargetPortGroup
from scsi.commands import Allow, Command, Direction
from scsi.errors import (
    InvalidFieldInCdb,
    InvalidFieldInParameterList,
    ParameterListLengthError,
    ScsiError,
    SetTargetPortGroupsFailed,
    WriteProtected,
)
from scsi.nexus import Nexus
from scsi.tasks import Task

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

_EXTENDED = 1  # PARAMETER DATA FORMAT; 0 is a header of the length alone
# Transitioning, unavailable, standby, active/non-optimized and active/optimized can be.
_SUPPORTED = 0x80 | 0x08 | 0x04 | 0x02 | 0x01
_TRANSITION_TIME_S = 10

_DESCRIPTOR = struct.Struct(">BBHxBxBxxH")
_SET_DESCRIPTOR = struct.Struct(">BxH")
_SETTABLE = frozenset(AccessState) - {AccessState.TRANSITIONING}


def handle_report_target_port_groups(unit: LogicalUnit, task: Task, fields: tuple[int, int]) -> None:
    """REPORT TARGET PORT GROUPS: those of the target that the host has come in by."""
    how, allocation_length = fields
    if how >> 5 > _EXTENDED:
        raise InvalidFieldInCdb(1, 7, f"PARAMETER DATA FORMAT {how >> 5}")
    body = bytes((_EXTENDED << 4, _TRANSITION_TIME_S, 0, 0)) if how >> 5 else b""
    for group in task.session.nexus.port_group.groups.all():
        # Its one port has the number of the group.
        body += _DESCRIPTOR.pack(group.state, _SUPPORTED, group.identifier, group.status, 1, group.identifier)
    unit.finish(task, (struct.pack(">I", len(body)) + body)[:allocation_length])


def handle_set_target_port_groups(unit: LogicalUnit, task: Task, fields: tuple[int]) -> None:
    """SET TARGET PORT GROUPS: all that is asked for, or nothing."""
    (list_bytes,) = fields
    nexus: Nexus = task.session.nexus
    if task.logical_unit.read_only:
        raise WriteProtected("paths are shared with hosts that may write")
    try:
        states = _decode_list(nexus, bytes(task.data_out[:list_bytes]), list_bytes)
    except ScsiError as error:
        unit.fail(task, error, list_bytes)
        return
    unit.finish(task, data_out_used=list_bytes)
    nexus.port_group.groups.set_by_host(states, nexus)


def _decode_list(nexus: Nexus, data: bytes, list_bytes: int) -> dict[TargetPortGroup, AccessState]:
    if len(data) < list_bytes or (list_bytes and list_bytes % 4) or 0 < list_bytes < 4:
        raise ParameterListLengthError(f"{len(data)} bytes of {list_bytes}")
    groups = {group.identifier: group for group in nexus.port_group.groups.all()}
    states: dict[TargetPortGroup, AccessState] = {}
    for at in range(4, list_bytes, 4):
        state, identifier = _SET_DESCRIPTOR.unpack_from(data, at)
        if state not in _SETTABLE:
            raise InvalidFieldInParameterList(at, 3, f"state {state:02X}h")
        if identifier not in groups:
            raise InvalidFieldInParameterList(at + 2, None, f"no target port group {identifier}")
        if groups[identifier].held:
            raise SetTargetPortGroupsFailed(f"an admin has set the state of group {identifier}")
        states[groups[identifier]] = AccessState(state)
    return states


def may_set(_unit: LogicalUnit, nexus: Nexus) -> bool:
    """Tell whether a host may set states: hosts share them, as they share arrays."""
    return nexus.array_control


ROWS: tuple[Command, ...] = (
    Command(
        "REPORT TARGET PORT GROUPS",
        usage="a3 ea 00000000 ffffffff 00 04",
        decode=struct.Struct(">xB4xI").unpack_from,
        run=handle_report_target_port_groups,
        direction=Direction.TO_INITIATOR,
        allow=Allow.ANYWHERE,
        spec="SPC-6 REPORT TARGET PORT GROUPS command",
        service_action=True,
    ),
    Command(
        "SET TARGET PORT GROUPS",
        usage="a4 0a 00000000 ffffffff 00 04",
        decode=struct.Struct(">6xI").unpack_from,
        run=handle_set_target_port_groups,
        direction=Direction.FROM_INITIATOR,
        allow=Allow.NOWHERE,
        spec="SPC-6 SET TARGET PORT GROUPS command",
        service_action=True,
        available=may_set,
    ),
)
