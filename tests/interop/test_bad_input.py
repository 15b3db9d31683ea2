"""What nobody should send, to the running daemon: it lives, stays small, logs no traceback; others notice nothing."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from scsi.iscsi.initiator_task import Task
from tests.support.annexd import Annexd
from tests.support.host import CHECK_CONDITION, GOOD, Host, HostLost, read_cdb, write_cdb
from tests.support.load import Load

pytestmark = [pytest.mark.interop, pytest.mark.slow]

MIB = 1 << 20
MOST_GROWTH_BYTES = 50 * MIB
RECORDED = b"\x80\x00\x00\x00\xff\xff"
VICTIM = b"\x80\x00\x00\x00\x00\xaa"  # ISID of the session that must not notice anything
TEST_UNIT_READY = bytes(6)
LOGIN_RESPONSE, SCSI_RESPONSE = b"\x23", b"\x21"
STATUSES = {GOOD, CHECK_CONDITION, 0x18}


class Recorder(Host):
    """A host that keeps what it sends."""

    sent = b""

    def send(self, buffers: list[bytes | bytearray | memoryview]) -> None:
        self.sent += b"".join(bytes(buffer) for buffer in buffers)
        super().send(buffers)


@contextmanager
def attacked(folder: Path) -> Iterator[Annexd]:
    """Run annexd with a session on LUN 0 that works before, and reads all of it back after; LUN 1 is the attacker's."""
    disks = [folder / name for name in ("victim.img", "attacked.img")]
    for disk in disks:
        with disk.open("wb") as file:
            file.truncate(16 * MIB)
    load = Load(64, seed=1)
    with Annexd(folder, *(("--local", disk) for disk in disks)) as annexd, Host(annexd.port, isid=VICTIM) as victim:
        load.run(victim, 200)
        before = resident_bytes(annexd)
        yield annexd
        load.run(victim, 200)
        assert load.check(victim) == []
        assert load.failed == []
        assert resident_bytes(annexd) - before < MOST_GROWTH_BYTES
        assert "Traceback" not in annexd.log()


def resident_bytes(annexd: Annexd) -> int:
    pages = int(Path(f"/proc/{annexd.pid}/statm").read_text().split()[1])
    return pages * 4096


def recorded(annexd: Annexd) -> bytes:
    """Give all that a host sends which logs in and writes 8 blocks to LUN 1."""
    with Recorder(annexd.port, isid=RECORDED) as host:
        host.command(TEST_UNIT_READY, lun=1)  # takes the unit attention of a new session, also when it is sent again
        answers: list[Task] = []
        host.submit(write_cdb(0, 8), answers.append, data_out=b"\x5a" * 4096, lun=1)
        host.wait(lambda: bool(answers))
        return host.sent


def send_raw(annexd: Annexd, *parts: bytes) -> bytes:
    """Send bytes in pieces, then nothing more; give all that came back until the other side closed."""
    with socket.create_connection(("127.0.0.1", annexd.port), timeout=5) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answer = b""
        with suppress(OSError):
            for part in parts:
                connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(65536):
                answer += data
        return answer


def test_a_session_cut_off_anywhere(tmp_path: Path) -> None:
    with attacked(tmp_path) as annexd:
        whole = recorded(annexd)
        headers = [*range(120), *range(len(whole) - 4200, len(whole) - 4000, 5)]
        for cut in {*headers, *random.Random(1).sample(range(len(whole)), 60)}:
            send_raw(annexd, whole[:cut])


def test_a_session_in_two_pieces_parted_anywhere_does_the_same(tmp_path: Path) -> None:
    with attacked(tmp_path) as annexd:
        whole = recorded(annexd)
        for place in random.Random(2).sample(range(1, len(whole)), 80):
            # An ISID of its own each time: a login that takes a session's place is answered only after its tasks have
            # ended, and nothing may be sent before it is.
            sent = whole.replace(RECORDED, RECORDED[:4] + place.to_bytes(2, "big"))
            assert opcodes_answered(annexd, sent[:place], sent[place:]) == LOGIN_RESPONSE * 2 + SCSI_RESPONSE * 2, place
    assert (tmp_path / "attacked.img").read_bytes()[:4096] == b"\x5a" * 4096


def opcodes_answered(annexd: Annexd, *parts: bytes) -> bytes:
    """Send bytes in pieces; give the opcodes of the first four PDUs that come back."""
    with socket.create_connection(("127.0.0.1", annexd.port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            connection.sendall(part)
        opcodes = b""
        for _ in range(4):
            header = connection.recv(48, socket.MSG_WAITALL)
            opcodes += header[:1]
            connection.recv(-(-int.from_bytes(header[5:8], "big") // 4) * 4, socket.MSG_WAITALL)
        return opcodes


def test_a_session_with_bytes_changed_anywhere(tmp_path: Path) -> None:
    rng = random.Random(3)
    with attacked(tmp_path) as annexd:
        whole = recorded(annexd)
        for _ in range(300):
            changed = bytearray(whole)
            for _ in range(rng.randint(1, 4)):
                place = rng.randrange(len(whole) - 4096 if rng.random() < 0.9 else len(whole))
                changed[place] = rng.randrange(256)
            if VICTIM not in changed:  # a login as the victim would rightly end its session
                send_raw(annexd, bytes(changed))


def test_garbage_from_the_first_byte_on(tmp_path: Path) -> None:
    rng = random.Random(4)
    with attacked(tmp_path) as annexd:
        for _ in range(200):
            send_raw(annexd, rng.randbytes(rng.choice((1, 47, 48, 49, 1000, 20000))))
        for opcode in range(256):
            send_raw(annexd, bytes([opcode, 0x80, 0, 0, 255, 255, 255, 255]) + bytes(40) + rng.randbytes(5000))


def test_commands_of_any_content_each_get_an_answer(tmp_path: Path) -> None:
    rng = random.Random(5)
    with attacked(tmp_path) as annexd, Host(annexd.port) as host:
        answers: list[Task] = []
        for number in range(3000):
            opcode = number % 256
            cdb = bytes([opcode]) + bytes(rng.choice((0, 0, 1, 0x80, 255, rng.randrange(256))) for _ in range(15))
            length = rng.choice((0, 1, 255, 512, 4096))
            if rng.random() < 0.5:
                host.submit(cdb, answers.append, data_in_bytes=length, lun=1)
            else:
                host.submit(cdb, answers.append, data_out=bytes(length), lun=1)
            if number % 32 == 31:
                host.wait(lambda: len(answers) > number)  # noqa: B023 - it does not outlive this turn
        host.wait(lambda: len(answers) == 3000)
        assert {answer.status for answer in answers} <= STATUSES
        assert all(answer.sense for answer in answers if answer.status == CHECK_CONDITION)
        assert host.command(read_cdb(0, 1), data_in_bytes=512, lun=1).status == GOOD


def test_hundreds_of_half_open_logins_do_not_keep_a_real_one_out(tmp_path: Path) -> None:
    with attacked(tmp_path) as annexd:
        idle = [socket.create_connection(("127.0.0.1", annexd.port), timeout=5) for _ in range(400)]
        try:
            for connection in idle[::2]:
                connection.sendall(b"\x43\x87\x00\x00")
            with Host(annexd.port) as host:
                assert host.command(read_cdb(0, 1), data_in_bytes=512, lun=1).status == GOOD
        finally:
            for connection in idle:
                connection.close()


def test_a_host_that_goes_in_the_middle_of_its_writes(tmp_path: Path) -> None:
    with attacked(tmp_path) as annexd:
        for number in range(100):
            with suppress(HostLost):
                host = Host(annexd.port)
                for lba in range(16):
                    host.submit(write_cdb(lba * 64, 64), lambda _: None, data_out=bytes(32768), lun=1)
                host.pump(0)
                if number % 2:
                    host.pump(0.01)
                host.close()
