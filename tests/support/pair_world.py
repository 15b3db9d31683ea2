"""A daemon's worth of fakes around a `PairBook`: LUs, virtual devices, external LUs, fences, files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

from backends.devices.state import DeviceState
from backends.external.fence import FenceHolder
from backends.external.unit import ExternalLogicalUnit
from backends.pairs.book import PairBook
from backends.pairs.pair import Pair, PairOptions
from scsi.array_commands import ArrayOut, FenceLevel, PairCreate, PairState
from scsi.errors import ScsiError
from scsi.nexus import MappedUnit, Nexus
from scsi.volume import Buffer, Done, Fault, Volume, VolumeError
from tests.support.clock import VirtualScheduler
from tests.support.memory_volume import MemoryVolume
from tests.support.stable_memory import MemoryDirectory
from tests.support.workers import VirtualWorkers

BLOCK = 512
T = TypeVar("T")
ASKER_NAME = "iqn.2026-11.org.example:host"


class FakeUnit:
    """Stands for an `ExternalLogicalUnit`: a name is all that pairs use of it."""

    def __init__(self, name: str) -> None:
        self.name = name


class FakeDevice(MemoryVolume):
    """A virtual device in memory."""

    def __init__(self, number: int, naa: bytes, units: Sequence[FakeUnit], **options: Any) -> None:
        super().__init__(**options)
        self.number = number
        self.naa = naa
        self.units = list(units)
        self.shares_with: FakeDevice | None = None
        self.listeners: list[Callable[[Any], None]] = []
        self.flush_failures_forgotten = 0

    @property
    def state(self) -> DeviceState:
        return DeviceState.READY if self.unready is None else DeviceState.PENDING

    def external_units(self) -> list[ExternalLogicalUnit]:
        return [cast("ExternalLogicalUnit", unit) for unit in self.units]

    def shares_storage_with(self, other: Any) -> bool:
        return self.shares_with is other

    def listen(self, callback: Callable[[Any], None]) -> None:
        self.listeners.append(callback)

    def forget_failed_flush(self) -> None:
        self.flush_failures_forgotten += 1

    def set_unready(self, error: VolumeError | None) -> None:
        self.unready = error
        for callback in tuple(self.listeners):
            callback(self)


class FakeReservations:
    """Who has the LU reserved."""

    def __init__(self) -> None:
        self.holder: Nexus | None = None


class FakeLogicalUnit:
    """A logical unit that only counts its drains and remembers its unit attentions."""

    def __init__(self, naa: bytes, volume: Volume) -> None:
        self.naa = naa
        self.volume = volume
        self.reservations = FakeReservations()
        self.attentions: list[tuple[int, int, Nexus | None]] = []
        self.told_read_only: list[bool] = []
        self.drains = 0
        self.hold_drain = False
        self.drained: list[Callable[[], None]] = []

    def establish_unit_attention(self, asc: int, ascq: int, but: Nexus | None = None) -> None:
        self.attentions.append((asc, ascq, but))

    def tell_write_protection(self) -> None:
        self.told_read_only.append(self.volume.read_only)

    def drain(self, done: Callable[[], None]) -> None:
        self.drains += 1
        if self.hold_drain:
            self.drained.append(done)
        else:
            done()

    def resume(self) -> None:
        self.drains -= 1
        assert self.drains >= 0


class FakePresentedUnit(NamedTuple):
    """A `backends.pairs.unit_directory.Unit`."""

    logical_unit: FakeLogicalUnit
    virtual_device: FakeDevice


class FakeFences:
    """A `FenceKeeper` whose array says yes at once, or what a test wants.

    Attributes:
        refusals: by unit name, what `take` answers.
        released: names in the order they were dropped.
        away: names of units whose fence can not be taken now.
    """

    def __init__(self) -> None:
        self.holders: dict[str, list[FenceHolder]] = {}
        self.refusals: dict[str, VolumeError] = {}
        self.released: list[str] = []
        self.lapsed: set[str] = set()
        self.held_takes: list[Callable[[], None]] | None = None

    def take(self, unit: ExternalLogicalUnit, holder: FenceHolder, done: Done) -> None:
        def answer() -> None:
            error = self.refusals.get(unit.name)
            if error is None:
                self.holders.setdefault(unit.name, []).append(holder)
            done(error)

        if self.held_takes is None:
            answer()
        else:
            self.held_takes.append(answer)

    def adopt(self, unit: ExternalLogicalUnit, holder: FenceHolder) -> None:
        self.holders.setdefault(unit.name, []).append(holder)
        if unit.name not in self.lapsed:
            holder.fence_retaken(unit)

    def drop(self, unit: ExternalLogicalUnit, holder: FenceHolder, done: Callable[[], None]) -> None:
        self.holders[unit.name].remove(holder)
        self.released.append(unit.name)
        done()

    def held(self, unit: ExternalLogicalUnit) -> bool:
        return bool(self.holders.get(unit.name)) and unit.name not in self.lapsed

    def steady(self) -> bool:
        return True

    def lapse(self, unit: FakeUnit) -> None:
        self.lapsed.add(unit.name)
        for holder in tuple(self.holders.get(unit.name, ())):
            holder.fence_lapsed(cast("ExternalLogicalUnit", unit))

    def retake(self, unit: FakeUnit) -> None:
        self.lapsed.discard(unit.name)
        for holder in tuple(self.holders.get(unit.name, ())):
            holder.fence_retaken(cast("ExternalLogicalUnit", unit))


class FakeUnits:
    """A `backends.pairs.unit_directory.UnitDirectory`."""

    def __init__(self) -> None:
        self.by_naa: dict[bytes, FakePresentedUnit] = {}
        self.hosts: dict[bytes, frozenset[str]] = {}
        self.host_operations = 0

    def unit(self, naa: bytes) -> FakePresentedUnit | None:
        return self.by_naa.get(naa)

    def units(self) -> Iterable[FakePresentedUnit]:
        return list(self.by_naa.values())

    def read_write_hosts(self, naa: bytes) -> frozenset[str]:
        return self.hosts.get(naa, frozenset())

    def traffic(self, naas: Sequence[bytes]) -> Callable[[], int]:
        del naas
        return lambda: self.host_operations


def naa_of(number: int) -> bytes:
    return bytes([0x60]) + number.to_bytes(15, "big")


class PairWorld:
    """Everything; `restart` makes a new book over what was stable."""

    def __init__(self, *, directory: MemoryDirectory | None = None, options: PairOptions | None = None) -> None:
        self.scheduler = VirtualScheduler()
        self.workers = VirtualWorkers(self.scheduler)
        self.directory = directory or MemoryDirectory()
        self.fences = FakeFences()
        self.units = FakeUnits()
        self.options = options or PairOptions()
        self.asker = Nexus(ASKER_NAME, bytes(6), "iqn.2026-11.io.annex:t", 1, True, {})
        self.book = self.open_book()

    def open_book(self) -> PairBook:
        book = PairBook(self.scheduler, self.workers, self.directory, self.fences, self.units, self.options)
        book.load()
        return book

    def add_unit(
        self, number: int, *, external: str | None = None, blocks: int = 20480, read_only: bool = False, **options: Any
    ) -> FakePresentedUnit:
        """Present a LU; `external` names the external LU that it lies on."""
        naa = naa_of(number)
        units = [FakeUnit(external)] if external else []
        device = FakeDevice(number, naa, units, blocks=blocks, **options)
        unit = FakePresentedUnit(FakeLogicalUnit(naa, device), device)
        self.units.by_naa[naa] = unit
        self.map(self.asker, unit, read_only=read_only)
        return unit

    def map(self, nexus: Nexus, unit: FakePresentedUnit, *, read_only: bool = False) -> None:
        lun = len(nexus.lun_map).to_bytes(2, "big") + bytes(6)
        nexus.lun_map[lun] = MappedUnit(cast("Any", unit.logical_unit), read_only)

    def begin_create(
        self,
        primary: FakePresentedUnit,
        secondary: FakePresentedUnit,
        *,
        level: int = FenceLevel.STATUS,
        nocopy: bool = False,
        pace: int = 0,
        label: str = "",
    ) -> list[ScsiError | None]:
        """Send CREATE; the list gets its answer."""
        answers: list[ScsiError | None] = []
        naa = secondary.logical_unit.naa
        self.book.create(self.asker, primary, PairCreate(level, nocopy, pace, naa, label), answers.append)
        return answers

    def create(self, primary: FakePresentedUnit, secondary: FakePresentedUnit, **options: Any) -> Pair:
        """Form a pair, and let its copy end unless something keeps it."""
        answers = self.begin_create(primary, secondary, **options)
        self.scheduler.run_until_idle()
        assert answers == [None]
        pair = self.book.pair_of(primary.logical_unit.naa)
        assert pair is not None
        return pair

    def command(
        self, pair: Pair, action: ArrayOut, *, flags: int = 0, at: FakePresentedUnit | None = None
    ) -> ScsiError | None:
        """Carry out a command to its end."""
        answers: list[ScsiError | None] = []
        addressed = at or self.units.by_naa[pair.naa(pair.record.primary)]
        self.book.command(self.asker, pair, action, flags, addressed, answers.append)
        self.scheduler.run_until_idle()
        for _ in range(40):
            if answers:
                break
            self.scheduler.advance(0.5)
        assert len(answers) == 1, answers
        return answers[0]

    def write(self, unit: FakePresentedUnit, lba: int, data: Buffer, *, fua: bool = False) -> list[VolumeError | None]:
        """Begin a write through a LU; the list gets its answer."""
        answers: list[VolumeError | None] = []
        unit.logical_unit.volume.write(lba, data, fua, answers.append)
        return answers

    def written(self, unit: FakePresentedUnit, lba: int, data: Buffer, *, fua: bool = False) -> VolumeError | None:
        """Write through a LU to the end."""
        return self.ended(self.write(unit, lba, data, fua=fua))

    def read(self, unit: FakePresentedUnit, lba: int, blocks: int) -> Buffer | VolumeError:
        answers: list[Buffer | VolumeError] = []
        unit.logical_unit.volume.read(lba, blocks, answers.append)
        return self.ended(answers)

    def flushed(self, unit: FakePresentedUnit) -> VolumeError | None:
        answers: list[VolumeError | None] = []
        unit.logical_unit.volume.flush(answers.append)
        return self.ended(answers)

    def ended(self, answers: list[T], limit_s: float = 20.0) -> T:
        """Let time pass until an operation has its one answer."""
        self.scheduler.run_until_idle()
        for _ in range(int(limit_s * 2)):
            if answers:
                break
            self.scheduler.advance(0.5)
        assert len(answers) == 1, answers
        return answers[0]

    def wait_state(self, pair: Pair, state: PairState, limit_s: float = 60.0) -> None:
        for _ in range(int(limit_s * 2)):
            self.scheduler.run_until_idle()
            if pair.state is state:
                return
            self.scheduler.advance(0.5)
        raise AssertionError(f"the pair is {pair.state.name}, not {state.name}: {pair.last_error}")

    def restart(self) -> None:
        """Stop the daemon dead, and start it again over what was stable."""
        self.scheduler = VirtualScheduler(self.scheduler.now())
        self.workers = VirtualWorkers(self.scheduler)
        fences = FakeFences()
        fences.lapsed = self.fences.lapsed
        self.fences = fences
        for naa, unit in self.units.by_naa.items():
            device = unit.virtual_device
            device.listeners.clear()
            device.held.clear()
            device.hold = False
            self.units.by_naa[naa] = FakePresentedUnit(FakeLogicalUnit(naa, device), device)
        self.asker.lun_map.clear()
        for unit in self.units.by_naa.values():
            self.map(self.asker, unit)
        self.book = self.open_book()


def pattern(seed: int, blocks: int = 8) -> bytes:
    """Give blocks of data that tell which write they are from."""
    return b"".join(seed.to_bytes(4, "big") + at.to_bytes(4, "big") + bytes(BLOCK - 8) for at in range(blocks))


LINK_LOST = VolumeError(Fault.LINK_LOST, "planned")
