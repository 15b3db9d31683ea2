"""Groups of pairs on a real annexd: hosts that build each write on another one's answer, and copies without a gap."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.chains import BLOCK_BYTES, Chains
from tests.support.host import GOOD, write_cdb
from tests.support.many_pairs import ManyPairs, many_pairs

pytestmark = [pytest.mark.interop, pytest.mark.slow]

PAIRS = 4
CHAINS = 8
LEG_BYTES = 4 << 20
SPLITS = 12
KILLS = 6
LIMIT_S = 60.0


@pytest.fixture
def grouped(tmp_path: Path) -> Iterator[ManyPairs]:
    with many_pairs(tmp_path, PAIRS, LEG_BYTES) as running:
        assert running.api.ask("POST", "/v1/groups", {"name": "db", "pairs": running.numbers}).status == 201
        yield running


def wait_until_mirrored(grouped: ManyPairs) -> None:
    deadline = time.monotonic() + LIMIT_S
    while (row := grouped.api.get("/v1/groups/db"))["secondaries"] != "mirrored":
        assert time.monotonic() < deadline, row
        time.sleep(0.02)


def resync(grouped: ManyPairs) -> None:
    deadline = time.monotonic() + LIMIT_S
    while (answer := grouped.api.ask("POST", "/v1/groups/db/resync")).status != 200:
        assert time.monotonic() < deadline, answer  # an operation that nobody waits for may still be under way
        time.sleep(0.1)
    wait_until_mirrored(grouped)


def test_a_split_under_load_leaves_no_gap_on_the_secondaries(grouped: ManyPairs) -> None:
    chains = Chains(PAIRS, CHAINS)
    with grouped.host() as host, chains.running(host):
        for _ in range(SPLITS):
            wait_for_writes(chains)
            split = grouped.api.ask("POST", "/v1/groups/db/split")
            assert split.status == 200, split
            assert split.document["group"]["secondaries"] == "one_moment"
            assert chains.gaps(grouped.secondaries) == []
            resync(grouped)
    assert chains.failed == []
    assert chains.gaps(grouped.secondaries) == []
    assert [path.read_bytes() for path in grouped.primaries] == [path.read_bytes() for path in grouped.secondaries]


def test_a_kill_in_a_split_leaves_all_pairs_split_or_none(grouped: ManyPairs) -> None:
    rng = random.Random(5)
    chains = Chains(PAIRS, CHAINS)
    for _ in range(KILLS):
        with grouped.host() as host, chains.running(host):
            asked = threading.Thread(target=split_if_there, args=(grouped,))
            asked.start()
            time.sleep(rng.choice((0.0, 0.002, 0.005, 0.01, 0.02)))
            grouped.annexd.kill()
            asked.join()
        grouped.annexd.start()
        row = grouped.api.get("/v1/groups/db")
        if row["state"] == "PSUS":
            assert row["secondaries"] == "one_moment"
            assert chains.gaps(grouped.secondaries) == []
            resync(grouped)
        else:
            assert "PSUS" not in {pair["state"] for pair in grouped.api.get("/v1/pairs")}
        wait_until_mirrored(grouped)
    assert chains.gaps(grouped.secondaries) == []


def split_if_there(grouped: ManyPairs) -> None:
    try:
        grouped.api.ask("POST", "/v1/groups/db/split")
    except (OSError, ValueError):
        return  # the daemon was killed meanwhile


def test_when_one_secondary_is_lost_under_load_no_copy_has_a_gap(grouped: ManyPairs) -> None:
    chains = Chains(PAIRS, CHAINS)
    with grouped.host() as host, chains.running(host):
        for lost in range(PAIRS):
            wait_for_writes(chains)
            grouped.array.set_unit_parameter("readonly", "1", lun=2 * lost + 2)
            deadline = time.monotonic() + LIMIT_S
            while grouped.api.get("/v1/groups/db")["state"] != "PSUE":
                assert time.monotonic() < deadline
                time.sleep(0.01)
            wait_for_writes(chains)
            assert grouped.api.get("/v1/groups/db")["secondaries"] == "one_moment"
            assert chains.gaps(grouped.secondaries) == []
            grouped.array.set_unit_parameter("readonly", "0", lun=2 * lost + 2)
            resync(grouped)
    assert chains.failed == []


@pytest.mark.long
def test_a_group_whose_array_is_lost_is_taken_over_with_nothing_missing(tmp_path: Path) -> None:
    chains = Chains(PAIRS, CHAINS)
    with many_pairs(tmp_path, PAIRS, LEG_BYTES, kinds="EL") as running:
        assert running.api.ask("POST", "/v1/groups", {"name": "db", "pairs": running.numbers}).status == 201
        with running.host() as host:
            with chains.running(host):
                wait_for_writes(chains)
                running.array.kill()
            deadline = time.monotonic() + LIMIT_S
            while {step["next_state"] for step in takeover(running, "?dry_run=true")} != {"SSWS"}:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            takeover(running)
            assert {row["state"] for row in running.api.get("/v1/pairs")} == {"SSWS"}
            assert chains.gaps(running.secondaries) == []
            assert chains.lost(running.secondaries) == []
            for pair in range(PAIRS):
                assert host.command(write_cdb(0, 1), data_out=bytes(BLOCK_BYTES), lun=2 * pair + 1).status == GOOD


def takeover(running: ManyPairs, query: str = "") -> Any:
    answer = running.api.ask("POST", f"/v1/groups/db/takeover{query}")
    assert answer.status == 200, answer
    return answer.document["steps"]


def wait_for_writes(chains: Chains, writes: int = 50) -> None:
    """Wait until so many more are answered."""
    wanted = sum(chains.answered) + writes
    deadline = time.monotonic() + LIMIT_S
    while sum(chains.answered) < wanted:
        assert time.monotonic() < deadline
        time.sleep(0.01)
