"""An external array: its life, and that of its logical units.

How this works.

    defined → connecting → ready ⇄ blocked → removed

Each time the path comes up the array is asked for its LUs (REPORT LUNS) and who each of them is (INQUIRY, VPD 83, else
the serial number). A unit that the mapping table knows is then looked for by its id:

    at its recorded LUN, or at another one           that is where it is now
    nowhere, and another LU at its recorded LUN      blocked: it is never used in place of the other
    nowhere                                          blocked, until the array says that its LUs changed

and brought up: LOGICAL UNIT RESET where something of an older session may still be about (pairs.md F13, fences), unit
attentions consumed, size compared with the recorded one, cache and limits asked, the steps of `before_ready`, READY.
Units come up side by side; one that is stuck keeps no other.

A unit in doubt (the array says that its LUs changed) is asked at once, by itself, who it is: what hosts send to it
waits for the answer.

The path tries again by itself for ever; so does a unit that is not ready yet, and what is blocked is looked at again
from time to time, so that whatever the admin repairs at the array needs no second step here.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Generator
from typing import Any

from backends.devices.state import DeviceState
from backends.external.claim import Fences
from backends.external.dialogue import Dialogue, Script, Step, pause
from backends.external.path import Answer, ArrayPath
from backends.external.replies import (
    DISK,
    IDENTIFICATION_PAGE,
    INQUIRY,
    INQUIRY_BYTES,
    REPORT_LUNS,
    REPORT_LUNS_BYTES,
    SERIAL_NUMBER_PAGE,
    VPD_BYTES,
    Inquiry,
    choose_identifier,
    decode_inquiry,
    decode_report_luns,
    decode_serial_number,
    encode_vpd_inquiry,
)
from backends.external.setup import ask, bring_up, check_capacity
from backends.external.unit import COMMAND_TIMEOUT_S, ExternalLogicalUnit
from backends.scheduler import Scheduler, Timer
from scsi.volume import Buffer, Fault, VolumeError

SETTLE_S = 0.2  # between a hint that something changed and the look at it: hints come in flocks
ASK_AGAIN_S = 2.0  # a LU that did not answer
LOOK_SOON_S = 1.0  # at what is blocked: an array that just started may get its LUs only now; each time twice as late
LOOK_AGAIN_S = 30.0  # at what has been blocked for long
log = logging.getLogger(__name__)

Found = dict[bytes, tuple[bytes, Inquiry, ExternalLogicalUnit]]


class ArrayState(enum.Enum):
    """Where an array stands."""

    DEFINED = "defined"
    CONNECTING = "connecting"
    READY = "ready"
    BLOCKED = "blocked"  # it refuses annex; tried again all the same
    REMOVED = "removed"


class ExternalArray:
    """One external array.

    Attributes:
        name: in the configuration; with a LU's id it is that LU's identity.
        state: where it stands.
        reason: why it is not READY, "" when it is.
    """

    def __init__(
        self,
        name: str,
        path: ArrayPath,
        scheduler: Scheduler,
        fences: Fences,
        command_timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> None:
        """Define it; nothing is sent before `start`.

        Args:
            name: see the attribute.
            path: the connection; the array starts and closes it.
            scheduler: for pauses.
            fences: takes the fences of its LUs.
            command_timeout_s: after this a command is aborted.
        """
        self.name = name
        self.state = ArrayState.DEFINED
        self.reason = "not started"
        self._path = path
        self._scheduler = scheduler
        self._fences = fences
        self._command_timeout_s = command_timeout_s
        self._units: list[ExternalLogicalUnit] = []
        self._discovery: Dialogue | None = None
        self._setups: dict[ExternalLogicalUnit, Dialogue] = {}
        self._doubts: dict[ExternalLogicalUnit, Dialogue] = {}
        self._unsettled: set[ExternalLogicalUnit] = set()
        self._settled_calls: list[Callable[[], None]] = []
        self._settled = False
        self._up = False
        self._again: Timer | None = None
        self._again_due = 0.0
        self._blocked_delay_s = LOOK_SOON_S

    # --- For the daemon and the mapping table ---

    def expect(
        self, lun: bytes, identifier: bytes = b"", blocks: int = 0, block_bytes: int = 512
    ) -> ExternalLogicalUnit:
        """Return the unit that the mapping table records; there is one object for one id.

        Args:
            lun: where it was, 8 raw bytes.
            identifier: its id; b"" takes whatever LU answers there at first contact.
            blocks: its recorded size, 0 when it is not known: then the size found first counts.
            block_bytes: its recorded block length, with `blocks`.
        """
        unit = self.find(identifier) if identifier else self.at(lun)
        if unit is None and identifier:
            unit = next((other for other in self._units if other.lun == lun and not other.id), None)
            if unit is not None:
                unit.id = identifier  # one region names the LU by its LUN alone, another one knows who was there
        if unit is None:
            unit = self._make_unit(lun, identifier)
            self._add(unit)
            if self._up:
                self._look_again(0.0)
        if blocks and not unit.blocks:
            unit.blocks, unit.block_bytes = blocks, block_bytes
        return unit

    def unexpect(self, unit: ExternalLogicalUnit) -> None:
        """Learn that the mapping table has a unit no more: when the array does not have it either, it is forgotten."""
        if unit in self._units and not unit.reachable:
            self._units.remove(unit)

    def accept_size(self, unit: ExternalLogicalUnit, blocks: int, block_bytes: int) -> None:
        """Take a size for that of a unit; what lies on it is for the caller to have checked and recorded."""
        unit.blocks, unit.block_bytes = blocks, block_bytes
        unit.other_size = None
        self._look_again(0.0)

    def identify(self, unit: ExternalLogicalUnit, identifier: bytes) -> None:
        """Give a unit that was never found the id of the LU that it is to be; b"" for any at its LUN."""
        other = self.find(identifier) if identifier else None
        if other is not None:  # found by itself, and nothing lies on it
            self._units.remove(other)
            self._unsettled.discard(other)
            if other in self._setups:
                self._setups.pop(other).cancel()
            other.set_blocked("it has another place in the configuration")
        unit.id = identifier
        if self._up:
            self._look_again(0.0)

    def set_command_timeout(self, seconds: float) -> None:
        """Abort commands after another time than before."""
        self._command_timeout_s = seconds
        for unit in self._units:
            unit.command_timeout_s = seconds

    def units(self) -> list[ExternalLogicalUnit]:
        """List all LUs that are expected or were found."""
        return list(self._units)

    def find(self, identifier: bytes) -> ExternalLogicalUnit | None:
        """Return the unit with this id."""
        return next((unit for unit in self._units if unit.id == identifier), None)

    def at(self, lun: bytes) -> ExternalLogicalUnit | None:
        """Return the unit at this LUN (the one that is usable, if two were recorded there)."""
        here = [unit for unit in self._units if unit.lun == lun]
        return min(here, key=lambda unit: unit.state, default=None)

    def start(self) -> None:
        """Begin to connect."""
        self.state = ArrayState.CONNECTING
        self.reason = "connecting"
        self._path.start(self)

    def when_settled(self, call: Callable[[], None]) -> None:
        """Call once the first attempt has come to an end: all LUs looked at and tried once, or no connection."""
        if self._settled:
            call()
        else:
            self._settled_calls.append(call)

    def close(self, done: Callable[[], None]) -> None:
        """Log out and stay so; the units are blocked from now on."""
        self.state = ArrayState.REMOVED
        self.reason = "removed"
        self._stop_dialogues()
        if self._again is not None:
            self._again.cancel()
            self._again = None
        for unit in self._units:
            unit.set_blocked("the array was removed")
        self._path.close(done)

    # --- PathListener ---

    def path_up(self) -> None:
        """Look at all LUs."""
        if self.state is ArrayState.REMOVED:
            return
        self._up = True
        self._blocked_delay_s = LOOK_SOON_S
        self._discover()

    def path_down(self, reason: str, refused: bool) -> None:
        """Take the units out of service."""
        self._up = False
        self._stop_dialogues()
        if self.state is ArrayState.REMOVED:
            return
        self.state = ArrayState.BLOCKED if refused else ArrayState.CONNECTING
        self.reason = reason
        for unit in self._units:
            if refused:
                unit.set_blocked(reason)
            else:
                unit.set_pending(reason)
        self._settle()

    # --- ArrayHooks ---

    def unit_changed(self, unit: ExternalLogicalUnit, why: str) -> None:
        """Look at all LUs again, soon."""
        log.info("%s: %s", unit.name, why, extra={"event": "external_lu_changed"})
        self._look_again(SETTLE_S)

    def unit_doubted(self, unit: ExternalLogicalUnit) -> None:
        """Ask it who it is; an answer to a question from before the doubt does not count."""
        earlier = self._doubts.pop(unit, None)
        if earlier is not None:
            earlier.cancel()
        question = Dialogue(self._doubt_script(unit), lambda: self._no_doubt(unit))
        self._doubts[unit] = question
        question.run()

    def _no_doubt(self, unit: ExternalLogicalUnit) -> None:
        self._doubts.pop(unit, None)

    def _doubt_script(self, unit: ExternalLogicalUnit) -> Script:
        identifier = yield from _identify(self._make_unit(unit.lun))
        if identifier == unit.id:
            unit.confirmed()
            return
        if unit in self._setups:
            self._setups.pop(unit).cancel()
        unit.set_pending("another LU may be at its LUN")
        self._look_again(0.0)

    # --- Discovery ---

    def _add(self, unit: ExternalLogicalUnit) -> None:
        unit.hooks = self
        unit.fences = self._fences
        self._units.append(unit)

    def _make_unit(self, lun: bytes, identifier: bytes = b"") -> ExternalLogicalUnit:
        return ExternalLogicalUnit(self.name, lun, identifier, self._path, self._scheduler, self._command_timeout_s)

    def _look_again(self, delay_s: float) -> None:
        due = self._scheduler.now() + delay_s
        if self.state is ArrayState.REMOVED or (self._again is not None and self._again_due <= due):
            return
        if self._again is not None:
            self._again.cancel()
        self._again_due = due
        self._again = self._scheduler.call_later(delay_s, self._look_now)

    def _look_now(self) -> None:
        self._again = None
        if not self._up:
            return
        if self._discovery is not None:
            self._look_again(SETTLE_S)
        else:
            self._blocked_delay_s = min(2 * self._blocked_delay_s, LOOK_AGAIN_S)
            self._discover()

    def _discover(self) -> None:
        if self._discovery is not None:
            self._discovery.cancel()
        self._discovery = Dialogue(self._discovery_script(), self._discovered)
        self._discovery.run()

    def _stop_dialogues(self) -> None:
        if self._discovery is not None:
            self._discovery.cancel()
            self._discovery = None
        for dialogues in (self._setups, self._doubts):
            for dialogue in dialogues.values():
                dialogue.cancel()
            dialogues.clear()

    def _discovery_script(self) -> Script:
        """Find out which LUs there are, and who they are; then bring up those that are not, and check the others."""
        luns = yield from self._report_luns()
        # An array that does not list its LUs, or not all, is asked for those that are expected.
        luns += [unit.lun for unit in self._units if unit.lun not in luns]
        found: Found = {}
        silent: dict[bytes, VolumeError] = {}
        for lun in luns:
            probe = self._make_unit(lun)
            inquiry = yield from _inquire(probe)
            if isinstance(inquiry, VolumeError):
                silent[lun] = inquiry
            elif inquiry is not None and inquiry.device_type == DISK and inquiry.connected:
                identifier = yield from _identify(probe)
                if isinstance(identifier, VolumeError):
                    silent[lun] = identifier
                else:
                    found[lun] = (identifier, inquiry, probe)
        for unit in self._assign(found, silent):
            if unit.state is DeviceState.READY:
                yield from check_capacity(unit)
            elif unit not in self._setups:
                self._bring_up(unit)

    def _report_luns(self) -> Generator[Step, Any, list[bytes]]:
        probe = self._make_unit(bytes(8))
        reply = yield from ask(probe, REPORT_LUNS, REPORT_LUNS_BYTES)
        yield from _unless_interrupted(reply)
        return decode_report_luns(_data(reply)) or []

    def _assign(self, found: Found, silent: dict[bytes, VolumeError]) -> list[ExternalLogicalUnit]:
        """Put units and LUs together; return the units that were found; the others are blocked, or asked again soon."""
        where: dict[bytes, bytes] = {}
        for lun, (identifier, _, _) in found.items():
            where.setdefault(identifier, lun)
        usable = []
        claimed: set[bytes] = set()
        for unit in self._units:
            reason = self._locate(unit, found, where)
            if reason and unit.lun in silent:
                unit.set_pending(f"no answer to the question who it is: {silent[unit.lun]}")
                self._look_again(ASK_AGAIN_S)
            elif reason:
                unit.set_blocked(reason)
            else:
                claimed.add(unit.lun)
                usable.append(unit)
        for lun, (identifier, inquiry, probe) in found.items():
            if lun not in claimed and self.find(identifier) is None:
                probe.id = identifier
                self._add(probe)
                if identifier:
                    usable.append(probe)
                else:
                    probe.set_blocked("the LU does not say who it is (no designator in VPD 83, no serial number)")
            here = self.at(lun)
            if here is not None:
                here.vendor, here.product, here.revision = inquiry[2:]
        return usable

    def _locate(self, unit: ExternalLogicalUnit, found: Found, where: dict[bytes, bytes]) -> str:
        """Find the LUN of a unit, or return why it has none."""
        here = found.get(unit.lun)
        if not unit.id:
            if here is None:
                return "there is no disk at this LUN"
            if self.find(here[0]) is not None:
                return f"its LU {here[0].hex()} is recorded already"
            unit.id = here[0]
            return "" if unit.id else "the LU does not say who it is (no designator in VPD 83, no serial number)"
        if here is not None and here[0] == unit.id:
            return ""
        if unit.id in where:
            log.info(
                "%s: LU %s is at %s now",
                unit.name,
                unit.id.hex(),
                where[unit.id].hex(),
                extra={"event": "external_lu_moved"},
            )
            unit.lun = where[unit.id]
            return ""
        if here is not None:
            return f"another LU is there: {here[0].hex() or 'one without id'} instead of {unit.id.hex()}"
        return f"the array has no LU {unit.id.hex()} any more"

    def _discovered(self) -> None:
        self._discovery = None
        if self.state is not ArrayState.READY:
            log.info("array %s: ready, %d LUs", self.name, len(self._units), extra={"event": "array_ready"})
        self.state = ArrayState.READY
        self.reason = ""
        if any(unit.state is DeviceState.BLOCKED for unit in self._units):
            self._look_again(self._blocked_delay_s)
        self._settle_if_all_tried()

    def _bring_up(self, unit: ExternalLogicalUnit) -> None:
        self._unsettled.add(unit)
        unit.set_pending("coming up", reachable=True)

        def tried() -> None:
            self._unsettled.discard(unit)
            self._settle_if_all_tried()

        def ended() -> None:
            self._setups.pop(unit, None)
            tried()
            if unit.state is DeviceState.BLOCKED:
                self._look_again(self._blocked_delay_s)

        setup = Dialogue(bring_up(unit, lambda seconds: pause(self._scheduler, seconds), tried), ended)
        self._setups[unit] = setup
        setup.run()

    def _settle_if_all_tried(self) -> None:
        if self._discovery is None and not self._unsettled:
            self._settle()

    def _settle(self) -> None:
        self._settled = True
        self._unsettled.clear()
        calls, self._settled_calls = self._settled_calls, []
        for call in calls:
            call()


def _inquire(probe: ExternalLogicalUnit) -> Generator[Step, Any, Inquiry | VolumeError | None]:
    reply = yield from ask(probe, INQUIRY, INQUIRY_BYTES)
    return (yield from _unless_interrupted(reply)) or decode_inquiry(_data(reply))


def _identify(probe: ExternalLogicalUnit) -> Generator[Step, Any, bytes | VolumeError]:
    """Return the id of a LU, b"" when it has none."""
    for page, decode in ((IDENTIFICATION_PAGE, choose_identifier), (SERIAL_NUMBER_PAGE, decode_serial_number)):
        reply = yield from ask(probe, encode_vpd_inquiry(page), VPD_BYTES)
        error = yield from _unless_interrupted(reply)
        if error is not None:
            return error
        identifier = decode(_data(reply))
        if identifier:
            return identifier
    return b""


def _unless_interrupted(reply: Answer | VolumeError) -> Generator[Step, Any, VolumeError | None]:
    """Return an error that says nothing about the LU; with the link gone, wait to be cancelled.

    That a LU does not know a command is an answer, not an error.
    """
    if not isinstance(reply, VolumeError) or reply.fault is Fault.HARDWARE:
        return None
    if reply.fault in {Fault.LINK_LOST, Fault.BECOMING_READY}:
        yield _wait_for_the_end
    return reply


def _wait_for_the_end(done: Callable[[Any], None]) -> None:
    """Never go on: `path_down` is about to cancel the script."""


def _data(reply: Answer | VolumeError) -> Buffer:
    return b"" if isinstance(reply, VolumeError) else reply.data_in
