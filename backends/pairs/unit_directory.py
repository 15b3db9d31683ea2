"""What the pair engine needs of the logical units: to find one, to look under it, and to put a pair in between.

The daemon owns the logical units and knows the access control lists; `UnitDirectory` is how it lends them to the pairs.
The Protocols name exactly the part of `scsi.logical_unit.LogicalUnit` and `backends.virtual_device.VirtualDevice`
that pairs use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from backends.devices.state import DeviceState
from backends.external.unit import ExternalLogicalUnit
from scsi.nexus import Nexus
from scsi.volume import Volume


class PairedReservations(Protocol):
    """The reservation on one logical unit, as far as pair creation asks."""

    @property
    def holder(self) -> Nexus | None: ...


class PairedLogicalUnit(Protocol):
    """A logical unit whose volume can be exchanged while hosts use it."""

    volume: Volume

    @property
    def naa(self) -> bytes: ...
    @property
    def reservations(self) -> PairedReservations: ...

    def establish_unit_attention(self, asc: int, ascq: int, but: Nexus | None = None) -> None:
        """Make a unit attention pending for every nexus of the unit except `but`."""

    def tell_write_protection(self) -> None:
        """Tell the hosts if the volume has become write-protected, or has ceased to be."""

    def drain(self, done: Callable[[], None]) -> None:
        """Hold commands that come from now on; call back once those already running on the volume have ended."""

    def resume(self) -> None:
        """Let the held commands run."""


class PairedDevice(Volume, Protocol):
    """The virtual device under a logical unit."""

    @property
    def number(self) -> int: ...
    @property
    def naa(self) -> bytes: ...
    @property
    def state(self) -> DeviceState: ...

    def external_units(self) -> Sequence[ExternalLogicalUnit]:
        """List the external LUs that hold any of its blocks, each once."""

    def listen(self, callback: Callable[[Any], None]) -> None:
        """Call back, with the device, after each change of `state`."""

    def forget_failed_flush(self) -> None:
        """Let flushes work again after a failed one: everything it may have lost is copied again."""

    # Any: an implementation compares with its own kind only, and there is one kind in a daemon.
    def shares_storage_with(self, other: Any) -> bool:
        """Tell whether a write to one could change what is read from the other."""


class Unit(Protocol):
    """A logical unit and the virtual device that it sits on."""

    @property
    def logical_unit(self) -> PairedLogicalUnit: ...
    @property
    def virtual_device(self) -> PairedDevice: ...


class UnitDirectory(Protocol):
    """All logical units of the daemon."""

    def unit(self, naa: bytes) -> Unit | None:
        """Find the unit with this 16-byte NAA id."""

    def units(self) -> Iterable[Unit]:
        """List every unit."""

    def read_write_hosts(self, naa: bytes) -> frozenset[str]:
        """Name the hosts (InitiatorNames) to which an explicit ACL maps the unit read-write.

        Mappings given without an ACL do not count (vendor-commands.md, 05/80/05).
        """

    def traffic(self, naas: Sequence[bytes]) -> Callable[[], int]:
        """Give what counts the reads and writes of hosts on these units, and on all others on the same devices."""
