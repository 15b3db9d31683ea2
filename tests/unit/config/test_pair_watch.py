"""`annexhost pair display --watch`: rate and time left from what the wire says at two looks."""

from __future__ import annotations

import pytest

from config.durations import duration_words
from config.host.main import main
from config.host.pair_watch import CopyRates
from scsi.array_commands import PairFlag, PairRow, PairState
from tests.support.host_array import FakeArray, pair_row

LU = "iscsi://127.0.0.1:3260/iqn.2026-11.io.annex:try/0"
MIB_BLOCKS = 2048


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def now(self) -> float:
        return self.now_s


def copying(out_mib: float, number: int = 1) -> PairRow:
    row = pair_row(PairState.COPY)
    return row._replace(number=number, blocks=10_000 * MIB_BLOCKS, out_of_sync_blocks=int(out_mib * MIB_BLOCKS))


def sizes(_row: PairRow) -> int:
    return 512


def test_two_looks_make_a_rate_and_a_time_left() -> None:
    clock = Clock()
    rates = CopyRates(clock.now)
    assert rates.look([copying(1000)], sizes) == {}
    clock.now_s += 2
    (rate,) = rates.look([copying(900)], sizes).values()
    assert rate.bytes_a_second == pytest.approx(50 << 20)
    assert rate.seconds_left == pytest.approx(18)


def test_the_rate_is_that_of_the_last_ten_seconds() -> None:
    clock = Clock()
    rates = CopyRates(clock.now)
    out = 5000.0
    for speed in [100] * 20 + [10] * 20:
        rate = rates.look([copying(out)], sizes)
        clock.now_s += 1
        out -= speed
    assert rate[1].bytes_a_second == pytest.approx(10 << 20, rel=0.01)


def test_a_copy_that_does_not_get_on_has_no_time_left() -> None:
    clock = Clock()
    rates = CopyRates(clock.now)
    rates.look([copying(100)], sizes)
    clock.now_s += 1
    assert rates.look([copying(120)], sizes)[1] == (0, None), "hosts write more than is copied"


def test_a_pair_that_left_copy_begins_anew() -> None:
    clock = Clock()
    rates = CopyRates(clock.now)
    rates.look([copying(100)], sizes)
    clock.now_s += 1
    assert rates.look([pair_row()], sizes) == {}
    clock.now_s += 1
    assert rates.look([copying(100)], sizes) == {}


def test_a_pair_whose_block_length_is_not_known_has_no_rate() -> None:
    clock = Clock()
    rates = CopyRates(clock.now)
    rates.look([copying(100)], lambda _row: None)
    clock.now_s += 1
    assert rates.look([copying(10)], lambda _row: None) == {}


def test_watch_shows_rate_and_time_left_from_the_second_look_on(capsys: pytest.CaptureFixture[str]) -> None:
    array, clock, looks = FakeArray(), Clock(), iter(range(3))
    array.pair_rows = [[copying(1000)], [copying(950)], [copying(900)]]

    def sleep(seconds: float) -> None:
        clock.now_s += seconds
        if next(looks) == 2:
            raise KeyboardInterrupt

    assert main(["pair", "display", LU, "--watch"], array.open, sleep, clock.now) == 130
    shown = " ".join(capsys.readouterr().out.split())
    for word in ("MiB/s", "left", "primary →"):
        assert word in shown
    assert array.commands == 4, "three reports of pairs and one of virtual devices, for the block length"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (copying(10), "primary → secondary"),
        (copying(10)._replace(flags=PairFlag.COPYING_TO_PRIMARY | PairFlag.SECONDARY_IS_CURRENT),
         "secondary → primary"),
        (pair_row(PairState.PSUE), "a leg has failed; that of the primary has the newest data"),
        (pair_row(PairState.PSUE)._replace(flags=PairFlag.SECONDARY_IS_CURRENT),
         "a leg has failed; that of the secondary has the newest data"),
        (pair_row(PairState.PSUS), "split by command"),
        (pair_row(PairState.SSWS), "the secondary has taken over"),
    ],
    ids=["copy", "copy back", "lost", "primary lost", "split", "taken over"],
)  # fmt: skip
def test_display_says_why_as_far_as_the_wire_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, row: PairRow, words: str
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    array = FakeArray()
    array.pair_rows = [[row]]
    assert main(["pair", "display", LU], array.open) == 0
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-3, "0 s"), (0.4, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "60 min"), (3600, "1 h 0 min"),
     (5 * 3600 + 1200, "5 h 20 min"), (30 * 3600, "1 d 6 h"), (11 * 86400, "11 d")],
)  # fmt: skip
def test_durations_have_the_units_that_matter(seconds: float, words: str) -> None:
    assert duration_words(seconds) == words
