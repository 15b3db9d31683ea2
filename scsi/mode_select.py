"""MODE SELECT: a host changes what `scsi.mode_parameters` lets it.

How this works. The whole parameter list is checked before anything is done; what is wrong with it is told with a
pointer to the first wrong field. A page must be sent whole, and its bits that can not be changed as they are. Then, in
this order: with WCE going to 0 the unit is drained and flushed, as hosts do not flush it from then on; with SP
everything that can be saved is saved; the parameters are put in force; other nexuses are told. What fails leaves all as
it was.

Spec: SPC-6 "MODE SELECT (6) command", "MODE SELECT (10) command", "Mode parameters".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from scsi.commands import Allow, Command, Direction
from scsi.errors import (
    InternalTargetFailure,
    InvalidFieldInCdb,
    InvalidFieldInParameterList,
    ParameterListLengthError,
    ScsiError,
    StatusError,
    WriteProtected,
)
from scsi.mode_parameters import DEFAULTS, KIND, PAGES, ModePage, ModeParameters
from scsi.sense import error_of
from scsi.tasks import Task
from scsi.volume import VolumeError

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

Fields = tuple[int, int, bool]

_PAGE_FORMAT, _REVERT, _SAVE = 0x10, 0x02, 0x01
_SUBPAGE_FORMAT = 0x40
_PAGE_OF = {(page.code, page.subpage): page for page in PAGES}

# Device-specific parameter: WP is ignored; DPOFUA is reserved here, and older Linux sends back what it was told.
_IGNORED_DEVICE_SPECIFIC = 0x90
_LONG_LBA = 0x01
_SHORT_DESCRIPTOR = struct.Struct(">I1s3s")
_LONG_DESCRIPTOR = struct.Struct(">Q4s4s")


def handle_mode_select(unit: LogicalUnit, task: Task, fields: Fields) -> None:
    """MODE SELECT (6) and (10)."""
    flags, list_bytes, ten = fields
    if task.logical_unit.read_only:
        raise WriteProtected("mode parameters are shared with hosts that may write")
    if flags & _SAVE and not unit.saved.kept:
        raise InvalidFieldInCdb(1, 0, "nothing can be saved")
    if list_bytes and flags & _REVERT:
        raise InvalidFieldInCdb(1, 1, "RTD with a parameter list")
    if list_bytes and not flags & _PAGE_FORMAT:
        raise InvalidFieldInCdb(1, 4, "pages in the vendor's format")
    data = bytes(task.data_out[:list_bytes])
    try:
        wanted = DEFAULTS if flags & _REVERT else _decode_list(unit, data, ten=ten) if data else unit.modes
        if len(data) < list_bytes:
            raise ParameterListLengthError(f"{len(data)} bytes of {list_bytes}")
    except ScsiError as error:
        unit.fail(task, error, list_bytes)
        return
    _Change(unit, task, list_bytes, wanted, save=bool(flags & _SAVE)).start()


class _Change:
    """One change of mode parameters, from the checked list to its end."""

    def __init__(self, unit: LogicalUnit, task: Task, list_bytes: int, wanted: ModeParameters, *, save: bool) -> None:
        self._unit = unit
        self._task = task
        self._list_bytes = list_bytes
        self._wanted = wanted
        self._save = save
        self._drained = False

    def start(self) -> None:
        unit = self._unit
        if unit.modes.write_cache and not self._wanted.write_cache:
            self._drained = True
            unit.drain(lambda: unit.volume.flush(self._flushed))
        else:
            self._flushed(None)

    def _flushed(self, error: VolumeError | None) -> None:
        if error is not None:
            self._end(error_of(error))
        elif self._save:
            self._unit.saved.save(KIND, self._wanted._asdict(), self._saved)
        else:
            self._put_in_force()

    def _saved(self, problem: str) -> None:
        if problem:
            self._end(InternalTargetFailure(problem))
        else:
            self._unit.saved_modes = self._wanted
            self._put_in_force()

    def _put_in_force(self) -> None:
        self._unit.use_modes(self._wanted, self._task.session.nexus)
        self._end(None)

    def _end(self, error: ScsiError | StatusError | None) -> None:
        if error is None:
            self._unit.finish(self._task, data_out_used=self._list_bytes)
        else:
            self._unit.fail(self._task, error, self._list_bytes)
        if self._drained:
            self._unit.resume()


# --- The parameter list -----------------------------------------------------------------------------------------------


def _decode_list(unit: LogicalUnit, data: bytes, *, ten: bool) -> ModeParameters:
    """Give the parameters that a list asks for.

    Raises:
        ParameterListLengthError: it ends within its header, a block descriptor or a page.
        InvalidFieldInParameterList: something in it can not be.
    """
    at = _check_header(unit, data, ten=ten)
    wanted = unit.modes
    while at < len(data):
        page, body_at = _find_page(data, at)
        if body_at + page.body_bytes > len(data):
            raise ParameterListLengthError(f"page {page.code:02X}h is cut off")
        body = data[body_at : body_at + page.body_bytes]
        current = page.body(unit, unit.modes)
        _refuse_constant(body, current, page.mask(unit), body_at)
        if body != current:
            wanted = page.decode(wanted, body)
        at = body_at + page.body_bytes
    return wanted


def _check_header(unit: LogicalUnit, data: bytes, *, ten: bool) -> int:
    """Check header and block descriptor; give where the pages begin. The mode data length is reserved here."""
    header_bytes = 8 if ten else 4
    if len(data) < header_bytes:
        raise ParameterListLengthError("the header is cut off")
    first = 2 if ten else 1  # of MEDIUM TYPE
    if data[first]:
        raise InvalidFieldInParameterList(first, None, f"medium type {data[first]:02X}h")
    _refuse_bits(data, first + 1, ~_IGNORED_DEVICE_SPECIFIC)
    if ten:
        _refuse_bits(data, 4, ~_LONG_LBA)
        _refuse_bits(data, 5, 0xFF)
    descriptor_bytes = int.from_bytes(data[6:8], "big") if ten else data[3]
    form = _LONG_DESCRIPTOR if ten and data[4] & _LONG_LBA else _SHORT_DESCRIPTOR
    if descriptor_bytes not in {0, form.size}:
        raise InvalidFieldInParameterList(6 if ten else 3, None, f"{descriptor_bytes} bytes of block descriptors")
    if len(data) < header_bytes + descriptor_bytes:
        raise ParameterListLengthError("the block descriptor is cut off")
    if descriptor_bytes:
        _check_descriptor(unit, data, header_bytes, form)
    return header_bytes + descriptor_bytes


def _check_descriptor(unit: LogicalUnit, data: bytes, at: int, form: struct.Struct) -> None:
    """Check that a block descriptor leaves size and block length as they are: neither can be changed."""
    volume = unit.volume
    length_offset = form.size - (3 if form is _SHORT_DESCRIPTOR else 4)
    all_ones = 0xFFFFFFFF if form is _SHORT_DESCRIPTOR else 0xFFFFFFFFFFFFFFFF
    blocks, reserved, length = form.unpack_from(data, at)
    if blocks not in {0, min(volume.blocks, all_ones), all_ones}:  # 0 is no change, all ones as many as there are
        raise InvalidFieldInParameterList(at, None, f"{blocks} blocks")
    if any(reserved):
        raise InvalidFieldInParameterList(at + length_offset - len(reserved), None, "reserved")
    if int.from_bytes(length, "big") != volume.block_bytes:
        raise InvalidFieldInParameterList(at + length_offset, None, f"block length {length.hex()}")


def _find_page(data: bytes, at: int) -> tuple[ModePage, int]:
    """Read the header of a page; give the page and where its body begins. PS is reserved here, and let pass."""
    long_header = bool(data[at] & _SUBPAGE_FORMAT)
    if at + (4 if long_header else 2) > len(data):
        raise ParameterListLengthError("the header of a page is cut off")
    page = _PAGE_OF.get((data[at] & 0x3F, data[at + 1] if long_header else 0))
    if page is None or bool(page.subpage) is not long_header:
        raise InvalidFieldInParameterList(at, 5, f"no page {data[at : at + 2].hex()}")
    length_at, body_at = (at + 2, at + 4) if long_header else (at + 1, at + 2)
    length = int.from_bytes(data[length_at:body_at], "big")
    if length != page.body_bytes:
        raise InvalidFieldInParameterList(length_at, None, f"page {page.code:02X}h of {length} bytes")
    return page, body_at


def _refuse_constant(body: bytes, current: bytes, changeable: bytes, at: int) -> None:
    for offset, (sent, have, mask) in enumerate(zip(body, current, changeable, strict=True)):
        wrong = (sent ^ have) & ~mask
        if wrong:
            raise InvalidFieldInParameterList(at + offset, wrong.bit_length() - 1, "can not be changed")


def _refuse_bits(data: bytes, offset: int, reserved: int) -> None:
    wrong = data[offset] & reserved
    if wrong:
        raise InvalidFieldInParameterList(offset, wrong.bit_length() - 1, "reserved")


# --- The commands -----------------------------------------------------------------------------------------------------


def _decode_6(cdb: bytes) -> Fields:
    return cdb[1], cdb[4], False


def _decode_10(cdb: bytes) -> Fields:
    return cdb[1], cdb[7] << 8 | cdb[8], True


ROWS: tuple[Command, ...] = (
    Command(
        "MODE SELECT (6)",
        usage="15 13 0000 ff 04",
        decode=_decode_6,
        run=handle_mode_select,
        direction=Direction.FROM_INITIATOR,
        allow=Allow.NOWHERE,
        spec="SPC-6 MODE SELECT (6) command",
        timeout_s=60,
    ),
    Command(
        "MODE SELECT (10)",
        usage="55 13 0000000000 ffff 04",
        decode=_decode_10,
        run=handle_mode_select,
        direction=Direction.FROM_INITIATOR,
        allow=Allow.NOWHERE,
        spec="SPC-6 MODE SELECT (10) command",
        timeout_s=60,
    ),
)
