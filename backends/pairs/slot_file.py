"""One small record that survives a crash at any step of changing it, and any damage to one of its two copies.

How this works: the file has two slots. A change is written to one slot and synced, then to the other and synced, and
only then does anyone act on it. So at every moment one slot is whole: if the newer one is torn, nobody acted on it yet,
and the older one is right; if a slot is damaged later, the other holds the same. (With one sync per change, taking
turns, a damaged newer slot would bring back a state that was left on purpose, such as the wrong leg as current.) A
slot is

    0-7 magic · 8-15 generation · 16-19 length of the payload · 20-23 CRC32C of everything but these four bytes · 24…
    payload (JSON)
"""

from __future__ import annotations

import json
import struct
from typing import Any, NamedTuple

from crc32c import crc32c

from backends.pairs.stable_file import StableFile

SLOT_BYTES = 4096
_MAGIC = b"annexslt"
_HEADER = struct.Struct("<8sQII")


class DamagedError(Exception):
    """Neither slot of a file can be read."""


class Slot(NamedTuple):
    """One valid slot."""

    generation: int
    payload: dict[str, Any]


class SlotFile:
    """A record in two slots.

    Attributes:
        uneven: after `load`: one slot is damaged or older than the other, so the record should be stored again.
    """

    def __init__(self, file: StableFile, slot_bytes: int = SLOT_BYTES) -> None:
        self._file = file
        self._slot_bytes = slot_bytes
        self._generation = 0
        self._weaker = 0  # the slot to write first: never the only whole one
        self.uneven = False

    def load(self) -> dict[str, Any]:
        """Read the newest valid slot.

        Raises:
            DamagedError: both slots are damaged.
            OSError: the file can not be read.
        """
        slots = [decode_slot(self._file.read(at * self._slot_bytes, self._slot_bytes)) for at in range(2)]
        generations = [-1 if slot is None else slot.generation for slot in slots]
        self._weaker = 0 if generations[0] <= generations[1] else 1
        newest = slots[1 - self._weaker]
        if newest is None:
            raise DamagedError("both copies of the record are damaged")
        self._generation = newest.generation
        self.uneven = generations[0] != generations[1]
        return newest.payload

    def store(self, payload: dict[str, Any]) -> None:
        """Write the record to both slots; stable when this returns.

        Raises:
            OSError: a step failed; the record on disk is the old one or the new one, and `store` can be tried again.
        """
        self._generation += 1
        raw = encode_slot(Slot(self._generation, payload), self._slot_bytes)
        for at in (self._weaker, 1 - self._weaker):
            self._weaker = at
            self._file.write(at * self._slot_bytes, raw)
            self._file.sync()
        self.uneven = False

    def close(self) -> None:
        self._file.close()


def encode_slot(slot: Slot, slot_bytes: int = SLOT_BYTES) -> bytes:
    """Give a slot's bytes; raises ValueError when the payload does not fit."""
    payload = json.dumps(slot.payload, sort_keys=True).encode()
    if len(payload) > slot_bytes - _HEADER.size:
        raise ValueError(f"a record of {len(payload)} bytes does not fit into a slot of {slot_bytes}")
    crc = crc32c(payload, crc32c(_HEADER.pack(_MAGIC, slot.generation, len(payload), 0)[:20]))
    return (_HEADER.pack(_MAGIC, slot.generation, len(payload), crc) + payload).ljust(slot_bytes, b"\0")


def decode_slot(raw: bytes) -> Slot | None:
    """Read a slot, or None when it is not whole."""
    if len(raw) < _HEADER.size:
        return None
    magic, generation, length, crc = _HEADER.unpack_from(raw)
    payload = raw[_HEADER.size : _HEADER.size + length]
    if magic != _MAGIC or len(payload) != length or crc32c(payload, crc32c(raw[:20])) != crc:
        return None
    return Slot(generation, json.loads(payload))
