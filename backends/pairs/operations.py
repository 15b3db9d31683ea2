"""The commands of a host on a pair: SPLIT, RESYNC with its two options, TAKEOVER, VERIFY.

How this works. A command that changes the state holds the pair's writes, stops its copy, and waits until nothing is
under way. Then the table says whether the pair's state still allows it, and where it leads; the new state is made
stable; only then is the command answered and are writes let go, under the new state (F27). Commands on one pair run
one after the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from backends.pairs import states as pair_states
from backends.pairs.pair import Pair
from backends.pairs.record_writer import Stored
from backends.pairs.states import PairCommand, Roles, Step
from backends.pairs.volumes import serves
from scsi.array_commands import FenceLevel, PairState
from scsi.errors import InternalTargetFailure, NoSuchPair, PairSideNotReady, PairStateForbids, ScsiError

Answer = Callable[[ScsiError | None], None]
Changes = dict[str, Any]
_HOLD = "a command is changing the pair"


class PairOperations:
    """Runs the commands on one pair."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self._queue: deque[Callable[[], None]] = deque()
        self._busy = False

    def run(self, command: PairCommand, done: Answer, *, writable: bool = False, changed: Callable[[], None]) -> None:
        """Run a command when its turn comes.

        Args:
            command: not CREATE, VERIFY or DELETE.
            done: called with None when the new state is stable, or with the refusal.
            writable: of SPLIT: the secondary becomes writable.
            changed: called when the pair has the new state, before `done`; not when nothing was to be done.
        """

        def begin() -> None:
            if self.pair.mirror.dissolved:
                self._end(done, NoSuchPair())
                return
            step = self.check(command, writable=writable)
            if isinstance(step, ScsiError):
                self._end(done, step)
            elif step.no_op:
                self.pair.when_stable(lambda error: self._end(done, _not_stable(error)))
            else:
                self._quiesce(lambda: self._take_step(command, writable, changed, done))

        self.enqueue(begin)

    def verify(self, done: Answer, *, immediate: bool) -> None:
        """Compare the legs; `done` at the end, or with `immediate` once it is certain to begin."""
        if self.pair.damaged or pair_states.command_step(self.pair.state, PairCommand.VERIFY) is None:
            done(PairStateForbids())
        elif immediate:
            self.pair.synchronizer.verify(lambda _error: None)
            done(None)
        else:
            self.pair.synchronizer.verify(done)

    def enqueue(self, begin: Callable[[], None]) -> None:
        """Run something when its turn comes; it calls `next_one` at its end."""
        self._queue.append(begin)
        if not self._busy:
            self.next_one()

    def next_one(self) -> None:
        """Let the next command begin."""
        self._busy = bool(self._queue)
        if self._queue:
            self._queue.popleft()()

    def quiesce(self, then: Callable[[], None]) -> None:
        """Hold writes, stop copying, and go on when nothing is under way; `let_go` ends it."""
        self._quiesce(then)

    def let_go(self) -> None:
        """Go on with writes and copies."""
        self.pair.mirror.release(_HOLD)
        self.pair.synchronizer.resume()

    def _quiesce(self, then: Callable[[], None]) -> None:
        mirror = self.pair.mirror
        mirror.hold(_HOLD)
        self.pair.synchronizer.pause(lambda: mirror.drain(then))

    def _take_step(self, command: PairCommand, writable: bool, changed: Callable[[], None], done: Answer) -> None:
        step = self.check(command, writable=writable)  # a leg may have been lost while writes ended
        if isinstance(step, ScsiError) or step.no_op:
            self.let_go()
            self._end(done, step if isinstance(step, ScsiError) else None)
            return

        def stored(error: Exception | None) -> None:
            changed()
            self.let_go()
            self._end(done, _not_stable(error))

        self.change(command, step, stored, writable=writable)

    def change(
        self, command: PairCommand, step: Step, done: Stored | None = None, *, writable: bool = False, **more: Any
    ) -> None:
        """Give the pair, which is at rest, the record to which a step leads; `more` are other fields of it."""
        if step.state is PairState.COPY:
            self.pair.forget_failed_flushes()  # the copy makes up for what they may have lost
        primary, current, changes = self._turn(command, step, writable)
        self.pair.change(done, state=step.state, primary=primary, current=current, **changes, **more)

    def _turn(self, command: PairCommand, step: Step, writable: bool) -> tuple[int, int, Changes]:
        record = self.pair.record
        primary, current = pair_states.turn(step.roles, record.primary, record.current)
        changes: Changes = {"secondary_writable": writable, "secondary_old": False}
        if command is PairCommand.TAKEOVER:
            away = self.pair.mirror.lapsed & (1 << primary)
            if step.roles is Roles.SWAP and (away or not self.pair.in_sync()):
                current = record.current  # I5: the leg that may lack something is not read for it
            old = record.state is PairState.PSUE and record.current == record.primary
            changes["secondary_old"] = old and record.fence_level is not FenceLevel.DATA
        return primary, current, changes

    def check(self, command: PairCommand, *, writable: bool = False) -> Step | ScsiError:
        """Tell where a command leads now, or why it is refused."""
        pair = self.pair
        mirror, record = pair.mirror, pair.record
        if pair.mirror.dissolved:
            return NoSuchPair()
        if pair.damaged:
            return PairStateForbids("the pair's record is damaged")
        step = pair_states.command_step(
            pair.state,
            command,
            in_sync=not mirror.dirty.dirty_bits,
            primary_leg_lost=not serves(mirror.legs[record.primary]) or bool(mirror.lapsed & (1 << record.primary)),
        )
        if step is None:
            return PairStateForbids(f"{command.value} in {pair.state.name}")
        if step.no_op:
            return step
        if writable and record.current != record.primary:
            return PairStateForbids("the secondary's leg serves the primary; the secondary can not become writable")
        if step.state is PairState.SSWS and pair.faults.stragglers[pair.secondary]:
            # One that lands later would be over what the secondary's host has written by then.
            return PairSideNotReady("a write that nobody waits for is still under way to the secondary's leg")
        if step.state is PairState.COPY:
            away = mirror.lapsed or not serves(mirror.legs[0]) or not serves(mirror.legs[1])
            if away or any(pair.faults.stragglers):
                return PairSideNotReady("a leg is away")
        return step

    def _end(self, done: Answer, error: ScsiError | None) -> None:
        done(error)
        self.next_one()


def _not_stable(error: Exception | None) -> ScsiError | None:
    return None if error is None else InternalTargetFailure(f"the state is not stable: {error}")
