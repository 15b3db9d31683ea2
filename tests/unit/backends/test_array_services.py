"""Array commands on real logical units, virtual devices, pairs and acquisitions; only devices and fences are fakes."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import pytest

from backends.acquisitions.book import AcquisitionOptions, Acquisitions
from backends.acquisitions.snapshot_read import SnapshotReadOptions
from backends.array_services import DaemonArrayServices
from backends.external.unit import ExternalLogicalUnit
from backends.pairs.book import PairBook
from backends.regions import Region, RegionDevice
from backends.virtual_device import VirtualDevice
from scsi import array_commands as codec
from scsi.array_commands import (
    Acquire,
    ArrayIn,
    ArrayInCdb,
    ArrayOut,
    ArrayOutCdb,
    Feature,
    FenceLevel,
    PairCreate,
    PairState,
    RegionKind,
    VirtualDeviceFlag,
)
from scsi.iscsi.initiator_task import Task
from scsi.logical_unit import LogicalUnit
from scsi.nexus import MappedUnit
from scsi.target import TargetPort
from scsi.volume import Buffer, Done, Fault, VolumeError
from tests.support import commands as c
from tests.support.clock import VirtualScheduler
from tests.support.fake_array import FakeAnswer, end_with
from tests.support.memory_volume import MemoryVolume
from tests.support.pair_world import FakeFences
from tests.support.stable_memory import MemoryDirectory
from tests.support.workers import VirtualWorkers

BLOCK = 512
READ_10, WRITE_10 = 0x28, 0x2A
ALICE, BOB = "iqn.2026-11.org.example:alice", "iqn.2026-11.org.example:bob"
OPTIONS = AcquisitionOptions(
    most_blocks=200, most_transfer_bytes=16 * BLOCK, reading=SnapshotReadOptions(chunk_bytes=8 * BLOCK)
)


class MemoryPath:
    """The way to an external LU whose blocks are in memory."""

    def __init__(self, volume: MemoryVolume) -> None:
        self._volume = volume

    def submit(self, task: Task) -> None:
        lba, blocks = struct.unpack_from(">2xIxH", task.cdb)
        if task.cdb[0] == READ_10:
            self._volume.read(lba, blocks, lambda data: end_with(task, FakeAnswer(data_in=cast("Buffer", data))))
        elif task.cdb[0] == WRITE_10:
            self._volume.write(lba, task.data_out, False, lambda _error: end_with(task, FakeAnswer()))
        else:
            self._volume.flush(lambda _error: end_with(task, FakeAnswer()))


def memory_unit(scheduler: VirtualScheduler, number: int, volume: MemoryVolume) -> ExternalLogicalUnit:
    """Make an external LU whose blocks are in memory."""
    identifier = bytes.fromhex("6e") + bytes(14) + bytes([number])
    unit = ExternalLogicalUnit("old", c.lun(number), identifier, cast("Any", MemoryPath(volume)), scheduler)
    unit.blocks = unit.split_blocks = volume.blocks
    unit.reachable = True
    unit.set_ready()
    return unit


class PresentedUnit(NamedTuple):
    logical_unit: LogicalUnit
    virtual_device: VirtualDevice


class Daemon:
    """Three LUs of 200 blocks: 1 local, 2 external, 3 half local and half external; Alice sees them all."""

    def __init__(self) -> None:
        self.scheduler = VirtualScheduler()
        self.fences = FakeFences()
        self.units: dict[bytes, PresentedUnit] = {}
        self.acls: dict[bytes, frozenset[str]] = {}
        workers = VirtualWorkers(self.scheduler)
        self.book = PairBook(self.scheduler, workers, MemoryDirectory(), self.fences, cast("Any", self))
        self.book.load()
        self.acquisitions = Acquisitions(self.scheduler, cast("Any", self.fences), OPTIONS)
        self.services = DaemonArrayServices(cast("Any", self), self.book, self.acquisitions)
        self.port = TargetPort()
        rng = random.Random(3)
        self.volumes = [MemoryVolume(400) for _ in range(4)]
        for volume in self.volumes:
            volume.data[:] = rng.randbytes(400 * BLOCK)
        local, old_1, half, old_2 = self.volumes
        self.external = [memory_unit(self.scheduler, 1, old_1), memory_unit(self.scheduler, 2, old_2)]
        self.local = self.present(1, (11, local, 0, 200))
        self.remote = self.present(2, (12, self.external[0], 0, 200))
        self.mixed = self.present(3, (13, half, 50, 100), (14, self.external[1], 7, 100))
        self.alice = self.host(ALICE, self.local, self.remote, self.mixed)

    def present(self, number: int, *parts: tuple[int, Any, int, int]) -> PresentedUnit:
        regions = [
            Region(region, cast("RegionDevice", device), first, _learn, blocks=blocks, block_bytes=BLOCK)
            for region, device, first, blocks in parts
        ]
        naa = bytes([0x60]) + number.to_bytes(15, "big")
        device = VirtualDevice(f"v{number}", number, naa, regions)
        unit = PresentedUnit(LogicalUnit(device, naa, array_services=self.services), device)
        self.units[naa] = unit
        return unit

    def host(self, name: str, *units: PresentedUnit, read_only: tuple[PresentedUnit, ...] = ()) -> c.Host:
        luns = {c.lun(number): MappedUnit(unit.logical_unit, unit in read_only) for number, unit in enumerate(units)}
        return c.Host(self.port, luns, name)

    # UnitDirectory

    def unit(self, naa: bytes) -> PresentedUnit | None:
        return self.units.get(naa)

    def read_write_hosts(self, naa: bytes) -> frozenset[str]:
        return self.acls.get(naa, frozenset())

    def traffic(self, naas: Sequence[bytes]) -> Callable[[], int]:
        del naas
        return lambda: 0

    # Commands

    def ask(self, action: ArrayIn, identifier: int = 0, host: c.Host | None = None) -> c.FakeCommand:
        return (host or self.alice).send(codec.encode_array_in(ArrayInCdb(action, identifier, 0, 65536)))

    def rows(self, action: ArrayIn, identifier: int = 0, host: c.Host | None = None) -> list[Any]:
        decode, row_bytes = {
            ArrayIn.REPORT_VIRTUAL_DEVICES: (codec.decode_virtual_device, 64),
            ArrayIn.REPORT_REGIONS: (codec.decode_region, 64),
            ArrayIn.REPORT_PAIRS: (codec.decode_pair, 96),
            ArrayIn.REPORT_ACQUISITIONS: (codec.decode_acquisition, 64),
        }[action]
        data = self.ask(action, identifier, host).data
        return [decode(row) for row in codec.decode_list(data, row_bytes)]

    def order(
        self,
        action: ArrayOut,
        identifier: int = 0,
        flags: int = 0,
        parameters: bytes = b"",
        host: c.Host | None = None,
        lun: int = 0,
    ) -> c.FakeCommand:
        cdb = codec.encode_array_out(ArrayOutCdb(action, identifier, flags, len(parameters)))
        command = (host or self.alice).send(cdb, parameters, lun=c.lun(lun))
        self.scheduler.run_until_idle()
        return command

    def acquire(
        self,
        unit: PresentedUnit,
        identifier: int = 7,
        *,
        lba: int = 10,
        blocks: int = 20,
        region: int = 0,
        lifetime_s: int = 0,
        host: c.Host | None = None,
    ) -> c.FakeCommand:
        parameters = codec.encode_acquire(Acquire(unit.virtual_device.naa, lba, blocks, region, lifetime_s))
        return self.order(ArrayOut.ACQUIRE_EXTERNAL_DATA, identifier, 0, parameters, host)

    def transfer(self, identifier: int = 7, first: int = 0, host: c.Host | None = None) -> c.FakeCommand:
        cdb = ArrayInCdb(ArrayIn.TRANSFER_ACQUIRED_DATA, identifier, first, 16 * BLOCK)
        return (host or self.alice).send(codec.encode_array_in(cdb))

    def end(self, identifier: int = 7, host: c.Host | None = None) -> c.FakeCommand:
        return self.order(ArrayOut.END_ACQUISITION, identifier, host=host)

    def create(self, primary_lun: int, secondary: PresentedUnit, host: c.Host | None = None) -> c.FakeCommand:
        parameters = PairCreate(FenceLevel.STATUS, False, 0, secondary.virtual_device.naa, "mail")
        data = codec.encode_pair_create(parameters)
        command = self.order(ArrayOut.PAIR_CREATE, 0, 0, data, host, primary_lun)
        for _ in range(40):
            if command.answer is not None and all(pair.in_sync() for pair in self.book.pairs()):
                break
            self.scheduler.advance(0.5)
        for known in self.port.nexuses:
            known.attentions.clear()
        return command

    def fenced(self) -> set[str]:
        return {name for name, holders in self.fences.holders.items() if holders}


def _learn(_blocks: int, _block_bytes: int, _identifier: bytes, done: Done) -> None:
    done(None)


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


# --- Reports ----------------------------------------------------------------------------------------------------------


def test_capabilities_are_those_of_the_parts(daemon: Daemon) -> None:
    found = codec.decode_capabilities(daemon.ask(ArrayIn.REPORT_CAPABILITIES).data)
    assert found.features == Feature.PAIRS | Feature.ACQUISITIONS | Feature.REVERSE_AND_SWAP | Feature.VERIFY
    assert found[2:] == (daemon.book.options.most_pairs, 200, 16, 300, 16 * BLOCK)


def test_virtual_devices_are_listed_with_what_they_are(daemon: Daemon) -> None:
    local, remote, mixed = daemon.rows(ArrayIn.REPORT_VIRTUAL_DEVICES)
    assert local == (1, VirtualDeviceFlag.LOCAL_REGIONS, 0, 1, c.lun(0), daemon.local.virtual_device.naa, 200, BLOCK)
    assert remote.flags == VirtualDeviceFlag.EXTERNAL_REGIONS
    assert mixed.flags == VirtualDeviceFlag.EXTERNAL_REGIONS | VirtualDeviceFlag.LOCAL_REGIONS
    assert (mixed.regions, mixed.lun) == (2, c.lun(2))


def test_only_virtual_devices_in_the_askers_map_are_listed(daemon: Daemon) -> None:
    bob = daemon.host(BOB, daemon.mixed)
    (row,) = daemon.rows(ArrayIn.REPORT_VIRTUAL_DEVICES, host=bob)
    assert (row.number, row.lun) == (3, c.lun(0))


def test_a_virtual_device_that_is_mapped_twice_is_listed_once(daemon: Daemon) -> None:
    bob = daemon.host(BOB, daemon.mixed, daemon.mixed)
    assert [row.lun for row in daemon.rows(ArrayIn.REPORT_VIRTUAL_DEVICES, host=bob)] == [c.lun(0)]


def test_pairs_show_in_the_flags_of_virtual_devices(daemon: Daemon) -> None:
    daemon.create(0, daemon.remote)
    local, remote, mixed = daemon.rows(ArrayIn.REPORT_VIRTUAL_DEVICES)
    assert VirtualDeviceFlag.PRIMARY in local.flags
    assert VirtualDeviceFlag.SECONDARY in remote.flags
    assert not mixed.flags & (VirtualDeviceFlag.PRIMARY | VirtualDeviceFlag.SECONDARY)


def test_regions_are_listed_with_where_they_lie(daemon: Daemon) -> None:
    half, old = daemon.rows(ArrayIn.REPORT_REGIONS, 3)
    assert half == (13, RegionKind.LOCAL, 0, 100, 0, 100, 50, bytes(16))
    assert old == (14, RegionKind.EXTERNAL, 0, 100, 100, 100, 7, daemon.external[1].id)


def test_regions_of_what_the_asker_does_not_see_are_not_there(daemon: Daemon) -> None:
    bob = daemon.host(BOB, daemon.mixed)
    assert daemon.ask(ArrayIn.REPORT_REGIONS, 1, bob).outcome == "05/81/01"
    assert daemon.ask(ArrayIn.REPORT_REGIONS, 99, bob).outcome == "05/81/01"
    assert daemon.ask(ArrayIn.REPORT_REGIONS, 0, bob).outcome == "05/81/01"


def test_pairs_are_listed_to_who_sees_one_of_their_units(daemon: Daemon) -> None:
    daemon.create(0, daemon.remote)
    for host in (daemon.alice, daemon.host(BOB, daemon.remote)):
        (row,) = daemon.rows(ArrayIn.REPORT_PAIRS, host=host)
        assert (row.number, row.state, row.label) == (1, PairState.PAIR, "mail")
        assert daemon.rows(ArrayIn.REPORT_PAIRS, 1, host) == [row]
    outsider = daemon.host("iqn.2026-11.org.example:carol", daemon.mixed)
    assert daemon.rows(ArrayIn.REPORT_PAIRS, host=outsider) == []
    assert daemon.ask(ArrayIn.REPORT_PAIRS, 1, outsider).outcome == "05/80/08"


def test_a_pair_number_that_is_not_there_is_refused(daemon: Daemon) -> None:
    assert daemon.ask(ArrayIn.REPORT_PAIRS, 1).outcome == "05/80/08"
    assert daemon.rows(ArrayIn.REPORT_PAIRS) == []


# --- Pairs ------------------------------------------------------------------------------------------------------------


def test_create_and_delete_go_through(daemon: Daemon) -> None:
    assert daemon.create(0, daemon.remote).outcome == "GOOD"
    assert daemon.fenced() == {"old/1"}
    assert daemon.order(ArrayOut.PAIR_DELETE).outcome == "GOOD"
    daemon.alice.nexus.attentions.clear()  # the LU has another kind of cache again
    assert daemon.rows(ArrayIn.REPORT_PAIRS) == []
    assert daemon.fenced() == set()


def test_a_secondary_outside_the_askers_map_is_a_bad_parameter_like_one_that_is_not_there(daemon: Daemon) -> None:
    bob = daemon.host(BOB, daemon.local)
    answers = [daemon.create(0, daemon.remote, bob)]
    del daemon.units[daemon.remote.virtual_device.naa]
    answers.append(daemon.create(0, daemon.remote, bob))
    for answer in answers:
        assert answer.outcome == "05/26/00"
        assert answer.sense.field == (8, None, False)


def test_commands_on_no_pair_are_refused(daemon: Daemon) -> None:
    for number in (0, 5):
        assert daemon.order(ArrayOut.PAIR_SPLIT, number).outcome == "05/80/08"


def test_a_pair_of_which_the_asker_sees_one_unit_is_not_commanded(daemon: Daemon) -> None:
    daemon.create(0, daemon.remote)
    bob = daemon.host(BOB, daemon.local)
    for number in (0, 1):
        assert daemon.order(ArrayOut.PAIR_SPLIT, number, host=bob).outcome == "05/80/08"


def test_takeover_at_the_secondary_goes_through(daemon: Daemon) -> None:
    daemon.create(0, daemon.remote)
    assert daemon.order(ArrayOut.PAIR_TAKEOVER, lun=1).outcome == "GOOD"
    daemon.alice.nexus.attentions.clear()  # both LUs have another write protection now
    (row,) = daemon.rows(ArrayIn.REPORT_PAIRS)
    assert row.primary_naa == daemon.remote.virtual_device.naa


# --- Acquisitions -----------------------------------------------------------------------------------------------------


def test_external_data_is_acquired_under_a_fence_and_handed_over(daemon: Daemon) -> None:
    before = bytes(daemon.volumes[1].data[10 * BLOCK : 30 * BLOCK])
    assert daemon.acquire(daemon.remote).outcome == "GOOD"
    assert daemon.fenced() == {"old/1"}
    assert daemon.transfer().data + daemon.transfer(first=16).data == before
    assert daemon.fenced() == set()
    assert daemon.rows(ArrayIn.REPORT_ACQUISITIONS) == []


def test_a_host_write_after_acceptance_does_not_show(daemon: Daemon) -> None:
    before = bytes(daemon.volumes[1].data[10 * BLOCK : 26 * BLOCK])
    daemon.volumes[1].hold = lambda operation: operation.name == "read"
    acquired = daemon.acquire(daemon.remote)
    written = daemon.alice.send(c.write_10(20, 1), b"w" * BLOCK, lun=c.lun(1))
    assert (acquired.outcome, written.outcome) == ("running", "running")
    daemon.volumes[1].release_all()
    daemon.scheduler.run_until_idle()
    assert (acquired.outcome, written.outcome) == ("GOOD", "GOOD")
    assert daemon.transfer().data == before
    assert daemon.volumes[1].data[20 * BLOCK : 21 * BLOCK] == b"w" * BLOCK


@pytest.mark.parametrize(
    ("lba", "blocks", "fenced"), [(0, 100, set()), (99, 1, set()), (99, 2, {"old/2"}), (100, 100, {"old/2"})]
)
def test_only_the_external_units_that_the_range_touches_are_fenced(
    daemon: Daemon, lba: int, blocks: int, fenced: set[str]
) -> None:
    assert daemon.acquire(daemon.mixed, lba=lba, blocks=blocks).outcome == "GOOD"
    assert daemon.fenced() == fenced


def test_a_virtual_device_that_the_asker_does_not_see_is_not_there(daemon: Daemon) -> None:
    bob = daemon.host(BOB, daemon.local)
    assert daemon.acquire(daemon.remote, host=bob).outcome == "05/81/01"
    naa = bytes.fromhex("60" + "00" * 14 + "99")
    parameters = codec.encode_acquire(Acquire(naa, 0, 1))
    assert daemon.order(ArrayOut.ACQUIRE_EXTERNAL_DATA, 7, 0, parameters, bob).outcome == "05/81/01"


@pytest.mark.parametrize(("lba", "blocks"), [(200, 1), (199, 2), (0, 201), (2**64 - 1, 2**32 - 1)])
def test_a_range_past_the_end_names_the_first_block_that_does_not_exist(daemon: Daemon, lba: int, blocks: int) -> None:
    answer = daemon.acquire(daemon.remote, lba=lba, blocks=blocks)
    assert answer.outcome == "05/21/00"
    if lba < 2**32:
        assert answer.sense.information == max(lba, 200)


@pytest.mark.parametrize(
    ("region", "lba", "blocks", "outcome"),
    [
        (13, 0, 100, "GOOD"),
        (14, 100, 100, "GOOD"),
        (13, 50, 51, "05/81/09"),
        (13, 100, 1, "05/81/09"),
        (14, 99, 2, "05/81/09"),
        (11, 0, 1, "05/81/09"),
        (99, 0, 1, "05/81/09"),
    ],
)
def test_a_named_region_must_hold_the_whole_range(
    daemon: Daemon, region: int, lba: int, blocks: int, outcome: str
) -> None:
    assert daemon.acquire(daemon.mixed, lba=lba, blocks=blocks, region=region).outcome == outcome


def test_an_id_in_use_by_this_host_is_refused(daemon: Daemon) -> None:
    daemon.acquire(daemon.remote)
    assert daemon.acquire(daemon.local).outcome == "05/81/08"


def test_too_many_blocks_are_refused(daemon: Daemon) -> None:
    for identifier in range(1, 17):
        assert daemon.acquire(daemon.local, identifier, blocks=1).outcome == "GOOD"
    assert daemon.acquire(daemon.local, 17, blocks=1).outcome == "05/81/05"


def test_a_device_that_is_not_ready_is_refused_with_its_own_reason(daemon: Daemon) -> None:
    daemon.external[0].set_pending("away")
    assert daemon.acquire(daemon.remote).outcome == "02/04/01"
    assert daemon.fenced() == set()


def test_a_fence_that_the_array_refuses_is_the_answer(daemon: Daemon) -> None:
    daemon.fences.refusals["old/1"] = VolumeError(Fault.RESERVATION_CONFLICT, "another has it")
    assert daemon.acquire(daemon.remote).outcome == "0B/81/06"
    assert daemon.rows(ArrayIn.REPORT_ACQUISITIONS) == []


def test_the_lifetime_is_the_hosts_or_the_default(daemon: Daemon) -> None:
    daemon.acquire(daemon.remote, 1)
    daemon.acquire(daemon.remote, 2, lifetime_s=10)
    assert [row.left_s for row in daemon.rows(ArrayIn.REPORT_ACQUISITIONS)] == [300, 10]


def test_only_the_requester_gets_the_data(daemon: Daemon) -> None:
    daemon.acquire(daemon.remote)
    bob = daemon.host(BOB, daemon.remote)
    blind = daemon.host("iqn.2026-11.org.example:carol", daemon.local)
    assert daemon.transfer(host=bob).outcome == "05/81/03"
    assert daemon.end(host=bob).outcome == "05/81/03"
    assert daemon.transfer(host=blind).outcome == "05/81/04"
    assert daemon.end(host=blind).outcome == "05/81/04"
    assert daemon.rows(ArrayIn.REPORT_ACQUISITIONS, host=bob) == []
    assert len(daemon.rows(ArrayIn.REPORT_ACQUISITIONS)) == 1


def test_another_session_of_the_same_host_gets_the_data(daemon: Daemon) -> None:
    daemon.acquire(daemon.remote)
    assert len(daemon.transfer(host=daemon.host(ALICE, daemon.remote)).data) == 16 * BLOCK


def test_a_session_that_is_not_shown_the_virtual_device_gets_none_of_its_data(daemon: Daemon) -> None:
    daemon.acquire(daemon.remote)
    elsewhere = daemon.host(ALICE, daemon.local)
    assert daemon.transfer(host=elsewhere).outcome == "05/81/04"
    assert daemon.end(host=elsewhere).outcome == "GOOD"  # its own, and nothing is told by that
    assert daemon.fenced() == set()


def test_acquire_and_transfer_conflict_where_a_read_would(daemon: Daemon) -> None:
    assert daemon.acquire(daemon.remote).outcome == "GOOD"
    bob = daemon.host(BOB, daemon.remote)
    assert bob.send(c.RESERVE_6).outcome == "GOOD"
    assert daemon.acquire(daemon.remote, 8).outcome == "RESERVATION CONFLICT"
    assert daemon.transfer().outcome == "RESERVATION CONFLICT"
    assert daemon.acquire(daemon.local, 9).outcome == "GOOD"
    assert daemon.rows(ArrayIn.REPORT_ACQUISITIONS)[0].handed_over_blocks == 0
    assert bob.send(c.RELEASE_6).outcome == "GOOD"
    assert daemon.transfer().outcome == "GOOD"


def test_end_drops_the_fence_before_its_status(daemon: Daemon) -> None:
    daemon.acquire(daemon.remote)
    assert daemon.end().outcome == "GOOD"
    assert daemon.fenced() == set()
    assert daemon.end().outcome == "05/81/04"


def test_an_acquisition_of_a_paired_unit_leaves_the_pairs_fence(daemon: Daemon) -> None:
    daemon.create(0, daemon.remote)
    daemon.acquire(daemon.remote)
    daemon.end()
    assert daemon.fenced() == {"old/1"}


def test_the_primary_of_a_pair_is_read_at_the_current_leg(daemon: Daemon) -> None:
    daemon.create(0, daemon.remote)
    # As after a loss of the primary's leg: the secondary's is the current one, and they differ.
    (pair,) = daemon.book.pairs()
    pair.change(state=PairState.PSUE, current=1 - pair.record.primary)
    daemon.scheduler.run_until_idle()
    daemon.volumes[1].data[10 * BLOCK : 11 * BLOCK] = b"c" * BLOCK
    assert daemon.acquire(daemon.local).outcome == "GOOD"
    assert daemon.transfer().data[:BLOCK] == b"c" * BLOCK
    assert daemon.fenced() == {"old/1"}


def test_the_primary_of_a_pair_is_read_at_the_other_leg_while_the_current_one_is_away(daemon: Daemon) -> None:
    daemon.create(0, daemon.remote)
    data = bytes(daemon.volumes[1].data[10 * BLOCK : 26 * BLOCK])
    daemon.volumes[0].unready = VolumeError(Fault.BLOCKED, "pulled out")
    assert daemon.acquire(daemon.local).outcome == "GOOD"
    assert daemon.transfer().data == data


def test_the_secondary_of_a_pair_is_read_at_its_own_leg(daemon: Daemon) -> None:
    daemon.create(0, daemon.remote)
    daemon.order(ArrayOut.PAIR_SPLIT)
    daemon.alice.send(c.write_10(10, 1), b"p" * BLOCK)
    daemon.scheduler.run_until_idle()
    daemon.acquire(daemon.remote)
    assert daemon.transfer().data[:BLOCK] == bytes(daemon.volumes[1].data[10 * BLOCK : 11 * BLOCK])
    assert daemon.volumes[0].data[10 * BLOCK : 11 * BLOCK] == b"p" * BLOCK


def test_a_write_through_a_pair_waits_for_the_acquisition_of_its_primary(daemon: Daemon) -> None:
    daemon.create(0, daemon.remote)
    before = bytes(daemon.volumes[0].data[10 * BLOCK : 26 * BLOCK])
    daemon.volumes[0].hold = lambda operation: operation.name == "read"
    daemon.acquire(daemon.local)
    written = daemon.alice.send(c.write_10(12, 1), b"w" * BLOCK)
    daemon.scheduler.run_until_idle()
    assert written.outcome == "running"
    daemon.volumes[0].release_all()
    daemon.scheduler.run_until_idle()
    assert written.outcome == "GOOD"
    assert daemon.transfer().data == before
    assert daemon.volumes[1].data[12 * BLOCK : 13 * BLOCK] == b"w" * BLOCK
