"""A volume in memory whose writes go through gates, as those of a virtual device do."""

from __future__ import annotations

from functools import partial
from typing import Any

from scsi.volume import Buffer, Done
from tests.support.memory_volume import MemoryVolume


class GatedMemoryVolume(MemoryVolume):
    """`MemoryVolume` with `add_gate` and `remove_gate`."""

    def __init__(self, blocks: int = 2048, block_bytes: int = 512) -> None:
        super().__init__(blocks, block_bytes)
        self.gates: list[Any] = []

    def add_gate(self, gate: Any) -> None:
        self.gates.append(gate)

    def remove_gate(self, gate: Any) -> None:
        self.gates.remove(gate)

    def write(self, lba: int, data: Buffer, fua: bool, done: Done) -> None:
        self._pass(list(self.gates), lba, bytes(data), fua, done)

    def _pass(self, gates: list[Any], lba: int, data: bytes, fua: bool, done: Done) -> None:
        for index, gate in enumerate(gates):
            rest = gates[index + 1 :]
            if not gate.admit(lba, len(data) // self.block_bytes, partial(self._pass, rest, lba, data, fua, done)):
                return
        super().write(lba, data, fua, done)
