"""Bytes of a TCP connection into PDUs, and PDUs into bytes, for both roles.

How reading works: the adapter receives straight into `receive_buffer()`, which is the free end of one large buffer that
is used over and over, and says how much came with `bytes_received()`. All complete PDUs in it are then handed to the
sink, in order. A data segment is a view of that buffer and dies with the call; the sink copies what it keeps.

A large data segment that is still incomplete goes a shorter way: the sink names the memory where it belongs, usually
the buffer of the command, and `receive_buffer()` hands that out until the segment is full, so that its bytes are never
copied.

Lengths are checked when the header is there and before anything is kept for them. Between two PDUs the sink may change
the digests and the limits (login does), and may stop the reader for good.

Spec: RFC 7143 11.2 "PDU Template, Header, and Opcodes".
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, Protocol

from scsi.iscsi.digest import DIGEST_BYTES, digest_matches, encode_digest
from scsi.iscsi.errors import ConnectionFault
from scsi.iscsi.pdu import BHS_BYTES, DATA_LENGTH_MASK, MAX_AHS_BYTES, Header

Buffer = bytes | bytearray | memoryview

# Below this the copy out of the shared buffer is cheaper than a system call for the rest of one data segment.
DIRECT_BYTES: Final = 8192
PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")  # by length modulo 4

_NOTHING: Final = memoryview(b"")


class PduSink(Protocol):
    """Who takes the PDUs that a `PduReader` finds. None of these may raise."""

    def receive(self, header: Header, ahs: bytes, data: memoryview, placed: bool) -> None:
        """Take one PDU.

        Args:
            header: as `pdu` describes.
            ahs: the additional header segments, unparsed.
            data: the data segment without padding, valid during the call only unless `placed`.
            placed: `data` is the memory that `destination` named for this PDU, filled.
        """

    def receive_damaged(self, header: Header) -> None:
        """Take the header of a PDU whose data segment does not have its data digest; what was placed may be garbage."""

    def destination(self, header: Header) -> memoryview | None:
        """Name the memory for a PDU's data segment, exactly as long as it, or None to get a view at `receive`.

        Asked at most once a PDU. `receive` or `receive_damaged` for the same PDU is the next call, unless the bytes end
        before.
        """

    def framing_failed(self, fault: ConnectionFault) -> None:
        """Learn that no PDU will come any more, because of what the peer sent."""


class PduReader:
    """Cuts the bytes of one connection into PDUs.

    Attributes:
        header_digest: every header is followed by its digest.
        data_digest: every data segment that is not empty is followed by its digest.
        max_data_segment_bytes: what a data segment may have; a longer one fails the connection unread.
        max_ahs_bytes: the same for the additional header segments.
        stopped: nothing is read any more.
    """

    def __init__(self, layout: struct.Struct, sink: PduSink, max_data_segment_bytes: int, buffer_bytes: int) -> None:
        """Begin with an empty buffer and without digests.

        Args:
            layout: `pdu.REQUEST` at a target, `pdu.RESPONSE` at an initiator.
            sink: who takes the PDUs; may be exchanged between two PDUs.
            max_data_segment_bytes: see the attribute.
            buffer_bytes: size of the shared buffer; made larger when one PDU would not fit into it.
        """
        self.sink = sink
        self.header_digest = False
        self.data_digest = False
        self.max_ahs_bytes = MAX_AHS_BYTES
        self.stopped = False
        self._unpack = layout.unpack_from
        self._view = memoryview(bytearray())
        self._end = 0  # the buffer holds the bytes before it, and they begin with a header (or with a trailer, below)
        self._wanted_bytes = 0
        # A data segment on its way into the sink's memory, and then its padding and digest on their way into the
        # buffer.
        self._place: memoryview | None = None
        self._place_filled = 0
        self._place_header: Header = ()
        self._place_ahs = b""
        self.set_limits(max_data_segment_bytes, buffer_bytes)
        self._make_room()

    def set_limits(self, max_data_segment_bytes: int, buffer_bytes: int) -> None:
        """Allow other lengths from the next PDU on; the buffer only grows, and with the next `receive_buffer`."""
        self.max_data_segment_bytes = max_data_segment_bytes
        self._plain_bytes = min(max_data_segment_bytes, DIRECT_BYTES - 1)  # neither too long nor to be placed
        largest = BHS_BYTES + MAX_AHS_BYTES + max_data_segment_bytes + 3 + 2 * DIGEST_BYTES
        self._wanted_bytes = max(buffer_bytes, largest)

    def stop(self) -> None:
        """Read nothing more: what the peer still sends is dropped."""
        self.stopped = True

    def receive_buffer(self) -> memoryview:
        """Return where the next bytes must go; never empty, valid until the next `bytes_received`."""
        if self._place is not None and self._place_filled < len(self._place):
            return self._place[self._place_filled :]
        return self._view[self._end :]

    def bytes_received(self, count: int) -> None:
        """Hand every PDU that is complete now to the sink.

        Args:
            count: how many bytes were put to the beginning of the last `receive_buffer()`.
        """
        if not self.stopped:
            self._take(count)
        if self.stopped:
            self._end = 0
            self._place = None

    def _take(self, count: int) -> None:
        start = 0
        if self._place is None:
            self._end += count
        else:
            if self._place_filled < len(self._place):
                self._place_filled += count
            else:
                self._end += count
            start = self._end_placed()
        if self._place is None and not self.stopped:
            start = self._parse(start)
        if start:
            rest = self._end - start
            if rest:
                self._view[:rest] = self._view[start : self._end]
            self._end = rest
        if len(self._view) < self._wanted_bytes:
            self._make_room()

    def _make_room(self) -> None:
        larger = memoryview(bytearray(self._wanted_bytes))
        larger[: self._end] = self._view[: self._end]
        self._view = larger

    def _parse(self, start: int) -> int:
        """Hand over the complete PDUs from `start` on, and return where the first incomplete one begins."""
        view, end, unpack = self._view, self._end, self._unpack
        while end - start >= BHS_BYTES:
            header = unpack(view, start)
            length: int = header[3]
            if not length and not self.header_digest:  # neither AHS nor data: most commands
                start += BHS_BYTES
                self.sink.receive(header, b"", _NOTHING, False)
            elif length <= self._plain_bytes and not (self.header_digest or self.data_digest):  # most writes; no AHS
                data_at = start + BHS_BYTES
                following = data_at + length + (-length & 3)
                if following > end:
                    break
                start = following
                self.sink.receive(header, b"", view[data_at : data_at + length], False)
            else:
                used = self._parse_long(header, start)
                if not used:
                    if self._place is not None:
                        start = end
                    break
                start += used
            if self.stopped:
                break
        return start

    def _parse_long(self, header: Header, start: int) -> int:
        """Hand over one PDU if it is complete, and return its length, or 0."""
        view, available = self._view, self._end - start
        data_bytes: int = header[3] & DATA_LENGTH_MASK
        ahs_bytes: int = header[3] >> 24 << 2
        if data_bytes > self.max_data_segment_bytes:
            return self._fail(f"data segment of {data_bytes} bytes, allowed are {self.max_data_segment_bytes}")
        if ahs_bytes > self.max_ahs_bytes:
            return self._fail(f"additional header segments of {ahs_bytes} bytes, allowed are {self.max_ahs_bytes}")
        headed = BHS_BYTES + ahs_bytes
        data_at = headed
        if self.header_digest:
            data_at += DIGEST_BYTES
            if available < data_at:
                return 0
            covered = view[start : start + headed]
            if not digest_matches(covered, b"", view[start + headed : start + data_at]):
                return self._fail("header digest error")
        padded_bytes = data_bytes + (-data_bytes & 3)
        total = data_at + padded_bytes
        if self.data_digest and data_bytes:
            total += DIGEST_BYTES
        if available < total:
            if data_bytes >= DIRECT_BYTES and data_at <= available < data_at + data_bytes:
                self._begin_placed(header, start, headed, data_at)
            return 0
        ahs = bytes(view[start + BHS_BYTES : start + headed]) if ahs_bytes else b""
        data = view[start + data_at : start + data_at + data_bytes]
        if self.data_digest and data_bytes:
            padding = view[start + data_at + data_bytes : start + data_at + padded_bytes]
            if not digest_matches(data, padding, view[start + total - DIGEST_BYTES : start + total]):
                self.sink.receive_damaged(header)
                return total
        self.sink.receive(header, ahs, data, False)
        return total

    def _begin_placed(self, header: Header, start: int, headed: int, data_at: int) -> None:
        place = self.sink.destination(header)
        if place is None or self.stopped:
            return
        here = self._view[start + data_at : self._end]
        place[: len(here)] = here
        self._place = place
        self._place_filled = len(here)
        self._place_header = header
        self._place_ahs = bytes(self._view[start + BHS_BYTES : start + headed])

    def _end_placed(self) -> int:
        """Hand over a placed PDU once its trailer is there too; return where the next one begins."""
        place = self._place
        assert place is not None
        padding_bytes = -len(place) & 3
        trailer_bytes = padding_bytes + (DIGEST_BYTES if self.data_digest else 0)
        if self._place_filled < len(place) or self._end < trailer_bytes:
            return 0
        self._place = None
        trailer = self._view[:trailer_bytes]
        if self.data_digest and not digest_matches(place, trailer[:padding_bytes], trailer[padding_bytes:]):
            self.sink.receive_damaged(self._place_header)
        else:
            self.sink.receive(self._place_header, self._place_ahs, place, True)
        return trailer_bytes

    def _fail(self, text: str) -> int:
        self.stopped = True
        self.sink.framing_failed(ConnectionFault(text))
        return 0


class PduWriter:
    """Collects what goes out on one connection, and says so once, and again when much waits.

    Attributes:
        header_digest: every header is followed by its digest.
        data_digest: every data segment that is not empty is followed by its digest.
        early_pieces: how many headers and data segments are so many that it is worth sending them now.
        out: what waits to be sent; who adds to it calls `announce`.
        announced: the adapter knows that it has to look.
        woken: it knows because of `wake`, and will look when this wake-up's work is done.
    """

    __slots__ = ("announced", "data_digest", "early_pieces", "header_digest", "out", "wake", "woken")

    def __init__(self, wake: Callable[[], None], early_pieces: int) -> None:
        """Begin empty.

        Args:
            wake: called when there is something to send and the adapter does not know it yet; and again, once much of
                it waits, since who is at the other end may begin while more is coming.
            early_pieces: how many headers and data segments are much.
        """
        self.early_pieces = early_pieces
        self.out: list[Buffer] = []
        self.header_digest = False
        self.data_digest = False
        self.announced = False
        self.woken = False
        self.wake = wake

    def send(self, header: bytes, data: Buffer = b"") -> None:
        """Queue one PDU whose header is complete (DataSegmentLength included) and has no AHS."""
        out = self.out
        out.append(header)
        if self.header_digest:
            out.append(encode_digest(header))
        if data:
            out.append(data)
            odd = len(data) & 3
            if odd:
                out.append(PADDING[odd])
            if self.data_digest:
                out.append(encode_digest(data, -odd & 3))
        if not self.announced:
            self.announce()

    def announce(self) -> None:
        """Make the adapter look, once until the next `drain`."""
        if not self.announced:
            self.announced = self.woken = True
            self.wake()

    @property
    def much(self) -> bool:
        """Whether so much waits that it is worth sending now."""
        return len(self.out) >= self.early_pieces

    def drain(self) -> list[Buffer]:
        """Return what waits to be sent, and forget it."""
        out = self.out
        self.out = []
        self.announced = self.woken = False
        return out
