"""What the vendor array commands need from below: one method per service action.

`scsi.array_server` has checked the CDB, the reserved bits, the lengths, the reservations of the addressed LU and
the host's right to send ARRAY OUT before it calls here. Everything that needs to know virtual devices, pairs or
acquisitions is checked behind this interface.

Each method is given `asker`, the I_T nexus that sent the command: the host is `asker.initiator_name`, and its LUN map
bounds every id in the command. An id outside that map is answered exactly as one that does not exist.

Spec: annex vendor-specific SCSI commands, version 1, "Ids" and "Who may".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from scsi.array_commands import (
    Acquire,
    AcquisitionRow,
    ArrayOut,
    Capabilities,
    PairCreate,
    PairRow,
    RegionRow,
    VirtualDeviceRow,
)
from scsi.errors import ScsiError, StatusError
from scsi.nexus import Nexus
from scsi.volume import Buffer

Refusal = ScsiError | StatusError
CommandDone = Callable[[Refusal | None], None]


class Transferred(NamedTuple):
    """Data of one TRANSFER.

    Attributes:
        data: whole blocks; empty when the allocation length is below one block.
        status_was_good: to be called once the GOOD status of the command has been sent, and only then, with the
            bytes of data that went with it: it counts their blocks as handed over, and may end the acquisition.
    """

    data: Buffer
    status_was_good: Callable[[int], None]


class ArrayServices(Protocol):
    """The services behind ARRAY IN and ARRAY OUT.

    The reports and `transfer` answer at once, and raise `ScsiError` or `StatusError` for a refusal. The commands of
    ARRAY OUT never raise: they call `done` exactly once, with None or with the refusal, possibly before they return.
    """

    def capabilities(self, asker: Nexus) -> Capabilities: ...

    def virtual_devices(self, asker: Nexus) -> list[VirtualDeviceRow]: ...

    def regions(self, asker: Nexus, vdev_number: int) -> list[RegionRow]: ...

    def pairs(self, asker: Nexus, pair_number: int) -> list[PairRow]:
        """List one pair, or with number 0 all pairs that have at least one LU in the asker's map."""

    def acquisitions(self, asker: Nexus) -> list[AcquisitionRow]: ...

    def transfer(self, asker: Nexus, identifier: int, first_block: int, allocation_bytes: int) -> Transferred: ...

    def pair_create(self, asker: Nexus, addressed_naa: bytes, parameters: PairCreate, done: CommandDone) -> None:
        """Form a pair with the LU that the command was sent to as its primary."""

    def pair_command(
        self, asker: Nexus, addressed_naa: bytes, action: ArrayOut, pair_number: int, flags: int, done: CommandDone
    ) -> None:
        """SPLIT, RESYNC, DELETE, TAKEOVER or VERIFY of a pair by its number, 0 for the pair of the addressed LU."""

    def acquire(
        self, asker: Nexus, identifier: int, parameters: Acquire, *, immediate: bool, done: CommandDone
    ) -> None:
        """Begin an acquisition; `done` when it is accepted (`immediate`) or when its data is ready."""

    def end_acquisition(self, asker: Nexus, identifier: int, done: CommandDone) -> None:
        """Drop the data and the fence; `done` after the array answered the release or its session is gone."""
