"""The log pages of a logical unit: what it has counted, in the parameters of the standards.

Counters are those of `scsi.counters`, less what they were when a host last reset the page (`LogZeroes`): the daemon's
own statistics go up only, whatever hosts do.

Spec: SPC-6 "Log parameters"; SBC-4 "Log parameters for direct access block devices".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from scsi.provisioning import THRESHOLD_SET_BLOCKS, is_thin
from scsi.self_test import MOST_RESULTS
from scsi.status import SenseKey

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

# FORMAT AND LINKING: a counter; a list of bytes. None is ever saved, and none has a threshold.
_COUNTER, _LIST = 0x02, 0x03
_DISABLE_SAVE, _SUBPAGE_FORMAT = 0x80, 0x40

ALL_SUBPAGES = 0xFF

_WRITE_ERROR_ASC, _READ_ERROR_ASC = 0x0C, 0x11
_NON_MEDIUM_KEYS = {SenseKey.HARDWARE_ERROR, SenseKey.ABORTED_COMMAND}

_INTERVALS_PER_S = 1_000_000
_INTERVAL = struct.pack(">II", 6, 1)  # 1 × 10⁻⁶ s
_MOST = (1 << 64) - 1

Values = dict[int, int]  # of counters, by parameter code
LogZeroes = dict[int, Values]  # what they were when a host set them to zero, by page code


class Parameter(NamedTuple):
    """One log parameter."""

    code: int
    control: int
    value: bytes

    def encode(self) -> bytes:
        """Give it with its header."""
        return struct.pack(">HBB", self.code, self.control, len(self.value)) + self.value


class LogPage(NamedTuple):
    """One log page.

    Attributes:
        code: there are no subpages but those that list pages.
        counters: gives what is counted since the unit was made, by parameter code; these can be set to zero.
        encode: gives the parameters, of the counters as a host sees them.
        available: whether a unit has the page.
    """

    code: int
    counters: Callable[[LogicalUnit], Values]
    encode: Callable[[LogicalUnit, Values], Iterator[Parameter]]
    available: Callable[[LogicalUnit], bool] = lambda _unit: True

    def parameters(self, unit: LogicalUnit, *, default: bool = False) -> list[Parameter]:
        """Give the parameters in ascending order; with `default`, those of a unit that has done nothing."""
        values = self.counters(unit)
        zeroes = values if default else unit.log_zeroes.get(self.code, {})
        return list(self.encode(unit, {code: value - zeroes.get(code, 0) for code, value in values.items()}))


# --- What is counted --------------------------------------------------------------------------------------------------


def _errors(unit: LogicalUnit, asc: int) -> int:
    return sum(
        count
        for (_, key, an_asc, _), count in unit.counters.errors.items()
        if (key, an_asc) == (SenseKey.MEDIUM_ERROR, asc)
    )


_BYTES, _UNCORRECTED = 0x0005, 0x0006


def _write_errors(unit: LogicalUnit) -> Values:
    written = unit.counters.written_blocks * unit.volume.block_bytes
    return {_BYTES: written, _UNCORRECTED: _errors(unit, _WRITE_ERROR_ASC)}


def _read_errors(unit: LogicalUnit) -> Values:
    counters = unit.counters
    errors = _errors(unit, _READ_ERROR_ASC) - counters.verify_errors
    return {_BYTES: counters.read_blocks * unit.volume.block_bytes, _UNCORRECTED: errors}


def _verify_errors(unit: LogicalUnit) -> Values:
    counters = unit.counters
    return {_BYTES: counters.verified_blocks * unit.volume.block_bytes, _UNCORRECTED: counters.verify_errors}


def _non_medium_errors(unit: LogicalUnit) -> Values:
    return {0: sum(count for (_, key, _, _), count in unit.counters.errors.items() if key in _NON_MEDIUM_KEYS)}


def _statistics(unit: LogicalUnit) -> Values:
    """Numbers and times of reads and writes; not parameter codes, but places in parameter 0001h."""
    counters = unit.counters
    return {
        0: counters.reads,
        1: counters.writes,
        2: counters.written_blocks,  # received
        3: counters.read_blocks,  # transmitted
        4: int(counters.read_latencies.sum_s * _INTERVALS_PER_S),
        5: int(counters.write_latencies.sum_s * _INTERVALS_PER_S),
    }


def _nothing(_unit: LogicalUnit) -> Values:
    return {}


# --- Parameters -------------------------------------------------------------------------------------------------------


def _as_counters(_unit: LogicalUnit, values: Values) -> Iterator[Parameter]:
    for code, value in values.items():
        yield Parameter(code, _COUNTER, min(value, _MOST).to_bytes(8, "big"))


def _as_error_counters(_unit: LogicalUnit, values: Values) -> Iterator[Parameter]:
    """Errors that were corrected, and what that took, are the business of what is below: there are none."""
    for code in range(_UNCORRECTED + 1):
        yield Parameter(code, _COUNTER, min(values.get(code, 0), _MOST).to_bytes(8, "big"))


def _as_statistics(_unit: LogicalUnit, values: Values) -> Iterator[Parameter]:
    """Statistics and performance; the weighted ones, 6 and 7, and the time without commands are not kept."""
    fields = [min(values.get(place, 0), _MOST) for place in range(8)]
    yield Parameter(0x0001, _LIST, struct.pack(">8Q", *fields))
    yield Parameter(0x0003, _LIST, _INTERVAL)


def _no_exceptions(_unit: LogicalUnit, _values: Values) -> Iterator[Parameter]:
    """No exception; the temperature is not known."""
    yield Parameter(0x0000, _LIST, bytes((0x00, 0x00, 0xFF, 0x00)))


def _no_parameters(_unit: LogicalUnit, _values: Values) -> Iterator[Parameter]:
    return iter(())


def _self_tests(unit: LogicalUnit, _values: Values) -> Iterator[Parameter]:
    results = [result.encode() for result in unit.self_tests.results]
    for number in range(MOST_RESULTS):
        yield Parameter(number + 1, _LIST, results[number] if number < len(results) else bytes(16))


def used_resources(mapped_blocks: int) -> Parameter:
    """Give how much storage a thin unit has, of its own (the scope), in threshold sets."""
    sets = -(-mapped_blocks // THRESHOLD_SET_BLOCKS)
    return Parameter(0x0002, _LIST, struct.pack(">IB3x", min(sets, 0xFFFFFFFF), 0x01))


PROVISIONING_PAGE = 0x0C  # its parameter has to be asked for below: `scsi.log_sense`

PAGES: dict[int, LogPage] = {
    page.code: page
    for page in (
        LogPage(0x02, _write_errors, _as_error_counters),
        LogPage(0x03, _read_errors, _as_error_counters),
        LogPage(0x05, _verify_errors, _as_error_counters),
        LogPage(0x06, _non_medium_errors, _as_counters),
        LogPage(PROVISIONING_PAGE, _nothing, _no_parameters, is_thin),
        LogPage(0x10, _nothing, _self_tests),
        LogPage(0x19, _statistics, _as_statistics),
        LogPage(0x2F, _nothing, _no_exceptions),
    )
}


def encode_supported(unit: LogicalUnit, *, subpages: bool) -> bytes:
    """Give the list of pages, page 00h, or that of pages and subpages, 00h/FFh."""
    codes = [0x00, *(page.code for page in PAGES.values() if page.available(unit))]
    if not subpages:
        return bytes((0x00, 0x00)) + struct.pack(">H", len(codes)) + bytes(codes)
    pairs = [(0x00, 0x00), (0x00, ALL_SUBPAGES), *((code, 0x00) for code in codes[1:])]
    body = b"".join(map(bytes, pairs))
    return struct.pack(">BBH", _SUBPAGE_FORMAT, ALL_SUBPAGES, len(body)) + body


def encode_page(page: LogPage, parameters: list[Parameter]) -> bytes:
    """Give a page with its header."""
    body = b"".join(parameter.encode() for parameter in parameters)
    return struct.pack(">BBH", _DISABLE_SAVE | page.code, 0, len(body)) + body
