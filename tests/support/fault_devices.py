"""Virtual devices that fail, in an annexd under `tests.support.fault_points`: what its file can name besides points.

| in the file | what becomes of it |
|---|---|
| `torn leg N COUNT` | from the COUNT-th write of the pair to leg N on: half of it is written, then annexd dies |
| `dead leg N COUNT` | the same, but only the leg dies: each write is half done and fails, while the file is there |
| `torn COUNT` | as the first, of writes that are not a pair's: for an annexd that is the array |
| `slow MS` | each read and write takes so much longer, however many there are; of those that are not a pair's |
| `full 0`, `locked 0` | each write fails that is not a pair's: there is no space left, or the device is read-only |
| `bad reads LBA`, `bad writes LBA` | what touches the block, and is not a pair's write, fails with a medium error |
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.support.fault_points import Fault, around, die

BLOCK_BYTES = 512


def install(fault: Fault) -> None:
    """Put the wrappers in place."""
    from backends.pairs.mirror import MirroredWrite
    from backends.virtual_device import VirtualDevice
    from scsi.volume import Fault as Why
    from scsi.volume import VolumeError

    refusals = {"full": Why.NO_SPACE, "locked": Why.WRITE_PROTECTED}

    def write(original: Callable[..., None]) -> Callable[..., None]:
        def wrapper(device: VirtualDevice, lba: int, data: Any, fua: bool, done: Callable[[Any], None]) -> None:
            mirrored = isinstance(getattr(done, "__self__", None), MirroredWrite)
            leg = device.number - 1
            half = memoryview(data)[: len(data) // BLOCK_BYTES // 2 * BLOCK_BYTES]
            if half and fault.wanted(f"torn leg {leg}" if mirrored else "torn"):
                original(device, lba, half, fua, lambda _error: die())
            elif half and mirrored and fault.wanted(f"dead leg {leg}"):
                original(device, lba, half, fua, lambda _error: done(VolumeError(Why.HARDWARE, "the leg is dead")))
            elif not mirrored and _touches(fault, "bad writes", lba, len(data) // BLOCK_BYTES):
                done(VolumeError(Why.WRITE_ERROR, "a bad block"))
            elif not mirrored and (chosen := fault.chosen()) is not None and chosen[0] in refusals:
                done(VolumeError(refusals[chosen[0]], "as chosen"))
            elif not mirrored and (delay_s := _delay_s(fault)):
                asyncio.get_running_loop().call_later(delay_s, original, device, lba, data, fua, done)
            else:
                original(device, lba, data, fua, done)

        return wrapper

    def refresh(original: Callable[..., None]) -> Callable[..., None]:
        def wrapper(device: VirtualDevice) -> None:
            original(device)
            undisturbed = device.read

            def read(lba: int, blocks: int, done: Callable[[Any], None]) -> None:
                if _touches(fault, "bad reads", lba, blocks):
                    done(VolumeError(Why.READ_ERROR, "a bad block"))
                elif delay_s := _delay_s(fault):
                    asyncio.get_running_loop().call_later(delay_s, undisturbed, lba, blocks, done)
                else:
                    undisturbed(lba, blocks, done)

            device.read = read

        return wrapper

    around(VirtualDevice, "write", write)
    around(VirtualDevice, "refresh", refresh)


def _delay_s(fault: Fault) -> float:
    chosen = fault.chosen()
    return chosen[1] / 1000 if chosen is not None and chosen[0] == "slow" else 0.0


def _touches(fault: Fault, name: str, lba: int, blocks: int) -> bool:
    chosen = fault.chosen()
    return chosen is not None and chosen[0] == name and lba <= chosen[1] < lba + blocks
