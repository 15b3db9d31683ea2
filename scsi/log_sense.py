"""LOG SENSE, and LOG SELECT as far as it sets counters to zero; the pages are `scsi.log_pages`.

Spec: SPC-6 "LOG SENSE command", "LOG SELECT command".
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from scsi import unit_attention
from scsi.block_commands import refuse_unready
from scsi.commands import Allow, Command, Direction
from scsi.errors import InvalidFieldInCdb, WriteProtected
from scsi.log_pages import (
    ALL_SUBPAGES,
    PAGES,
    PROVISIONING_PAGE,
    LogPage,
    Parameter,
    encode_page,
    encode_supported,
    used_resources,
)
from scsi.sense import error_of
from scsi.tasks import Task
from scsi.volume import Allocation, VolumeError

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

Fields = tuple[int, int, int, int]

_CUMULATIVE, _DEFAULT_CUMULATIVE = 1, 3  # PC; 0 and 2 are thresholds, of which there are none
_RESET = 0x02

# How often the volume is asked what it has storage for. A unit in more pieces than these tell gives no number.
_MOST_QUESTIONS = 1024

_decode_sense = struct.Struct(">2xBBxHH").unpack_from
_decode_select = struct.Struct(">xBBB3xH").unpack_from


def _find(unit: LogicalUnit, code: int, subpage: int) -> LogPage:
    page = PAGES.get(code)
    if page is None or not page.available(unit):
        raise InvalidFieldInCdb(2, 5, f"no log page {code:02X}h")
    if subpage:
        raise InvalidFieldInCdb(3, None, f"no subpage {subpage:02X}h")
    return page


def handle_log_sense(unit: LogicalUnit, task: Task, fields: Fields) -> None:
    """LOG SENSE."""
    page_and_control, subpage, pointer, allocation_length = fields
    control, code = page_and_control >> 6, page_and_control & 0x3F
    if code == 0 and subpage in {0, ALL_SUBPAGES}:
        unit.finish(task, encode_supported(unit, subpages=bool(subpage))[:allocation_length])
        return
    page = _find(unit, code, subpage)
    if control not in {_CUMULATIVE, _DEFAULT_CUMULATIVE}:
        raise InvalidFieldInCdb(2, 7, "there are no thresholds")

    def answer(parameters: list[Parameter]) -> None:
        if pointer and not any(parameter.code >= pointer for parameter in parameters):
            unit.fail(task, InvalidFieldInCdb(5, None, f"no parameter from {pointer:04X}h on"))
            return
        data = encode_page(page, [parameter for parameter in parameters if parameter.code >= pointer])
        unit.finish(task, data[:allocation_length])

    if code == PROVISIONING_PAGE:
        refuse_unready(unit)
        _MappedBlocks(unit, task, answer).ask()
    else:
        answer(page.parameters(unit, default=control == _DEFAULT_CUMULATIVE))


class _MappedBlocks:
    """Counts the blocks of a unit that have storage, by asking the volume piece by piece."""

    def __init__(self, unit: LogicalUnit, task: Task, done: Callable[[list[Parameter]], None]) -> None:
        self._unit = unit
        self._task = task
        self._done = done
        self._lba = 0
        self._mapped = 0
        self._questions = 0
        self._asking = False
        self._answered = True

    def ask(self) -> None:
        """Ask until all is known, or enough has been asked; what is aborted ends at once."""
        volume = self._unit.volume
        self._asking = True
        while self._answered:
            self._answered = False
            left = volume.blocks - self._lba
            if left <= 0:
                self._done([used_resources(self._mapped)])
            elif self._questions == _MOST_QUESTIONS or self._task.aborted:
                self._done([])
            else:
                self._questions += 1
                volume.allocation(self._lba, min(left, 0xFFFFFFFF), self._told)
        self._asking = False

    def _told(self, runs: list[Allocation] | VolumeError) -> None:
        if isinstance(runs, VolumeError):
            self._unit.fail(self._task, error_of(runs))
            return
        self._lba += sum(run.blocks for run in runs)
        self._mapped += sum(run.blocks for run in runs if run.mapped)
        self._answered = True
        if not self._asking:
            self.ask()


def handle_log_select(unit: LogicalUnit, task: Task, fields: Fields) -> None:
    """LOG SELECT: sets the counters of one page, or of all, to zero; there is nothing else to set."""
    flags, page_and_control, subpage, list_bytes = fields
    code = page_and_control & 0x3F
    if task.logical_unit.read_only:
        raise WriteProtected("counters are shared with hosts that may write")
    if list_bytes:
        raise InvalidFieldInCdb(7, None, "no parameter can be set")
    pages = list(PAGES.values()) if (code, subpage) == (0, 0) else [_find(unit, code, subpage)]
    if flags & _RESET:
        for page in pages:
            unit.log_zeroes[page.code] = page.counters(unit)
        unit.establish_unit_attention(*unit_attention.LOG_PARAMETERS_CHANGED, but=task.session.nexus)
    unit.finish(task)


ROWS: tuple[Command, ...] = (
    Command(
        "LOG SENSE",
        usage="4d 00 ff ff 00 ffff ffff 04",
        decode=_decode_sense,
        run=handle_log_sense,
        direction=Direction.TO_INITIATOR,
        allow=Allow.PERSISTENT,
        spec="SPC-6 LOG SENSE command",
        ignored="00 02",  # PPC, obsolete
        timeout_s=30,
    ),
    Command(
        "LOG SELECT",
        usage="4c 02 ff ff 000000 ffff 04",
        decode=_decode_select,
        run=handle_log_select,
        direction=Direction.FROM_INITIATOR,
        allow=Allow.NOWHERE,
        spec="SPC-6 LOG SELECT command",
    ),
)
