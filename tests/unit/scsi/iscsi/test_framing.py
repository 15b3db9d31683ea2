import itertools
import struct

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from scsi.iscsi.errors import ConnectionFault
from scsi.iscsi.framing import DIRECT_BYTES, PduReader, PduWriter
from scsi.iscsi.pdu import REQUEST, Header
from tests.support.streams import assert_same_in_every_cutting


class Sink:
    """Keeps what it gets; names memory of its own for data segments when told to."""

    def __init__(self, places: bool = False) -> None:
        self.pdus: list[tuple[bytes, bytes, bytes]] = []
        self.damaged: list[bytes] = []
        self.faults: list[str] = []
        self.placed = 0
        self.places = places
        self.place: memoryview | None = None

    def receive(self, header: Header, ahs: bytes, data: memoryview, placed: bool) -> None:
        if placed:
            assert data is self.place
            self.placed += 1
        self.pdus.append((REQUEST.pack(*header), ahs, bytes(data)))

    def receive_damaged(self, header: Header) -> None:
        self.damaged.append(REQUEST.pack(*header))

    def destination(self, header: Header) -> memoryview | None:
        self.place = memoryview(bytearray(header[3] & 0xFFFFFF)) if self.places else None
        return self.place

    def framing_failed(self, fault: ConnectionFault) -> None:
        self.faults.append(str(fault))


def pdu(data: bytes = b"", ahs: bytes = b"", *, header_digest: bool = False, data_digest: bool = False) -> bytes:
    header = (
        b"\x40\x80\0\0" + bytes([len(ahs) // 4]) + len(data).to_bytes(3, "big") + b"LUNLUNLU" + bytes(range(32)) + ahs
    )
    padded = data + bytes(-len(data) % 4)
    stream = header
    if header_digest:
        stream += struct.pack("<I", crc32c(header))
    stream += padded
    if data_digest and data:
        stream += struct.pack("<I", crc32c(padded))
    return stream


def feed(reader: PduReader, pieces: list[bytes]) -> None:
    for piece in pieces:
        rest = piece
        while rest:
            place = reader.receive_buffer()
            assert len(place)
            count = min(len(place), len(rest))
            place[:count] = rest[:count]
            reader.bytes_received(count)
            rest = rest[count:]


def make(sink: Sink, *, header_digest: bool = False, data_digest: bool = False, limit: int = 65536) -> PduReader:
    reader = PduReader(REQUEST, sink, limit, 4096)
    reader.header_digest = header_digest
    reader.data_digest = data_digest
    return reader


LENGTHS = (0, 1, 2, 3, 4, 511, DIRECT_BYTES - 1, DIRECT_BYTES, DIRECT_BYTES + 1, 30_000)


@pytest.mark.parametrize("places", [False, True])
@pytest.mark.parametrize("header_digest", [False, True])
@pytest.mark.parametrize("data_digest", [False, True])
def test_pdus_are_the_same_however_their_stream_is_cut(places: bool, header_digest: bool, data_digest: bool) -> None:
    segments = [bytes(at % 253 for at in range(length)) for length in LENGTHS]
    ahs = [b"", b"\0\5\2\0abcd", bytes(1020)]
    parts = list(itertools.zip_longest(segments, ahs, fillvalue=b""))
    stream = b"".join(pdu(data, more, header_digest=header_digest, data_digest=data_digest) for data, more in parts)

    def read(pieces: list[bytes]) -> tuple[object, ...]:
        sink = Sink(places)
        feed(make(sink, header_digest=header_digest, data_digest=data_digest), pieces)
        return [(more, data) for _, more, data in sink.pdus], sink.damaged, sink.faults

    expected: tuple[object, ...] = ([(more, data) for data, more in parts], [], [])
    assert assert_same_in_every_cutting(stream, read) == expected
    assert assert_same_in_every_cutting(stream + pdu(b"cut off")[:50], read) == expected


def test_a_long_data_segment_goes_straight_into_the_sinks_memory() -> None:
    sink = Sink(places=True)
    reader = make(sink)
    data = bytes(at % 253 for at in range(40_001))
    stream = pdu(data)
    feed(reader, [stream[:1000]])
    assert len(reader.receive_buffer()) == 40_001 - (1000 - 48)
    feed(reader, [stream[1000:], pdu(b"next")])
    assert (sink.placed, [found for _, _, found in sink.pdus]) == (1, [data, b"next"])


def test_a_segment_above_the_limit_fails_before_any_of_it_is_kept() -> None:
    sink = Sink()
    reader = make(sink, limit=1024)
    feed(reader, [pdu(b"first"), pdu(bytes(1025))[:48]])
    assert [data for _, _, data in sink.pdus] == [b"first"]
    assert len(sink.faults) == 1
    feed(reader, [pdu(b"later")])
    assert len(sink.pdus) == 1
    assert len(reader.receive_buffer())


def test_additional_headers_above_the_limit_fail() -> None:
    sink = Sink()
    reader = make(sink)
    reader.max_ahs_bytes = 8
    feed(reader, [pdu(ahs=bytes(8)), pdu(ahs=bytes(12))])
    assert (len(sink.pdus), len(sink.faults)) == (1, 1)


@pytest.mark.parametrize("flip", range(0, 56, 5))
def test_a_header_that_was_changed_on_its_way_fails_the_connection(flip: int) -> None:
    sink = Sink()
    stream = bytearray(pdu(b"data", b"\0\5\2\0", header_digest=True))
    stream[flip] ^= 0x20
    feed(make(sink, header_digest=True), [pdu(b"first", header_digest=True), bytes(stream), bytes(2000)])
    assert [data for _, _, data in sink.pdus] == [b"first"]
    assert len(sink.faults) == 1


@pytest.mark.parametrize("places", [False, True])
@pytest.mark.parametrize("length", [5, 30_001])
@pytest.mark.parametrize("flip", [48, -6, -5, -1])
def test_data_that_was_changed_on_its_way_costs_one_pdu(places: bool, length: int, flip: int) -> None:
    stream = bytearray(pdu(b"d" * length, data_digest=True))
    stream[flip] ^= 1

    def read(pieces: list[bytes]) -> tuple[object, ...]:
        sink = Sink(places)
        feed(make(sink, data_digest=True), pieces)
        return len(sink.damaged), [data for _, _, data in sink.pdus], sink.faults

    whole = bytes(stream) + pdu(b"good", data_digest=True)
    assert assert_same_in_every_cutting(whole, read) == (1, [b"good"], [])


def test_a_sink_may_change_digests_and_limits_between_two_pdus() -> None:
    class Login(Sink):
        def receive(self, header: Header, ahs: bytes, data: memoryview, placed: bool) -> None:
            super().receive(header, ahs, data, placed)
            reader.header_digest = reader.data_digest = True
            reader.set_limits(100_000, 4096)
            reader.sink = after

    after = Sink()
    before = Login()
    reader = make(before, limit=1024)
    feed(reader, [pdu(b"login") + pdu(bytes(90_000), header_digest=True, data_digest=True)])
    assert len(before.pdus) == 1
    assert [len(data) for _, _, data in after.pdus] == [90_000]


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=20), st.booleans(), st.booleans())
def test_any_bytes_make_pdus_or_one_fault(pieces: list[bytes], header_digest: bool, data_digest: bool) -> None:
    sink = Sink(places=True)
    reader = make(sink, header_digest=header_digest, data_digest=data_digest, limit=2**24 - 1)
    feed(reader, pieces)
    assert len(sink.faults) <= 1
    assert len(reader.receive_buffer())


def test_a_writer_pads_and_digests_and_asks_once_to_be_looked_at() -> None:
    asked: list[None] = []
    writer = PduWriter(lambda: asked.append(None), 8)
    header = pdu(b"12345")[:48]
    writer.send(header, b"12345")
    writer.send(bytes(48))
    assert len(asked) == 1
    assert b"".join(writer.drain()) == pdu(b"12345") + bytes(48)
    assert writer.drain() == []
    writer.header_digest = writer.data_digest = True
    writer.send(header, memoryview(b"12345"))
    assert len(asked) == 2
    assert b"".join(writer.drain()) == pdu(b"12345", header_digest=True, data_digest=True)


@pytest.mark.parametrize("length", range(1, 9))
@pytest.mark.parametrize("digest", [False, True])
def test_what_a_writer_sends_a_reader_reads(length: int, digest: bool) -> None:
    writer = PduWriter(lambda: None, 8)
    writer.header_digest = writer.data_digest = digest
    sink = Sink()
    data = bytes(range(length))
    writer.send(pdu(data)[:48], data)
    feed(make(sink, header_digest=digest, data_digest=digest), [bytes(buffer) for buffer in writer.drain()])
    assert [found for _, _, found in sink.pdus] == [data]
