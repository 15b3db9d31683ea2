"""The mode pages of a logical unit: what each says, and which of its bits a host may change.

What can be changed is three bits, kept as `ModeParameters`: once for what is in force and once for what is saved.
Everything else in the pages is constant. A page encodes parameters and decodes them again, and its mask of changeable
bits is what MODE SENSE reports and MODE SELECT goes by.

Spec: SPC-6 "Mode parameters"; SBC-4 "Mode parameters for direct access block devices".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from scsi.saved_parameters import Document

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit


class ModeParameters(NamedTuple):
    """What hosts can change of a logical unit.

    Attributes:
        write_cache: WCE. False: every write is stable before its GOOD. True: as the volume has it.
        descriptor_sense: D_SENSE, the format of sense data.
        software_write_protect: SWP, every write is refused.
    """

    write_cache: bool = True
    descriptor_sense: bool = False
    software_write_protect: bool = False


DEFAULTS = ModeParameters()

KIND: Final = "mode_parameters"  # of `SavedParameters`


def decode_saved(document: Document | None) -> ModeParameters:
    """Give the parameters as they were saved; the defaults when none were.

    Raises:
        ValueError: they are none of ours.
    """
    if document is None:
        return DEFAULTS
    if set(document) != set(DEFAULTS._fields) or not all(isinstance(value, bool) for value in document.values()):
        raise ValueError(f"{KIND}: {document!r}")
    return ModeParameters(**document)


_WCE = 0x04
_D_SENSE, _SWP = 0x04, 0x08
_UNRESTRICTED_REORDERING = 0x10
_IMPLICIT_ACCESS_CHANGES = 0x01
_REPORT_ON_REQUEST = 0x06

Encode = Callable[["LogicalUnit", ModeParameters], bytes]
Decode = Callable[[ModeParameters, bytes], ModeParameters]


class ModePage(NamedTuple):
    """One mode page or subpage, without its header.

    Attributes:
        code, subpage: subpage 0 is a page without subpage format.
        body_bytes: how long it is.
        encode: gives the first bytes of its body, the rest being zero.
        changeable: the same, of a mask of the bits that may be changed.
        decode: gives parameters that differ from others in what the body says.
    """

    code: int
    subpage: int
    body_bytes: int
    encode: Encode
    changeable: Callable[[LogicalUnit], bytes] = lambda _unit: b""
    decode: Decode = lambda parameters, _body: parameters

    @property
    def savable(self) -> bool:
        """PS: it has something that can be saved."""
        return self.code in _SAVABLE and not self.subpage

    def body(self, unit: LogicalUnit, parameters: ModeParameters) -> bytes:
        """Give the page as it is with these parameters."""
        return self.encode(unit, parameters).ljust(self.body_bytes, b"\0")

    def mask(self, unit: LogicalUnit) -> bytes:
        """Give a page with the bits set that may be changed."""
        return self.changeable(unit).ljust(self.body_bytes, b"\0")


_SAVABLE = {0x08, 0x0A}


def _constant(start: bytes) -> Encode:
    return lambda _unit, _parameters: start


def _caching(unit: LogicalUnit, parameters: ModeParameters) -> bytes:
    """Caching page; a wrong WCE loses data: a host flushes only what it believes to be in a cache."""
    return bytes((_WCE if parameters.write_cache and unit.has_write_cache else 0,))


def _caching_changeable(unit: LogicalUnit) -> bytes:
    return bytes((_WCE if unit.has_write_cache else 0,))


def _decode_caching(parameters: ModeParameters, body: bytes) -> ModeParameters:
    return parameters._replace(write_cache=bool(body[0] & _WCE))


def _control(_unit: LogicalUnit, parameters: ModeParameters) -> bytes:
    """Control page: one task set for all nexuses, SIMPLE tasks in any order, aborted tasks without TASK ABORTED."""
    return bytes(
        (
            _D_SENSE if parameters.descriptor_sense else 0,
            _UNRESTRICTED_REORDERING,
            _SWP if parameters.software_write_protect else 0,
        )
    )


def _decode_control(parameters: ModeParameters, body: bytes) -> ModeParameters:
    return parameters._replace(descriptor_sense=bool(body[0] & _D_SENSE), software_write_protect=bool(body[2] & _SWP))


# Read-write error recovery and disconnect-reconnect: nothing to choose, no limits of bursts beyond those of the login.
# Power condition: no timer ever runs. Informational exceptions: those there are (none) would be told by REQUEST SENSE.
PAGES: tuple[ModePage, ...] = (
    ModePage(0x01, 0x00, 10, _constant(b"")),
    ModePage(0x02, 0x00, 14, _constant(b"")),
    ModePage(0x08, 0x00, 18, _caching, _caching_changeable, _decode_caching),
    ModePage(0x0A, 0x00, 10, _control, lambda _unit: bytes((_D_SENSE, 0, _SWP)), _decode_control),
    ModePage(0x0A, 0x01, 28, _constant(bytes((_IMPLICIT_ACCESS_CHANGES,)))),
    ModePage(0x1A, 0x00, 38, _constant(b"")),
    ModePage(0x1C, 0x00, 10, _constant(bytes((0, _REPORT_ON_REQUEST)))),
)
