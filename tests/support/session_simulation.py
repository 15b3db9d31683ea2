"""Lives of pairs whose external leg is real code down to the bytes: external LU, fences, sessions at both ends.

What is simulated is the disk of the array and the wire; see `tests.support.sim_sessions`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, cast

from backends.external.array import ExternalArray
from backends.external.fence import FenceKeeper
from backends.pairs.mirror_faults import STATE_HOLD
from backends.pairs.pair import PairOptions
from backends.pairs.states import MIRRORED
from backends.pairs.store import PairRecord
from backends.regions import Region
from backends.virtual_device import VirtualDevice
from scsi.array_commands import ArrayOut, PairState
from scsi.errors import ScsiError
from scsi.volume import Done
from tests.support.block_model import FOREIGN
from tests.support.clock import VirtualScheduler
from tests.support.pair_simulation import BLOCK_BYTES, BLOCKS, Simulation, SimWorkers, SimWorld
from tests.support.pair_world import FakeLogicalUnit, FakePresentedUnit, PairWorld, naa_of
from tests.support.sim_leg import SimLeg
from tests.support.sim_sessions import LUN, NAA, Life, SimArray, SimLink

HANG_S = 14.0  # what the disk of the array may still do when annexd has given it up
START_S = 2.0  # for the first login, and what is asked before the LU is ready


def _learn(_blocks: int, _block_bytes: int, _identifier: bytes, done: Done) -> None:
    done(None)


class SessionWorld(SimWorld):
    """A `SimWorld` with sessions; a restart is a new life of annexd, while the array lives on."""

    def __init__(self, rng: random.Random, *, external_leg: int) -> None:
        self.rng = rng
        self.legs: list[SimLeg] = []
        self.external_leg = external_leg
        self._base = VirtualScheduler()
        for leg in (0, 1):
            device = SimLeg(
                leg + 1,
                naa_of(leg + 1),
                [],
                rng,
                blocks=BLOCKS,
                block_bytes=BLOCK_BYTES,
                write_cache=rng.random() < 0.7,
            )
            device.scheduler = self._base
            self.legs.append(device)
        self.legs[external_leg].hang_s = HANG_S
        self.array = SimArray(self._base, self.legs[external_leg], rng)
        PairWorld.__init__(self, options=PairOptions(most_open_extents=1, extent_idle_s=3))
        self._live()

    def open_book(self) -> Any:
        return PairWorld.open_book(self)

    def restart(self) -> None:
        """End this life of annexd, and begin the next."""
        self.life.alive = False
        self.link.die()
        self._live()

    def _live(self) -> None:
        self.life = self.scheduler = Life(self._base)
        self.workers = SimWorkers(self.life, self.rng)
        self.keeper = FenceKeeper(self.life)
        self.fences = cast(Any, self.keeper)
        self.link = SimLink(self.array, self.life)
        array = ExternalArray("array", self.link, self.life, self.keeper)
        self.unit = array.expect(LUN, NAA, BLOCKS, BLOCK_BYTES)
        self.asker.lun_map.clear()
        for leg in (0, 1):
            naa = naa_of(leg + 1)
            device: Any
            if leg == self.external_leg:
                region = Region(1, self.unit, 0, _learn, blocks=BLOCKS, block_bytes=BLOCK_BYTES, identifier=NAA)
                device = VirtualDevice("external", leg + 1, naa, [region])
            else:
                self.legs[leg].listeners.clear()
                self.legs[leg].scheduler = self.life
                region = Region(2, self.legs[leg], 0, _learn, blocks=BLOCKS, block_bytes=BLOCK_BYTES)
                device = VirtualDevice("local", leg + 1, naa, [region])
            presented = FakePresentedUnit(FakeLogicalUnit(naa, device), device)
            self.units.by_naa[naa] = presented
            self.map(self.asker, presented)
        self.book = self.open_book()
        array.start()


class SessionSimulation(Simulation):
    """One life over real sessions, from one seed."""

    world: SessionWorld

    def _make_world(self) -> SimWorld:
        world = SessionWorld(self.rng, external_leg=self.external_leg)
        world.scheduler.advance(START_S)
        return world

    def _actions(self) -> list[tuple[Callable[[], None], float]]:
        more = [
            (self._lose_link, 0.8),
            (self._third_party_reset, 0.5),
            (self._slow_link, 0.4),
            (self._slow_leg, 0.3),
            (self._stand_still, 0.3),
            (self._form_anew, 0.3),
        ]
        return super()._actions() + more

    def _stand_still(self) -> None:
        """SIGSTOP, and later SIGCONT: the array goes on meanwhile."""
        seconds = self.rng.choice((2.0, 6.0, 20.0, 60.0))
        self._note(f"annexd stands still for {seconds} s")
        world = self.world
        world.life.stopped = True
        world.scheduler.advance(seconds)
        self._write_past_annex()
        world.life.go_on()
        for version in self.unanswered:
            self.unanswered[version] += seconds

    def _form_anew(self) -> None:
        """Delete the pair, and form it anew; leg 0 is that of its first primary."""
        world = self.world
        world.scheduler.advance(12.0)  # reads that wait for the link end, too
        if any(self.in_flight.values()) or self._array_away():
            return
        self.life += 1  # what reads find from now on is not for those who wait now
        pair = self.pair
        record = pair.record
        whole = record.state is PairState.PAIR and not record.unverified and not pair.mirror.dirty.dirty_bits
        answers: list[ScsiError | None] = []
        world.book.command(world.asker, pair, ArrayOut.PAIR_DELETE, 0, self._unit(record.primary), answers.append)
        if world.ended(answers) is not None:
            return
        known = record.current == 0 or record.state is PairState.PSUS or whole
        lead = self.contents[0] if known else self.contents[0].forgotten()
        if self.external_leg == 0:
            lead.foreign |= self.foreign
        for _ in range(60):
            formed = world.begin_create(self._unit(0), self._unit(1), level=self.level)
            if world.ended(formed) is None:
                break
            self._link_back()
            world.scheduler.advance(1.0)
        else:
            raise self.violation(f"can not be formed anew: {formed}")
        self.contents = [lead, lead]
        self.promises.forget()
        formed_as = self.pair.record
        if formed_as.state not in MIRRORED:
            self.contents[1 - formed_as.current] = lead.forgotten()  # a leg was lost before anybody could watch
        self.history.clear()
        self._watch()
        self._note(f"deleted in {record.state.name}, and formed anew")

    def _slow_link(self) -> None:
        """Let whatever is sent from now on be long on its way, or not any more."""
        self.world.array.delay_s = self.rng.choice((0.0, 0.0, 0.3, 2.0, 7.0))
        self._note(f"the link takes {self.world.array.delay_s} s")

    def _changed(self, before: PairRecord, after: PairRecord) -> None:
        super()._changed(before, after)
        if before.current != after.current == self.external_leg and self.fenced():
            # The other leg was lost before annex could learn that the fence was: there is nothing else to be read.
            self.contents[after.current].foreign |= self.foreign

    def fenced(self) -> bool:
        return self.world.keeper.held(self.world.unit)

    def open_to_others(self) -> bool:
        return self.world.array.open_to_others()

    def _array_away(self) -> bool:
        return self.world.unit.fault() is not None

    def _lose_link(self) -> None:
        world, rng = self.world, self.rng
        power = rng.random() < 0.3
        self._note(f"the link is cut{', and the array loses its power' if power else ''}")
        if power:
            self._content_lost(self.external_leg)
            self.promises.forget()
            world.array.lose_power()
        world.link.down = True
        world.link.cut()
        self._write_past_annex()
        life = self.life

        def back() -> None:
            if life == self.life:
                self._link_back()

        world.scheduler.call_later(rng.choice((0.0, 0.05, 1.0, 4.0, 12.0, 30.0)), back)

    def _write_past_annex(self) -> None:
        """A foreign host writes to the external leg, where the array lets it."""
        other_current = self.pair.record.current != self.external_leg and not self.pair.mirror.held_for(STATE_HOLD)
        if self.rng.random() < 0.3 and other_current and not self._apart() and self.world.array.open_to_others():
            lba = self.rng.choice(self.hot)
            self.world.legs[self.external_leg]._land(lba * BLOCK_BYTES, FOREIGN * BLOCK_BYTES, stable=True)
            self.foreign.add(lba)
            self._note(f"a foreign host writes block {lba} of the external leg")

    def _link_back(self) -> None:
        self._note("the link can be made again")
        self.world.link.down = False
        self.world.array.delay_s = 0.0
        self.world.legs[self.external_leg].hung = False

    def _third_party_reset(self) -> None:
        self._note("somebody resets the external LU")
        self.world.array.reset()
        self._write_past_annex()

    def _crash_legs(self, *, power: bool) -> None:
        self.world.legs[1 - self.external_leg].crash(power=power)

    def _reach_the_array(self) -> None:
        self.world.scheduler.advance(self.rng.choice((0.0, 0.05, 3.0)))

    def _heal_array(self) -> None:
        self._link_back()
        self.world.scheduler.advance(5.0)
        self._write(self.pair.record.primary)  # or nobody would learn of what happened to the LU last
        self.world.scheduler.advance(1.0)

    def _array_well(self) -> bool:
        return not self._array_away() and self.fenced()
