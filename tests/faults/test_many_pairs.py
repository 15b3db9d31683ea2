"""As many pairs as annexd takes, all at once: under load, killed, all back; and what refuses one more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.pairs.pair import PairOptions
from tests.support.chains import Chains
from tests.support.many_pairs import ManyPairs, many_pairs

pytestmark = [pytest.mark.interop, pytest.mark.slow]

PAIRS = PairOptions().most_pairs
CHAINS = 16
LEG_BYTES = 1 << 20
KILLS = 3
WRITES = 2000
LIMIT_S = 60.0


@pytest.fixture
def pairs(tmp_path: Path) -> Iterator[ManyPairs]:
    with many_pairs(tmp_path, PAIRS + 1, LEG_BYTES, formed=PAIRS) as running:
        yield running


def wait_until_verified(pairs: ManyPairs) -> None:
    deadline = time.monotonic() + LIMIT_S
    while waiting := [
        row for row in pairs.api.get("/v1/pairs") if row["state"] != "PAIR" or "unverified" in row["flags"]
    ]:
        assert time.monotonic() < deadline, waiting
        time.sleep(0.1)


def write(chains: Chains, writes: int) -> None:
    wanted = sum(chains.answered) + writes
    deadline = time.monotonic() + LIMIT_S
    while sum(chains.answered) < wanted:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_64_pairs_come_back_from_kills_under_load_and_split_at_one_moment(pairs: ManyPairs) -> None:
    assert PAIRS == 64
    chains = Chains(PAIRS, CHAINS)
    for _ in range(KILLS):
        with pairs.host() as host, chains.running(host):
            write(chains, WRITES)
            pairs.annexd.kill()
        pairs.annexd.start()
        assert [row["number"] for row in pairs.api.get("/v1/pairs")] == pairs.numbers
        assert {row["state"] for row in pairs.api.get("/v1/pairs")} <= {"COPY", "PAIR"}
        wait_until_verified(pairs)
        for primary, secondary in zip(pairs.primaries, pairs.secondaries, strict=True):
            assert primary.read_bytes() == secondary.read_bytes(), primary
        assert chains.gaps(pairs.primaries[:PAIRS]) == []
        assert chains.lost(pairs.primaries[:PAIRS]) == []
    assert pairs.api.ask("POST", "/v1/groups", {"name": "all", "pairs": pairs.numbers}).status == 201
    with pairs.host() as host, chains.running(host):
        write(chains, WRITES)
        assert pairs.api.ask("POST", "/v1/groups/all/split").status == 200
        assert chains.gaps(pairs.secondaries[:PAIRS]) == []
        write(chains, WRITES)
    assert {row["state"] for row in pairs.api.get("/v1/pairs")} == {"PSUS"}
    assert chains.failed == []


def test_one_more_pair_or_a_virtual_device_that_is_in_one_is_refused(pairs: ManyPairs) -> None:
    more = {"primary": f"primary{PAIRS}", "secondary": f"secondary{PAIRS}"}
    refused = pairs.api.ask("POST", "/v1/pairs", more)
    assert (refused.status, "05/80/0B" in refused.error["problem"]) == (409, True), refused
    assert pairs.api.ask("DELETE", f"/v1/pairs/{pairs.numbers[0]}").status == 200
    for primary, secondary in (
        ("primary0", "secondary1"),
        ("primary1", "secondary0"),
        ("secondary1", "primary0"),
        ("primary0", "primary2"),
    ):
        refused = pairs.api.ask("POST", "/v1/pairs", {"primary": primary, "secondary": secondary})
        assert (refused.status, "05/80/01" in refused.error["problem"]) == (409, True), refused
    made = pairs.api.ask("POST", "/v1/pairs", more)
    assert (made.status, made.document["pair"]["number"]) == (201, pairs.numbers[-1] + 1)
