"""One seeded life of a group of pairs: hosts that build each write on the answer to the one before, to another pair.

As `tests.support.pair_simulation`: the real engine on simulated disks, links and threads, and the same seed gives the
same life. Each host writes its n-th write to a block of its own, of a pair that chance chooses, and the next one only
when that was answered with GOOD; what was not answered before a crash it sends again. So the secondaries are of one
moment if each host's writes on them are its first ones, without a gap, and `Violation` says when they are not.
"""

from __future__ import annotations

import random

from backends.pairs.book import PairBook
from backends.pairs.group_store import PairGroup
from backends.pairs.groups import of_one_moment
from backends.pairs.pair import Pair, PairOptions
from backends.pairs.states import MIRRORED, PairCommand
from scsi.array_commands import FenceLevel, PairState
from scsi.volume import Fault, VolumeError
from tests.support.block_model import content
from tests.support.pair_simulation import SimWorkers
from tests.support.pair_world import FakeLogicalUnit, FakePresentedUnit, FakeUnit, PairWorld, naa_of
from tests.support.promises import Violation
from tests.support.sim_leg import SimLeg

BLOCK_BYTES = 4096
BLOCKS = 512
PAIRS = 3
HOSTS = 3
GROUP = "db"
ANSWER_S = 15.0
COMMANDS = (PairCommand.SPLIT, PairCommand.SPLIT, PairCommand.RESYNC)
SLOTS = BLOCKS // HOSTS  # of one host on one pair


class GroupWorld(PairWorld):
    """Pairs of a local leg and a leg on an array, each with an array LU of its own."""

    def __init__(self, rng: random.Random, level: FenceLevel) -> None:
        self.rng = rng
        self.legs: list[tuple[SimLeg, SimLeg]] = []
        self.arrays = [FakeUnit(f"array-{number}") for number in range(PAIRS)]
        super().__init__(options=PairOptions(most_open_extents=1, extent_idle_s=3))
        for at, array in enumerate(self.arrays):
            self.legs.append((self._leg(2 * at + 1, []), self._leg(2 * at + 2, [array])))
            primary, secondary = (self.units.by_naa[leg.naa] for leg in self.legs[-1])
            self.ended(self.begin_create(primary, secondary, level=level, nocopy=True))

    def open_book(self) -> PairBook:
        self.workers = SimWorkers(self.scheduler, self.rng)
        for legs in self.legs:
            for leg in legs:
                leg.scheduler = self.scheduler
        return super().open_book()

    def _leg(self, number: int, units: list[FakeUnit]) -> SimLeg:
        leg = SimLeg(number, naa_of(number), units, self.rng, blocks=BLOCKS, block_bytes=BLOCK_BYTES)
        leg.scheduler = self.scheduler
        unit = FakePresentedUnit(FakeLogicalUnit(leg.naa, leg), leg)
        self.units.by_naa[leg.naa] = unit
        self.map(self.asker, unit)
        return leg


class ChainedHost:
    """Who writes, and waits for the answer before the next write.

    Attributes:
        places: pair and block of each write, from the first; a block is used again when all were.
        answered: how many of them were answered with GOOD.
        since: when the one under way was sent; None when none is.
    """

    def __init__(self, number: int, rng: random.Random) -> None:
        self.number = number
        self.rng = rng
        self.places: list[tuple[int, int]] = []
        self.answered = 0
        self.since: float | None = None
        self._used = [0] * PAIRS

    def place(self, at: int) -> tuple[int, int]:
        """Give pair and block of a write; no two hosts write to one."""
        if at == len(self.places):
            pair = self.rng.randrange(PAIRS)
            slot = self._used[pair] % SLOTS
            self._used[pair] += 1
            self.places.append((pair, slot * HOSTS + self.number))
        return self.places[at]

    def block(self, at: int) -> bytes:
        return content(at + 1, self.place(at)[1], BLOCK_BYTES)


class GroupSimulation:
    """One life, from one seed; the pairs stop together, or those of every fourth life alone."""

    def __init__(self, seed: int, steps: int = 60) -> None:
        self.seed = seed
        self.rng = random.Random(f"group {seed}")
        self.steps = steps
        self.together = seed % 4 != 3
        level = self.rng.choice((FenceLevel.NEVER, FenceLevel.STATUS))
        self.world = GroupWorld(self.rng, level)
        self.hosts = [ChainedHost(number, self.rng) for number in range(HOSTS)]
        self.life = 0
        self.story: list[str] = []
        self.splits = self.losses = 0  # moments that were looked at
        self.split_content: list[bytes] | None = None
        self.unanswered: PairCommand | None = None
        self.is_split = False  # so a command was answered, and there was none since

    def run(self) -> None:
        """Live, then heal, then split once more."""
        answers: list[Exception | None] = []
        group = PairGroup(GROUP, tuple(range(1, PAIRS + 1)), self.together)
        self.world.book.groups.put(group, answers.append)
        assert self.world.ended(answers) is None
        actions = [
            (self._command, 2.0),
            (self._fail_leg, 0.5),
            (self._slow_leg, 0.5),
            (self._lose_links, 0.5),
            (self._kill, self.rng.choice((0.1, 1.0))),
            (self._state_disk_fault, 0.2),
            (lambda: None, 3.0),
        ]
        for _ in range(self.steps):
            self._write_all()
            (action,) = self.rng.choices([action for action, _ in actions], [weight for _, weight in actions])
            action()
            for _ in range(self.rng.choice((1, 3, 10))):
                self.world.scheduler.advance(self.rng.choice((0.0, 0.001, 0.01, 0.1, 0.5)))
                self._write_all()
                self._look()
        self._heal()

    @property
    def pairs(self) -> list[Pair]:
        return self.world.book.pairs()

    def _note(self, text: str) -> None:
        self.story.append(f"{self.world.scheduler.now():9.3f} {text}")

    def _violation(self, text: str) -> Violation:
        tail = "\n".join(self.story[-60:])
        return Violation(f"seed {self.seed}: {text}\n{tail}")

    # --- Hosts ---

    def _write_all(self) -> None:
        for host in self.hosts:
            if host.since is None:
                self._write(host)

    def _write(self, host: ChainedHost) -> None:
        at, life = host.answered, self.life
        pair, lba = host.place(at)
        host.since = self.world.scheduler.now()
        record = self.pairs[pair].record
        unit = self.world.units.by_naa[bytes.fromhex(record.naas[record.primary])]

        def done(error: VolumeError | None) -> None:
            if life != self.life:
                raise self._violation("answered by a daemon that is dead")
            host.since = None
            self._note(f"host {host.number} write {at} to pair {pair + 1}: {'GOOD' if error is None else error}")
            if error is None:
                host.answered = at + 1
                if self.rng.random() < 0.8:
                    self._write(host)  # at once, in the same wake-up

        unit.logical_unit.volume.write(lba, host.block(at), False, done)

    # --- What must hold ---

    def _secondaries(self) -> list[bytes]:
        found = []
        for pair, legs in zip(self.pairs, self.world.legs, strict=True):
            found.append(bytes(legs[pair.secondary].data))
        return found

    def _look(self) -> None:
        """Look at secondaries that are said to be of one moment."""
        now = self.world.scheduler.now()
        for host in self.hosts:
            if host.since is not None and now - host.since > ANSWER_S and self._mirrored():
                raise self._violation(f"host {host.number} waits for {now - host.since:.1f} s")
        if not of_one_moment(self.pairs):
            self.split_content = None
            return
        secondaries = self._secondaries()
        self._check_order(secondaries)
        if all(pair.state is PairState.PSUS for pair in self.pairs):
            self.splits += self.split_content is None
            if self.split_content not in (None, secondaries):
                raise self._violation("a write came to a secondary after the split")
            self.split_content = secondaries
        else:
            self.losses += 1

    def _check_order(self, secondaries: list[bytes]) -> None:
        for host in self.hosts:
            shown = [
                int.from_bytes(secondaries[pair][lba * BLOCK_BYTES : lba * BLOCK_BYTES + 8], "big") - 1
                for pair, lba in host.places
            ]
            newest = max(shown, default=-1)
            missing = next((at for at in range(newest + 1) if shown[at] < at), None)
            if missing is not None:
                raise self._violation(
                    f"host {host.number}: write {newest} to pair {host.places[newest][0] + 1} is on the secondary, and "
                    f"write {missing} to pair {host.places[missing][0] + 1} is not, which was answered before"
                )

    def _check_split(self) -> None:
        states = {pair.state for pair in self.pairs}
        if self.is_split and (states != {PairState.PSUS} or not of_one_moment(self.pairs)):
            raise self._violation(f"I7: split, and the pairs are {states}")

    def _mirrored(self) -> bool:
        return all(pair.state in MIRRORED for pair in self.pairs)

    # --- Commands and faults ---

    def _command(self) -> None:
        if any(pair.state in (PairState.PSUE, PairState.SSWS) for pair in self.pairs):
            self._order(PairCommand.RESYNC)
        else:
            self._order(self.rng.choice(COMMANDS))

    def _order(self, command: PairCommand) -> None:
        if self.unanswered is not None:
            return
        life, groups = self.life, self.world.book.groups
        self.unanswered = command
        self.is_split = False
        self._note(f"{command.name}")

        def done(error: Exception | None) -> None:
            if life != self.life:
                raise self._violation("a command was answered by a daemon that is dead")
            self.unanswered = None
            self.is_split = error is None and command is PairCommand.SPLIT
            self._note(f"  {command.name}: {error or 'done'}")
            self._check_split()

        groups.run(groups.by_name[GROUP], command, lambda _pair: None, done)

    def _any_leg(self) -> SimLeg:
        return self.rng.choice(self.world.legs)[self.rng.choice((0, 1, 1, 1))]

    def _fail_leg(self) -> None:
        leg = self._any_leg()
        self._note(f"the next write of LU {leg.number} fails")
        leg.bad_writes += 1

    def _slow_leg(self) -> None:
        leg = self._any_leg()
        what = self.rng.choice(("slow", "hung", "well", "well"))
        leg.slow_s = 0.5 if what == "slow" else 0.0
        leg.hung = what == "hung" and leg.number % 2 == 0
        self._note(f"LU {leg.number} is {what}")

    def _lose_links(self) -> None:
        """The links to one array LU or to all of them are lost for a while."""
        lost = self.rng.choice(([self.rng.randrange(PAIRS)], list(range(PAIRS))))
        self._note(f"links lost: {lost}")
        life = self.life
        for at in lost:
            leg = self.world.legs[at][1]
            if leg.unready is None:
                leg.lose_link(VolumeError(Fault.BECOMING_READY, "the link is lost"), power=False)
                self.world.fences.lapse(self.world.arrays[at])

        def back() -> None:
            if life == self.life:
                for at in lost:
                    self._link_back(at)

        self.world.scheduler.call_later(self.rng.choice((0.05, 1.0, 4.0, 12.0, 30.0)), back)

    def _link_back(self, at: int) -> None:
        leg = self.world.legs[at][1]
        if leg.unready is not None:
            self.world.fences.retake(self.world.arrays[at])
            leg.hung = False
            leg.set_unready(None)

    def _state_disk_fault(self) -> None:
        directory = self.world.directory
        self._note("the state disk fails for a while")
        directory.error = OSError(5, "planned")

        def well() -> None:
            directory.error = None

        self.world.scheduler.call_later(self.rng.choice((0.01, 0.5, 3.0)), well)

    def _kill(self) -> None:
        world, power = self.world, self.rng.random() < 0.3
        self._note("power cut" if power else "kill -9")
        self.life += 1
        self.unanswered = None
        self.split_content = None  # the state may be older than the last split that was not answered
        for host in self.hosts:
            host.since = None
        world.directory.error = None
        world.workers.cut_off(world)  # type: ignore[attr-defined]  # made by open_book
        for legs in world.legs:
            for leg in legs:
                leg.crash(power=False)
                leg.hung, leg.slow_s = False, 0.0
        if power:
            world.directory.crash(self.rng)
        world.restart()
        for at, legs in enumerate(world.legs):
            if legs[1].unready is not None:
                self._link_back(at)
            else:
                world.fences.lapsed.discard(world.arrays[at].name)
                world.fences.retake(world.arrays[at])
        world.scheduler.run_until_idle()
        self._note(f"back as {[pair.state.name for pair in self.pairs]}")
        self._check_split()
        self._look()

    # --- The end ---

    def _heal(self) -> None:
        world = self.world
        self._note("healing")
        world.directory.error = None
        for at, legs in enumerate(world.legs):
            for leg in legs:
                leg.hung, leg.slow_s, leg.bad_writes = False, 0.0, 0
            self._link_back(at)
            world.fences.retake(world.arrays[at])
        for _ in range(400):
            world.scheduler.advance(0.5)
            self._look()
            if self.split_content is not None:
                return
            if all(pair.in_sync() for pair in self.pairs):
                self._order(PairCommand.SPLIT)  # refused as long as a write to a leg that hung is under way
            elif any(pair.state in (PairState.PSUE, PairState.PSUS) for pair in self.pairs):
                self._order(PairCommand.RESYNC)
        raise self._violation(f"does not heal: {[pair.row() for pair in self.pairs]}")
