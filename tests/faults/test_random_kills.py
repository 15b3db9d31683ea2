"""F2: kill -9 at random moments under load, as often as there is time for, with tgt or a second annexd as the array.

By hand: `ANNEX_KILLS=1000 pytest -m '' tests/faults/test_random_kills.py` kills so often with each of the two.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.forked_annexd import ForkedAnnexd
from tests.support.host import Host, HostLost
from tests.support.load import Load
from tests.support.paired import SLOTS, Paired, TwoAnnexds, compare, paired, paired_with_annexd

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.long]

KILLS = int(os.environ.get("ANNEX_KILLS", "0"))
TIME_S = 25.0  # for each array, where ANNEX_KILLS does not say how many
FEWEST = 10
LIFE_S = 0.3
MORE_WRITES_THAN_FIT = 1 << 20


def kill_at_random(pair: Paired | TwoAnnexds, seed: int) -> tuple[int, int]:
    """Kill annexd, start it again and compare, over and over; give how often, and how many writes it acknowledged.

    Each third time hosts come back while it still recovers from the kill before, and it is killed again under these.
    """
    rng = random.Random(seed)
    load = Load(SLOTS, seed=seed)
    kills = 0
    ends = time.monotonic() + TIME_S
    while kills < KILLS or (not KILLS and time.monotonic() < ends):
        with Host(pair.annexd.port) as host:
            killer = threading.Timer(rng.uniform(0.0, LIFE_S), os.kill, (pair.annexd.pid, signal.SIGKILL))
            killer.start()
            with suppress(HostLost):
                load.run(host, MORE_WRITES_THAN_FIT)
        assert pair.annexd.wait() == -signal.SIGKILL
        kills += 1
        pair.annexd.start()
        if kills % 3:
            compare(pair.annexd, pair.local, pair.remote, load)
    pair.compare(load)
    assert load.failed == []
    return kills, load.journal.acknowledged_writes


@pytest.mark.timeout(10 * KILLS or 120)
@pytest.mark.parametrize("array", ["tgt", "annexd"])
def test_f02_kills_at_random_moments_under_load(tmp_path: Path, array: str) -> None:
    if array == "tgt":
        with paired(tmp_path, program=ForkedAnnexd) as pair:
            kills, acknowledged = kill_at_random(pair, seed=2)
    else:
        with paired_with_annexd(tmp_path, program=ForkedAnnexd) as two:
            kills, acknowledged = kill_at_random(two, seed=3)
    print(f"{kills} kills, {acknowledged} writes acknowledged")
    assert kills >= FEWEST
    assert acknowledged > kills
