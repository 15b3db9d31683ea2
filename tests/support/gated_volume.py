"""A volume in memory whose writes go through gates, as those of a virtual device do."""

from __future__ import annotations

from collections.abc import Callable
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
        write = partial(super().write, lba, bytes(data), fua, done)
        self._pass(list(self.gates), lba, len(data) // self.block_bytes, write)

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        self._pass(list(self.gates), lba, blocks, partial(super().unmap, lba, blocks, done))

    def _pass(self, gates: list[Any], lba: int, blocks: int, go: Callable[[], None]) -> None:
        for index, gate in enumerate(gates):
            rest = gates[index + 1 :]
            if not gate.admit(lba, blocks, partial(self._pass, rest, lba, blocks, go)):
                return
        go()
