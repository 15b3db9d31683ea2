"""The target port: which logical unit a command is for, and what becomes of nexuses.

Spec: SAM-6 "SCSI target device", "Incorrect logical unit numbers"; RFC 7143 4.4.3.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from scsi import inquiry, report, unit_attention
from scsi.access_states import TargetPortGroup, TargetPortGroups
from scsi.errors import InvalidFieldInCdb, LogicalUnitNotSupported, ScsiError
from scsi.logical_unit import LogicalUnit
from scsi.nexus import MappedUnit, Nexus
from scsi.sense import encode_sense
from scsi.status import Status
from scsi.task_management import TARGET_RESETS, UNIT_FUNCTIONS, Response, TaskRequest
from scsi.tasks import Task

_ADDRESS_METHOD: Final = 0xC0
_FLAT_SPACE: Final = 0x40

_INQUIRY, _REPORT_LUNS, _REQUEST_SENSE = 0x12, 0xA0, 0x03


class TargetPort:
    """One target port: commands and task management come in here.

    Attributes:
        nexuses: the I_T nexuses that it has now.
        groups: its target port groups.
    """

    def __init__(self, groups: TargetPortGroups | None = None) -> None:
        self.nexuses: set[Nexus] = set()
        self.groups = groups or TargetPortGroups()
        self.groups.changed = self._access_changed

    # --- Commands -----------------------------------------------------------------------------------------------------

    def execute(self, task: Task) -> None:
        """Carry out a command; it ends with `Task.complete`, possibly before this returns. Raises nothing."""
        mapped = task.session.nexus.lun_map.get(task.lun) or _map_flat(task.session.nexus, task.lun)
        if mapped is None:
            execute_without_unit(task)
        else:
            task.logical_unit = mapped
            if mapped.limit is None:
                mapped.logical_unit.execute(task)
            else:
                mapped.logical_unit.execute_limited(task, mapped.limit)

    def manage(self, request: TaskRequest) -> None:
        """Carry out a task management function, and answer it."""
        request.complete(self._manage(request))

    def _manage(self, request: TaskRequest) -> Response:
        nexus: Nexus = request.session.nexus
        if request.function in TARGET_RESETS:
            # Only what the host sees: others' logical units are none of its business.
            for unit in _units(nexus.lun_map):
                unit.reset(hard=True)
            return Response.FUNCTION_COMPLETE
        function = UNIT_FUNCTIONS.get(request.function)
        if function is None:
            return Response.NOT_SUPPORTED
        task: Task | None = request.referenced
        mapped = nexus.lun_map.get(request.lun) or _map_flat(nexus, request.lun)
        if mapped is None:
            return Response.LUN_DOES_NOT_EXIST
        if task is not None and task.logical_unit is not None:
            # The unit that has the task, also when the LUN has come to mean another one since.
            return function(task.logical_unit.logical_unit, nexus, task)
        return function(mapped.logical_unit, nexus, task)

    # --- Nexuses ------------------------------------------------------------------------------------------------------

    def nexus_created(self, nexus: Nexus) -> None:
        """Take note of a new I_T nexus; each unit that it sees greets it with POWER ON, RESET … OCCURRED (29/00)."""
        self.nexuses.add(nexus)
        nexus.port_group = self.groups.of(nexus.target_portal_group_tag)
        for unit in _units(nexus.lun_map):
            unit.attach(nexus)
            unit_attention.establish(nexus, unit, *unit_attention.POWER_ON_OR_RESET)

    def nexus_lost(self, nexus: Nexus) -> None:
        """Forget an I_T nexus: its tasks are aborted and its reservations dropped.

        Spec: SAM-6 "I_T nexus loss".
        """
        self.nexuses.discard(nexus)
        for unit in _units(nexus.lun_map):
            unit.detach(nexus)

    def _access_changed(self, groups: Iterable[TargetPortGroup], by: Nexus | None) -> None:
        """Let the units look at other access states, and tell the hosts: those of other paths as well."""
        for nexus in self.nexuses:
            for unit in _units(nexus.lun_map):
                if nexus.port_group in groups:
                    unit.access_changed()
                if nexus is not by:
                    unit_attention.establish(nexus, unit, *unit_attention.ACCESS_STATE_CHANGED)

    def set_array_control(self, nexus: Nexus, array_control: bool) -> None:
        """Let a nexus have ARRAY OUT, or not; TPGS goes with that, so that the host is told (3F/03) if it changes."""
        if nexus.array_control != array_control:
            nexus.array_control = array_control
            if nexus in self.nexuses:
                for unit in _units(nexus.lun_map):
                    unit_attention.establish(nexus, unit, *unit_attention.INQUIRY_DATA_CHANGED)

    def remap(self, nexus: Nexus, lun_map: dict[bytes, MappedUnit]) -> None:
        """Give a nexus another LUN map. Does it differ, the host is told (3F/0E) by each unit that it sees now."""
        if lun_map == nexus.lun_map:
            return
        old, new = _units(nexus.lun_map), _units(lun_map)
        nexus.lun_map = lun_map
        if nexus not in self.nexuses:
            return
        for unit in old - new:
            for task in unit.hide(nexus):
                execute_without_unit(task)
        for unit in new - old:
            unit.attach(nexus)
        for unit in new:
            unit_attention.establish(nexus, unit, *unit_attention.REPORTED_LUNS_CHANGED)


def _units(lun_map: dict[bytes, MappedUnit]) -> set[LogicalUnit]:
    return {mapped.logical_unit for mapped in lun_map.values()}


def _map_flat(nexus: Nexus, lun: bytes) -> MappedUnit | None:
    """Find a LUN below 256 that the host wrote in flat space addressing, which means the same unit.

    Spec: SAM-6 "Flat space addressing".
    """
    if lun[0] & _ADDRESS_METHOD != _FLAT_SPACE:
        return None
    return nexus.lun_map.get(bytes((lun[0] & ~_ADDRESS_METHOD,)) + lun[1:])


# --- LUNs without a logical unit --------------------------------------------------------------------------------------


def execute_without_unit(task: Task) -> None:
    """Answer a command for a LUN that the nexus has nothing at.

    Spec: SAM-6 "Selecting an incorrect logical unit"; SPC-6 "INQUIRY command", "REQUEST SENSE command".
    """
    try:
        data = _answer_without_unit(task)
    except ScsiError as error:
        task.complete(Status.CHECK_CONDITION, b"", encode_sense(error))
    else:
        task.complete(Status.GOOD, data)


def _answer_without_unit(task: Task) -> bytes:
    cdb = task.cdb
    row = _WITHOUT_UNIT.get(cdb[0])
    if row is None:
        raise LogicalUnitNotSupported
    row.refuse_reserved(cdb)
    if row.opcode == _INQUIRY:
        vital, code, allocation_length = inquiry.decode_inquiry(cdb)
        if code:
            raise InvalidFieldInCdb(2, None, f"no page {code:02X}h without a logical unit")
        if vital:
            page = inquiry.encode_supported_pages([0x00])
            return inquiry.encode_page(inquiry.NO_LOGICAL_UNIT, code, page)[:allocation_length]
        return inquiry.encode_standard(inquiry.NO_LOGICAL_UNIT, "", "")[:allocation_length]
    if row.opcode == _REPORT_LUNS:
        select_report, allocation_length = report.decode_report_luns(cdb)
        return report.encode_luns(task.session.nexus, select_report)[:allocation_length]
    descriptor, allocation_length = report.decode_request_sense(cdb)
    return encode_sense(LogicalUnitNotSupported(), descriptor=descriptor)[:allocation_length]


_WITHOUT_UNIT: Final = {
    row.opcode: row for row in (*inquiry.ROWS, *report.ROWS) if row.opcode in {_INQUIRY, _REPORT_LUNS, _REQUEST_SENSE}
}
