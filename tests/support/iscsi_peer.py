"""A scripted initiator that talks raw PDUs to a target `Connection` in memory, and can misbehave in any way.

It answers nothing by itself and keeps only the numbers that every request needs. SCSI commands that come up are
answered by the test, or by `disk` when that is set.
"""

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from crc32c import crc32c

from scsi.iscsi.chap import ChapPolicy
from scsi.iscsi.connection import Connection
from scsi.iscsi.directory import Addresses, Admission, Portal, TargetListing
from scsi.iscsi.errors import LoginRefused, LoginStatus
from scsi.iscsi.events import Event, LoggedIn, ProtocolFault, ScsiCommand, SessionEnded, TaskManagement
from scsi.iscsi.options import TargetOptions
from scsi.iscsi.registry import SessionRegistry
from scsi.iscsi.session import Session

INITIATOR = "iqn.2026-11.io.annex.test:host"
TARGET = "iqn.2026-11.io.annex.test:target"
ISID = bytes.fromhex("80a1b2c30001")
ADDRESSES = Addresses("192.0.2.1", 40000, "192.0.2.2", 3260)
LUN = bytes(8)
NO_TAG = 0xFFFFFFFF


@dataclass
class FakeDirectory:
    """A configuration with one target and whatever a test changes of it."""

    chap: ChapPolicy | None = None
    discovery_chap: ChapPolicy | None = None
    tag: int = 1
    alias: str = ""
    options: TargetOptions | None = None
    listings: list[TargetListing] = field(
        default_factory=lambda: [TargetListing(TARGET, [Portal("192.0.2.2", 3260, 1), Portal("2001:db8::2", 3260, 1)])]
    )
    refusal: LoginRefused | None = None
    asked: list[tuple[str, str]] = field(default_factory=list)

    def admit(self, initiator_name: str, target_name: str, _addresses: Addresses) -> Admission:
        self.asked.append((initiator_name, target_name))
        if self.refusal is not None:
            raise self.refusal
        if target_name != TARGET:
            raise LoginRefused(LoginStatus.NOT_FOUND, "no such target")
        return Admission(self.chap, self.tag, self.alias, self.options, context="context")

    def admit_discovery(self, _initiator_name: str, _addresses: Addresses) -> Admission:
        return Admission(self.discovery_chap, self.tag)

    def targets(self, _initiator_name: str, _addresses: Addresses) -> Iterable[TargetListing]:
        return self.listings


class Clock:
    """Seconds that a test moves on itself."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Pdu:
    """One PDU of the target as it was on the wire."""

    raw: bytes
    data: bytes

    @property
    def opcode(self) -> int:
        return self.raw[0] & 0x3F

    @property
    def flags(self) -> int:
        return self.raw[1]

    def word(self, offset: int) -> int:
        word: int = struct.unpack_from(">I", self.raw, offset)[0]
        return word

    def short(self, offset: int) -> int:
        short: int = struct.unpack_from(">H", self.raw, offset)[0]
        return short

    @property
    def lun(self) -> bytes:
        return self.raw[8:16]

    @property
    def task_tag(self) -> int:
        return self.word(16)

    @property
    def transfer_tag(self) -> int:
        return self.word(20)

    @property
    def stat_sn(self) -> int:
        return self.word(24)

    @property
    def exp_cmd_sn(self) -> int:
        return self.word(28)

    @property
    def max_cmd_sn(self) -> int:
        return self.word(32)

    @property
    def login_status(self) -> int:
        return self.short(36)

    @property
    def text(self) -> dict[str, str]:
        return dict(self.pairs)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        assert not self.data or self.data.endswith(b"\0")
        found = [pair.decode().partition("=") for pair in self.data.split(b"\0") if pair]
        return [(name, value) for name, _, value in found]


def make_text(pairs: dict[str, str] | list[tuple[str, str]]) -> bytes:
    items = pairs.items() if isinstance(pairs, dict) else pairs
    return b"".join(f"{name}={value}\0".encode() for name, value in items)


class Peer:
    """The initiator's end of one connection.

    Attributes:
        connection: the target's end.
        events: all events of the connection so far.
        received: PDUs of the target that no test has taken yet.
        wakes: how often the connection asked to be looked at.
        disk: answers SCSI commands as they come up, when set.
        handle: takes every event, when set.
    """

    def __init__(
        self,
        directory: FakeDirectory | None = None,
        registry: SessionRegistry | None = None,
        options: TargetOptions | None = None,
        clock: Clock | None = None,
        disk: Callable[[ScsiCommand], None] | None = None,
        random_bytes: Callable[[int], bytes] | None = None,
    ) -> None:
        self.directory = directory or FakeDirectory()
        self.registry = registry if registry is not None else SessionRegistry()
        self.clock = clock or Clock()
        self.wakes = 0
        extra: dict[str, Any] = {"random_bytes": random_bytes} if random_bytes else {}
        self.connection = Connection(
            self.directory, self.registry, ADDRESSES, clock=self.clock, wake=self._wake, options=options, **extra
        )
        self.disk = disk
        self.handle: Callable[[Event], None] | None = None
        self.events: list[Event] = []
        self.received: list[Pdu] = []
        self.unparsed = b""
        self.header_digest = False
        self.data_digest = False
        self.isid = ISID
        self.tsih = 0
        self.cid = 0
        self.cmd_sn = 1
        self.exp_stat_sn = 1
        self.next_tag = 1

    def _wake(self) -> None:
        self.wakes += 1

    # --- bytes ---

    def send(self, data: bytes) -> list[Pdu]:
        """Send bytes, let the target work, and return the PDUs that it sent because of them."""
        before = len(self.received)
        self._act(self.connection.receive_data(data))
        return self.received[before:]

    def send_pieces(self, pieces: Iterable[bytes]) -> list[Pdu]:
        return [pdu for piece in pieces for pdu in self.send(piece)]

    def _act(self, events: list[Event]) -> None:
        """Work as the adapter does: act, send, look again."""
        while True:
            for event in events:
                self.events.append(event)
                if isinstance(event, ScsiCommand) and self.disk is not None:
                    self.disk(event)
                if self.handle is not None:
                    self.handle(event)
            self._collect()
            events = self.connection.take_events()
            if not events:
                return

    def look(self) -> list[Pdu]:
        """Do what the adapter does after `wake`, and return the PDUs that were sent."""
        before = len(self.received)
        self._act(self.connection.take_events())
        return self.received[before:]

    def lose(self) -> None:
        """Drop the connection."""
        self._act(self.connection.connection_lost())

    def timer(self, now: float) -> list[Pdu]:
        self.clock.now = now
        before = len(self.received)
        self._act(self.connection.on_timer(now))
        return self.received[before:]

    def _collect(self) -> None:
        self.unparsed += b"".join(self.connection.data_to_send())
        while pdu := self._cut():
            self.received.append(pdu)

    def _cut(self) -> Pdu | None:
        stream = self.unparsed
        if len(stream) < 48:
            return None
        assert stream[4] == 0, "the target never sends additional headers"
        length = int.from_bytes(stream[5:8], "big")
        at = 48
        if self.header_digest:
            at += 4
        end = at + length + (-length % 4)
        total = end + (4 if self.data_digest and length else 0)
        if len(stream) < total:
            return None
        if self.header_digest:
            assert stream[48:52] == struct.pack("<I", crc32c(stream[:48])), "header digest"
        if total > end:
            assert stream[end:total] == struct.pack("<I", crc32c(stream[at:end])), "data digest"
        assert not any(stream[at + length : end]), "padding is zero"
        self.unparsed = stream[total:]
        return Pdu(stream[:48], stream[at : at + length])

    def pack(self, header: bytes, data: bytes = b"", ahs: bytes = b"") -> bytes:
        """Return a PDU's bytes, with lengths, padding and the digests that were negotiated."""
        assert len(header) == 48
        assert len(ahs) % 4 == 0
        header = header[:4] + bytes([len(ahs) // 4]) + len(data).to_bytes(3, "big") + header[8:] + ahs
        stream = header
        if self.header_digest:
            stream += struct.pack("<I", crc32c(header))
        padded = data + bytes(-len(data) % 4)
        stream += padded
        if self.data_digest and data:
            stream += struct.pack("<I", crc32c(padded))
        return stream

    # --- PDUs ---

    def tag(self) -> int:
        self.next_tag += 1
        return self.next_tag - 1

    def number(self) -> int:
        """Return the CmdSN of the next request that is not immediate."""
        number = self.cmd_sn
        self.cmd_sn = (number + 1) & 0xFFFFFFFF
        return number

    def login_pdu(
        self,
        pairs: dict[str, str] | list[tuple[str, str]] | bytes,
        *,
        stage: int = 1,
        next_stage: int = 3,
        transit: bool = True,
        more: bool = False,
        versions: tuple[int, int] = (0, 0),
        **changes: Any,
    ) -> bytes:
        data = pairs if isinstance(pairs, bytes) else make_text(pairs)
        flags = (0x80 if transit else 0) | (0x40 if more else 0) | stage << 2 | (next_stage if transit else 0)
        header = struct.pack(
            ">BBBBI6sHIHHII16x",
            0x43,
            flags,
            *versions,
            0,
            changes.get("isid", self.isid),
            changes.get("tsih", self.tsih),
            changes.get("tag", 0),
            changes.get("cid", self.cid),
            0,
            changes.get("cmd_sn", self.cmd_sn),
            changes.get("exp_stat_sn", self.exp_stat_sn),
        )
        return self.pack(header, data)

    def login_step(self, pairs: dict[str, str] | list[tuple[str, str]] | bytes, **how: Any) -> Pdu:
        """Send one Login Request and return the one response."""
        answers = self.send(self.login_pdu(pairs, **how))
        assert len(answers) == 1, answers
        self.exp_stat_sn = (answers[0].stat_sn + 1) & 0xFFFFFFFF
        return answers[0]

    def names(self, **more: str) -> dict[str, str]:
        return {"InitiatorName": INITIATOR, "TargetName": TARGET, "SessionType": "Normal", **more}

    def log_in(self, **keys: str) -> Pdu:
        """Log in to the target in one step, without authentication."""
        answer = self.login_step(self.names(**keys))
        assert answer.login_status == 0, hex(answer.login_status)
        assert answer.flags == 0x87
        self.entered(answer)
        return answer

    def entered(self, answer: Pdu) -> None:
        """Take over what the last Login Response says."""
        self.tsih = answer.short(14)
        # What was offered and accepted; tests that negotiate digests over several steps set these themselves.
        self.header_digest = answer.text.get("HeaderDigest") == "CRC32C"
        self.data_digest = answer.text.get("DataDigest") == "CRC32C"

    def discover(self, **keys: str) -> Pdu:
        """Log in to a Discovery session in one step."""
        answer = self.login_step({"InitiatorName": INITIATOR, "SessionType": "Discovery", **keys})
        assert answer.login_status == 0, hex(answer.login_status)
        self.tsih = answer.short(14)
        return answer

    def command_pdu(
        self,
        cdb: bytes = b"",
        *,
        read: int | None = None,
        write: int | None = None,
        data: bytes = b"",
        final: bool = True,
        immediate: bool = False,
        tag: int | None = None,
        cmd_sn: int | None = None,
        lun: bytes = LUN,
        attribute: int = 1,
        ahs: bytes = b"",
    ) -> bytes:
        flags = (
            (0x80 if final else 0) | (0x40 if read is not None else 0) | (0x20 if write is not None else 0) | attribute
        )
        if cmd_sn is None:
            cmd_sn = self.cmd_sn if immediate else self.number()
        expected = write if write is not None else read or 0
        header = struct.pack(
            ">BBHI8sIIII16s",
            0x41 if immediate else 0x01,
            flags,
            0,
            0,
            lun,
            self.tag() if tag is None else tag,
            expected,
            cmd_sn,
            self.exp_stat_sn,
            cdb,
        )
        return self.pack(header, data, ahs)

    def data_out_pdu(
        self,
        tag: int,
        data: bytes,
        *,
        offset: int,
        data_sn: int = 0,
        transfer_tag: int = NO_TAG,
        final: bool = True,
        lun: bytes = LUN,
    ) -> bytes:
        header = struct.pack(
            ">BBHI8sIIIIIII4x",
            0x05,
            0x80 if final else 0,
            0,
            0,
            lun,
            tag,
            transfer_tag,
            0,
            self.exp_stat_sn,
            0,
            data_sn,
            offset,
        )
        return self.pack(header, data)

    def task_management_pdu(
        self,
        function: int,
        *,
        tag: int | None = None,
        referenced: int = NO_TAG,
        ref_cmd_sn: int = 0,
        lun: bytes = LUN,
        immediate: bool = True,
        cmd_sn: int | None = None,
    ) -> bytes:
        if cmd_sn is None:
            cmd_sn = self.cmd_sn if immediate else self.number()
        header = struct.pack(
            ">BBHI8sIIIIII8x",
            0x42 if immediate else 0x02,
            0x80 | function,
            0,
            0,
            lun,
            self.tag() if tag is None else tag,
            referenced,
            cmd_sn,
            self.exp_stat_sn,
            ref_cmd_sn,
            0,
        )
        return self.pack(header)

    def text_pdu(
        self,
        pairs: dict[str, str] | list[tuple[str, str]] | bytes,
        *,
        tag: int | None = None,
        transfer_tag: int = NO_TAG,
        final: bool = True,
        more: bool = False,
        immediate: bool = False,
    ) -> bytes:
        data = pairs if isinstance(pairs, bytes) else make_text(pairs)
        header = struct.pack(
            ">BBHI8sIIII16x",
            0x44 if immediate else 0x04,
            (0x80 if final else 0) | (0x40 if more else 0),
            0,
            0,
            LUN,
            self.tag() if tag is None else tag,
            transfer_tag,
            self.cmd_sn if immediate else self.number(),
            self.exp_stat_sn,
        )
        return self.pack(header, data)

    def nop_pdu(
        self,
        data: bytes = b"",
        *,
        tag: int | None = None,
        transfer_tag: int = NO_TAG,
        immediate: bool = True,
        cmd_sn: int | None = None,
        lun: bytes = LUN,
    ) -> bytes:
        if cmd_sn is None:
            cmd_sn = self.cmd_sn if immediate else self.number()
        header = struct.pack(
            ">BBHI8sIIII16x",
            0x40 if immediate else 0x00,
            0x80,
            0,
            0,
            lun,
            self.tag() if tag is None else tag,
            transfer_tag,
            cmd_sn,
            self.exp_stat_sn,
        )
        return self.pack(header, data)

    def logout_pdu(self, reason: int = 0, *, cid: int = 0, immediate: bool = True) -> bytes:
        header = struct.pack(
            ">BBHI8xIHHII16x",
            0x46 if immediate else 0x06,
            0x80 | reason,
            0,
            0,
            self.tag(),
            cid,
            0,
            self.cmd_sn if immediate else self.number(),
            self.exp_stat_sn,
        )
        return self.pack(header)

    def is_closed(self) -> bool:
        """Say whether the target wants the connection closed."""
        return self.connection.closing

    # --- what came up ---

    @property
    def session(self) -> Session:
        assert self.connection.session is not None
        return self.connection.session

    @property
    def commands(self) -> list[ScsiCommand]:
        return [event for event in self.events if isinstance(event, ScsiCommand)]

    @property
    def functions(self) -> list[TaskManagement]:
        return [event for event in self.events if isinstance(event, TaskManagement)]

    @property
    def faults(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, ProtocolFault)]

    @property
    def logins(self) -> list[Session]:
        return [event.session for event in self.events if isinstance(event, LoggedIn)]

    @property
    def ends(self) -> list[SessionEnded]:
        return [event for event in self.events if isinstance(event, SessionEnded)]
