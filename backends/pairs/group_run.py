"""One command on all pairs of a group, on its way: on all of them, or on none.

How this works. The command waits for its turn on each pair. Then every pair is asked whether its state allows it; one
that does not is enough, and nothing is done. Copies and comparisons are stopped; writes are held on all pairs in one
step, and what is under way ends. Every pair is asked again, since a leg may have been lost meanwhile; then all change
in one step (`PairGroups.take_step`), which is stable before anybody is answered and before writes go on.

Each wait is bounded: pairs that do not come to rest are let go, and the command is refused. The bound is below the one
after which a held write would be answered with an error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from backends.pairs.operations import PairOperations
from backends.pairs.pair import Pair
from backends.pairs.record_writer import Stored
from backends.pairs.states import PairCommand, Step
from backends.pairs.volumes import serves
from backends.scheduler import Scheduler, Timer
from scsi.array_commands import PairState
from scsi.errors import ScsiError

REST_LIMIT_S = 5.0
_HOLD = "a command is changing the group of the pair"

_log = logging.getLogger(__name__)


class GroupRefused(Exception):
    """What was asked of a group can not be; nothing was changed. `str()` is one line for the admin."""


class GroupNotStored(Exception):
    """It is done, and not stable yet; writes wait for that. `str()` is one line for the admin."""


class PlannedStep(NamedTuple):
    """What a command would do to one pair.

    Attributes:
        number: of the pair.
        state: now.
        next_state: afterwards; the present one when it is refused.
        refusal: why the pair does not allow it, or "".
    """

    number: int
    state: PairState
    next_state: PairState
    refusal: str


def plan(operations: list[PairOperations], command: PairCommand) -> list[PlannedStep]:
    """Tell what a command would do to each pair now."""
    answers = [(one.pair, one.check(command)) for one in operations]
    done_already = [isinstance(answer, Step) and answer.no_op for _, answer in answers]
    # One that was split before is of another moment.
    mixed = command is PairCommand.SPLIT and any(done_already) and not all(done_already)
    steps = []
    for pair, answer in answers:
        refusal = _refusal(pair, command, answer, mixed=mixed)
        next_state = answer.state if isinstance(answer, Step) and not refusal else pair.state
        steps.append(PlannedStep(pair.number, pair.state, next_state, refusal))
    return steps


def _refusal(pair: Pair, command: PairCommand, answer: Step | ScsiError, *, mixed: bool) -> str:
    if isinstance(answer, ScsiError):
        return str(answer) or type(answer).__name__
    if command is not PairCommand.SPLIT:
        return ""
    if answer.no_op:
        return "was split before, so it is of another moment" if mixed else ""
    mirror = pair.mirror
    if not pair.in_sync():
        return "its secondary is not known to be equal yet"
    if mirror.lapsed or not serves(mirror.legs[0]) or not serves(mirror.legs[1]):
        return "a leg is away"
    return ""


class GroupRun:
    """The command."""

    def __init__(
        self,
        name: str,
        operations: list[PairOperations],
        command: PairCommand,
        scheduler: Scheduler,
        take_step: Callable[[list[Pair], Callable[[Pair, int], None], Stored], None],
        tell: Callable[[Pair], None],
        done: Callable[[Exception | None], None],
    ) -> None:
        self._name = name
        self._operations = operations
        self._command = command
        self._scheduler = scheduler
        self._take_step = take_step
        self._tell = tell
        self._done = done
        self._waits = 0
        self._waiting: Timer | None = None
        self._held = False

    def start(self) -> None:
        """Begin when the turn comes on every pair."""
        self._wait_for_all(self._begin, [one.enqueue for one in self._operations], None)

    def _begin(self) -> None:
        refusal = self._refusal()
        if refusal:
            self._end(refusal)
            return
        if not self._moving():
            self._nothing_to_do()
            return
        # Copies first: a chunk of one may take long, and hosts do not wait for that.
        self._wait_for_all(self._hold, [one.pair.synchronizer.pause for one in self._operations], self._give_up)

    def _hold(self) -> None:
        self._held = True
        for one in self._operations:
            one.pair.mirror.hold(_HOLD)
        self._wait_for_all(self._at_rest, [one.pair.mirror.drain for one in self._operations], self._give_up)

    def _at_rest(self) -> None:
        refusal = self._refusal()
        moving = self._moving()
        if refusal or not moving:
            self._let_go()
            self._end(refusal)
            return
        pairs = [one.pair for one in moving]

        def change(pair: Pair, step: int) -> None:
            one = next(one for one in moving if one.pair is pair)
            answer = one.check(self._command)
            assert isinstance(answer, Step)
            one.change(self._command, answer, group_step=step, moment=step if self._splits else 0)

        def stored(error: Exception | None) -> None:
            for pair in pairs:
                self._tell(pair)
            if error is None:
                states = ", ".join(sorted({pair.state.name for pair in pairs}))
                numbers = ", ".join(str(pair.number) for pair in pairs)
                _log.info(
                    "group %s: %s: pairs %s are %s",
                    self._name,
                    self._command.value,
                    numbers,
                    states,
                    extra={"event": "group_changed"},
                )
            self._let_go()
            self._end(None if error is None else _not_stored(error))

        self._take_step(pairs, change, stored)

    def _nothing_to_do(self) -> None:
        """Every pair is as it is wanted: answer when that is stable, which an earlier command may not have reached."""
        errors: list[Exception] = []

        def waits_for(pair: Pair) -> Callable[[Callable[[], None]], None]:
            def wait(over: Callable[[], None]) -> None:
                def stable(error: Exception | None) -> None:
                    errors.extend([error] if error is not None else [])
                    over()

                pair.when_stable(stable)

            return wait

        def known() -> None:
            self._end(_not_stored(errors[0]) if errors else None)

        def late() -> None:
            self._end(_not_stored(TimeoutError("the state directory does not answer")))

        self._wait_for_all(known, [waits_for(one.pair) for one in self._operations], late)

    @property
    def _splits(self) -> bool:
        return self._command is PairCommand.SPLIT

    def _refusal(self) -> GroupRefused | None:
        if not self._operations:
            return GroupRefused("has no pairs")
        refused = [step for step in plan(self._operations, self._command) if step.refusal]
        words = "; ".join(f"pair {step.number} ({step.state.name}): {step.refusal}" for step in refused)
        return GroupRefused(f"no pair was changed: {words}") if refused else None

    def _moving(self) -> list[PairOperations]:
        steps = [(one, one.check(self._command)) for one in self._operations]
        return [one for one, step in steps if isinstance(step, Step) and not step.no_op]

    def _wait_for_all(
        self,
        then: Callable[[], None],
        begin: list[Callable[[Callable[[], None]], None]],
        late: Callable[[], None] | None,
    ) -> None:
        """Go on when all of several waits are over; if they are not in time, with `late`, and then not any more."""
        self._waits += 1
        wait = self._waits
        left = len(begin)

        def over() -> None:
            nonlocal left
            left -= 1
            if left <= 0 and wait == self._waits:
                self._waits += 1
                if self._waiting is not None:
                    self._waiting.cancel()
                then()

        def expired() -> None:
            if wait == self._waits and late is not None:
                self._waits += 1
                late()

        self._waiting = self._scheduler.call_later(REST_LIMIT_S, expired) if late is not None else None
        for one in begin:
            one(over)
        if not begin:
            over()

    def _give_up(self) -> None:
        what = "writes under way" if self._held else "copying"
        self._let_go()
        self._end(GroupRefused(f"no pair was changed: {what} did not end within {REST_LIMIT_S:.0f} s"))

    def _let_go(self) -> None:
        if self._held:
            for one in self._operations:
                one.pair.mirror.release(_HOLD)
        for one in self._operations:
            one.pair.synchronizer.resume()

    def _end(self, error: Exception | None) -> None:
        self._done(error)
        for one in self._operations:
            one.next_one()


def _not_stored(error: Exception) -> GroupNotStored:
    return GroupNotStored(f"is done, and could not be stored yet: {error}")
