"""Two thousand short lives of pairs and groups; each must keep I1–I10, as `tests.support.promises` looks at them.

A seed that failed once is a test of its own.
"""

from __future__ import annotations

import logging

import pytest

from tests.support.lives import run_lives
from tests.support.pair_simulation import Simulation
from tests.support.session_simulation import SessionSimulation

SEEDS = 1200
RANGE_SEEDS = 200
COMPARE_SEEDS = 200
THIN_SEEDS = 200
OVERTAKEN_SEEDS = 100
SESSION_SEEDS = 200


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "backends")  # for this test only


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS // 4))
def test_no_life_of_a_pair_breaks_a_promise(first: int) -> None:
    assert run_lives(range(first, first + SEEDS // 4)) == []


@pytest.mark.slow
def test_f28_no_life_with_unmap_and_write_same_breaks_a_promise() -> None:
    assert run_lives(range(RANGE_SEEDS), ranges=True) == []


@pytest.mark.slow
def test_f28_no_life_with_compare_and_write_breaks_a_promise() -> None:
    assert run_lives(range(COMPARE_SEEDS), compares=True) == []


@pytest.mark.slow
def test_no_life_of_thin_legs_with_unmap_and_write_same_breaks_a_promise() -> None:
    assert run_lives(range(THIN_SEEDS), ranges=True, thin=True) == []


@pytest.mark.slow
def test_no_life_of_legs_whose_operations_overtake_each_other_breaks_a_promise() -> None:
    assert run_lives(range(OVERTAKEN_SEEDS), overtaken=True) == []


@pytest.mark.slow
def test_no_life_over_real_sessions_breaks_a_promise() -> None:
    assert run_lives(range(SESSION_SEEDS), sessions=True) == []


@pytest.mark.parametrize("kind", [Simulation, SessionSimulation])
def test_a_seed_replays_the_same_life(kind: type[Simulation]) -> None:
    stories = []
    for _ in range(2):
        life = kind(7)
        life.run()
        stories.append(life.story)
    assert stories[0] == stories[1]


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(61, id="a current leg whose array lost its cache is left for the leg that kept it"),
        pytest.param(120, id="a flush that failed is remembered over a restart"),
        pytest.param(148, id="a write is answered before the takeover that waits for it"),
        pytest.param(165, id="a leg whose fence lapsed does not become current"),
        pytest.param(10203, id="a takeover while the secondary's leg is away goes on with the primary's"),
        pytest.param(11420, id="a write is answered before a comparison that waits for it lets a takeover go on"),
        pytest.param(16087, id="a write that waits for the fence keeps a takeover waiting"),
        pytest.param(22913, id="a current leg whose fence lapsed is left at once, before a crash can forget it"),
        pytest.param(24667, id="a flush that was under way while another one failed fails too"),
        pytest.param(145, id="a mark that was not synced when annexd was killed is stable before a write relies on it"),
        pytest.param(2157, id="what the external leg alone has waits for its fence before it is acknowledged"),
        pytest.param(1230, id="a reverse resync after a split in COPY leads with what was copied"),
    ],
)
def test_a_life_that_once_broke_a_promise_keeps_it(seed: int) -> None:
    Simulation(seed).run()


@pytest.mark.parametrize(
    ("seed", "ranges"),
    [
        pytest.param(2028, False, id="what is on its way to a source that failed lands before it is answered"),
        pytest.param(152, True, id="a flush is not answered by a leg that has failed the one before it"),
    ],
)
def test_a_life_of_thin_legs_that_once_broke_a_promise_keeps_it(seed: int, *, ranges: bool) -> None:
    Simulation(seed, thin=True, ranges=ranges).run()


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(24, id="what was answered while annexd stood still waits until the fence is verified"),
        pytest.param(24016, id="a fence is not verified by an answer from before annexd stood still"),
        pytest.param(41, id="a read that waited for the link is not answered by a leg that was left meanwhile"),
        pytest.param(51, id="a mark that was not synced when annexd was killed is stable before a write relies on it"),
        pytest.param(2839, id="what the array may have lost with its power is sent again before it is acknowledged"),
        pytest.param(6437, id="a flush is not answered by one leg before it is on record that it is alone"),
    ],
)
def test_a_life_over_real_sessions_that_once_broke_a_promise_keeps_it(seed: int) -> None:
    SessionSimulation(seed).run()
