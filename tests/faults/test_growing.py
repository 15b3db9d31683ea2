"""F27: the storage under a pair grows while hosts write; a second annexd is the array."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scsi.array_commands import ArrayOut, FenceLevel, PairState
from tests.support.annexd import ROOT, TARGET_NAME, Annexd
from tests.support.host import GOOD, Host
from tests.support.load import Load
from tests.support.pair_commands import array_out, create_pair, the_pair, wait_for_pair
from tests.support.paired import LEG_BYTES, SLOTS, TwoAnnexds, paired_with_annexd

pytestmark = [pytest.mark.interop, pytest.mark.slow]

LIMIT_S = 30.0
GROWN_BYTES = LEG_BYTES + (8 << 20)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[TwoAnnexds]:
    with paired_with_annexd(tmp_path) as running:
        yield running


def cli(annexd: Annexd, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "bin" / "annexcli"), "--socket", str(annexd.folder / "control.sock"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(GROWN_BYTES)


def grow(annexd: Annexd, path: Path) -> subprocess.CompletedProcess[str]:
    """Have the virtual device on a file take all that the file has."""
    truncate(path)
    return cli(annexd, f"/vdevs/local{str(path).replace('/', ':')}", "grow")


def under_load(host: Host, load: Load, act: Callable[[], object]) -> None:
    """Write until `act` is over, and a little longer."""
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(act)
        while not running.done():
            load.run(host, 50)
        load.run(host, 50)
        running.result()


def test_f27_a_side_of_a_pair_grows_under_load(pair: TwoAnnexds) -> None:
    load = Load(SLOTS, seed=270)
    done: list[subprocess.CompletedProcess[str]] = []
    with Host(pair.annexd.port) as host:
        under_load(host, load, lambda: done.append(grow(pair.annexd, pair.local)))
        assert "is in pair 1" in done[0].stderr
        assert the_pair(host).state == PairState.PAIR
        assert load.check(host) == []
    assert load.failed == []
    assert pair.local.read_bytes()[:LEG_BYTES] == pair.remote.read_bytes()


@pytest.mark.long
def test_f27_the_lu_of_the_array_grows_under_load_and_then_the_pair(pair: TwoAnnexds) -> None:
    load = Load(SLOTS, seed=271)
    array = f"/arrays/array:127.0.0.1:{pair.link.port}:{TARGET_NAME}"
    with Host(pair.annexd.port) as host:
        under_load(host, load, lambda: grow(pair.array, pair.remote))
        deadline = time.monotonic() + LIMIT_S
        while the_pair(host).state != PairState.PSUE:  # as long as nobody writes, nothing is lost
            assert time.monotonic() < deadline
            load.run(host, 20)
        assert load.check(host) == [], "the local leg has all of it"
        assert array_out(host, ArrayOut.PAIR_DELETE).status == GOOD
        under_load(host, load, lambda: grow(pair.annexd, pair.local))
        under_load(host, load, lambda: cli(pair.annexd, array, "accept_size", "0"))
        deadline = time.monotonic() + LIMIT_S
        while create_pair(host, 1, FenceLevel.STATUS).status != GOOD:
            assert time.monotonic() < deadline, pair.annexd.log()
            load.run(host, 10)
        load.run(host, 50)
        wait_for_pair(host, PairState.PAIR)
    assert load.failed == []
    assert pair.remote.stat().st_size == GROWN_BYTES
    pair.compare(load)
