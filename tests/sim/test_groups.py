"""Hundreds of short lives of a group of pairs: what is on the secondaries of one moment has no gap."""

from __future__ import annotations

import logging

import pytest

from tests.support.group_simulation import GroupSimulation

SEEDS = 40
BATCH = 20


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "backends")  # for this test only


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_no_secondary_has_a_write_without_the_one_that_was_answered_before_it(first: int) -> None:
    splits = losses = 0
    for seed in range(first, first + BATCH):
        life = GroupSimulation(seed)
        life.run()
        splits += life.splits
        losses += life.losses
    assert splits > BATCH, "more than the one at the end of each life"
    assert losses > 0
