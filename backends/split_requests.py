"""A request that was cut into parts: side by side to their devices, and one answer when all have come."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from backends.regions import Region
from scsi.volume import Buffer, Deallocation, Done, Fault, ReadDone, VolumeError

# When several parts of a request fail: the first of these is reported. What a host may just try again comes last, since
# it is no use while another part fails for good.
SEVERITY: dict[Fault, int] = {
    fault: place
    for place, fault in enumerate(
        (
            Fault.NOT_MIRRORED,
            Fault.HARDWARE,
            Fault.WRITE_ERROR,
            Fault.READ_ERROR,
            Fault.NO_SPACE,
            Fault.WRITE_PROTECTED,
            Fault.RESERVATION_CONFLICT,
            Fault.BLOCKED,
            Fault.TIMED_OUT,
            Fault.LINK_LOST,
            Fault.BECOMING_READY,
            Fault.BUSY,
        )
    )
}


class Part(NamedTuple):
    """A part of a request: its region, its first block in the virtual device, its length."""

    region: Region
    first: int
    blocks: int


class Joined:
    """Completes a request when all of its parts have, with the error that tells most."""

    __slots__ = ("_done", "_error", "_left")

    def __init__(self, parts: int, done: Done) -> None:
        self._left = parts
        self._done = done
        self._error: VolumeError | None = None

    def part_done(self, error: VolumeError | None) -> None:
        if error is not None and (self._error is None or SEVERITY[error.fault] < SEVERITY[self._error.fault]):
            self._error = error
        self._left -= 1
        if not self._left:
            self._done(self._error)


class SplitRead:
    """A read over several regions: the parts are read side by side, and joined in order."""

    __slots__ = ("_data", "_done", "_joined", "_parts")

    def __init__(self, parts: list[Part], done: ReadDone) -> None:
        self._parts = parts
        self._done = done
        self._data: list[Buffer] = [b""] * len(parts)
        self._joined = Joined(len(parts), self._finish)

    def start(self) -> None:
        for index, (region, first, count) in enumerate(self._parts):
            shift = region.device_lba - region.first_lba
            region.device.read(first + shift, count, shifted_read(self._part(index), shift))

    def _part(self, index: int) -> ReadDone:
        def part_done(result: Buffer | VolumeError) -> None:
            if isinstance(result, VolumeError):
                self._joined.part_done(result)
            else:
                self._data[index] = result
                self._joined.part_done(None)

        return part_done

    def _finish(self, error: VolumeError | None) -> None:
        self._done(b"".join(self._data) if error is None else error)


def shifted_read(done: Callable[[Any], None], shift: int) -> Callable[[Any], None]:
    """Give a completion for a device that numbers blocks of errors as the host does, and passes on whatever else is."""
    if not shift:
        return done

    def device_done(result: object) -> None:
        done(_renumbered(result, shift) if isinstance(result, VolumeError) else result)

    return device_done


def shifted(done: Done, shift: int) -> Done:
    """As `shifted_read`, for writes."""
    if not shift:
        return done

    def device_done(error: VolumeError | None) -> None:
        done(error and _renumbered(error, shift))

    return device_done


def _renumbered(error: VolumeError, shift: int) -> VolumeError:
    return error if error.lba is None else VolumeError(error.fault, error.detail, error.lba - shift)


def common_deallocation(parts: Iterable[tuple[Deallocation | None, int]]) -> Deallocation | None:
    """Say in what pieces a whole gives storage back whose parts do, or do not.

    Args:
        parts: of each part the same, and how far its blocks are shifted: its numbers less those of the whole.

    The largest pieces count. Where they begin is a hint to hosts, and of parts that do not agree there is none.
    """
    able = [(pieces, shift) for pieces, shift in parts if pieces is not None]
    if not able:
        return None
    granularity = max(pieces.granularity_blocks for pieces, _ in able)
    starts = {(pieces.first_lba - shift) % granularity for pieces, shift in able}
    return Deallocation(granularity, starts.pop() if len(starts) == 1 else 0)
