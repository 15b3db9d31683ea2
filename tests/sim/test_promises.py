"""Each of the promises I1–I10 is looked at: with annex broken in one place, some life names the promise."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from backends.pairs.fences import PairFences
from backends.pairs.intent_log import IntentLog
from backends.pairs.mirror import Mirror, MirroredWrite
from backends.pairs.mirror_flush import Flushes
from backends.pairs.store import PairRecord
from scsi.volume import Done, VolumeError
from tests.support.pair_simulation import Simulation
from tests.support.promises import Violation

MOST_LIVES = 60
Break = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "backends")


def _answer_when_one_leg_has_it(patch: pytest.MonkeyPatch) -> None:
    def answered(write: MirroredWrite, error: VolumeError | None) -> None:
        if write.pending & 1:
            write.pending = 0
            write.mirror.ended(write)

    patch.setattr(MirroredWrite, "answered_0", answered)


def _open_no_extent(patch: pytest.MonkeyPatch, *, mirrored: bool) -> None:
    admit = Mirror._admit_extents

    def admitted(mirror: Mirror, write: MirroredWrite) -> bool:
        return True if mirror.mirrored == mirrored else admit(mirror, write)

    patch.setattr(Mirror, "_admit_extents", admitted)


def _read_the_other_leg(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Mirror, "source_of", lambda mirror, _leg: 1 - mirror.current)


def _forget_what_differs(patch: pytest.MonkeyPatch) -> None:
    set_roles = Mirror.set_roles

    def roles_set(mirror: Mirror, *roles: int, mirrored: bool, only_current: bool) -> None:
        if mirrored and not mirror.mirrored:
            mirror.dirty.clear_all()
        set_roles(mirror, *roles, mirrored=mirrored, only_current=only_current)

    patch.setattr(Mirror, "set_roles", roles_set)


def _take_every_fence_for_held(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PairFences, "lapsed", property(lambda _fences: 0))


def _close_extents_as_clean(patch: pytest.MonkeyPatch) -> None:
    close = IntentLog.close_extents

    def closed(log: IntentLog, extents: Any) -> None:
        wanted = list(extents)
        for extent in wanted:
            log.dirty.put_mask(extent, 0)
        close(log, wanted)

    patch.setattr(IntentLog, "close_extents", closed)


def _store_other_roles(patch: pytest.MonkeyPatch) -> None:
    encode = PairRecord.encode
    patch.setattr(PairRecord, "encode", lambda record: encode(record) | {"primary": 1 - record.primary})


def _flush_nothing(patch: pytest.MonkeyPatch) -> None:
    def flush(_flushes: Flushes, _leg: int, done: Done) -> None:
        done(None)

    patch.setattr(Flushes, "flush", flush)


def _answer_twice(patch: pytest.MonkeyPatch) -> None:
    ended = Mirror.ended

    def answered(mirror: Mirror, write: MirroredWrite) -> None:
        if write.errors is None:
            write.done(None)
        ended(mirror, write)

    patch.setattr(Mirror, "ended", answered)


def _forget_that_a_fence_lapsed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PairFences, "gap", property(lambda _fences: 0, lambda _fences, _gap: None), raising=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("promise", "break_it"),
    [
        ("I1", _answer_when_one_leg_has_it),
        ("I2", lambda patch: _open_no_extent(patch, mirrored=False)),
        ("I3", lambda patch: _open_no_extent(patch, mirrored=True)),
        ("I4", _read_the_other_leg),
        ("I5", _forget_what_differs),
        ("I6", _take_every_fence_for_held),
        ("I7", _close_extents_as_clean),
        ("I7", _store_other_roles),
        ("I8", _flush_nothing),
        ("I9", _answer_twice),
        ("I10", _forget_that_a_fence_lapsed),
    ],
)
def test_a_broken_promise_is_named(promise: str, break_it: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    break_it(monkeypatch)
    named = set()
    for seed in range(MOST_LIVES):
        try:
            Simulation(seed).run()
        except Violation as violation:
            named.add(str(violation).split(": ")[1])
        if promise in named:
            return
    pytest.fail(f"named were {named or 'none'}")
