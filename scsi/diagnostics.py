"""SEND DIAGNOSTIC, RECEIVE DIAGNOSTIC RESULTS, and PREVENT ALLOW MEDIUM REMOVAL, which here prevents nothing.

Spec: SPC-6 "SEND DIAGNOSTIC command", "RECEIVE DIAGNOSTIC RESULTS command"; SBC-4 "PREVENT ALLOW
MEDIUM REMOVAL command".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from scsi.block_commands import refuse_unready
from scsi.commands import Allow, Command, Direction
from scsi.errors import (
    FailedSelfTest,
    InvalidFieldInCdb,
    InvalidFieldInParameterList,
    ParameterListLengthError,
    ScsiError,
    SelfTestInProgress,
)
from scsi.self_test import EXTENDED_PLACES, SHORT_PLACES, Result
from scsi.tasks import Task

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

_PAGE_FORMAT, _SELF_TEST = 0x10, 0x04
_ABORT = 4
# By SELF-TEST CODE: how many places are read, and whether the host waits for it.
_TESTS = {
    1: (SHORT_PLACES, False),
    2: (EXTENDED_PLACES, False),
    5: (SHORT_PLACES, True),
    6: (EXTENDED_PLACES, True),
}
_SUPPORTED_PAGES = bytes((0x00, 0x00, 0x00, 0x01, 0x00))


def handle_send_diagnostic(unit: LogicalUnit, task: Task, fields: tuple[int, int]) -> None:
    """SEND DIAGNOSTIC: self-tests, and the only diagnostic page that there is, the list of them."""
    flags, list_bytes = fields
    code = flags >> 5
    if code and (flags & _SELF_TEST or code not in {*_TESTS, _ABORT}):
        raise InvalidFieldInCdb(1, 7, f"SELF-TEST CODE {code}")
    if list_bytes and (code or flags & _SELF_TEST):
        raise InvalidFieldInCdb(3, None, "a parameter list with a self-test")
    if list_bytes and not flags & _PAGE_FORMAT:
        raise InvalidFieldInCdb(1, 4, "parameters in the vendor's format")
    if code == _ABORT:
        if not unit.self_tests.abort():
            raise InvalidFieldInCdb(1, 7, "no self-test is under way")
        unit.finish(task)
    elif code:
        _start_test(unit, task, code)
    elif flags & _SELF_TEST:
        refuse_unready(unit)
        unit.finish(task)
    else:
        try:
            _check_list(bytes(task.data_out[:list_bytes]), list_bytes)
        except ScsiError as error:
            unit.fail(task, error, list_bytes)
        else:
            unit.finish(task, data_out_used=list_bytes)


def _start_test(unit: LogicalUnit, task: Task, code: int) -> None:
    if unit.self_tests.running:
        raise SelfTestInProgress
    places, waits = _TESTS[code]

    def done(result: Result) -> None:
        if waits:
            if result.outcome:
                unit.fail(task, FailedSelfTest(f"{result}"))
            else:
                unit.finish(task)

    if not waits:
        unit.finish(task)
    unit.self_tests.start(code, places, done)


def _check_list(data: bytes, list_bytes: int) -> None:
    if not list_bytes:
        return
    if len(data) < list_bytes or list_bytes < 4:
        raise ParameterListLengthError(f"{len(data)} bytes of {list_bytes}")
    if data[0]:
        raise InvalidFieldInParameterList(0, None, f"no diagnostic page {data[0]:02X}h")
    if data[2] or data[3]:
        raise InvalidFieldInParameterList(2, None, "the page has no parameters")
    if list_bytes > 4:
        raise ParameterListLengthError("more than one page")


def handle_receive_diagnostic_results(unit: LogicalUnit, task: Task, fields: tuple[int, int, int]) -> None:
    """RECEIVE DIAGNOSTIC RESULTS: the list of pages, which is also what SEND DIAGNOSTIC can ask for."""
    page_code_valid, code, allocation_length = fields
    if page_code_valid & 1 and code:
        raise InvalidFieldInCdb(2, None, f"no diagnostic page {code:02X}h")
    unit.finish(task, _SUPPORTED_PAGES[:allocation_length])


def handle_prevent_allow(unit: LogicalUnit, task: Task, fields: tuple[int]) -> None:
    """PREVENT ALLOW MEDIUM REMOVAL: the medium can not be removed, so that both are true. 2 and 3 are obsolete."""
    if fields[0] & 0x02:
        raise InvalidFieldInCdb(4, 1, f"PREVENT {fields[0]}")
    unit.finish(task)


ROWS: tuple[Command, ...] = (
    Command(
        "SEND DIAGNOSTIC",
        usage="1d f4 00 ffff 04",
        decode=struct.Struct(">xBxH").unpack_from,
        run=handle_send_diagnostic,
        direction=Direction.FROM_INITIATOR,
        allow=Allow.NOWHERE,
        spec="SPC-6 SEND DIAGNOSTIC command",
        ignored="00 03",  # DEVOFFL, UNITOFFL: leave to disturb others, of which no use is made
        timeout_s=120,
    ),
    Command(
        "RECEIVE DIAGNOSTIC RESULTS",
        usage="1c 01 ff ffff 04",
        decode=struct.Struct(">xBBH").unpack_from,
        run=handle_receive_diagnostic_results,
        direction=Direction.TO_INITIATOR,
        allow=Allow.WRITE_EXCLUSIVE,
        spec="SPC-6 RECEIVE DIAGNOSTIC RESULTS command",
    ),
    Command(
        "PREVENT ALLOW MEDIUM REMOVAL",
        usage="1e 00 0000 03 04",
        decode=struct.Struct(">4xB").unpack_from,
        run=handle_prevent_allow,
        direction=Direction.NONE,
        allow=Allow.PERSISTENT,
        spec="SBC-4 PREVENT ALLOW MEDIUM REMOVAL command",
    ),
)
