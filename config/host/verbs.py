"""What each word of annexhost's command line does, but for pairs and acquisitions, which have modules of their own."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from config.host.address import Address, DiskAddress, decode_lun, parse_address, parse_naa
from config.host.array import Array
from config.host.errors import Refused, Usage
from config.host.presentation import (
    Answer,
    describe_acquisitions,
    describe_capabilities,
    describe_regions,
    describe_virtual_devices,
)
from config.host.terminal import Terminal
from scsi.array_commands import VirtualDeviceRow

POLL_INTERVAL_S = 0.25


@dataclass(frozen=True)
class Run:
    """One run of annexhost: what was asked, and all that it may touch.

    Attributes:
        options: the parsed command line.
        terminal: where answers and notes go.
        open_array: opens the logical unit at an address; the session ends with the context.
        sleep: waits, in seconds, between two looks at something that takes time.
        now: monotonic seconds.
    """

    options: argparse.Namespace
    terminal: Terminal
    open_array: Callable[[Address], AbstractContextManager[Array]]
    sleep: Callable[[float], None]
    now: Callable[[], float] = time.monotonic

    @contextmanager
    def array(self) -> Iterator[Array]:
        """Open the logical unit that the command line names."""
        with self.open_array(parse_address(self.options.lu)) as array:
            yield array

    def is_own_session(self) -> bool:
        """Tell whether the session to the array is annexhost's own, and ends with it."""
        return not isinstance(parse_address(self.options.lu), DiskAddress)


Verb = Callable[[Run], Answer | None]


def show_capabilities(run: Run) -> Answer:
    """`annexhost capabilities`."""
    with run.array() as array:
        return describe_capabilities(array.capabilities())


def show_virtual_devices(run: Run) -> Answer:
    """`annexhost vdevs`."""
    with run.array() as array:
        return describe_virtual_devices(array.virtual_devices())


def show_regions(run: Run) -> Answer:
    """`annexhost regions`; without a number, those of the virtual device under the addressed logical unit."""
    with run.array() as array:
        number = run.options.vdev
        if number is None:
            number = find_virtual_device(array, array.own_naa()).number
        return describe_regions(array.regions(number))


def show_acquisitions(run: Run) -> Answer:
    """`annexhost acquisitions`."""
    with run.array() as array:
        return describe_acquisitions(array.acquisitions())


def find_virtual_device(array: Array, naa: bytes) -> VirtualDeviceRow:
    """Find a virtual device in the report.

    Raises:
        Refused: this host is not shown one with that id.
    """
    for row in array.virtual_devices():
        if row.naa == naa:
            return row
    raise Refused(f"the array shows this host no virtual device with the id {naa.hex()}", 0)


def resolve_naa(run: Run, array: Array, text: str) -> bytes:
    """Turn an NAA id, a LUN of the same target, or the address of a logical unit into an NAA id.

    Raises:
        Usage: it is none of these.
        Refused: no virtual device is at that LUN.
    """
    naa = parse_naa(text)
    if naa is not None:
        return naa
    if text.isascii() and text.isdigit():
        for row in array.virtual_devices():
            if decode_lun(row.lun) == int(text):
                return row.naa
        raise Refused(f"the array shows this host no virtual device at LUN {text}", 0)
    if text.startswith(("iscsi://", "/dev/")):
        with run.open_array(parse_address(text)) as other:
            return other.own_naa()
    raise Usage(f"{text[:80]!r} is neither an NAA id of 32 digits, nor a LUN, nor an address")
