"""What is done with an external LU between "found" and READY, and how it is checked while it is READY.

A script (see `dialogue`) that ends with the unit READY or blocked; what passes by itself is waited for. It is
cancelled when the link goes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from backends.external.dialogue import Script, Step
from backends.external.path import Answer
from backends.external.provisioning import WRITE_SAME_10, WRITE_SAME_16, judge
from backends.external.replies import (
    BLOCK_LIMITS_PAGE,
    MODE_SENSE_6,
    MODE_SENSE_10,
    MODE_SENSE_BYTES,
    PROVISIONING_PAGE,
    READ_CAPACITY_10,
    READ_CAPACITY_10_BYTES,
    READ_CAPACITY_16,
    READ_CAPACITY_16_BYTES,
    SUPPORTED_BYTES,
    TEST_UNIT_READY,
    VPD_BYTES,
    BlockLimits,
    Caching,
    Capacity,
    decode_block_limits,
    decode_caching_6,
    decode_caching_10,
    decode_is_supported,
    decode_provisioning,
    decode_read_capacity_10,
    decode_read_capacity_16,
    encode_is_supported,
    encode_vpd_inquiry,
)
from backends.external.unit import RELEASE_6, ExternalLogicalUnit
from scsi.volume import Fault, VolumeError

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
Pause = Callable[[float], Step]
Asking = Generator[Step, Any, Answer | VolumeError]


def bring_up(unit: ExternalLogicalUnit, pause: Pause, tried: Callable[[], None]) -> Script:
    """Make a unit READY, or block it.

    Args:
        unit: found, checked to be the right LU, and reachable.
        pause: makes a step that waits for so many seconds.
        tried: called when a first attempt ended in waiting.
    """
    pause_s = FIRST_PAUSE_S
    while True:
        obstacle = yield from _attempt(unit)
        if obstacle is None:
            return
        unit.set_pending(obstacle, reachable=True)
        tried()
        yield pause(pause_s)
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


def _attempt(unit: ExternalLogicalUnit) -> Generator[Step, Any, str | None]:
    """Go all the way once; return what is in the way, or None when there is nothing more to be done."""
    error = yield from _reset_if_needed(unit)
    if error is not None:
        return str(error)
    reply = yield from ask(unit, TEST_UNIT_READY, 0)
    # A reservation of another initiator does not make a LU unready: it is passed on to whoever reads and writes.
    if isinstance(reply, VolumeError) and reply.fault is not Fault.RESERVATION_CONFLICT:
        return reply.detail or str(reply)
    capacity = yield from _ask_capacity(unit)
    if isinstance(capacity, VolumeError):
        if capacity.fault is not Fault.RESERVATION_CONFLICT or not unit.blocks:
            return f"capacity not known: {capacity}"
    elif not take_capacity(unit, capacity):
        return None
    yield from _ask_caching(unit)
    yield from _ask_limits(unit, thin=isinstance(capacity, Capacity) and capacity.thin)
    yield from _ask_reservations(unit)
    for step in tuple(unit.before_ready):
        error = yield step
        if error is not None:
            return str(error)
    if unit.reset_needed:  # asked for in the meantime
        return "to be reset"
    unit.set_ready()
    return None


def _reset_if_needed(unit: ExternalLogicalUnit) -> Generator[Step, Any, VolumeError | None]:
    """Rid the LU of what an older session may have left: queued commands, a reservation."""
    while unit.reset_needed:
        unit.reset_needed = False
        error: VolumeError | None = yield unit.reset
        if error is not None:
            unit.reset_needed = True
            return error
    return None


def check_capacity(unit: ExternalLogicalUnit) -> Script:
    """Ask a READY unit for its size and its cache again; block it when the size is another one."""
    capacity = yield from _ask_capacity(unit)
    if not isinstance(capacity, VolumeError) and take_capacity(unit, capacity):
        yield from _ask_caching(unit)


def take_capacity(unit: ExternalLogicalUnit, capacity: Capacity | None) -> bool:
    """Compare with the recorded size, or record it; False when the unit is blocked because of it."""
    if capacity is None:
        unit.set_blocked("its capacity or block length is none that annex can use")
        return False
    if not unit.blocks:
        unit.blocks, unit.block_bytes = capacity.blocks, capacity.block_bytes
    elif (unit.blocks, unit.block_bytes) != capacity[:2]:
        unit.other_size = capacity[:2]
        unit.set_blocked(
            f"its size changed: {unit.blocks} blocks of {unit.block_bytes} bytes are recorded, "
            f"{capacity.blocks} of {capacity.block_bytes} are there; if that is meant: "
            f"annexcli /arrays/{unit.array_name} accept_size {unit.lun_number}"
        )
        return False
    unit.other_size = None
    unit.physical_block_exponent = capacity.physical_block_exponent
    return True


def ask(unit: ExternalLogicalUnit, cdb: bytes, data_in_bytes: int) -> Asking:
    """Send a command that asks for something, and return the answer."""
    reply: Answer | VolumeError = yield lambda done: unit.command(cdb, data_in_bytes, done)
    return reply


def _ask_capacity(unit: ExternalLogicalUnit) -> Generator[Step, Any, Capacity | VolumeError | None]:
    reply = yield from ask(unit, READ_CAPACITY_16, READ_CAPACITY_16_BYTES)
    if not isinstance(reply, VolumeError):
        return decode_read_capacity_16(reply.data_in)
    if reply.fault is not Fault.HARDWARE:  # HARDWARE: the array does not know the command
        return reply
    reply = yield from ask(unit, READ_CAPACITY_10, READ_CAPACITY_10_BYTES)
    return reply if isinstance(reply, VolumeError) else decode_read_capacity_10(reply.data_in)


def _ask_caching(unit: ExternalLogicalUnit) -> Generator[Step, Any, None]:
    """Find out about the cache; an array that does not say has one, and no FUA bit."""
    caching: Caching | None = None
    for cdb, decode in ((MODE_SENSE_6, decode_caching_6), (MODE_SENSE_10, decode_caching_10)):
        reply = yield from ask(unit, cdb, MODE_SENSE_BYTES)
        caching = None if isinstance(reply, VolumeError) else decode(reply.data_in)
        if caching is not None:
            break
    known = caching is not None and caching.write_cache is not None
    unit.cache_known = known
    unit.write_cache = caching.write_cache is not False if caching else True
    unit.force_unit_access = bool(caching and caching.force_unit_access)
    unit.read_only = bool(caching and caching.write_protected)


def _ask_reservations(unit: ExternalLogicalUnit) -> Generator[Step, Any, None]:
    """Find out whether the LU can be reserved; once it has been answered it is not asked again.

    By RELEASE, which changes nothing: annex has not reserved the LU yet in this session, and others' reservations are
    not its to release. A RESERVE would fail commands of other initiators.
    """
    if not unit.reservations_known:
        reply = yield from ask(unit, RELEASE_6, 0)
        fault = reply.fault if isinstance(reply, VolumeError) else None
        unit.claimable = fault is not Fault.HARDWARE  # HARDWARE: the array does not know the command
        unit.reservations_known = fault in {None, Fault.HARDWARE, Fault.RESERVATION_CONFLICT}


def _ask_limits(unit: ExternalLogicalUnit, *, thin: bool) -> Generator[Step, Any, None]:
    """Find out how much one command may carry, and how blocks are unmapped; what an array does not say it has not."""
    reply = yield from ask(unit, encode_vpd_inquiry(BLOCK_LIMITS_PAGE), VPD_BYTES)
    limits = BlockLimits() if isinstance(reply, VolumeError) else decode_block_limits(reply.data_in)
    unit.max_transfer_blocks = limits.max_transfer_blocks
    provisioning = None
    if thin:
        reply = yield from ask(unit, encode_vpd_inquiry(PROVISIONING_PAGE), VPD_BYTES)
        provisioning = None if isinstance(reply, VolumeError) else decode_provisioning(reply.data_in)
    known = set()
    for code in (WRITE_SAME_16, WRITE_SAME_10):
        reply = yield from ask(unit, encode_is_supported(code), SUPPORTED_BYTES)
        if not isinstance(reply, VolumeError) and decode_is_supported(reply.data_in):
            known.add(code)
            break
    unit.provisioning = judge(limits, provisioning, frozenset(known), unit.blocks)
