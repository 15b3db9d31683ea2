"""A host as the tests need it: any CDB, many commands in flight, over a real socket, without an event loop."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

from scsi.iscsi.initiator import InitiatorConnection
from scsi.iscsi.initiator_options import InitiatorOptions, SessionOver, SessionReady
from scsi.iscsi.initiator_task import CallbackTask, Task
from tests.support.annexd import TARGET_NAME

GOOD = 0x00
CHECK_CONDITION = 0x02
LIMIT_S = 30.0
CDB_BYTES = 16
SCSI_COMMAND = 0x01  # opcode of a PDU
UNIT_ATTENTION = 0x06


class HostLost(Exception):
    """The session is gone, or never came to be."""


class Host:
    """One session of a host with a target on 127.0.0.1, in full feature phase."""

    def __init__(
        self,
        port: int,
        *,
        target: str = TARGET_NAME,
        name: str = "iqn.2026-11.org.example:test-host",
        isid: bytes = b"\x80\x00\x00\x00\x00\x01",
        asks_for_data: bool = False,
        connect: Callable[[], socket.socket] | None = None,
        **others: Any,
    ) -> None:
        """Log in; with `asks_for_data` the target has to ask for all data of writes, 8 KiB at a time.

        `connect` makes the connection, where the target is not on 127.0.0.1; `others` are more fields of
        `InitiatorOptions`.
        """
        options = InitiatorOptions(initiator_name=name, target_name=target, isid=isid, **others)
        if asks_for_data:
            options = replace(options, initial_r2t=True, immediate_data=False, max_burst_length=8192)
        self._over = False
        self._ready = False
        self._long_cdbs: dict[bytes, bytes] = {}  # to be sent: by its first 16 bytes, the rest of a CDB
        self._connection = InitiatorConnection(options, time.monotonic, os.urandom)
        try:
            self._socket = connect() if connect else socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
        except OSError as error:
            raise HostLost(str(error)) from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.wait(lambda: self._ready)
        except HostLost:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(
        self, cdb: bytes, done: Callable[[Task], None], *, data_out: bytes = b"", data_in_bytes: int = 0, lun: int = 0
    ) -> None:
        """Send a command, with a CDB of any length; `done` comes from within `pump` or `wait`."""
        raw_lun = bytes((0, lun)) + bytes(6)
        if len(cdb) > CDB_BYTES:
            self._long_cdbs[cdb[:CDB_BYTES]] = cdb[CDB_BYTES:]
        self._connection.submit(CallbackTask(raw_lun, cdb[:CDB_BYTES], data_out, data_in_bytes, LIMIT_S, done))

    def send(self, buffers: list[bytes | bytearray | memoryview]) -> None:
        """Send raw bytes."""
        if self._long_cdbs:
            buffers = [self._lengthened(b"".join(buffers))]
        for buffer in buffers:
            self._socket.sendall(buffer)

    def _lengthened(self, stream: bytes) -> bytes:
        """Put the rest of each long CDB into an additional header segment, which annex as initiator never sends.

        Spec: RFC 7143 11.2.2.3 "Extended CDB AHS".
        """
        pdus = b""
        while stream:
            end = 48 + (int.from_bytes(stream[5:8], "big") + 3) // 4 * 4
            header, data, stream = stream[:48], stream[48:end], stream[end:]
            rest = self._long_cdbs.pop(header[32:], b"") if header[0] & 0x3F == SCSI_COMMAND else b""
            if rest:
                segment = struct.pack(">HBx", len(rest) + 1, 0x01) + rest
                header = header[:4] + bytes((len(segment) // 4,)) + header[5:]
                header += segment
            pdus += header + data
        return pdus

    def pump(self, timeout_s: float) -> None:
        """Send what there is, and take what comes within `timeout_s`.

        Raises:
            HostLost: the session has ended.
        """
        try:
            self.send(self._connection.data_to_send())
            if select.select([self._socket], [], [], timeout_s)[0]:
                count = self._socket.recv_into(self._connection.receive_buffer())
                events = self._connection.bytes_received(count) if count else self._connection.connection_lost()
                for event in events:
                    self._ready = self._ready or isinstance(event, SessionReady)
                    self._over = self._over or isinstance(event, SessionOver)
        except OSError as error:
            self._over = True
            raise HostLost(str(error)) from error
        if self._over:
            raise HostLost(self._connection.reason)

    def wait(self, condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
        """Pump until `condition` holds.

        Raises:
            HostLost: the session has ended, or the time is over.
        """
        deadline = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > deadline:
                raise HostLost(f"nothing within {limit_s} s")
            self.pump(0.05)

    def command(self, cdb: bytes, *, data_out: bytes = b"", data_in_bytes: int = 0, lun: int = 0) -> Task:
        """Send a command and wait for its answer; unit attentions are passed over, as hosts do."""
        for _ in range(8):
            answers: list[Task] = []
            self.submit(cdb, answers.append, data_out=data_out, data_in_bytes=data_in_bytes, lun=lun)
            self.wait(lambda: bool(answers))  # noqa: B023 - it does not outlive this turn
            if answers[0].status != CHECK_CONDITION or answers[0].sense[2] & 0x0F != UNIT_ATTENTION:
                return answers[0]
        raise HostLost("unit attentions without end")

    def reset_unit(self, lun: int) -> bool:
        """Reset a logical unit; tell whether the target has done it."""
        answers: list[bool] = []
        self._connection.reset_unit(bytes((0, lun)) + bytes(6), answers.append)
        self.wait(lambda: bool(answers))
        return answers[0]

    def close(self) -> None:
        """Close the socket, without a word."""
        self._socket.close()


def sense_of(task: Task) -> tuple[int, int, int]:
    """Give sense key, ASC and ASCQ of fixed sense data; zeros where there is none."""
    sense = task.sense.ljust(18, b"\0")
    return sense[2] & 0x0F, sense[12], sense[13]


def write_cdb(lba: int, blocks: int, *, fua: bool = False) -> bytes:
    """Give the CDB of WRITE (16)."""
    return struct.pack(">BBQIxx", 0x8A, 0x08 if fua else 0, lba, blocks)


def read_cdb(lba: int, blocks: int) -> bytes:
    """Give the CDB of READ (16)."""
    return struct.pack(">BBQIxx", 0x88, 0, lba, blocks)


SYNCHRONIZE_CACHE = struct.pack(">BBIBHB", 0x35, 0, 0, 0, 0, 0)
