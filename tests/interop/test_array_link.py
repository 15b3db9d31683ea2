"""annex as the initiator of a real external array: tgt."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from backends.devices.state import DeviceState
from backends.external.array import ArrayState, ExternalArray
from backends.external.fence import FenceKeeper
from backends.external.unit import ExternalLogicalUnit
from daemon.array_link import ArrayLink, parse_target_address
from daemon.event_loop import LoopScheduler
from scsi.iscsi.chap import Credentials
from scsi.iscsi.initiator_options import InitiatorOptions
from scsi.volume import Fault, VolumeError
from tests.support.ports import free_port
from tests.support.target_peer import TargetPeer
from tests.support.tgt import Tgt

pytestmark = pytest.mark.interop

TARGET = "iqn.2026-11.org.example:array"
OPTIONS = InitiatorOptions("iqn.2026-11.io.annex.test:a", TARGET, bytes.fromhex("800000000001"))
OTHER_HOST = replace(OPTIONS, initiator_name="iqn.2026-11.io.annex.test:b")
SIZE = 16 << 20
LIMIT_S = 40.0
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run_on_loop(main: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(LIMIT_S):
                await main

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())

    return run_on_loop


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


@pytest.fixture
def tgt(tmp_path: Path, disk: Path) -> Iterator[Tgt]:
    with Tgt(tmp_path) as running:
        running.add_lun(running.add_target(TARGET), disk)
        yield running


def content(disk: Path) -> bytes:
    return disk.read_bytes()


class Initiator:
    """One annex, as far as the array can see."""

    def __init__(self, port: int, options: InitiatorOptions = OPTIONS, timeout_s: float = 5.0) -> None:
        scheduler = LoopScheduler(asyncio.get_running_loop())
        self.link = ArrayLink("old", "127.0.0.1", port, options)
        self.fences = FenceKeeper(scheduler)
        self.array = ExternalArray("old", self.link, scheduler, self.fences, timeout_s)
        self.array.start()

    @property
    def unit(self) -> ExternalLogicalUnit:
        return self.array.units()[0]

    async def settled(self) -> Initiator:
        await call(self.array.when_settled)
        return self

    async def read(self, lba: int, blocks: int) -> bytes:
        result = await call(lambda done: self.unit.read(lba, blocks, done))
        if isinstance(result, VolumeError):
            raise result
        return bytes(result)

    async def write(self, lba: int, data: bytes, fua: bool = False) -> None:
        await succeed(lambda done: self.unit.write(lba, data, fua, done))

    async def ready(self) -> None:
        await wait_until(lambda: bool(self.array.units()) and self.unit.state is DeviceState.READY)

    async def close(self) -> None:
        await call(self.array.close)


async def call(start: Callable[[Any], None]) -> Any:
    """Wait for what a callback gets."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def done(result: Any = None) -> None:
        future.set_result(result)

    start(done)
    return await future


async def succeed(start: Callable[[Any], None]) -> None:
    error = await call(start)
    if error is not None:
        raise error


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what no callback tells of; the bound is the test's own."""
    while not condition():  # noqa: ASYNC110 (there is no event to wait for)
        await asyncio.sleep(0.02)


class Holder:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def fence_lapsed(self, unit: ExternalLogicalUnit) -> None:
        self.heard.append("lapsed")

    def fence_retaken(self, unit: ExternalLogicalUnit) -> None:
        self.heard.append("retaken")

    def fence_refused(self, unit: ExternalLogicalUnit, error: VolumeError) -> None:
        self.heard.append("refused")


def test_the_disk_is_found_read_and_written(run: Run, tgt: Tgt, disk: Path) -> None:
    async def main() -> None:
        annex = await Initiator(tgt.port).settled()
        assert annex.array.state is ArrayState.READY
        unit = annex.unit
        assert (unit.blocks * unit.block_bytes, unit.vendor, unit.lun_number) == (SIZE, "IET", 1)
        assert unit.write_cache
        assert await annex.read(0, SIZE // 512) == content(disk)
        for blocks in (1, 7, 8, 129, 2048, 10001):
            data = random.Random(blocks).randbytes(blocks * 512)
            await annex.write(blocks, data, fua=blocks == 8)
            assert await annex.read(blocks, blocks) == data
            assert content(disk)[blocks * 512 : 2 * blocks * 512] == data
        await succeed(unit.flush)
        await annex.close()

    run(main())
    assert "iqn.2026-11.io.annex.test:a" not in tgt.sessions(1)


def test_many_commands_in_flight(run: Run, tgt: Tgt) -> None:
    async def main() -> None:
        annex = await Initiator(tgt.port).settled()
        blocks = [random.Random(number).randbytes(4096) for number in range(500)]
        await asyncio.gather(*(annex.write(number * 8, data) for number, data in enumerate(blocks)))
        assert await asyncio.gather(*(annex.read(number * 8, 8) for number in range(500))) == blocks
        await annex.close()

    run(main())


@pytest.mark.parametrize(
    ("name", "value", "attribute"),
    [
        ("InitialR2T", "Yes", ("initial_r2t", True)),
        ("ImmediateData", "No", ("immediate_data", False)),
        ("HeaderDigest", "CRC32C", ("header_digest", True)),
        ("DataDigest", "CRC32C", ("data_digest", True)),
        ("MaxBurstLength", "8192", ("max_burst_length", 8192)),
        ("MaxRecvDataSegmentLength", "1024", ("max_send_data_segment_length", 1024)),
    ],
)
def test_whatever_is_negotiated_the_data_arrives(tgt: Tgt, name: str, value: str, attribute: tuple[str, Any]) -> None:
    tgt.set_parameter(1, name, value)
    options = replace(OPTIONS, header_digest=name == "HeaderDigest", data_digest=name == "DataDigest")

    async def main() -> None:
        annex = await Initiator(tgt.port, options).settled()
        connection = annex.link._connection
        assert connection is not None
        assert getattr(connection.parameters, attribute[0]) == attribute[1]
        for length in (512, 4096, 65536 + 512, 1 << 20):
            data = random.Random(length).randbytes(length)
            await annex.write(9, data)
            assert await annex.read(9, length // 512) == data
        await annex.close()

    asyncio.run(main())


def test_chap_one_way_and_mutual(tgt: Tgt) -> None:
    tgt.add_account(1, "annex", "a secret of annex")
    own = Credentials("annex", b"a secret of annex")
    theirs = Credentials("array", b"the array's secret")

    async def log_in(**chap: Any) -> tuple[ArrayState, str]:
        annex = await Initiator(tgt.port, replace(OPTIONS, **chap)).settled()
        result = annex.array.state, annex.array.reason
        await annex.close()
        return result

    assert asyncio.run(log_in(chap=own)) == (ArrayState.READY, "")
    state, reason = asyncio.run(log_in(chap=Credentials("annex", b"not the secret")))
    assert state is ArrayState.BLOCKED
    assert "login refused" in reason
    state, reason = asyncio.run(log_in())
    assert state is not ArrayState.READY
    state, reason = asyncio.run(log_in(chap=own, mutual_chap=theirs))
    assert state is not ArrayState.READY
    tgt.add_account(1, "array", "the array's secret", outgoing=True)
    assert asyncio.run(log_in(chap=own, mutual_chap=theirs)) == (ArrayState.READY, "")
    state, reason = asyncio.run(log_in(chap=own, mutual_chap=Credentials("array", b"another")))
    assert "wrong CHAP name or secret" in reason


def test_a_fence_keeps_a_second_host_out_until_it_is_dropped(run: Run, tgt: Tgt) -> None:
    async def main() -> None:
        annex, host = await Initiator(tgt.port).settled(), await Initiator(tgt.port, OTHER_HOST).settled()
        await host.write(0, bytes(512))
        holder = Holder()
        await succeed(lambda done: annex.fences.take(annex.unit, holder, done))
        with pytest.raises(VolumeError) as refused:
            await host.write(0, bytes(512))
        assert refused.value.fault is Fault.RESERVATION_CONFLICT
        await annex.write(0, bytes(512))
        refusal = await call(lambda done: host.fences.take(host.unit, Holder(), done))
        assert refusal.fault is Fault.RESERVATION_CONFLICT
        await call(lambda done: annex.fences.drop(annex.unit, holder, done))
        await host.write(0, bytes(512))
        assert holder.heard == []
        await annex.close()
        await host.close()

    run(main())


def test_a_reset_by_the_second_host_is_noticed_and_the_fence_taken_again(run: Run, tgt: Tgt) -> None:
    async def main() -> None:
        annex, host = await Initiator(tgt.port).settled(), await Initiator(tgt.port, OTHER_HOST).settled()
        holder = Holder()
        await succeed(lambda done: annex.fences.take(annex.unit, holder, done))
        await succeed(host.unit.reset)
        await annex.read(0, 1)
        await wait_until(lambda: holder.heard == ["lapsed", "retaken"])
        with pytest.raises(VolumeError):
            await host.write(0, bytes(512))
        await annex.close()
        await host.close()

    run(main())


def test_after_a_cut_the_fence_is_back_before_the_unit_is_ready(run: Run, tgt: Tgt) -> None:
    async def main() -> None:
        annex, host = await Initiator(tgt.port).settled(), await Initiator(tgt.port, OTHER_HOST).settled()
        holder = Holder()
        await succeed(lambda done: annex.fences.take(annex.unit, holder, done))
        for cut in range(1, 4):
            annex.link.drop("cut by the test")
            assert annex.unit.state is DeviceState.PENDING
            assert not annex.fences.held(annex.unit)
            await annex.ready()
            assert annex.fences.held(annex.unit)
            assert holder.heard == ["lapsed", "retaken"] * cut
            with pytest.raises(VolumeError):
                await host.write(0, bytes(512))
        await annex.write(0, bytes(512))
        await annex.close()
        await host.write(0, bytes(512))
        await host.close()

    run(main())


def test_an_array_that_restarts_is_found_again(run: Run, tgt: Tgt, disk: Path) -> None:
    async def main() -> None:
        annex = await Initiator(tgt.port).settled()
        os.kill(tgt.pid, signal.SIGSTOP)
        reading = asyncio.ensure_future(annex.read(8, 8))
        writing = asyncio.ensure_future(annex.write(0, bytes(512)))
        await asyncio.sleep(0)
        tgt.stop()
        with pytest.raises(VolumeError) as lost:
            await writing
        assert lost.value.fault is Fault.LINK_LOST
        with pytest.raises(VolumeError) as away:
            await annex.write(0, bytes(512))
        assert away.value.fault is Fault.BECOMING_READY
        tgt.start()
        tgt.add_lun(tgt.add_target(TARGET), disk)
        assert await reading == content(disk)[8 * 512 : 16 * 512]
        await annex.write(0, bytes(512))
        await annex.close()

    run(main())


@pytest.mark.slow
def test_an_array_that_stands_still_is_left_in_bounded_time_and_found_again(run: Run, tgt: Tgt) -> None:
    async def main() -> None:
        annex = await Initiator(tgt.port, timeout_s=1.0).settled()
        loop = asyncio.get_running_loop()
        os.kill(tgt.pid, signal.SIGSTOP)
        started = loop.time()
        with pytest.raises(VolumeError) as lost:
            await annex.write(0, b"o" * 512)
        assert lost.value.fault is Fault.LINK_LOST
        assert loop.time() - started < 1.0 + OPTIONS.management_timeout_s + 0.5
        os.kill(tgt.pid, signal.SIGCONT)
        await annex.ready()
        await annex.write(0, b"n" * 512)
        assert await annex.read(0, 1) == b"n" * 512
        await annex.close()

    run(main())


def test_another_disk_at_the_recorded_lun_is_not_touched(tgt: Tgt, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(bytes(1 << 20))

    async def main() -> None:
        annex = await Initiator(tgt.port).settled()
        unit = annex.unit
        tgt.remove_lun(1)
        tgt.add_lun(1, other, parameters={"scsi_id": "another one", "scsi_sn": "other"})
        annex.link.drop("cut by the test")
        await wait_until(lambda: len(annex.array.units()) == 2)
        fault = unit.fault()
        assert fault is not None
        assert fault.fault is Fault.BLOCKED
        await annex.close()

    asyncio.run(main())
    assert not any(other.read_bytes())


def test_targets_are_listed(tgt: Tgt) -> None:
    async def main() -> None:
        link = ArrayLink("old", "localhost", tgt.port, replace(OPTIONS, target_name=""))
        up = asyncio.get_running_loop().create_future()

        class Listener:
            def path_up(self) -> None:
                up.set_result(None)

            def path_down(self, reason: str, refused: bool) -> None: ...

        link.start(Listener())
        await up
        connection = link._connection
        assert connection is not None
        targets = await call(connection.send_targets)
        assert targets == [(TARGET, [f"127.0.0.1:{tgt.port},1"])]
        await call(link.close)

    asyncio.run(main())


def test_where_nothing_listens_the_array_settles_and_closes(run: Run) -> None:
    async def main() -> None:
        annex = await Initiator(free_port()).settled()
        assert annex.array.state is ArrayState.CONNECTING
        assert "no connection" in annex.array.reason
        await annex.close()

    run(main())


def test_what_is_no_iscsi_at_all_is_left(run: Run) -> None:
    async def main() -> None:
        left = asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 100)
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            left.set()

        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        annex = await Initiator(port).settled()
        assert annex.array.state is ArrayState.CONNECTING
        assert "PDU" in annex.array.reason or "data segment" in annex.array.reason
        await annex.close()
        await left.wait()
        server.close()

    run(main())


def redirecting(to: Callable[[], str], counts: list[int]) -> Callable[..., Coroutine[Any, Any, None]]:
    """Make a server that sends everybody elsewhere."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        counts[0] += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readexactly(48)
            peer = TargetPeer(OPTIONS)
            writer.write(peer.login_response({"TargetAddress": to()}, stage=0, status=0x0101, isid=OPTIONS.isid))
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        counts[1] += 1

    return serve


def test_a_target_that_moved_is_followed(tgt: Tgt) -> None:
    async def main() -> None:
        counts = [0, 0]  # connections begun, and closed
        server = await asyncio.start_server(redirecting(lambda: f"127.0.0.1:{tgt.port},1", counts), "127.0.0.1", 0)
        annex = await Initiator(server.sockets[0].getsockname()[1]).settled()
        assert annex.array.state is ArrayState.READY
        assert await annex.read(0, 1)
        await annex.close()
        server.close()
        await wait_until(lambda: counts[0] == counts[1])
        assert counts == [1, 1]

    asyncio.run(main())


def test_a_target_that_moves_for_ever_is_left_alone_for_a_while() -> None:
    async def main() -> None:
        counts = [0, 0]  # connections begun, and closed
        address = ""
        server = await asyncio.start_server(redirecting(lambda: address, counts), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        address = f"127.0.0.1:{port},1"
        annex = await Initiator(port).settled()
        assert annex.array.state is ArrayState.CONNECTING
        assert counts[0] == 4
        await annex.close()
        server.close()
        await wait_until(lambda: counts[0] == counts[1])

    asyncio.run(main())


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1:3261,1", ("192.0.2.1", 3261)),
        ("192.0.2.1", ("192.0.2.1", 3260)),
        ("[2001:db8::1]:3261", ("2001:db8::1", 3261)),
        ("[2001:db8::1]", ("2001:db8::1", 3260)),
        ("array.example.org:860,2", ("array.example.org", 860)),
        ("", None),
        ("host:0", None),
        ("host:99999", None),
        ("host:٣", None),
        ("[2001:db8::1", None),
        ("[::1]x", None),
    ],
)
def test_target_addresses(text: str, address: tuple[str, int] | None) -> None:
    assert parse_target_address(text) == address
