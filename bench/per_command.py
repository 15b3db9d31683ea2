"""Processor time per command, in one process and without a socket: `python -m bench.per_command`.

A connection of a portal gets batches of READ (10) or WRITE (10) of 4 KiB as a host would send them, with a volume in
memory that answers at once. What is measured is the time of `HostConnection.buffer_updated`, best of many rounds, so
that what else the machine does is left out; what is not measured are the kernel, the event loop and a device.
"""

from __future__ import annotations

import argparse
import asyncio
import struct
import time
from typing import Any, cast

from bench.servers import ROOT
from daemon import compiled

COMPILED = compiled.use(ROOT)  # before anything of the data path is imported

from daemon.portal import HostConnection, Portal
from scsi.iscsi.directory import Addresses, Admission
from scsi.iscsi.events import SessionEnded, TaskManagement
from scsi.iscsi.registry import SessionRegistry
from scsi.iscsi.session import Session
from scsi.logical_unit import LogicalUnit
from scsi.nexus import MappedUnit, Nexus
from scsi.target import TargetPort
from scsi.volume import OWN_BLOCKS, Allocation, AllocationDone, Buffer, ClaimDone, Done, ReadDone, VolumeError

BLOCKS, BLOCK_BYTES, COMMAND_BLOCKS = 1 << 20, 512, 8
COMMAND_BYTES = COMMAND_BLOCKS * BLOCK_BYTES
INITIATOR, TARGET = "iqn.2026-11.io.annex.bench:host", "iqn.2026-11.io.annex.bench:target"
_COMMAND = struct.Struct(">BBHIQIIII16s")
_CDB_10 = struct.Struct(">BBIBHB6x")


class Volume:
    """Answers at once, with the same bytes every time."""

    blocks, block_bytes, physical_block_exponent = BLOCKS, BLOCK_BYTES, 3
    write_cache, read_only, max_transfer_blocks, deallocation, claimable = True, False, 0, None, True

    def __init__(self) -> None:
        self._data = bytes(COMMAND_BYTES)

    def fault(self) -> VolumeError | None:
        return None

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        done(self._data)

    def write(self, lba: int, data: Buffer, fua: bool, done: Done) -> None:
        done(None)

    def write_and_read(self, lba: int, data: Buffer, done: ReadDone) -> None:
        done(self._data)

    def write_same(self, lba: int, block: Buffer, blocks: int, done: Done) -> None:
        done(None)

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        done(None)

    def allocation(self, lba: int, blocks: int, done: AllocationDone) -> None:
        done([Allocation(blocks, mapped=True)])

    def claim(self, lba: int, blocks: int, done: ClaimDone) -> None:
        done(OWN_BLOCKS)

    def flush(self, done: Done) -> None:
        done(None)


class Transport:
    """Takes what is sent, and forgets it."""

    def __init__(self) -> None:
        self.last: list[Buffer] = []

    def writelines(self, buffers: list[Buffer]) -> None:
        self.last = buffers

    def get_extra_info(self, name: str) -> tuple[str, int]:
        return ("127.0.0.1", 40000 if name == "peername" else 3260)

    def set_write_buffer_limits(self, high: int) -> None: ...
    def is_closing(self) -> bool:
        return False


class Directory:
    """Admits everybody."""

    def admit(self, initiator_name: str, target_name: str, addresses: Addresses) -> Admission:
        return Admission(None, 1)

    def admit_discovery(self, initiator_name: str, addresses: Addresses) -> Admission:
        return Admission(None, 1)

    def targets(self, initiator_name: str, addresses: Addresses) -> list[Any]:
        return []


class Handler:
    """Shows every session one logical unit, as `daemon.sessions` does."""

    def __init__(self) -> None:
        self.unit = LogicalUnit(Volume(), bytes.fromhex("6" + "0" * 31))

    def logged_in(self, session: Session, end: Any) -> Any:
        session.nexus = Nexus(INITIATOR, bytes(6), TARGET, 1, False, {bytes(8): MappedUnit(self.unit)})
        port = TargetPort()
        port.nexus_created(session.nexus)
        session.nexus.attentions.clear()
        return port.execute

    def manage(self, request: TaskManagement) -> None: ...
    def session_ended(self, event: SessionEnded) -> None: ...


class Host:
    """One logged-in connection, and the next batches for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.transport = Transport()
        self.portal = Portal(cast(Any, Directory()), SessionRegistry(), cast(Any, Handler()))
        self.connection = HostConnection(self.portal, loop)
        self.connection.connection_made(cast(Any, self.transport))
        self._cmd_sn = 1
        text = "".join(f"{key}\0" for key in (
            f"InitiatorName={INITIATOR}", f"TargetName={TARGET}", "SessionType=Normal", "HeaderDigest=None",
            "DataDigest=None", "ImmediateData=Yes", "InitialR2T=No", "MaxRecvDataSegmentLength=262144",
        )).encode()  # fmt: skip
        header = struct.pack(">BBBBI6sHIHHII16x", 0x43, 0x87, 0, 0, len(text), b"\x80\0\0\0\0\1", 0, 1, 1, 0, 1, 0)
        self.feed(header + text + bytes(-len(text) % 4))
        assert self.transport.last[0][36:38] == b"\0\0", "the login was refused"

    def feed(self, data: bytes) -> float:
        """Give bytes to the connection; say how long it was at work, s."""
        taken = 0.0
        rest = memoryview(data)
        while rest:
            place = self.connection.get_buffer(-1)
            count = min(len(place), len(rest))
            place[:count] = rest[:count]
            rest = rest[count:]
            began = time.perf_counter()
            self.connection.buffer_updated(count)
            taken += time.perf_counter() - began
        return taken

    def batch(self, opcode: int, depth: int) -> bytes:
        """Make `depth` commands that come together."""
        writes = opcode == 0x2A
        flags, data = (0xA1, bytes(COMMAND_BYTES)) if writes else (0xC1, b"")
        pdus: list[bytes] = []
        for index in range(depth):
            cdb = _CDB_10.pack(opcode, 0, index * COMMAND_BLOCKS, 0, COMMAND_BLOCKS, 0)
            tag, cmd_sn = index + 1, self._cmd_sn & 0xFFFFFFFF
            pdus += _COMMAND.pack(1, flags, 0, len(data), 0, tag, COMMAND_BYTES, cmd_sn, 0, cdb), data
            self._cmd_sn += 1
        return b"".join(pdus)


def measure(host: Host, opcode: int, depth: int, rounds: int, batches: int) -> float:
    """Give the least processor time per command of all rounds, µs."""
    best = float("inf")
    for _ in range(rounds):
        taken = sum(host.feed(host.batch(opcode, depth)) for _ in range(batches))
        best = min(best, taken / (batches * depth))
    return best * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.per_command", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=60, help="the best of so many counts (default: 60)")
    rounds = parser.parse_args().rounds
    print("compiled" if COMPILED else "interpreted")
    loop = asyncio.new_event_loop()
    host = Host(loop)
    for name, opcode in (("READ (10)", 0x28), ("WRITE (10)", 0x2A)):
        for depth in (1, 32):
            print(f"{name}, 4 KiB, {depth:2} at a time: {measure(host, opcode, depth, rounds, 2048 // depth):.2f} µs")
    loop.close()


if __name__ == "__main__":
    main()
