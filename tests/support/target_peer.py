"""A scripted target that talks raw PDUs to an `InitiatorConnection` in memory, and can misbehave in any way.

It does nothing by itself: it cuts what the initiator sends into PDUs, and packs what the test wants to answer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from crc32c import crc32c

from scsi.iscsi.initiator import InitiatorConnection
from scsi.iscsi.initiator_options import InitiatorEvent, InitiatorOptions, SessionOver, SessionReady
from scsi.iscsi.initiator_task import CallbackTask, Task
from tests.support.iscsi_peer import Clock, Pdu, make_text

INITIATOR = "iqn.2026-11.io.annex:test"
TARGET = "iqn.2026-11.org.example:array"
ISID = bytes.fromhex("800102030405")
LUN = bytes.fromhex("0001000000000000")
OPTIONS = InitiatorOptions(INITIATOR, TARGET, ISID)
NO_TAG = 0xFFFFFFFF
FIRST_STAT_SN = 0x1000


class Collector(list[Task]):
    """A `done` for any number of tasks."""

    def __call__(self, task: Task) -> None:
        self.append(task)


class TargetPeer:
    """The target's end of one connection.

    Attributes:
        connection: the initiator's end.
        clock: its time.
        events: all events so far.
        stat_sn: the next one to use.
        window: how many commands beyond ExpCmdSN are allowed.
    """

    def __init__(self, options: InitiatorOptions = OPTIONS, **changes: Any) -> None:
        self.clock = Clock()
        self.options = replace(options, **changes)
        self.wakes = 0
        self.connection = InitiatorConnection(self.options, self.clock, lambda count: bytes(range(count)), self._wake)
        self.events: list[InitiatorEvent] = []
        self.header_digest = self.data_digest = False
        self.stat_sn = FIRST_STAT_SN
        self.exp_cmd_sn = 1
        self.window = 64
        self._unparsed = b""

    def _wake(self) -> None:
        self.wakes += 1

    @property
    def over(self) -> SessionOver | None:
        """How the connection ended, None while it has not."""
        return next((event for event in self.events if isinstance(event, SessionOver)), None)

    # --- bytes ---

    def requests(self) -> list[Pdu]:
        """Return the PDUs that the initiator has sent since the last call."""
        self._unparsed += b"".join(self.connection.data_to_send())
        found = []
        while pdu := self._cut():
            found.append(pdu)
        return found

    def request(self) -> Pdu:
        """Return the only PDU that the initiator has sent since the last call."""
        found = self.requests()
        assert len(found) == 1, [hex(pdu.opcode) for pdu in found]
        return found[0]

    def _cut(self) -> Pdu | None:
        stream = self._unparsed
        if len(stream) < 48:
            return None
        length = int.from_bytes(stream[5:8], "big")
        at = 52 if self.header_digest else 48
        end = at + length + (-length % 4)
        total = end + (4 if self.data_digest and length else 0)
        assert len(stream) >= total, "the initiator sends whole PDUs"
        if self.header_digest:
            assert stream[48:52] == struct.pack("<I", crc32c(stream[:48]))
        if total > end:
            assert stream[end:total] == struct.pack("<I", crc32c(stream[at:end]))
        self._unparsed = stream[total:]
        return Pdu(stream[:48], stream[at : at + length])

    def pack(self, header: bytes, data: bytes = b"") -> bytes:
        """Return the bytes of a PDU with its data segment and digests."""
        assert len(header) == 48
        stream = header[:5] + len(data).to_bytes(3, "big") + header[8:]
        if self.header_digest:
            stream += struct.pack("<I", crc32c(stream))
        padded = data + bytes(-len(data) % 4)
        stream += padded
        if self.data_digest and data:
            stream += struct.pack("<I", crc32c(padded))
        return stream

    def send(self, *pdus: bytes) -> list[InitiatorEvent]:
        """Send bytes, and return the events that they cause."""
        return self.send_pieces([b"".join(pdus)])

    def send_pieces(self, pieces: Iterable[bytes]) -> list[InitiatorEvent]:
        events = [event for piece in pieces for event in self.connection.receive_data(piece)]
        self.events += events
        return events

    def advance(self, seconds: float) -> list[InitiatorEvent]:
        """Let time pass, with the timer called at its deadlines."""
        end = self.clock.now + seconds
        events: list[InitiatorEvent] = []
        while (deadline := self.connection.next_deadline()) is not None and deadline <= end:
            self.clock.now = max(deadline, self.clock.now)
            events += self.connection.on_timer(self.clock.now)
            following = self.connection.next_deadline()
            assert following is None or following > deadline, "a timer that does not move"
        self.clock.now = end
        self.events += events
        return events

    def lose(self) -> None:
        self.events += self.connection.connection_lost()

    # --- login ---

    def login_response(
        self, pairs: dict[str, str] | bytes = b"", *, stage: int, next_stage: int | None = None, **changes: Any
    ) -> bytes:
        """Pack a Login Response; it takes the next StatSN."""
        data = pairs if isinstance(pairs, bytes) else make_text(pairs)
        flags = stage << 2 | (0x40 if changes.get("more") else 0)
        flags |= 0 if next_stage is None else 0x80 | next_stage
        header = struct.pack(
            ">BBBBI6sHIIIIIHH8x",
            0x23,
            flags,
            0,
            changes.get("version", 0),
            0,
            changes.get("isid", ISID),
            changes.get("tsih", 7),
            changes.get("tag", 1),
            0,
            changes.get("stat_sn", self.stat_sn),
            changes.get("exp_cmd_sn", self.exp_cmd_sn),
            changes.get("max_cmd_sn", self.exp_cmd_sn + self.window - 1),
            changes.get("status", 0),
            0,
        )
        self.stat_sn += 1
        return self.pack(header, data)

    def log_in(self, **answers: str) -> dict[str, str]:
        """Let the login succeed; return the operational keys that the initiator offered."""
        first = self.request()
        assert first.text["InitiatorName"] == self.options.initiator_name
        self.send(self.login_response({"AuthMethod": "None", "TargetPortalGroupTag": "1"}, stage=0, next_stage=1))
        offered = self.request().text
        replies = {
            "HeaderDigest": "None",
            "DataDigest": "None",
            "InitialR2T": "No",
            "ImmediateData": "Yes",
            "MaxBurstLength": "16384",
            "FirstBurstLength": "8192",
            "MaxOutstandingR2T": "1",
            "MaxConnections": "1",
            "MaxRecvDataSegmentLength": "4096",
            "DefaultTime2Wait": "2",
            "DefaultTime2Retain": "0",
            "ErrorRecoveryLevel": "0",
        } | answers
        self.send(self.login_response(replies, stage=1, next_stage=3))
        assert isinstance(self.events[-1], SessionReady), self.events
        self.header_digest = replies["HeaderDigest"] == "CRC32C"
        self.data_digest = replies["DataDigest"] == "CRC32C"
        return offered

    # --- full feature phase ---

    def numbers(self, status: bool = True, **changes: Any) -> tuple[int, int, int]:
        """Return StatSN, ExpCmdSN, MaxCmdSN; a PDU with a status takes a StatSN."""
        stat_sn = changes.get("stat_sn", self.stat_sn)
        if status and "stat_sn" not in changes:
            self.stat_sn = (self.stat_sn + 1) & 0xFFFFFFFF
        exp_cmd_sn = changes.get("exp_cmd_sn", self.exp_cmd_sn)
        return stat_sn, exp_cmd_sn, changes.get("max_cmd_sn", (exp_cmd_sn + self.window - 1) & 0xFFFFFFFF)

    def response(
        self, tag: int, status: int = 0, *, flags: int = 0, residual: int = 0, data: bytes = b"", **changes: Any
    ) -> bytes:
        """Pack a SCSI Response."""
        header = struct.pack(
            ">BBBBI8xIIIIIIII",
            0x21,
            0x80 | flags,
            changes.get("response", 0),
            status,
            0,
            tag,
            0,
            *self.numbers(**changes),
            0,
            0,
            residual,
        )
        return self.pack(header, data)

    def data_in(
        self,
        tag: int,
        data: bytes,
        *,
        data_sn: int = 0,
        offset: int = 0,
        status: int | None = None,
        flags: int | None = None,
        residual: int = 0,
        **changes: Any,
    ) -> bytes:
        """Pack a Data-In, with the status when there is one."""
        if flags is None:
            flags = 0 if status is None else 0x81
        header = struct.pack(
            ">BBBBI8xIIIIIIII",
            0x25,
            flags,
            0,
            status or 0,
            0,
            tag,
            NO_TAG,
            *self.numbers(bool(flags & 1), **changes),
            data_sn,
            offset,
            residual,
        )
        return self.pack(header, data)

    def r2t(self, tag: int, offset: int, wanted: int, *, r2t_sn: int = 0, **changes: Any) -> bytes:
        """Pack an R2T."""
        header = struct.pack(
            ">BB2xI8sIIIIIIII",
            0x31,
            0x80,
            0,
            changes.pop("lun", LUN),
            tag,
            changes.pop("transfer_tag", 0x77),
            *self.numbers(False, **changes),
            r2t_sn,
            offset,
            wanted,
        )
        return self.pack(header)

    def other(
        self,
        opcode: int,
        tag: int,
        *,
        code: int = 0,
        transfer_tag: int = NO_TAG,
        data: bytes = b"",
        flags: int = 0x80,
        tail: bytes = bytes(12),
        status: bool = True,
        lun: bytes = bytes(8),
        **changes: Any,
    ) -> bytes:
        """Pack any other PDU; `code` is byte 2."""
        header = struct.pack(
            ">BBBxI8sIIIII12s", opcode, flags, code, 0, lun, tag, transfer_tag, *self.numbers(status, **changes), tail
        )
        return self.pack(header, data)

    # --- commands ---

    def submit(
        self,
        cdb: bytes = bytes(6),
        data_out: bytes | bytearray = b"",
        data_in_bytes: int = 0,
        *,
        timeout_s: float = 10.0,
        done: Collector | None = None,
        place: memoryview | None = None,
        lun: bytes = LUN,
    ) -> Collector:
        """Submit a command, and return where its end will be."""
        done = Collector() if done is None else done
        self.connection.submit(CallbackTask(lun, cdb, data_out, data_in_bytes, timeout_s, done, place))
        return done
