"""WRITE SAME as PDUs: with one block of data, with none where none is announced (V25), and in an extended CDB."""

from __future__ import annotations

import struct

import pytest

from scsi.volume import Deallocation
from tests.support import commands as c
from tests.support.iscsi_peer import Pdu
from tests.support.target_stack import TargetStack

BLOCK = 512
X = b"x" * BLOCK
NO_DATA_OUT, UNMAP = 0x01, 0x08
GOOD, CHECK_CONDITION = 0, 2
OVERFLOW, UNDERFLOW = 0x04, 0x02


@pytest.fixture
def stack() -> TargetStack:
    stack = TargetStack()
    stack.volume.data[:] = b"\xaa" * len(stack.volume.data)
    stack.volume.deallocation = Deallocation(1)
    return stack


def answer_of(pdus: list[Pdu]) -> tuple[int, int, int]:
    """Give the status, the residual flags and the residual count of the only answer."""
    (pdu,) = pdus
    return pdu.raw[3], pdu.flags & (OVERFLOW | UNDERFLOW), pdu.word(44)


def content(stack: TargetStack, lba: int, blocks: int) -> bytes:
    return bytes(stack.volume.data[lba * BLOCK : (lba + blocks) * BLOCK])


@pytest.mark.parametrize("flags", [NO_DATA_OUT, NO_DATA_OUT | UNMAP])
def test_v25_write_same_with_ndob_and_without_the_w_bit_and_an_expected_length(stack: TargetStack, flags: int) -> None:
    peer = stack.peer
    assert answer_of(peer.send(peer.command_pdu(c.blocks_16(0x93, 5, 3, flags)))) == (GOOD, 0, 0)
    assert content(stack, 4, 5) == b"\xaa" * BLOCK + bytes(3 * BLOCK) + b"\xaa" * BLOCK


def test_v25_write_same_with_ndob_and_the_w_bit_and_an_expected_length_of_0(stack: TargetStack) -> None:
    peer = stack.peer
    assert answer_of(peer.send(peer.command_pdu(c.blocks_16(0x93, 5, 3, NO_DATA_OUT), write=0))) == (GOOD, 0, 0)
    assert content(stack, 5, 3) == bytes(3 * BLOCK)


def test_v25_a_block_that_comes_with_ndob_is_residual(stack: TargetStack) -> None:
    peer = stack.peer
    pdu = peer.command_pdu(c.blocks_16(0x93, 5, 3, NO_DATA_OUT), write=BLOCK, data=X)
    assert answer_of(peer.send(pdu)) == (GOOD, UNDERFLOW, BLOCK)
    assert content(stack, 5, 3) == bytes(3 * BLOCK)


def test_v25_a_block_that_is_missing_without_ndob_is_told_as_overflow_and_nothing_is_written(
    stack: TargetStack,
) -> None:
    peer = stack.peer
    assert answer_of(peer.send(peer.command_pdu(c.blocks_16(0x93, 5, 3)))) == (CHECK_CONDITION, OVERFLOW, BLOCK)
    assert stack.volume.operations() == []


def test_write_same_brings_one_block(stack: TargetStack) -> None:
    peer = stack.peer
    assert answer_of(peer.send(peer.command_pdu(c.blocks_16(0x93, 5, 3), write=BLOCK, data=X))) == (GOOD, 0, 0)
    assert content(stack, 4, 5) == b"\xaa" * BLOCK + X * 3 + b"\xaa" * BLOCK


def test_write_same_32_comes_with_an_extended_cdb(stack: TargetStack) -> None:
    peer = stack.peer
    cdb = c.blocks_32(0x000D, 5, 3)
    ahs = struct.pack(">HBx", len(cdb) - 16 + 1, 0x01) + cdb[16:]
    assert answer_of(peer.send(peer.command_pdu(cdb[:16], write=BLOCK, data=X, ahs=ahs))) == (GOOD, 0, 0)
    assert content(stack, 4, 5) == b"\xaa" * BLOCK + X * 3 + b"\xaa" * BLOCK


def test_an_unmap_of_more_than_its_parameter_list_says_the_residual(stack: TargetStack) -> None:
    peer = stack.peer
    parameters = struct.pack(">HH4xQI4x", 22, 16, 5, 3)
    cdb = struct.pack(">B6xHB", 0x42, len(parameters), 0)
    pdu = peer.command_pdu(cdb, write=BLOCK, data=parameters.ljust(BLOCK, b"\xff"))
    assert answer_of(peer.send(pdu)) == (GOOD, UNDERFLOW, BLOCK - len(parameters))
    assert stack.volume.operations() == ["unmap 5+3"]
