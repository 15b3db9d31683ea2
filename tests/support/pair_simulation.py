"""One seeded life of a pair: hosts write, disks and links fail, the daemon dies and comes back, a journal is kept.

The state machine, the data path, the marks and the stores are the real ones; disks, the link, the fence, the worker
threads and the clock are simulated. The same seed gives the same life. `Simulation.run` raises `Violation` with the
invariant that broke (I1 …).
"""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Callable
from typing import Any, TypeVar

from backends.pairs.mirror_faults import STATE_HOLD
from backends.pairs.pair import Pair, PairOptions
from backends.pairs.states import MIRRORED
from backends.pairs.store import PairRecord
from scsi.array_commands import ArrayOut, FenceLevel, PairState
from scsi.errors import ScsiError
from scsi.logical_unit import LogicalUnit
from scsi.target import TargetPort
from scsi.volume import Buffer, Deallocation, Done, Fault, Volume, VolumeError
from tests.support import commands
from tests.support.block_model import FOREIGN, BlockModel, Kind, Write, content, data_of
from tests.support.clock import VirtualScheduler
from tests.support.pair_world import FakeLogicalUnit, FakePresentedUnit, FakeUnit, PairWorld, naa_of
from tests.support.promises import Promises, Violation
from tests.support.sim_leg import SimLeg
from tests.support.stable_memory import Crash
from tests.support.workers import VirtualWorkers

BLOCK_BYTES = 4096
BLOCKS = 1200  # an extent and a part of a second
HOT_BLOCKS = 40
COMPARED_BLOCKS = 8
ANSWER_S = 15.0

T = TypeVar("T")


class Compare(commands.FakeCommand):
    """A COMPARE AND WRITE that tells when it has ended."""

    def __init__(
        self, session: commands.FakeSession, cdb: bytes, data_out: bytes, ended: Callable[[Compare], None]
    ) -> None:
        super().__init__(session, cdb, data_out)
        self._ended = ended

    def complete(
        self, status: int, data_in: Buffer = b"", sense: bytes = b"", data_out_used: int | None = None
    ) -> None:
        super().complete(status, data_in, sense, data_out_used)
        self._ended(self)


class SimWorkers(VirtualWorkers):
    """Threads that take a random time, and can be cut off in the middle of a job."""

    def __init__(self, scheduler: VirtualScheduler, rng: random.Random) -> None:
        super().__init__(scheduler)
        self._rng = rng
        self._jobs: dict[int, Callable[[], Any]] = {}
        self._number = 0

    def submit(self, function: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        self._number += 1
        number = self._number
        self._jobs[number] = function

        def run() -> None:
            if self._jobs.pop(number, None) is None:
                return
            result: T | Exception
            try:
                result = function()
            except Exception as error:  # noqa: BLE001 - as Workers does
                result = error
            done(result)

        self._scheduler.call_later(self._rng.choice((0.0001, 0.002, 0.01)), run)

    def cut_off(self, world: PairWorld) -> None:
        """The daemon dies: jobs get as far as chance has it."""
        jobs, self._jobs = list(self._jobs.values()), {}
        for job in jobs:
            world.directory.stop_at = world.directory.steps + self._rng.randint(1, 6)
            with contextlib.suppress(Crash):
                job()
        world.directory.stop_at = None


class SimWorld(PairWorld):
    """A `PairWorld` on simulated legs: a local primary and an external secondary, or the other way round."""

    def __init__(self, rng: random.Random, *, external_leg: int) -> None:
        self.rng = rng
        self.legs: list[SimLeg] = []
        super().__init__(options=PairOptions(most_open_extents=1, extent_idle_s=3))
        self.workers = SimWorkers(self.scheduler, rng)
        self.book = self.open_book()
        self.external = FakeUnit("array")
        for leg in (0, 1):
            naa = naa_of(leg + 1)
            units = [self.external] if leg == external_leg else []
            device = SimLeg(
                leg + 1, naa, units, rng, blocks=BLOCKS, block_bytes=BLOCK_BYTES, write_cache=rng.random() < 0.7
            )
            device.scheduler = self.scheduler
            unit = FakePresentedUnit(FakeLogicalUnit(naa, device), device)
            self.units.by_naa[naa] = unit
            self.map(self.asker, unit)
            self.legs.append(device)

    def open_book(self) -> Any:
        self.workers = SimWorkers(self.scheduler, self.rng)
        for leg in self.legs:
            leg.scheduler = self.scheduler
        return super().open_book()


class Simulation:
    """One life, from one seed.

    With `ranges` some of its writes are WRITE SAME and UNMAP, of up to two extents. With `compares` the last blocks are
    written by COMPARE AND WRITE alone, one at a time to each of them, which go through a real logical unit, and writes
    with FUA are WRITE AND VERIFY. With `thin` a leg or both are thin, and copies stand back for hosts. With `overtaken`
    operations of the legs overtake each other by seconds: what was sent before a flush may end after it.
    """

    def __init__(
        self,
        seed: int,
        steps: int = 60,
        *,
        ranges: bool = False,
        compares: bool = False,
        thin: bool = False,
        overtaken: bool = False,
    ) -> None:
        self.seed = seed
        self.ranges = random.Random(f"ranges of {seed}") if ranges else None  # seeds without them are as they were
        self.compares = random.Random(f"compares of {seed}") if compares else None
        self.comparing: set[int] = set()
        self.rng = random.Random(seed)
        self.steps = steps
        self.external_leg = self.rng.choice((1, 1, 1, 0))
        self.world = self._make_world()
        self.thin = thin
        if thin:
            for leg in random.Random(f"thin legs of {seed}").choice(((0,), (1,), (0, 1), (0, 1))):
                self.world.legs[leg].deallocation = Deallocation(1)
        if overtaken:
            for leg, device in enumerate(self.world.legs):
                device.overtaken = random.Random(f"overtaken on leg {leg} of {seed}")
        shared = BlockModel(BLOCKS, BLOCK_BYTES)
        self.contents = [shared, shared]  # of the legs; one object while the pair is mirrored
        self.foreign: set[int] = set()
        # A failed flush that could not be recorded, as the state disk failed too, is forgotten with the daemon.
        self.flushes_count = True
        self.promises = Promises(self)
        self.history: list[tuple[PairRecord, list[BlockModel]]] = []
        self.story: list[str] = []
        self.life = 0  # of the daemon
        self.version = 0
        self.unanswered: dict[int, float] = {}
        self.in_flight: dict[int, list[Write]] = {0: [], 1: []}
        # Under way when the leg was left that hosts may have read them from: a crash as well, and they are gone.
        self.exposed: set[int] = set()
        self.hot = [self.rng.randrange(BLOCKS - 8) for _ in range(6)]
        self.level = self.rng.choice(tuple(FenceLevel))

    def _make_world(self) -> SimWorld:
        return SimWorld(self.rng, external_leg=self.external_leg)

    # --- The run ---

    def run(self) -> None:
        """Live, then heal, then compare."""
        try:
            self._live()
        except Violation:
            raise
        except Exception as error:
            raise self.violation(f"I9: annexd dies of {error!r}") from error

    def _live(self) -> None:
        self._create()
        actions = self._actions()
        for _ in range(self.steps):
            (action,) = self.rng.choices([a for a, _ in actions], [w for _, w in actions])
            action()
            self._let_time_pass()
            self.promises.passed()
        self._heal()

    def _actions(self) -> list[tuple[Callable[[], None], float]]:
        rng = self.rng
        mood = rng.choice(("calm", "disks", "link", "crashes", "commands", "all"))

        def weight(*moods: str) -> float:
            return 1.0 if mood in moods or mood == "all" else 0.05

        return [
            (self._write_some, 12.0),
            (self._read_some, 5.0),
            (self._flush, 2.0),
            (self._disk_fault, weight("disks")),
            (self._slow_leg, weight("disks", "link") * 0.5),
            (self._lose_link, weight("link")),
            (self._third_party_reset, weight("link") * 0.5),
            (self._kill, weight("crashes")),
            (self._power_cut, weight("crashes") * 0.5),
            (self._command, weight("commands") * 2),
            (self._state_disk_fault, weight("disks") * 0.3),
        ]

    def _let_time_pass(self) -> None:
        self.world.scheduler.advance(self.rng.choice((0.0, 0.001, 0.01, 0.1, 0.5, 2.0)))
        now = self.world.scheduler.now()
        for issued in self.unanswered.values():
            if now - issued > ANSWER_S and self._pair_mirrored():
                raise self.violation(f"I9: a write waits for {now - issued:.1f} s")

    @property
    def pair(self) -> Pair:
        return self.world.book.pairs()[0]

    def _pair_mirrored(self) -> bool:
        return self.pair.state in MIRRORED

    def _note(self, text: str) -> None:
        self.story.append(f"{self.world.scheduler.now():9.3f} {text}")

    def violation(self, text: str) -> Violation:
        """Make the error that tells of a broken promise, and of what went before."""
        tail = "\n".join(self.story[-60:])
        return Violation(f"seed {self.seed}: {text}\n{tail}")

    # --- Hosts ---

    def _create(self) -> None:
        units = list(self.world.units.units())
        answers = self.world.begin_create(units[0], units[1], level=self.level, nocopy=self.rng.random() < 0.5)
        self.world.ended(answers)
        self._watch()
        self._note(f"created, level {self.level.name}, external leg {self.external_leg}, {answers}")
        if self.rng.random() < 0.7:
            self.world.wait_state(self.pair, PairState.PAIR)

    def _unit(self, leg: int) -> FakePresentedUnit:
        return self.world.units.by_naa[naa_of(leg + 1)]

    def _write_some(self) -> None:
        self.world.units.host_operations += self.thin
        for _ in range(self.rng.choice((1, 1, 3, 8))):
            leg = self.pair.record.primary
            if self.rng.random() < 0.15:
                leg = 1 - leg
            self._write(leg)
            if self.compares is not None:
                self._compare(self.pair.record.primary)

    def _write(self, leg: int) -> None:
        rng = self.rng
        lba = rng.choice(self.hot) + rng.randint(0, 4) if rng.random() < 0.9 else rng.randrange(BLOCKS - 16)
        blocks = rng.choice((1, 1, 2, 4))
        kind = Kind.WRITE
        if self.ranges is not None:
            kind = self.ranges.choice((Kind.WRITE, Kind.SAME, Kind.UNMAP))
            if kind is not Kind.WRITE:
                blocks = self.ranges.choice((blocks, blocks, 16, 100, BLOCKS))
        if self.compares is not None:
            lba = min(lba, BLOCKS - COMPARED_BLOCKS - 4)
        blocks = min(blocks, BLOCKS - lba)
        fua = rng.random() < 0.2
        write, done = self._begin(leg, lba, blocks, kind, fua)
        volume = self._unit(leg).logical_unit.volume
        if kind is Kind.UNMAP:
            volume.unmap(lba, blocks, done)
        elif kind is Kind.SAME:
            volume.write_same(lba, content(write.version, lba, BLOCK_BYTES), blocks, done)
        elif fua and self.compares is not None:
            self._write_and_verify(volume, write, done)
        else:
            volume.write(lba, data_of(write, BLOCK_BYTES), fua, done)

    def _write_and_verify(self, volume: Volume, write: Write, done: Done) -> None:
        data = data_of(write, BLOCK_BYTES)

        def found(result: Buffer | VolumeError) -> None:
            if isinstance(result, VolumeError):
                done(result)
            else:
                done(None if result == data else VolumeError(Fault.HARDWARE, "miscompare"))

        volume.write_and_read(write.lba, data, found)

    def _begin(self, leg: int, lba: int, blocks: int, kind: Kind, fua: bool) -> tuple[Write, Done]:
        """Note a write, and give what is to be told how it ended."""
        self.version += 1
        write = Write(self.version, lba, blocks, self.world.scheduler.now(), kind=kind)
        model = self._model(leg)
        model.issue(write)
        self.promises.issued(write)
        self.in_flight[leg].append(write)
        self.unanswered[write.version] = write.issued
        life = self.life
        self._note(f"{kind.value} v{write.version} {lba}+{blocks} through leg {leg}")

        def done(error: VolumeError | None) -> None:
            if life != self.life:
                raise self.violation(f"I9: v{write.version} was answered by a daemon that is dead")
            if write.version not in self.unanswered:
                raise self.violation(f"I9: v{write.version} was answered twice")
            del self.unanswered[write.version]
            self.in_flight[leg].remove(write)
            write.end = self.world.scheduler.now()
            self._note(f"  v{write.version} {'GOOD' if error is None else error}")
            if error is not None:
                self._model(leg).failed(write)
            else:
                self.promises.acknowledged(write, leg)
                self._model(leg).issue(write)
                self._model(leg).acknowledge(write)
                if fua and kind is Kind.WRITE:
                    self._model(leg).flushed_write(write)

        return write, done

    def _compare(self, leg: int) -> None:
        """Read a block as a host, then have it changed on condition that it is still the same."""
        assert self.compares is not None
        lba = BLOCKS - 1 - self.compares.randrange(COMPARED_BLOCKS)
        if lba in self.comparing:
            return
        self.comparing.add(lba)
        life = self.life

        def read(result: Buffer | VolumeError) -> None:
            if life != self.life:
                return
            if isinstance(result, VolumeError):
                self.comparing.discard(lba)
            else:
                self._compare_and_write(leg, lba, bytes(result))

        self._unit(leg).logical_unit.volume.read(lba, 1, read)

    def _compare_and_write(self, leg: int, lba: int, expected: bytes) -> None:
        write, done = self._begin(leg, lba, 1, Kind.WRITE, fua=False)

        def ended(command: Compare) -> None:
            self.comparing.discard(lba)
            done(None if command.outcome == "GOOD" else VolumeError(Fault.HARDWARE, command.outcome))

        unit = LogicalUnit(self._unit(leg).logical_unit.volume, commands.NAA)
        host = commands.Host(TargetPort(), unit)
        cdb = struct.pack(">BBQ3xBxx", 0x89, 0, lba, 1)
        host.port.execute(Compare(host.session, cdb, expected + data_of(write, BLOCK_BYTES), ended))

    def fenced(self) -> bool:
        """Tell whether annex takes the fence for held."""
        return not self.world.fences.lapsed

    def open_to_others(self) -> bool:
        """Tell whether somebody else could write to the external leg now."""
        return bool(self.world.fences.lapsed)

    def _model(self, leg: int) -> BlockModel:
        """What the LU of a leg shows."""
        record = self.pair.record
        return self.contents[record.current if leg == record.primary else leg]

    def _watch(self) -> None:
        """Follow the pair's changes of state."""
        pair = self.pair
        self.history.append((pair.record, list(self.contents)))
        change = pair.change

        def watched(*arguments: Any, **changes: Any) -> None:
            before = pair.record
            change(*arguments, **changes)
            self._changed(before, pair.record)

        pair.change = watched  # type: ignore[method-assign]  # the simplest way to look over its shoulder

    def _changed(self, before: PairRecord, after: PairRecord) -> None:
        was, now = before.state in MIRRORED, after.state in MIRRORED
        other = 1 - after.current
        if now and not was:
            self.contents = [self.contents[after.current]] * 2
        elif was and not now:
            mirror = self.pair.mirror
            whole = before.state is PairState.PAIR and not mirror.dirty.dirty_bits and not mirror.lapsed
            split = after.state is PairState.PSUS and whole
            self.contents[other] = self.contents[other].copy() if split else self.contents[other].forgotten()
            self.contents[other].foreign |= self.foreign
        for leg, writes in self.in_flight.items():
            for write in writes:
                self._model(leg).issue(write)
                if before.current != after.current:
                    self.exposed.add(write.version)
        self.history.append((after, list(self.contents)))
        if before != after:
            roles = f"primary {after.primary}, current {after.current}"
            self._note(f"state {after.state.name}, {roles}, unverified {after.unverified}")
        self.promises.changed(before, after)

    def _read_some(self) -> None:
        for _ in range(self.rng.choice((1, 3))):
            self._read(self.pair.record.primary, self.rng.choice(self.hot), self.rng.choice((1, 4, 8)))

    def _read(self, leg: int, lba: int, blocks: int) -> None:
        life, issued = self.life, self.world.scheduler.now()
        model = self._model(leg)
        before = model.snapshot(lba, blocks)

        def done(result: Buffer | VolumeError) -> None:
            if life != self.life or self._model(leg) is not model:
                return
            if isinstance(result, VolumeError):
                return
            problem = model.check(lba, bytes(result), issued, before)
            if problem:
                name = "I10" if FOREIGN * BLOCK_BYTES in bytes(result) else "I4"
                raise self.violation(f"{name}: read through leg {leg}: {problem}")

        self._unit(leg).logical_unit.volume.read(lba, blocks, done)

    def _flush(self) -> None:
        leg = self.pair.record.primary
        life, issued = self.life, self.world.scheduler.now()
        model = self._model(leg)

        begun = self.promises.flush_begins()

        def done(error: VolumeError | None) -> None:
            if life == self.life and error is None and self._model(leg) is model and self.flushes_count:
                self._note("flushed")
                self.promises.flushed(issued, begun)
                model.flushed(issued)

        self._unit(leg).logical_unit.volume.flush(done)

    # --- Faults ---

    def _disk_fault(self) -> None:
        leg = self.world.legs[self.rng.randint(0, 1)]
        kind = self.rng.choice(("write", "read", "flush"))
        count = self.rng.choice((1, 1, 2))
        self._note(f"the next {count} {kind} of leg {leg.number - 1} fail")
        if kind == "write":
            leg.bad_writes += count
        elif kind == "read":
            leg.bad_reads += count
        else:
            leg.bad_flushes += count

    def _slow_leg(self) -> None:
        leg = self.world.legs[self.rng.randint(0, 1)]
        external = leg.number - 1 == self.external_leg
        what = self.rng.choice(("slow", "hung" if external else "slow", "well", "well"))
        leg.slow_s = 0.5 if what == "slow" else 0.0
        leg.hung = what == "hung"
        self._note(f"leg {leg.number - 1} is {what}")

    def _lose_link(self) -> None:
        world, rng = self.world, self.rng
        leg = world.legs[self.external_leg]
        if leg.unready is not None:
            return
        power = rng.random() < 0.3
        self._note(f"the link is lost{', and the array its power' if power else ''}")
        if power:
            self._content_lost(self.external_leg)
            self.promises.forget()
        leg.lose_link(VolumeError(Fault.BECOMING_READY, "the link is lost"), power=power)
        world.fences.lapse(world.external)
        # What is written past annex to the leg that a restart would read can not be told from data.
        other_current = self.pair.record.current != self.external_leg and not self.pair.mirror.held_for(STATE_HOLD)
        if rng.random() < 0.3 and other_current and not self._apart():
            lba = rng.choice(self.hot)
            leg._land(lba * BLOCK_BYTES, FOREIGN * BLOCK_BYTES, stable=True)
            self.foreign.add(lba)
            self._note(f"a foreign host writes block {lba} of the external leg")
        life = self.life

        def back() -> None:
            if life == self.life:
                self._link_back()

        world.scheduler.call_later(rng.choice((0.05, 1.0, 4.0, 12.0, 30.0)), back)

    def _link_back(self) -> None:
        leg = self.world.legs[self.external_leg]
        if leg.unready is None:
            return
        self._note("the link is back")
        self.world.fences.retake(self.world.external)
        leg.hung = False
        leg.set_unready(None)

    def _third_party_reset(self) -> None:
        world = self.world
        if world.legs[self.external_leg].unready is not None:
            return
        self._note("somebody resets the external LU")
        world.fences.lapse(world.external)
        life = self.life

        def again() -> None:
            if life == self.life and world.legs[self.external_leg].unready is None:
                world.fences.retake(world.external)

        world.scheduler.call_later(self.rng.choice((0.01, 0.3, 2.0)), again)

    def _state_disk_fault(self) -> None:
        directory = self.world.directory
        self._note("the state disk fails for a while")
        directory.error = OSError(5, "planned")

        def well() -> None:
            directory.error = None

        self.world.scheduler.call_later(self.rng.choice((0.01, 0.5, 3.0)), well)

    def _kill(self) -> None:
        self._restart(power=False)

    def _power_cut(self) -> None:
        self._restart(power=True)

    def _restart(self, *, power: bool) -> None:
        world = self.world
        self._note("power cut" if power else "kill -9")
        self.promises.compared()
        now = world.scheduler.now()
        for leg, writes in self.in_flight.items():
            for write in writes:
                write.end = now
                if write.version in self.exposed:
                    self._model(leg).failed(write)
            writes.clear()
        self.unanswered.clear()
        self.life += 1
        self.comparing.clear()
        world.directory.error = None
        world.workers.cut_off(world)  # type: ignore[attr-defined]  # made by open_book
        local = 1 - self.external_leg
        for device in world.legs:
            device.hung, device.slow_s, device.bad_flushes = False, 0.0, 0
        self._crash_legs(power=power)
        if power:
            self.promises.forget()
            world.directory.crash(self.rng)
        known = self.pair.record.failed_flushes
        world.restart()
        self._find_contents()
        if known & ~self.pair.record.failed_flushes:
            self.flushes_count = False
        if power:
            self._content_lost(local)
        self._reach_the_array()
        world.scheduler.run_until_idle()
        self._note(
            f"back as {self.pair.state.name}, current {self.pair.record.current}, primary {self.pair.record.primary}"
        )

    def _crash_legs(self, *, power: bool) -> None:
        """annexd dies: nobody waits for the legs any more, and the local one may lose its power too."""
        for at, leg in enumerate(self.world.legs):
            leg.crash(power=power and at != self.external_leg)

    def _reach_the_array(self) -> None:
        """Have a new life of annexd find its array."""
        world = self.world
        if self._array_away():
            world.scheduler.call_later(self.rng.choice((0.05, 3.0)), self._link_back)
        else:
            world.fences.lapsed.clear()
            world.fences.retake(world.external)

    def _array_away(self) -> bool:
        """Tell whether annexd can not use the external leg now."""
        return self.world.legs[self.external_leg].unready is not None

    def _content_lost(self, leg: int) -> None:
        """A leg lost its cache; while the pair is mirrored and the other leg is there, it has what is missing."""
        alone = self._array_away()
        if self.contents[0] is not self.contents[1] or self.pair.record.current == leg or alone:
            self.contents[leg].power_lost()

    def _find_contents(self) -> None:
        """After a crash the pair is in the last state that was stable."""
        record = self.pair.record

        def key(some: PairRecord) -> tuple[object, ...]:
            # Between COPY and PAIR it may have moved before anybody could watch, and from the secondary's leg back.
            state = PairState.COPY if some.state in MIRRORED else some.state
            current = 0 if some.state in MIRRORED else some.current
            return state, some.primary, current, some.secondary_writable

        found = next((contents for stored, contents in reversed(self.history) if key(stored) == key(record)), None)
        if found is None:
            raise self.violation(f"I7: the pair came back as {record}")
        self.contents = list(found)
        self.history.clear()
        self._watch()

    # --- Commands ---

    def _apart(self) -> bool:
        """The legs hold different data on purpose."""
        return self.contents[0] is not self.contents[1]

    def _command(self) -> None:
        choices: list[tuple[ArrayOut, int]] = [
            (ArrayOut.PAIR_SPLIT, 0),
            (ArrayOut.PAIR_SPLIT, 1),
            (ArrayOut.PAIR_RESYNC, 0),
            (ArrayOut.PAIR_RESYNC, 0),
            (ArrayOut.PAIR_RESYNC, 1),
            (ArrayOut.PAIR_RESYNC, 2),
            (ArrayOut.PAIR_TAKEOVER, 0),
            (ArrayOut.PAIR_VERIFY, 1),
        ]
        self._do(*self.rng.choice(choices))

    def _do(self, action: ArrayOut, flags: int) -> None:
        pair, life = self.pair, self.life
        self._note(f"{action.name} {flags} in {pair.state.name}")
        unit = self._unit(pair.secondary if action is ArrayOut.PAIR_TAKEOVER else pair.record.primary)

        def done(error: ScsiError | None) -> None:
            if life == self.life:
                self._note(f"  {action.name}: {'GOOD' if error is None else repr(error)}, now {pair.state.name}")

        self.world.book.command(self.world.asker, pair, action, flags, unit, done)

    # --- The end ---

    def _heal(self) -> None:
        """No more faults: the pair must come to PAIR, verified, with equal legs."""
        world = self.world
        self._note("healing")
        for leg in world.legs:
            leg.hung, leg.slow_s = False, 0.0
            leg.bad_flushes = leg.bad_reads = leg.bad_writes = 0
        world.directory.error = None
        world.scheduler.advance(1.0)
        self._heal_array()
        for _ in range(400):
            world.scheduler.advance(0.5)
            pair = self.pair
            if pair.in_sync() and not self.unanswered and not pair.mirror.order and self._array_well():
                break
            if pair.state in (PairState.PSUE, PairState.PSUS):
                self._do(ArrayOut.PAIR_RESYNC, 0)
            elif pair.state is PairState.SSWS:
                self._do(ArrayOut.PAIR_RESYNC, 2)
            elif pair.state is PairState.PAIR and pair.mirror.dirty.dirty_bits:
                self._do(ArrayOut.PAIR_RESYNC, 0)
        else:
            raise self.violation(f"does not heal: {pair.row()}, {pair.last_error}, waiting {self.unanswered}")
        if world.legs[0].data != world.legs[1].data:
            bad = [
                lba
                for lba in range(BLOCKS)
                if world.legs[0].data[lba * BLOCK_BYTES : (lba + 1) * BLOCK_BYTES]
                != world.legs[1].data[lba * BLOCK_BYTES : (lba + 1) * BLOCK_BYTES]
            ]
            raise self.violation(f"I3: in PAIR, and the legs differ in blocks {bad[:10]}")
        problem = self._model(pair.record.primary).check(0, bytes(world.legs[0].data), world.scheduler.now())
        if problem:
            raise self.violation(f"I1: at the end: {problem}")

    def _heal_array(self) -> None:
        self._link_back()
        self.world.fences.retake(self.world.external)

    def _array_well(self) -> bool:
        """Tell whether annex knows of all that has happened to the array."""
        return True
