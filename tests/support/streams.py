"""One stream, cut in every way that TCP may cut it: whole, byte by byte, at odd places, and with more behind it."""

from collections.abc import Callable, Iterator
from typing import TypeVar

Result = TypeVar("Result")

# How one stream is delivered: a name for the failure message, and the pieces.
Cutting = tuple[str, list[bytes]]


def cuttings(stream: bytes) -> Iterator[Cutting]:
    """Return the ways to deliver a stream that any reader must take alike."""
    yield "whole", [stream]
    yield "byte by byte", [stream[at : at + 1] for at in range(len(stream))]
    for size in (7, 48, 1000):
        yield f"{size} bytes at a time", [stream[at : at + size] for at in range(0, len(stream), size)]


def cuttings_in_two(stream: bytes) -> Iterator[Cutting]:
    """Return the stream cut into two pieces, once at every byte boundary."""
    for at in range(1, len(stream)):
        yield f"cut at {at}", [stream[:at], stream[at:]]


def assert_same_in_every_cutting(
    stream: bytes, read: Callable[[list[bytes]], Result], cut: Callable[[bytes], Iterator[Cutting]] = cuttings
) -> Result:
    """Feed the stream to a new reader for each cutting, and return what all of them made of it.

    Args:
        stream: the bytes.
        read: makes a reader, feeds it the pieces, and returns something that compares.
        cut: the ways to cut.
    """
    results = [(name, read(pieces)) for name, pieces in cut(stream)]
    first = results[0][1]
    for name, result in results:
        assert result == first, f"{name} differs from {results[0][0]}"
    return first
