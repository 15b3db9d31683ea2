"""Every command that writes, with data of its own making, and what it leaves on the disk."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import NamedTuple

from tests.support import commands as c

BLOCK = 512
UNMAP_BIT, NO_DATA_OUT = 0x08, 0x01
CLEAR = 1  # BMOP of ORWRITE (32)


class Order(NamedTuple):
    """One command, and what it leaves in the blocks that it is about."""

    cdb: bytes
    data: bytes
    lba: int
    content: bytes


Make = Callable[[int, bytes, random.Random], Order]  # of the first block of an area, and what is in it
MAKERS: dict[str, Make] = {}  # by the command's name, and what is special
AREA_BLOCKS = 40  # that a command finds random data in; it is about some of them


def write(name: str, encode: Callable[[int, int, int], bytes]) -> None:
    """Take a command that writes its data as it is."""

    def make(lba: int, _found: bytes, rng: random.Random) -> Order:
        data = rng.randbytes(24 * BLOCK)
        return Order(encode(lba, 24, 0), data, lba, data)

    MAKERS[name] = make


def same(name: str, encode: Callable[[int, int, int], bytes], flags: int = 0) -> None:
    """Take a WRITE SAME: of a random block, of zeroes to be unmapped, or of zeroes without any data."""

    def make(lba: int, _found: bytes, rng: random.Random) -> Order:
        block = bytes(BLOCK) if flags else rng.randbytes(BLOCK)
        return Order(encode(lba, 33, flags), b"" if flags & NO_DATA_OUT else block, lba, 33 * block)

    MAKERS[name] = make


def combine(name: str, encode: Callable[[int, int], bytes], function: Callable[[int, int], int]) -> None:
    """Take an ORWRITE."""

    def make(lba: int, found: bytes, rng: random.Random) -> Order:
        data = rng.randbytes(9 * BLOCK)
        return Order(encode(lba, 9), data, lba, bytes(map(function, found, data)))

    MAKERS[name] = make


def sixth(opcode: int) -> Callable[[int, int, int], bytes]:
    return lambda lba, blocks, _flags: bytes((opcode,)) + lba.to_bytes(3, "big") + bytes((blocks, 0))


def tenth(opcode: int) -> Callable[[int, int, int], bytes]:
    return lambda lba, blocks, flags: c.blocks_10(opcode, lba, blocks, flags)


def twelfth(opcode: int) -> Callable[[int, int, int], bytes]:
    return lambda lba, blocks, flags: c.blocks_12(opcode, lba, blocks, flags)


def sixteenth(opcode: int) -> Callable[[int, int, int], bytes]:
    return lambda lba, blocks, flags: c.blocks_16(opcode, lba, blocks, flags)


def long(action: int) -> Callable[[int, int, int], bytes]:
    return lambda lba, blocks, flags: c.blocks_32(action, lba, blocks, flags)


def unmap(lba: int, _found: bytes, _rng: random.Random) -> Order:
    ranges = struct.pack(">QI4x", lba, 8) + struct.pack(">QI4x", lba + 8, 9)
    data = struct.pack(">HH4x", 6 + len(ranges), len(ranges)) + ranges
    return Order(struct.pack(">B6xHx", 0x42, len(data)), data, lba, bytes(17 * BLOCK))


def compare_and_write(lba: int, found: bytes, rng: random.Random) -> Order:
    new = rng.randbytes(5 * BLOCK)
    return Order(struct.pack(">BxQ3xBxx", 0x89, lba, 5), found[: 5 * BLOCK] + new, lba, new)


def write_atomic(lba: int, _found: bytes, rng: random.Random) -> Order:
    data = rng.randbytes(AREA_BLOCKS * BLOCK)
    return Order(struct.pack(">BxQHHxx", 0x9C, lba, 0, AREA_BLOCKS), data, lba, data)


def overwrite(blocks: int) -> Make:
    def make(_lba: int, _found: bytes, rng: random.Random) -> Order:
        block = rng.randbytes(BLOCK)
        data = struct.pack(">BxH", 1, BLOCK) + block
        return Order(struct.pack(">BB5xHx", 0x48, 0x01, len(data)), data, 0, block * blocks)

    return make


def block_erase(blocks: int) -> Make:
    return lambda _lba, _found, _rng: Order(struct.pack(">BB8x", 0x48, 0x02), b"", 0, bytes(blocks * BLOCK))


def orwrite_32(operation: int) -> Callable[[int, int], bytes]:
    return lambda lba, blocks: struct.pack(">4B3xBHxxQ8xI", 0x7F, 0, operation, 0, 0x18, 0x000E, lba, blocks)


write("WRITE (6)", sixth(0x0A))
write("WRITE (10)", tenth(0x2A))
write("WRITE (12)", twelfth(0xAA))
write("WRITE (16)", sixteenth(0x8A))
write("WRITE (32)", long(0x000B))
write("WRITE AND VERIFY (10)", tenth(0x2E))
write("WRITE AND VERIFY (12)", twelfth(0xAE))
write("WRITE AND VERIFY (16)", sixteenth(0x8E))
write("WRITE AND VERIFY (32)", long(0x000C))
same("WRITE SAME (10)", tenth(0x41))
same("WRITE SAME (16)", sixteenth(0x93))
same("WRITE SAME (32)", long(0x000D))
same("WRITE SAME (16), UNMAP", sixteenth(0x93), UNMAP_BIT)
same("WRITE SAME (16), NDOB", sixteenth(0x93), NO_DATA_OUT)
combine("ORWRITE (16)", lambda lba, blocks: c.blocks_16(0x8B, lba, blocks, 0), int.__or__)
combine("ORWRITE (32)", orwrite_32(0), int.__or__)
combine("ORWRITE (32), clear", orwrite_32(CLEAR), int.__and__)
MAKERS |= {
    "UNMAP": unmap,
    "COMPARE AND WRITE": compare_and_write,
    "WRITE ATOMIC (16)": write_atomic,
}
# What they leave in a unit of so many blocks.
SANITIZES: dict[str, Callable[[int], Make]] = {
    "SANITIZE (OVERWRITE)": overwrite,
    "SANITIZE (BLOCK ERASE)": block_erase,
}
